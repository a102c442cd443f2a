//! Programs that are damaged or mean harm: one error that says where, in little memory and time.

use std::time::Instant;

use offshoot_formats::pt2;
use serde_json::{Value, json};

use crate::archives::{self, Entries, archive};
use crate::onnx_support::mobile;
use crate::pt2::written;

const MODEL: &str = "models/model.json";
const WEIGHTS: &str = "data/weights/model_weights_config.json";

/// The entries of an archive of ours, without metadata.
fn entries() -> Entries {
    archives::entries(&written(&mobile(true)))
}

fn refusal(bytes: &[u8]) -> String {
    pt2::read_bytes(bytes, None).unwrap_err().to_string()
}

/// The archive with an entry of JSON changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut entries = entries();
    let entry = entries.iter_mut().find(|(n, _)| n == name).unwrap();
    let mut value = serde_json::from_slice(&entry.1).unwrap();
    change(&mut value);
    entry.1 = value.to_string().into_bytes();
    archive(&entries)
}

fn program(change: impl FnOnce(&mut Value)) -> String {
    refusal(&changed(MODEL, change))
}

/// What is said of the first node after a change.
fn node(change: impl FnOnce(&mut Value)) -> String {
    program(|model| change(&mut model["graph_module"]["graph"]["nodes"][0]))
}

#[test]
fn the_archive_itself_is_read() {
    assert!(pt2::read_bytes(&archive(&entries()), None).is_ok());
}

#[test]
fn what_is_missing_is_named() {
    for (name, what) in [
        ("archive_format", "a zip archive without the archive_format of torch.export"),
        ("archive_version", "there is no entry `model/archive_version`"),
        (MODEL, "it holds no exported program"),
        (WEIGHTS, "there is no entry `model/data/weights/model_weights_config.json`"),
        ("data/constants/model_constants_config.json", "model_constants_config.json`"),
        ("data/weights/weight_3", "there is no entry `data/weights/weight_3`"),
    ] {
        let mut entries = entries();
        entries.retain(|(n, _)| n != name);
        let message = refusal(&archive(&entries));
        assert!(message.contains(what), "{name}: {message}");
    }
    let old = vec![("serialized_exported_program.json".to_owned(), b"{}".to_vec())];
    assert!(refusal(&archive(&old)).contains("a layout of earlier versions of PyTorch"));
}

#[test]
fn other_versions_are_refused_whatever_else_they_hold() {
    for major in [7, 9] {
        let message = program(|model| {
            *model = json!({"schema_version": {"major": major, "minor": 1}, "graph_module": 3});
        });
        assert!(message.contains(&format!("the version {major}.1, and only 8.x is read")), "{message}");
    }
    let mut entries = entries();
    entries.iter_mut().find(|(n, _)| n == "archive_version").unwrap().1 = b"1".to_vec();
    assert!(refusal(&archive(&entries)).contains("of the format `pt2`, version `1`"));
    // A later minor version may add what is not looked at.
    let later = changed(MODEL, |model| {
        model["schema_version"]["minor"] = json!(99);
        model["new"] = json!({"a": [1, 2]});
    });
    assert!(pt2::read_bytes(&later, None).is_ok());
}

#[test]
fn tensors_that_are_pickles_or_do_not_fit_are_refused_by_name() {
    let key = "classifier.1.weight";
    for (change, what) in [
        (json!({"use_pickle": true}), "stored as a pickle, which is not read"),
        (json!({"tensor_meta": null}), "it has no `tensor_meta`"),
        (json!({"path_name": "../../../etc/passwd"}), "there is no entry"),
        (
            json!({"sizes": [{"as_int": 1i64 << 40}, {"as_int": 8}]}),
            "its shape and strides reach beyond its storage",
        ),
        (json!({"sizes": [{"as_int": -1}, {"as_int": 8}]}), "its sizes are no numbers from 0 up"),
        (json!({"strides": [{"as_int": i64::MAX}, {"as_int": i64::MAX}]}), "reach beyond its storage"),
        (json!({"storage_offset": {"as_int": i64::MAX}}), "reach beyond its storage"),
        (json!({"dtype": 29}), "its elements are of `type 29 of the schema`"),
        (json!({"dtype": 5}), "reach beyond its storage"),
        (json!({"layout": 1}), "its layout is not strided"),
    ] {
        let message = refusal(&changed(WEIGHTS, |config| {
            let payload = &mut config["config"][key];
            for (name, value) in change.as_object().unwrap() {
                let of =
                    if payload.get(name).is_some() { &mut *payload } else { &mut payload["tensor_meta"] };
                of[name] = value.clone();
            }
        }));
        assert!(message.contains(what) && message.contains(key), "{change}: {message}");
    }
    let message = refusal(&changed(WEIGHTS, |config| {
        config["config"].as_object_mut().unwrap().remove(key);
    }));
    assert!(message.contains("`classifier.1.weight` is none of the tensors of the archive"), "{message}");
}

#[test]
fn nodes_that_are_not_read_are_named() {
    let first = "models/model.json, node 0 `";
    for (message, what) in [
        (
            node(|node| node["target"] = json!("torch.ops.aten.fft_fft.default")),
            "`torch.fft_fft`: this operator is not read",
        ),
        (node(|node| node["target"] = json!("os.system")), "`os.system` is not read"),
        (
            node(|node| node["target"] = json!("torch.ops.mine.op.default")),
            "`torch.ops.mine.op.default` is not read",
        ),
        (node(|node| node["inputs"][1]["arg"] = json!({"as_int": 3})), "its weight is an integer"),
        (
            node(|node| node["inputs"][0]["arg"] = json!({"as_tensor": {"name": "y"}})),
            "`input` is `y`, which nothing before it makes",
        ),
        (node(|node| node["inputs"][0]["arg"] = json!({"as_custom_obj": {}})), "is a graph or an object"),
        (node(|node| node["inputs"][3]["arg"] = json!({"as_ints": [0, 1]})), "stride is [0, 1]"),
        (
            node(|node| node["inputs"][3]["arg"] = json!({"as_ints": vec![1; 5000]})),
            "`stride` has 5000 items",
        ),
        (node(|node| node["inputs"][3]["name"] = json!("weight")), "its argument `weight` is given twice"),
        (node(|node| node["inputs"][3]["name"] = json!("new")), "its argument `new` is not known"),
        (
            node(|node| node["inputs"] = json!(vec![json!({"name": "", "arg": {"as_int": 1}}); 65])),
            "it has 65 arguments",
        ),
        (node(|node| node["inputs"] = json!([])), "its argument 0 is missing"),
        (node(|node| node["target"] = json!("_operator.mul")), "`_operator.mul` of"),
    ] {
        assert!(message.starts_with(first) && message.contains(what), "{what}: {message}");
    }
}

#[test]
fn inputs_and_results_of_other_kinds_are_refused() {
    for (message, what) in [
        (
            program(|model| model["graph_module"]["signature"]["output_specs"] = json!([])),
            "it gives 0 results",
        ),
        (
            program(|model| {
                model["graph_module"]["signature"]["output_specs"] =
                    json!([{"buffer_mutation": {"arg": {"name": "a"}, "buffer_name": "b"}}]);
            }),
            "exported in training mode",
        ),
        (
            program(|model| {
                let specs = model["graph_module"]["signature"]["input_specs"].as_array_mut().unwrap();
                let last = specs.last().unwrap().clone();
                specs.push(last);
            }),
            "it takes 2 inputs, not one tensor",
        ),
        (
            program(|model| {
                let specs = model["graph_module"]["signature"]["input_specs"].as_array_mut().unwrap();
                specs.push(json!({"custom_obj": {}}));
            }),
            "something else than tensors",
        ),
        (
            program(|model| model["graph_module"]["graph"]["tensor_values"]["x"]["dtype"] = json!(1)),
            "its input is no tensor of floats",
        ),
        (
            program(|model| model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"] = json!([])),
            "its input has 0 axes",
        ),
        (
            program(|model| {
                model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][1] = json!({"as_int": 4});
            }),
            "no square picture with 3 channels",
        ),
        (
            program(|model| {
                let sizes = &mut model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"];
                (sizes[2], sizes[3]) = (json!({"as_int": 1 << 30}), json!({"as_int": 1 << 30}));
            }),
            "pixels a side",
        ),
    ] {
        assert!(message.contains(what), "{what}: {message}");
    }
}

#[test]
fn damaged_json_names_its_place() {
    for content in
        [&b""[..], b"{", b"[]", b"{\"schema_version\": {\"major\": 8, \"minor\": 20}}", b"\xff\xfe"]
    {
        let mut entries = entries();
        entries.iter_mut().find(|(n, _)| n == MODEL).unwrap().1 = content.to_vec();
        let message = refusal(&archive(&entries));
        assert!(message.starts_with("models/model.json: ") && message.contains("line "), "{message}");
    }
    let unknown = node(|node| node["inputs"][0]["arg"] = json!({"as_new": 1}));
    assert!(unknown.contains("unknown variant `as_new`") && unknown.len() < 300, "{unknown}");
    let mut deep = entries();
    deep.iter_mut().find(|(n, _)| n == MODEL).unwrap().1 = vec![b'['; 100_000];
    assert!(refusal(&archive(&deep)).starts_with("models/model.json: "));
}

#[test]
fn every_cut_and_every_flipped_byte_is_an_answer_in_time() {
    let bytes = written(&mobile(false));
    let start = Instant::now();
    for len in (0..bytes.len()).step_by(bytes.len() / 64) {
        assert!(pt2::read_bytes(&bytes[..len], None).is_err(), "{len}");
    }
    for at in (0..bytes.len()).step_by(bytes.len() / 256) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        let _ = pt2::read_bytes(&flipped, None);
    }
    assert!(start.elapsed().as_secs() < 60);
}

#[test]
fn an_entry_that_unpacks_to_more_than_is_read_is_refused() {
    let mut entries = entries();
    entries.iter_mut().find(|(n, _)| n == MODEL).unwrap().1 = vec![b' '; 33 << 20];
    let message = refusal(&archive(&entries));
    assert!(message.contains("above the limit of"), "{message}");
}
