//! Data sets in tables and archives, from training to evaluation.

use std::fmt::Write as _;
use std::fs::File;

use crate::support::{CLASSES, SMALL, World, data};

/// Pictures of each class.
const COUNT: usize = 10;

/// The picture `index` of each class, with the class.
fn pictures() -> impl Iterator<Item = (String, &'static str)> {
    CLASSES.iter().flat_map(|&(class, _)| (0..COUNT).map(move |i| (format!("d/{class}/{i:02}.bmp"), class)))
}

/// The pictures of `d` as tables and as an archive.
fn world(name: &str) -> World {
    let world = World::new(name);
    data(&world.path("d"), &CLASSES, COUNT as u32);
    let (mut csv, mut json) = ("path,label,weight\n".to_owned(), String::new());
    let mut tar = tar::Builder::new(File::create(world.path("d.tar")).unwrap());
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    };
    for (place, (path, class)) in pictures().enumerate() {
        writeln!(csv, "{path},{class},{}", 1 + place % 3).unwrap();
        json = format!("{{\"path\": \"{path}\", \"label\": \"{class}\"}}\n{json}");
        let name = path.strip_prefix("d/").unwrap();
        add(name, &world.read(&path));
        add(&name.replace("bmp", "cls"), class.as_bytes());
    }
    tar.finish().unwrap();
    world.write("weighted.csv", &csv);
    world.write("d.csv", csv.replace("path,label,weight", "path,label,other"));
    world.write("d.jsonl", json);
    world
}

#[test]
fn the_same_pictures_give_the_same_model_in_any_form() {
    let world = world("forms");
    let train = |data: &str, run: &str| world.json(&format!("train {data} {SMALL} --epochs 2 --out {run}"));
    for (data, run) in [("d", "folder"), ("d.csv", "csv"), ("d.jsonl", "jsonl"), ("d.tar", "tar")] {
        train(data, run);
        for file in ["best.safetensors", "last.safetensors"] {
            let [wanted, found] = ["folder", run].map(|run| world.read(&format!("{run}/{file}")));
            assert!(found == wanted, "{run}/{file}");
        }
    }
    // What a run was validated with is found again in its archive, and a table is evaluated as the folder is.
    let own = world.json("eval tar");
    assert_eq!(own, world.json("eval folder"));
    assert_eq!(own["images"], 6);
    assert_eq!(world.json("eval folder d.csv"), world.json("eval folder d"));
    assert_eq!(world.json("eval folder d.tar")["images"], 30);
    let checked = ["d", "d.tar"].map(|data| world.json(&format!("data check {data}")));
    let found =
        checked.map(|report| (report["images"].clone(), report["duplicates"].as_array().unwrap().len()));
    assert_eq!(found[0], found[1]);
    // Calibrated on the rows to train with, and measured on those to validate with.
    let mut split = "path,label,split\n".to_owned();
    for (place, (path, class)) in pictures().enumerate() {
        writeln!(split, "{path},{class},{}", ["train", "val"][place % 2]).unwrap();
    }
    world.write("split.csv", split);
    let quantized =
        world.json("quantize csv --mode static --calibration split.csv --data split.csv --out int8.onnx");
    assert!(quantized["accuracy"].as_f64().is_some_and(|x| (0.0..=1.0).contains(&x)), "{quantized}");
    assert_eq!(world.json("train --resume --out tar")["epochs"], 2);
}

#[test]
fn weights_change_the_model_and_belong_to_the_run() {
    let world = world("weights");
    let train = |data: &str, run: &str| world.run(&format!("train {data} {SMALL} --epochs 1 --out {run}"));
    for (data, run) in [("d.csv", "plain"), ("weighted.csv", "weighted")] {
        assert_eq!(train(data, run).code, Some(0));
    }
    let [plain, weighted] = ["plain", "weighted"].map(|run| world.read(&format!("{run}/last.safetensors")));
    assert!(plain != weighted);
    assert!(
        world
            .text("weighted/pictures.csv")
            .starts_with("set,class,path,bytes,modified,changed,inode,blake3,weight\n")
    );
    assert_eq!(world.json("eval weighted")["images"], 6);
    let other = world.text("weighted.csv").replace(",blue,1\n", ",blue,2.5\n");
    world.write("weighted.csv", other);
    let said = world.run("train --resume --out weighted --epochs 2");
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("had the weight 1 and has 2.5 now"), "{said:?}");
}

#[test]
fn wrong_rows_are_named_and_strict_refuses_them() {
    let world = world("wrong");
    world.write("wrong.csv", world.text("d.csv") + "d/none.bmp,red,1\nd/red/00.bmp,,1\n");
    let said = world.run(&format!("train wrong.csv {SMALL} --epochs 1 --out run"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let err = world.relative(&said.err);
    assert!(
        err.contains("(wrong.csv, line 32)") && err.contains("wrong.csv: line 33: no label in this row"),
        "{err}"
    );
    let said = world.run(&format!("train wrong.csv {SMALL} --epochs 1 --strict --out strict"));
    assert_eq!((said.code, world.path("strict").exists()), (Some(2), false), "{said:?}");
    world.write("named.tsv", world.text("d.csv").replace(',', "\t").replace("path\tlabel", "file\tspecies"));
    let said = world.run("data check named.tsv");
    assert!(said.code == Some(2) && said.err.contains("no column `path`"), "{said:?}");
    assert_eq!(world.json("data check named.tsv --columns path=file,label=species")["images"], 30);
    assert_eq!(world.run("eval run named.tsv --columns path=file,label=species").code, Some(0));
    let said = world.run("data check named.tsv --columns path");
    assert!(said.code == Some(2) && said.err.contains("path=file,label=species"), "{said:?}");
}
