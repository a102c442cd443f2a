//! `offshoot data`: contact sheets, and what is wrong with a folder of pictures.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{CLASSES, SMALL, World, bmp, cached, data, pictures};
use serde_json::Value;

#[test]
fn a_sheet_shows_pictures_as_the_network_sees_them() {
    let world = World::new("sheet");
    data(&world.path("d"), &CLASSES, 6);
    let command = "data show d --size 32 --pictures 4 --views 3 --mixup 0.4 --cutmix 1 --policy trivial";
    let said = world.json(&format!("{command} --out one.png"));
    assert_eq!((said["pictures"].as_u64(), said["views"].as_u64()), (Some(4), Some(3)));
    world.run(&format!("{command} --out again.png"));
    assert_eq!(world.read("one.png"), world.read("again.png"));
    world.run(&format!("{command} --seed 1 --out other.png"));
    assert_ne!(world.read("one.png"), world.read("other.png"));
    let sheet = offshoot_data::read_picture(&world.path("one.png"), &Default::default()).unwrap();
    // Four tiles across and down, magnified to 128 pixels.
    assert_eq!((sheet.width(), sheet.height()), (4 * 134 + 6, 4 * 154 + 6));
}

#[test]
fn what_is_planted_is_found() {
    let world = World::new("planted");
    data(&world.path("d"), &CLASSES, 6);
    // Pictures of the helper differ in noise only: other shapes for those that are to be told apart.
    for (class, _) in CLASSES {
        fs::remove_dir_all(world.path(&format!("d/{class}"))).unwrap();
        fs::create_dir_all(world.path(&format!("d/{class}"))).unwrap();
    }
    let paint = |seed: u64| {
        let mut file = bmp([0, 0, 0], 0);
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        // Blocks of 4 x 4 pixels in random colors.
        let colours: Vec<u8> = (0..6 * 5 * 3)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        for pixel in 0..24 * 20 {
            let block = (pixel / 24 / 4) * 6 + pixel % 24 / 4;
            for channel in 0..3 {
                file[54 + pixel * 3 + channel] = colours[block * 3 + channel];
            }
        }
        file
    };
    for (label, (class, _)) in CLASSES.iter().enumerate() {
        for i in 0..(if label == 0 { 16 } else { 4 }) {
            fs::write(world.path(&format!("d/{class}/{i:02}.bmp")), paint((label * 100 + i) as u64)).unwrap();
        }
    }
    fs::copy(world.path("d/blue/03.bmp"), world.path("d/red/copy.bmp")).unwrap();
    let mut brighter = paint(205);
    brighter[54..].iter_mut().for_each(|x| *x = x.saturating_add(2));
    fs::write(world.path("d/red/05.bmp"), paint(205)).unwrap();
    fs::write(world.path("d/red/brighter.bmp"), brighter).unwrap();
    fs::write(world.path("d/green/broken.bmp"), &paint(7)[..200]).unwrap();
    let said = world.json("data check d");
    let pairs = said["duplicates"].as_array().unwrap();
    let of =
        |pair: &Value| (pair["kind"].as_str().unwrap().to_owned(), pair["labels_differ"].as_bool().unwrap());
    assert_eq!(
        pairs.iter().map(of).collect::<Vec<_>>(),
        [("identical".into(), true), ("reencoded".into(), false)]
    );
    assert_eq!(said["unreadable"].as_array().unwrap().len(), 1);
    assert!(said["unreadable"][0]["path"].as_str().unwrap().ends_with("broken.bmp"));
    assert_eq!(said["balance"]["imbalanced"].as_bool(), Some(true));
    assert!(said["labels"].is_null());
    assert_eq!(said["problems"].as_u64(), Some(4));
    assert_eq!(world.run("data check d --strict").code, Some(1));
    assert_eq!(world.run("data check d").code, Some(0));
    assert_eq!(world.run("data check d --model mobilenet_v2").code, Some(2));
    assert_eq!(world.run("data check nowhere").code, Some(2));
}

/// The names of a picture that do not depend on where the folder is.
fn below(path: &Value) -> String {
    let path = Path::new(path.as_str().unwrap());
    let parts: Vec<_> = path.components().rev().take(2).map(|c| c.as_os_str().to_string_lossy()).collect();
    format!("{}/{}", parts[1], parts[0])
}

#[test]
#[ignore = "needs the light Python peers (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn flipped_labels_and_duplicates_among_photographs_are_found() {
    let assets = cached("OFFSHOOT_ASSETS", "assets");
    let world = World::new("photos");
    for seed in 0..3 {
        let out = world.path(&format!("photos{seed}"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/plant.py");
        let python = cached("OFFSHOOT_PEERS", "peers").join("bin/python");
        let run = Command::new(python)
            .arg(script)
            .args([&assets.join("photos6"), &out])
            .arg(seed.to_string())
            .output()
            .expect("the peers' Python starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let planted: Value = serde_json::from_slice(&run.stdout).unwrap();
        let weights = assets.join("weights/mobilenet_v2.pth");
        let said = world.json(&format!(
            "data check photos{seed} --model mobilenet_v2 --weights {} --fit pad",
            weights.display()
        ));
        let named = said["labels"].as_array().unwrap();
        assert!(named.len() <= 40);
        let named: BTreeSet<String> = named.iter().map(|suspect| below(&suspect["path"])).collect();
        let flipped = planted["flipped"].as_array().unwrap();
        let found = flipped.iter().filter(|path| named.contains(&below(path))).count();
        eprintln!("seed {seed}: {found} of {} flipped labels are among {} named", flipped.len(), named.len());
        assert!(found * 10 >= flipped.len() * 7);
        let pairs: Vec<[String; 2]> = (said["duplicates"].as_array().unwrap().iter())
            .map(|pair| [0, 1].map(|i| below(&pair["pictures"][i]["path"])))
            .collect();
        let wanted = planted["duplicates"].as_array().unwrap();
        for pair in wanted {
            let [a, b] = [below(&pair[0]), below(&pair[1])];
            let there = pairs.iter().any(|p| p.contains(&a) && p.contains(&b));
            assert!(there, "{a} and {b} are not named");
        }
        eprintln!("seed {seed}: all {} duplicates are among {} pairs", wanted.len(), pairs.len());
    }
}

#[test]
fn averaged_views_are_the_mean_of_the_answers() {
    let world = World::new("views");
    data(&world.path("d"), &CLASSES, 6);
    assert_eq!(world.run(&format!("train d {SMALL} --epochs 1 --out run")).code, Some(0));
    let one = world.json("eval run d");
    let off = world.json("eval run d --tta off");
    assert_eq!(one, off);
    for tta in ["flip", "ten"] {
        let said = world.json(&format!("eval run d --tta {tta}"));
        assert_eq!(said["images"], one["images"]);
        assert_ne!(said["loss"], one["loss"]);
        let predicted = world.json(&format!("predict run d/red/00.bmp --tta {tta} --logits"));
        let logits = predicted["logits"].as_array().unwrap();
        // They are logarithms of probabilities.
        let sum: f64 = logits.iter().map(|x| x.as_f64().unwrap().exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
    assert_eq!(world.run("eval run d --tta nine").code, Some(2));
    assert_eq!(world.run("eval run d --fit pad --tta ten").code, Some(2));
}

/// The records of an event file, their checksums checked.
fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
    let masked = |data: &[u8]| crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes();
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(rest[8..12], masked(&rest[..8]));
        let data = &rest[12..12 + length];
        assert_eq!(rest[12 + length..16 + length], masked(data));
        found.push(data.to_vec());
        rest = &rest[16 + length..];
    }
    found
}

#[test]
fn a_run_leaves_a_page_that_loads_nothing_and_escapes_every_name() {
    let world = World::new("report");
    let classes = [("<b>&amp;", [40, 40, 200]), ("a\"quote\",", [40, 200, 40]), ("'plain'", [200, 40, 40])];
    data(&world.path("d"), &classes, 8);
    for (class, _) in classes {
        let folder = world.path(&format!("d/{class}"));
        for i in 0..8 {
            let name = format!("{i:02}.bmp");
            fs::rename(folder.join(&name), folder.join(format!("<img src=x onerror=y> & \"{name}"))).unwrap();
        }
    }
    let said = world.run(&format!("train d {SMALL} --epochs 2 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let page = world.text("run/report.html");
    for wanted in [
        "Curves",
        "Confusion",
        "Classes",
        "Run",
        "Pictures",
        "Pictures with the highest loss",
        "Calibration",
        "Groups",
        "Recipe",
        "Environment",
    ] {
        assert!(page.contains(&format!("<h2>{wanted}")), "{wanted}");
    }
    assert!(page.contains("&lt;b&gt;&amp;amp;") && page.contains("&#39;plain&#39;"));
    assert!(page.contains("a&quot;quote&quot;,"));
    assert!(page.contains("&lt;img src=x onerror=y&gt; &amp; &quot;0"));
    assert!(!page.contains("<b>&amp;<") && !page.contains("<img src=x"));
    assert!(page.contains("<bdi>a&quot;quote&quot;,</bdi>"));
    // Pictures are there at once, and have their place before.
    assert!(!page.contains("loading=") && page.contains("<img alt=\"\" width=\"160\" height=\"160\" src="));
    assert!(page.contains(">epoch</text>") && page.contains(">accuracy, %</text>"));
    assert!(page.contains("offshoot train d --model mobilenet_v2"), "the command");
    assert!(page.contains("network: weights") && page.contains("network: biases and norms"));
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<script"));
    assert!(page.matches("data:image/jpeg;base64,").count() >= 3);
    // Tags that stand open at the end would be an error of ours.
    for tag in ["section", "table", "tr", "td", "div", "figure", "svg", "main"] {
        let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
        let opened = page
            .match_indices(&open)
            .filter(|(at, _)| !page.as_bytes()[at + open.len()].is_ascii_alphabetic());
        assert_eq!(opened.count(), page.matches(&close).count(), "{tag}");
    }

    let events = records(&world.read("run/tensorboard/events.out.tfevents.0.offshoot"));
    let tags = [
        "loss/train",
        "loss/val",
        "accuracy/train",
        "accuracy/val",
        "run/learning_rate",
        "gradient_norm/all",
    ];
    for tag in tags {
        // A string of a protobuf message: its length, then its bytes.
        let wanted = [&[tag.len() as u8], tag.as_bytes()].concat();
        let has = |event: &&Vec<u8>| event.windows(wanted.len()).any(|w| w == wanted);
        assert_eq!(events.iter().filter(has).count(), 2, "{tag}");
    }
    fs::remove_file(world.path("run/report.html")).unwrap();
    assert_eq!(world.run("report run").code, Some(0));
    assert_eq!(world.text("run/report.html").matches("<section").count(), page.matches("<section").count());
    assert_eq!(world.run("report d").code, Some(2));
}

/// A data set of two classes in the folders `train` and `val` by these names.
fn split(world: &World, folder: &str, train: &str, val: &str) {
    data(&world.path(&format!("{folder}/{train}")), &CLASSES[..2], 3);
    data(&world.path(&format!("{folder}/{val}")), &CLASSES[..2], 2);
}

#[test]
fn every_command_reads_the_parts_of_a_data_set_by_one_rule() {
    let world = World::new("parts");
    split(&world, "d", "Training", "Testing");
    let said = world.run(&format!("train d {SMALL} --epochs 1 --out run --json"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("warning: ") && said.err.contains("`Testing` is taken for them"), "{said:?}");
    for command in [
        "eval run d",
        "check run d",
        "data check d",
        "quantize run --mode static --calibration d --data d --out q",
    ] {
        let said = world.run(&format!("{command} --json"));
        // An untrained network may have problems, and that is no matter here.
        assert!(matches!(said.code, Some(0 | 1)), "{command}: {said:?}");
        assert!(!said.out.contains("\"error\""), "{command}: {said:?}");
    }
    assert_eq!(world.json("eval run d")["images"], 4);
    let balance = &world.json("data check d")["balance"]["classes"];
    assert_eq!((&balance[0]["class"], &balance[0]["val"]), (&"blue".into(), &2.into()));
    pictures(&world.path("flat/TRAIN"), CLASSES[0].1, 3);
    pictures(&world.path("flat/val"), CLASSES[1].1, 3);
    for command in
        ["train flat --model mobilenet_v2 --out other", "eval run flat", "data check flat", "check run flat"]
    {
        let said = world.run(command);
        assert_eq!(said.code, Some(2), "{command}: {said:?}");
        assert!(said.err.contains("DATA/train/<class>/*"), "{command}: {said:?}");
    }
}

#[test]
fn a_class_without_validation_pictures_is_trained() {
    let world = World::new("absent");
    split(&world, "d", "train", "val");
    fs::remove_dir_all(world.path("d/val/green")).unwrap();
    let said = world.run(&format!("train d {SMALL} --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("no picture of \"green\""), "{said:?}");
    fs::create_dir_all(world.path("d/val/green")).unwrap();
    let said = world.run("eval run d --json");
    assert!(said.err.contains("no picture of 1 of the model's 2 classes: green"), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["per_class"].as_object().unwrap().keys().collect::<Vec<_>>(), ["blue"]);
    pictures(&world.path("d/val/purple"), CLASSES[0].1, 1);
    let said = world.run(&format!("train d {SMALL} --epochs 1 --out other"));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("no class \"purple\" in ") && said.err.contains("d/train, "), "{said:?}");
}

#[test]
fn kinds_that_are_not_read_are_counted() {
    let world = World::new("kinds");
    data(&world.path("d"), &CLASSES, 4);
    for name in ["blue/a.jp2", "blue/b.JP2", "green/c.pcx", "green/notes.txt", "red/.DS_Store"] {
        fs::write(world.path(&format!("d/{name}")), "text").unwrap();
    }
    fs::write(world.path("d/red/small.ppm"), b"P6 2 2 255\nabcdefghijkl").unwrap();
    let said = world.run(&format!("train d {SMALL} --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("skipped 3 files of kinds that are not read: .jp2 2, .pcx 1"), "{said:?}");
    let said = world.json("eval run d");
    assert_eq!((&said["images"], &said["skipped"]), (&13.into(), &3.into()));
    let said = world.json("data check d");
    assert_eq!(said["unread_kinds"], serde_json::json!({".jp2": 2, ".pcx": 1}));
    assert_eq!(said["other_files"], serde_json::json!({".txt": 1}));
    assert_eq!(said["images"], 13);
}

#[test]
fn the_limit_of_pixels_is_a_flag() {
    let world = World::new("limit");
    data(&world.path("d"), &CLASSES, 2);
    assert_eq!(world.run(&format!("train d {SMALL} --epochs 1 --out run")).code, Some(0));
    // Two megapixels of white.
    let ppm = [&b"P5 2000 1000 255\n"[..], &vec![255; 2_000_000]].concat();
    fs::write(world.path("big.pgm"), ppm).unwrap();
    assert_eq!(world.run("predict run big.pgm").code, Some(0));
    assert_eq!(world.run("predict run big.pgm --max-megapixels 2").code, Some(0));
    let said = world.run("predict run big.pgm --max-megapixels 1");
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("2000x1000 is 2 megapixels, more than the limit of 1;"), "{said:?}");
    assert!(said.err.contains("(--max-megapixels 2)"), "{said:?}");
}

#[test]
fn a_sheet_is_of_the_format_of_its_name_and_hides_no_name() {
    let world = World::new("sheets");
    data(
        &world.path("d"),
        &[("猫", [40, 40, 200]), ("зебра", [40, 200, 40]), ("\u{10FFFD}", [200, 40, 40])],
        3,
    );
    let said = world.run("data show d --size 32 --pictures 6 --views 1 --out sheet.jpg --json");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(world.read("sheet.jpg")[..3], [0xFF, 0xD8, 0xFF]);
    let legend = said.json()["legend"].clone();
    // No font has a letter for private use at that place; whether one has the others depends on the machine.
    assert!(legend.as_object().unwrap().values().any(|name| name == "\u{10FFFD}"), "{legend}");
    let said = world.run("data show d --size 32 --pictures 6 --views 1 --out sheet.png");
    assert!(said.out.contains("#1  "), "{said:?}");
    assert_eq!(world.run("data show d --size 32 --out sheet.gif").code, Some(2));
}

#[test]
fn columns_are_straight_with_wide_letters() {
    let world = World::new("wide");
    data(&world.path("d"), &[("a", [40, 40, 200]), ("汉字汉字", [40, 200, 40])], 3);
    assert_eq!(world.run(&format!("train d {SMALL} --epochs 1 --out run")).code, Some(0));
    let said = world.run("eval run d").out;
    // Eight columns of a terminal each.
    assert!(said.contains("\n  a         ") && said.contains("\n  汉字汉字  "), "{said}");
    let said = world.run("data check d").out;
    assert!(said.contains("\n  a         2 to") && said.contains("\n  汉字汉字  2 to"), "{said}");
    let spelled =
        |flag: &str| world.run(&format!("data show d --size 32 --views 1 {flag} 0.1,0.1,0.1,0.1")).code;
    assert_eq!((spelled("--color-jitter"), spelled("--colour-jitter")), (Some(0), Some(0)));
}
