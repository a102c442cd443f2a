//! Every number that a flag, a recipe or a table of a run takes, with numbers that nobody means.

use std::fs;

use crate::support::{World, bmp};
use offshoot::{Recipe, Settings};
use offshoot_graph::Preprocessing;
use offshoot_train::report;

fn hostile() -> Vec<String> {
    let numbers = [
        "2147483648",
        "4294967296",
        "9007199254740994",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-1",
        "-9223372036854775808",
        "1e300",
        "1e400",
        "1e-320",
        "nan",
        "inf",
        "",
    ];
    let mut all: Vec<String> = numbers.map(str::to_owned).to_vec();
    all.extend(["9".repeat(10_000), format!("0.{}", "1".repeat(10_000))]);
    all
}

/// The flags of a command that take a value, by its help.
fn flags(world: &World, command: &str) -> Vec<String> {
    let help = world.run(&format!("{command} --help")).out;
    let flag = |line: &str| {
        let line = line.trim_start();
        let (_, rest) = line.split_at(line.find("--").filter(|&at| at == 0 || line.starts_with('-'))?);
        rest.contains('<').then(|| rest.split([' ', '[', '=']).next().unwrap().to_owned())
    };
    help.lines().filter_map(flag).collect()
}

#[test]
fn no_flag_panics_or_prints_hundreds_of_digits() {
    let world = World::new("flags");
    world.write("x.bmp", bmp([1, 2, 3], 0));
    // Nothing that these name is there, so that nothing is done in the end.
    let commands = [
        ("train", "train nowhere --model mobilenet_v2 --out run"),
        ("lr-find", "lr-find nowhere --model mobilenet_v2"),
        ("recipe", "recipe --model nothing"),
        ("eval", "eval nothing nowhere"),
        ("predict", "predict nothing x.bmp"),
        ("export", "export nothing --format onnx"),
        ("quantize", "quantize nothing"),
        ("verify", "verify nothing --against nothing"),
        ("check", "check nothing nowhere"),
        ("data check", "data check nowhere"),
        ("data show", "data show nowhere"),
        ("report", "report nowhere"),
        ("bench infer", "bench infer --model nothing"),
        ("bench train", "bench train --model nothing"),
        ("bench formats", "bench formats nothing"),
        ("inspect", "inspect nothing"),
    ];
    let mut tried = 0;
    for (command, whole) in commands {
        // Of several that stand in for a kind of number, flags need not see all.
        for flag in flags(&world, command).iter().filter(|flag| !whole.contains(flag.as_str())) {
            for number in hostile().iter().filter(|number| !number.starts_with("0.")) {
                let said = world.command(whole).arg(format!("{flag}={number}")).output().unwrap();
                let err = String::from_utf8_lossy(&said.stderr).into_owned();
                let short = err.chars().take(500).collect::<String>();
                assert_eq!(said.status.code(), Some(2), "{command} {flag}={number:.30}: {short}");
                assert!(!err.contains("panicked"), "{command} {flag}={number:.30}: {short}");
                let digits = err.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
                assert!(digits <= 40, "{command} {flag}={number:.30}: {digits} digits");
                tried += 1;
            }
        }
    }
    assert!(tried > 1000, "{tried}");
    assert_eq!(world.names(""), ["x.bmp"]);
}

/// Puts `value` in place of the `place`-th number of a table; `None` where there are not so many.
fn put(table: &str, place: usize, value: &str) -> Option<String> {
    let mut numbers = 0;
    let lines: Vec<String> = table
        .lines()
        .map(|line| {
            let Some((key, old)) = line.split_once(" = ") else { return line.to_owned() };
            let is_number = |text: &str| text.parse::<f64>().is_ok();
            let mut parts: Vec<String> = old.split(", ").map(str::to_owned).collect();
            for part in &mut parts {
                if is_number(part.trim_matches(['[', ']'])) {
                    if numbers == place {
                        *part = part.replace(part.trim_matches(['[', ']']), value);
                    }
                    numbers += 1;
                }
            }
            format!("{key} = {}", parts.join(", "))
        })
        .collect();
    (place < numbers).then(|| lines.join("\n"))
}

#[test]
fn no_number_of_a_recipe_panics() {
    let world = World::new("recipes");
    let settings = Settings {
        model: Some("m".into()),
        data: Some("d".into()),
        clip_norm: Some(1.0),
        ema: Some(0.5),
        average_last: Some(2),
        cache_views: Some(3),
        threads: Some(2),
        class_weights: Some([("a".to_owned(), 2.0)].into()),
        lr_groups: Some([("fc".to_owned(), 0.1)].into()),
        augment: Some(offshoot_train::recipe::Augment::On),
        ..Settings::default()
    };
    let own = Preprocessing::default();
    let recipe = Recipe::resolve(settings, &own).unwrap();
    let (text, path) = (recipe.to_toml(), world.path("recipe.toml"));
    let more = "patience = 5\nclip_value = 0.5\n";
    let mut tried = 0;
    for number in hostile() {
        for place in 0.. {
            let Some(changed) = put(&text, place, &number) else { break };
            tried += 1;
            for text in [changed.clone(), format!("{more}{changed}")] {
                world.write("recipe.toml", text);
                // In range or not: no panic, and what is in range is a recipe that comes back.
                let Ok(read) = Settings::read(&path) else { continue };
                let over = Settings::default().over(read.clone()).unwrap();
                if let Ok(recipe) = Recipe::resolve(over, &own) {
                    recipe.write(&world.root).unwrap();
                    assert_eq!(Recipe::read(&world.root).unwrap(), recipe, "{number:.30}");
                }
            }
        }
        // Strings with numbers in them.
        for line in [
            format!("schedule = \"step:{number}\""),
            format!("schedule = \"plateau:patience={number},cooldown={number}\""),
            format!("schedule = \"onecycle:rise={number}\""),
            format!("unfreeze = [\"fc@{number}%:x{number}\"]"),
            format!("unfreeze = [\"fc@50%:x{number}\"]"),
            format!("progressive = [\"{number}@{number}%\"]"),
            format!("progressive = [\"{number}@0%\"]"),
            format!("[augmentation]\npolicy = \"rand:{number},{number}\""),
        ] {
            world.write("recipe.toml", format!("model = \"m\"\ndata = \"d\"\n{line}"));
            let _ = Settings::read(&path).map(|settings| Recipe::resolve(settings, &own));
        }
    }
    assert!(tried > 300, "{tried}");
    let said = |text: &str| {
        world.write("recipe.toml", text);
        world.run("train nowhere --model mobilenet_v2 --recipe recipe.toml --out run")
    };
    for (text, name) in [
        ("batch_size = 18446744073709551615", "batch_size"),
        ("average_last = 9223372036854775808", "average_last"),
        ("patience = 9223372036854775807", "patience"),
        ("lr = 1e300", "lr"),
        ("lr = 1e-60", "lr"),
        ("[class_weights]\nred = 1e300", "class_weights.red"),
        ("[preprocessing]\nsize = 9223372036854775807", "preprocessing.size"),
        (&format!("epochs = {}", "9".repeat(10_000)), "epochs"),
    ] {
        let said = said(text);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains(name) && said.err.len() < 400, "{}", said.err);
    }
    // A model whose own numbers are such.
    let own = Preprocessing { size: usize::MAX, ..Preprocessing::default() };
    let settings = Settings { model: Some("m".into()), data: Some("d".into()), ..Settings::default() };
    assert!(Recipe::resolve(settings, &own).unwrap_err().to_string().contains("preprocessing.size"));
}

#[test]
fn no_number_of_a_table_of_a_run_panics() {
    let trained = World::trained();
    let world = World::new("tables");
    fs::create_dir_all(world.path("run")).unwrap();
    let names = ["results.csv", "health.csv", "groups.csv", "pictures.csv", "predictions.csv", "recipe.toml"];
    let read = |name: &str| trained.text(&format!("run/{name}"));
    let restore = || names.iter().for_each(|name| world.write(&format!("run/{name}"), read(name)));
    restore();
    for number in hostile() {
        for name in names.iter().filter(|name| name.ends_with(".csv")) {
            let text = read(name);
            let lines: Vec<&str> = text.lines().take(3).collect();
            let fields = lines[1].split(',').count();
            // One field of the first line, and of all lines at once.
            for field in 0..fields {
                let change = |line: &&str| {
                    let mut fields: Vec<&str> = line.split(',').collect();
                    fields[field] = &number;
                    fields.join(",")
                };
                let one = [
                    vec![lines[0].to_owned(), change(&lines[1])],
                    lines[2..].iter().map(|l| (*l).to_owned()).collect(),
                ];
                let all = [vec![lines[0].to_owned()], lines[1..].iter().map(change).collect()];
                for changed in [one.concat(), all.concat()] {
                    world.write(&format!("run/{name}"), changed.join("\n") + "\n");
                    report::write(&world.path("run"), "cpu").unwrap();
                }
            }
        }
        restore();
    }
}

#[test]
fn no_number_of_a_table_stops_a_run_that_is_resumed() {
    let world = World::new("resumed");
    crate::support::data(&world.path("d"), &crate::support::CLASSES, 4);
    let said = world.run(&format!(
        "train d {} --freeze backbone --augment off --epochs 1 --out run",
        crate::support::SMALL
    ));
    assert_eq!(said.code, Some(0), "{said:?}");
    let results = world.text("run/results.csv");
    let (head, line) = results.trim_end().split_once('\n').unwrap();
    for number in hostile() {
        for field in 0..line.split(',').count() {
            let mut fields: Vec<&str> = line.split(',').collect();
            fields[field] = &number;
            world.write("run/results.csv", format!("{head}\n{}\n", fields.join(",")));
            let said = world.run("train --resume --out run --json");
            assert_eq!(said.code, Some(0), "{field} {number:.30}: {said:?}");
            let _ = said.json();
        }
    }
}
