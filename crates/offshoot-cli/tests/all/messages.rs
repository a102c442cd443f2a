//! What bad input is told, word for word. After a change: `INSTA_UPDATE=always cargo test -p offshoot-cli --test all messages::`, and read
//! the difference.

#![cfg(target_os = "linux")] // the system's own words are in some

use std::fs;
use std::sync::OnceLock;

use serde_json::json;

use crate::support::{CLASSES, SMALL, World, bmp, data, with_header, with_metadata};

/// A pickle that asks for `os.system("touch pwned")`.
const EVIL: &[u8] = b"\x80\x02}X\x01\x00\x00\x00acposix\nsystem\nX\x0b\x00\x00\x00touch pwned\x85Rs.";

/// A folder with a model in `m.safetensors` and `m.onnx`, pictures in `d`, and bad input of each kind.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let world = World::new("bad");
        data(&world.path("d"), &CLASSES, 2);
        let best = World::trained().read("run/best.safetensors");
        world.write("m.safetensors", &best);
        world.json("export m.safetensors --format onnx");
        fs::rename(world.path("mobilenet_v2.onnx"), world.path("m.onnx")).unwrap();
        bad_data(&world);
        bad_models(&world, &best);
        bad_recipes(&world);
        world
    })
}

fn bad_data(world: &World) {
    let picture = bmp([1, 2, 3], 0);
    world.write("text.txt", "hello");
    fs::create_dir(world.path("empty")).unwrap();
    world.write("flat/a.bmp", &picture);
    world.write("one/cat/a.bmp", &picture);
    data(&world.path("hole"), &CLASSES[..2], 1);
    fs::create_dir(world.path("hole/cyan")).unwrap();
    data(&world.path("split/train"), &CLASSES[..2], 1);
    data(&world.path("split/val"), &CLASSES, 1);
    world.write("parts/Training/a.bmp", &picture);
    world.write("parts/Testing/a.bmp", &picture);
    data(&world.path("nested/photos/train"), &CLASSES, 1);
    data(&world.path("nested/photos/val"), &CLASSES, 1);
    data(&world.path("halved/train"), &CLASSES, 1);
    world.write("junk/a/a.jpg", "junk");
    world.write("junk/b/b.jpg", "junk");
    world.write("short/a/a.bmp", &picture[..100]);
    world.write("short/b/b.bmp", &picture[..100]);
    data(&world.path("zoo"), &[("cat", [1; 3]), ("red", [2; 3])], 1);
}

fn bad_models(world: &World, best: &[u8]) {
    world.write("evil.pth", EVIL);
    world.write("cut.pth", &EVIL[..10]);
    world.write("cut.safetensors", &best[..best.len() / 2]);
    let onnx = world.read("m.onnx");
    world.write("cut.onnx", &onnx[..onnx.len() / 2]);
    world.write("nothing.onnx", "");
    world.write("text.onnx", "hello");
    world.write("text.pth", "hello");
    world.write("page.pth", "<!DOCTYPE html><html>");
    world.write("plain.safetensors", with_header(best, |h| h["__metadata__"] = json!({})));
    let change = |key: &'static str, value| with_metadata(best, move |m| m[key] = value);
    world.write("four.safetensors", change("classes", json!(["a", "b", "c", "d"])));
    world.write("vgg.safetensors", change("architecture", json!("alexnet")));
    world.write("garbled.safetensors", change("preprocessing", json!("none")));
    let lying = with_header(best, |h| h["classifier.1.bias"]["data_offsets"] = json!([0, 1u64 << 60]));
    world.write("lying.safetensors", lying);
}

fn bad_recipes(world: &World) {
    world.write("syntax.toml", "epochs = = 3\n");
    world.write("type.toml", "epochs = 3\nlr = \"fast\"\n");
    world.write("unknown.toml", "epochs = 3\nlearning_rate = 1e-3\n");
    world.write("range.toml", "epochs = 3\n\nlr = -2.0\n");
    world.write("frozen.toml", "freeze = \"[\"\n");
}

/// Runs each command, which must fail with code 2, print nothing on standard output and make nothing; gives the messages.
fn messages(commands: &[&str]) -> String {
    let world = world();
    // Commands of other tests try the folder with files of such names, where it cannot have files without.
    let names = || world.names("").into_iter().filter(|name| !name.starts_with(".tmp")).collect::<Vec<_>>();
    let before = names();
    let mut text = String::new();
    for command in commands {
        let said = world.run(command);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{command}: {said:?}");
        text += &format!("$ offshoot {command}\n{}\n", world.relative(&said.err));
        assert_eq!(names(), before, "{command}");
    }
    text
}

#[track_caller]
fn assert_messages(name: &str, text: &str) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

fn train(arguments: &[&str]) -> String {
    let commands: Vec<String> = arguments.iter().map(|a| format!("train {a} --out run")).collect();
    messages(&commands.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn data_folders() {
    let folders =
        ["nowhere", "text.txt", "empty", "flat", "one", "hole", "split", "halved", "junk", "parts", "nested"];
    let commands = folders.map(|folder| format!("{folder} {SMALL}"));
    assert_messages("data_folders", &train(&commands.each_ref().map(String::as_str)));
}

#[test]
fn weights() {
    let files = [
        "no.pth",
        "d",
        "evil.pth",
        "cut.pth",
        "cut.safetensors",
        "lying.safetensors",
        "text.pth",
        "page.pth",
    ];
    let commands = files.map(|file| format!("d {SMALL} --weights {file}"));
    let mut commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    commands.push("d --model resnet18 --weights m.safetensors");
    assert_messages("weights", &train(&commands));
}

#[test]
fn models() {
    assert_messages(
        "models",
        &messages(&[
            "eval no.onnx d",
            "eval d d",
            "eval text.txt d",
            "eval evil.pth d",
            "eval cut.safetensors d",
            "eval plain.safetensors d",
            "eval four.safetensors d",
            "eval vgg.safetensors d",
            "eval garbled.safetensors d",
            "eval nothing.onnx d",
            "eval text.onnx d",
            "eval cut.onnx d",
            "eval m.onnx d --size 48",
            "eval --model mobilenet_v2 d",
            "eval --model mobilenet --weights m.safetensors d",
            "eval --model resnet18 --weights m.safetensors d",
            "inspect evil.pth",
            "inspect text.txt",
            "inspect empty",
            "verify cut.onnx --against m.safetensors",
            "verify m.onnx",
            "verify m.onnx --against m.safetensors --tolerance nan",
        ]),
    );
}

#[test]
fn settings() {
    let flags = [
        "--head foo",
        "--head mlp:0",
        "--head mlp:99999999999",
        "--head linear,dropout=1",
        "--lr 0",
        "--lr -1",
        "--lr nan",
        "--lr fast",
        "--epochs 0",
        "--epochs 18446744073709551615",
        "--seed 18446744073709551615",
        "--val-fraction 1",
        "--freeze layer4",
        "--freeze *",
        "--lr-group classifier",
        "--lr-group layer4=1e-4",
        "--optimizer lion",
        "--augment maybe",
        "--amp int8",
        "--threads 0",
        "--threads 99999999",
        "--fit squeeze",
        "--mean 0.5",
        "--std 0,1,1",
        "--recipe no.toml",
        "--recipe syntax.toml",
        "--recipe type.toml",
        "--recipe unknown.toml",
        "--recipe range.toml",
        "--recipe frozen.toml",
    ];
    let mut commands: Vec<String> =
        flags.iter().map(|flag| format!("d --model mobilenet_v2 {flag}")).collect();
    let rest = [
        "",
        "d",
        "--model mobilenet_v2",
        "d --model mobilnet_v2",
        "d --model alexnet",
        "d --model net.onnx",
        "d --model mobilenet_v2 --size 0",
        "d --model mobilenet_v2 --size 99999",
        "d --model mobilenet_v2 --size 16384",
        "d --model mobilenet_v2 --batch-size 0",
    ];
    commands.extend(rest.map(str::to_owned));
    assert_messages("settings", &train(&commands.iter().map(String::as_str).collect::<Vec<_>>()));
}

#[test]
fn usage() {
    assert_messages(
        "usage",
        &messages(&[
            "grow",
            "eval m.onnx",
            "eval m.onnx d d",
            "eval m.onnx zoo",
            "eval m.onnx empty",
            "predict m.onnx",
            "predict m.onnx no.jpg",
            "predict m.onnx empty",
            "predict m.onnx text.txt",
            "predict m.onnx short",
            "explain m.onnx d/red",
            "explain m.onnx d/red --out o --class cat",
            "explain m.onnx d/red --out o --layer layer4",
            "explain m.onnx d/red --out o --method attention",
            "export m.onnx --format onnx,pickle",
            "export m.onnx --format onnx --opset 12",
            "export m.onnx d --format onnx",
            "export m.onnx",
            "export m.onnx --format onnx --out text.txt",
            "export m.onnx --format onnx --data empty",
            "bench infer --model resnet",
            "bench infer --model mobilenet_v2 --batch 0",
            "bench infer --model mobilenet_v2 --size 999999999 --batch 9999999999",
            "bench train --model mobilenet_v2 --amp int8",
            "bench train --model mobilenet_v2 --freeze layer4",
        ]),
    );
}

#[test]
fn pictures_that_all_turn_out_to_be_broken() {
    // Their headers are good, so this is found out in the first epoch.
    let world = World::new("broken");
    for class in ["a", "b"] {
        world.write(&format!("d/{class}/a.bmp"), &bmp([1; 3], 0)[..100]);
    }
    let said = world.run(&format!("train d {SMALL} --out run"));
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
    assert_messages("pictures_that_all_turn_out_to_be_broken", &world.relative(&said.err));
    assert_eq!(world.names("run"), ["groups.csv", "pictures.csv", "recipe.toml"]);
}

#[test]
fn the_pickle_asks_python_to_run_a_command_and_we_do_not() {
    let world = world();
    let commands = [
        "inspect evil.pth",
        "eval --model mobilenet_v2 --weights evil.pth d",
        "train d --model mobilenet_v2 --weights evil.pth --out run",
    ];
    for command in commands {
        let said = world.run(command);
        assert!(said.code == Some(2) && said.err.contains("`posix.system`"), "{said:?}");
        assert!(!world.path("pwned").exists());
    }
}
