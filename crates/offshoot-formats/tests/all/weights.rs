//! Files written by PyTorch and safetensors, see scripts/golden/weights.py, and what we write ourselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::{bf16, f16};
use offshoot_formats::checkpoint::{CheckpointFormat, KeyMismatch, load_weights, match_weights};
use offshoot_formats::{pth, safetensors};
use offshoot_graph::{DType, Data, Tensor, Weights};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/weights").join(name)
}

fn expected() -> BTreeMap<String, BTreeMap<String, Value>> {
    serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap()
}

/// The elements as numbers; every type here but the largest i64 fits exactly, and that one rounds on both sides.
fn numbers(data: &Data) -> Vec<f64> {
    match data {
        Data::F32(v) => v.iter().map(|&x| x.into()).collect(),
        Data::F64(v) => v.clone(),
        Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
        Data::BF16(v) => v.iter().map(|x| x.to_f64()).collect(),
        Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
        Data::I32(v) => v.iter().map(|&x| x.into()).collect(),
        Data::I8(v) => v.iter().map(|&x| x.into()).collect(),
        Data::U8(v) => v.iter().map(|&x| x.into()).collect(),
        Data::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
    }
}

fn dtype(torch: &str) -> DType {
    match torch {
        "float32" => DType::F32,
        "float64" => DType::F64,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" | "uint32" => DType::I64,
        "int32" | "int16" | "uint16" => DType::I32,
        "int8" => DType::I8,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        other => panic!("{other}"),
    }
}

#[test]
fn every_file_reads_as_pytorch_reads_it() {
    let expected = expected();
    assert_eq!(expected.len(), 21);
    for (file, tensors) in &expected {
        let loaded = load_weights(&golden(file)).unwrap_or_else(|e| panic!("{e}"));
        let names: Vec<_> = loaded.weights.keys().collect();
        assert_eq!(names, tensors.keys().collect::<Vec<_>>(), "{file}");
        for (name, tensor) in &loaded.weights {
            let want = &tensors[name];
            assert_eq!(tensor.dtype(), dtype(want["dtype"].as_str().unwrap()), "{file} {name}");
            let shape: Vec<usize> = serde_json::from_value(want["shape"].clone()).unwrap();
            assert_eq!(tensor.shape(), shape, "{file} {name}");
            let values: Vec<f64> = serde_json::from_value(want["values"].clone()).unwrap();
            assert_eq!(numbers(tensor.data()), values, "{file} {name}");
        }
    }
}

#[test]
fn the_format_is_told_by_content() {
    let folder = tempfile::tempdir().unwrap();
    for (file, format) in [
        ("dtypes-zip.pth", CheckpointFormat::PthZip),
        ("dtypes-legacy.pth", CheckpointFormat::PthLegacy),
        ("dtypes.safetensors", CheckpointFormat::Safetensors),
    ] {
        let renamed = folder.path().join("weights.png");
        std::fs::copy(golden(file), &renamed).unwrap();
        assert_eq!(load_weights(&renamed).unwrap().format, format);
    }
}

#[test]
fn wrappers_and_prefixes_are_removed_and_reported() {
    for file in ["wrapped-zip.pth", "wrapped-legacy.pth"] {
        let loaded = load_weights(&golden(file)).unwrap();
        assert_eq!(
            (loaded.wrappers.as_slice(), loaded.prefix.as_str()),
            (&["state_dict".to_owned()][..], "module.")
        );
        assert!(loaded.weights.contains_key("1.running_mean"), "{:?}", loaded.weights.keys());
    }
    assert_eq!(load_weights(&golden("compiled-zip.pth")).unwrap().prefix, "_orig_mod.module.");
    assert_eq!(load_weights(&golden("ema-zip.pth")).unwrap().wrappers, ["model"]);
}

#[test]
fn floats_become_f32_on_request_and_integers_stay() {
    let raw = load_weights(&golden("dtypes-zip.pth")).unwrap();
    let converted = raw.clone().into_f32();
    for (name, tensor) in &raw.weights {
        let now = &converted.weights[name];
        assert_eq!(
            now.dtype(),
            if tensor.dtype().is_float() { DType::F32 } else { tensor.dtype() },
            "{name}"
        );
        assert_eq!(now.shape(), tensor.shape());
    }
    let (half, single) = (&raw.weights["float.float16"], &converted.weights["float.float16"]);
    assert_eq!(numbers(half.data()), numbers(single.data()));
}

#[test]
fn what_is_no_state_dict_says_what_it_is() {
    for (file, words) in [
        ("module-zip.pth", ["`__main__.Tiny` under `model`", "state_dict()"]),
        ("module-legacy.pth", ["`__main__.Tiny` under `model`", "state_dict()"]),
        ("no-tensors-zip.pth", ["`epoch`", "state_dict()"]),
        ("numpy.pkl", ["torch.save did not write", ".safetensors"]),
        ("complex-zip.pth", ["`c`", "ComplexFloatStorage"]),
        ("sparse-zip.pth", ["`torch._utils._rebuild_sparse_tensor`", "state_dict()"]),
        ("enum-zip.pth", ["`__main__.Colour`", "Nothing was run"]),
        ("float8.safetensors", ["`w`", "F8_E4M3"]),
        ("expected.json", ["not a file of weights", ".safetensors"]),
        ("absent.pth", ["cannot open", "No such file"]),
    ] {
        let message = load_weights(&golden(file)).unwrap_err().to_string();
        for word in words.iter().chain([&file]) {
            assert!(message.contains(word), "{file}: {message}");
        }
    }
}

#[test]
fn a_program_has_weights_and_is_no_state_dict() {
    let loaded = load_weights(&golden("../torchscript/name_of_21_characters.pt")).unwrap();
    assert_eq!(loaded.format, CheckpointFormat::TorchScript);
    assert_eq!(loaded.weights.keys().collect::<Vec<_>>(), ["2.bias", "2.weight"]);
    let message = pth::read(&golden("torchscript.pt")).unwrap_err().to_string();
    assert!(message.contains("a TorchScript program, not a state dict"), "{message}");
}

#[test]
fn foreign_content_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, word) in [
        (&b""[..], "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid ..", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"\x89PNG\r\n\x1a\n", "89 50 4e 47"),
        (&tar, "tar archive"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let message = load_weights(&path).unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("weights.pth"), "{message}");
    }
}

#[test]
fn other_values_in_a_state_dict_are_listed() {
    let read = pth::read(&golden("extras-zip.pth")).unwrap();
    let skipped: Vec<_> = read.skipped.iter().map(|(key, what)| (key.as_str(), what.as_str())).collect();
    assert_eq!(skipped, [("_extra_state", "dict"), ("scale", "float"), ("where", "pathlib.PurePosixPath")]);
    assert_eq!(read.weights.len(), 1);
}

#[test]
fn tensors_in_other_values_are_named() {
    let loaded = load_weights(&golden("nested-zip.pth")).unwrap();
    let named: Vec<_> = loaded.unread.iter().map(|(key, what)| (key.as_str(), what.as_str())).collect();
    assert_eq!(named, [("buffers", "list"), ("packed", "tuple")]);
    assert_eq!(loaded.weights.keys().collect::<Vec<_>>(), ["w"]);
}

fn sample() -> Weights {
    let tensor = |shape: &[usize], data| Tensor::new(shape, data).unwrap();
    Weights::from([
        ("fc.weight".into(), tensor(&[2, 2], Data::F32(vec![0.0, -0.0, f32::MIN_POSITIVE, f32::INFINITY]))),
        ("fc.bias".into(), tensor(&[2], Data::F32(vec![1.5, f32::NAN]))),
        ("bn.num_batches_tracked".into(), tensor(&[], Data::I64(vec![i64::MIN]))),
        ("wide".into(), tensor(&[1], Data::F64(vec![0.1]))),
        ("half".into(), tensor(&[3], Data::F16([0.5, 2.0, -1.0].map(f16::from_f32).to_vec()))),
        ("brain".into(), tensor(&[1], Data::BF16(vec![bf16::from_f32(3.0)]))),
        ("int".into(), tensor(&[2], Data::I32(vec![1, -2]))),
        ("byte".into(), tensor(&[3], Data::U8(vec![1, 2, 255]))),
        ("signed".into(), tensor(&[1], Data::I8(vec![-1]))),
        ("flag".into(), tensor(&[2], Data::Bool(vec![true, false]))),
        ("nothing".into(), tensor(&[0, 4], Data::F32(vec![]))),
    ])
}

#[test]
fn safetensors_round_trip_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let metadata = r#"{"model":"tiny","classes":["ä","b"]}"#;
    safetensors::write(&path, &sample(), metadata).unwrap();
    let first = std::fs::read(&path).unwrap();
    let read = safetensors::read(&path).unwrap();
    assert_eq!(read.metadata, BTreeMap::from([(safetensors::METADATA_KEY.to_owned(), metadata.to_owned())]));
    assert_eq!(read.weights.keys().collect::<Vec<_>>(), sample().keys().collect::<Vec<_>>());
    // Writing what was read gives the same bytes, NaN included.
    safetensors::write(&path, &read.weights, metadata).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    assert_eq!(read.weights["half"], sample()["half"]);
}

#[test]
fn our_own_file_keeps_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let weights = Weights::from([("model.w".into(), Tensor::zeros([2]))]);
    safetensors::write(&path, &weights, "{}").unwrap();
    let loaded = load_weights(&path).unwrap();
    assert_eq!((loaded.weights, loaded.prefix.as_str()), (weights, ""));
}

#[test]
fn all_differences_are_listed_by_name() {
    let weights = Weights::from([
        ("a.weight".into(), Tensor::zeros([2, 3])),
        ("b.weight".into(), Tensor::zeros([4])),
        ("bn.num_batches_tracked".into(), Tensor::i64([], vec![3])),
        ("extra".into(), Tensor::zeros([1])),
    ]);
    let expected =
        [("a.weight".to_owned(), vec![2, 3]), ("b.weight".to_owned(), vec![5]), ("c".to_owned(), vec![])];
    let error = match_weights(&expected, weights.clone()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weights do not fit the model; 1 missing from the file: c; 1 unexpected in the file: extra; \
         1 of another shape: b.weight (expected [5], found [4])"
    );
    let matched = match_weights(&expected[..1], Weights::from([("a.weight".into(), Tensor::zeros([2, 3]))]));
    assert_eq!(matched.unwrap().len(), 1);

    let many: Vec<_> = (0..20).map(|i| (format!("layer{i:02}.weight"), vec![1])).collect();
    let error: KeyMismatch = match_weights(&many, Weights::new()).unwrap_err();
    assert_eq!(error.missing.len(), 20);
    let message = error.to_string();
    assert!(message.contains("layer07.weight, and 12 more") && !message.contains("layer08"), "{message}");
}

fn assets() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/offshoot/assets");
    std::env::var_os("OFFSHOOT_ASSETS").map_or_else(home, PathBuf::from)
}

fn python() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/offshoot/peers");
    std::env::var_os("OFFSHOOT_PEERS").map_or_else(home, PathBuf::from).join("bin/python")
}

/// The sum of the elements and of their magnitudes, in f64, each weighted by its place.
fn checksum(tensor: &Tensor) -> [f64; 2] {
    let values = numbers(tensor.data());
    let weighted = values.iter().enumerate().map(|(i, x)| x * (i % 17 + 1) as f64).sum();
    [weighted, values.iter().map(|x| x.abs()).sum()]
}

const TORCH_CHECKSUMS: &str = r#"
import json, sys, torch
state = torch.load(sys.argv[1], weights_only=True)
def sums(t):
    t = t.double().flatten()
    return [(t * (torch.arange(len(t)) % 17 + 1)).sum().item(), t.abs().sum().item()]
print(json.dumps({k: {"shape": list(v.shape), "sums": sums(v)} for k, v in state.items()}))
"#;

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS) and the assets (OFFSHOOT_ASSETS)"]
fn real_weights_read_as_pytorch_reads_them() {
    for (file, tensors) in [("mobilenet_v2.pth", 314), ("efficientnet_lite0.pth", 296)] {
        let path = assets().join("weights").join(file);
        let loaded = load_weights(&path).unwrap_or_else(|e| panic!("{e}"));
        let output = Command::new(python()).args(["-c", TORCH_CHECKSUMS]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let torch: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(loaded.weights.len(), tensors, "{file}");
        assert_eq!(loaded.weights.keys().collect::<Vec<_>>(), torch.keys().collect::<Vec<_>>());
        for (name, tensor) in &loaded.weights {
            let shape: Vec<usize> = serde_json::from_value(torch[name]["shape"].clone()).unwrap();
            assert_eq!(tensor.shape(), shape, "{file} {name}");
            let sums: [f64; 2] = serde_json::from_value(torch[name]["sums"].clone()).unwrap();
            for (ours, theirs) in checksum(tensor).into_iter().zip(sums) {
                assert!((ours - theirs).abs() <= 1e-9 * (1.0 + sums[1]), "{file} {name}: {ours} {theirs}");
            }
        }
    }
}

const READ_SAFETENSORS: &str = r#"
import json, sys
from safetensors import safe_open
from safetensors.torch import load_file
import torch
with safe_open(sys.argv[1], "pt") as f:
    metadata = f.metadata()
def raw(t):
    return list(t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()) if t.numel() else []
tensors = {k: {"dtype": str(v.dtype).removeprefix("torch."), "shape": list(v.shape), "bytes": raw(v)}
           for k, v in load_file(sys.argv[1]).items()}
print(json.dumps({"metadata": metadata, "tensors": tensors}))
"#;

#[test]
#[ignore = "needs the Python peers with PyTorch (OFFSHOOT_PEERS)"]
fn pytorch_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    safetensors::write(&path, &sample(), r#"{"classes":["ä"]}"#).unwrap();
    let output = Command::new(python()).args(["-c", READ_SAFETENSORS]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read["metadata"]["offshoot"], r#"{"classes":["ä"]}"#);
    let tensors: BTreeMap<String, Value> = serde_json::from_value(read["tensors"].clone()).unwrap();
    assert_eq!(tensors.len(), sample().len());
    for (name, tensor) in sample() {
        let theirs = &tensors[&name];
        assert_eq!(dtype(theirs["dtype"].as_str().unwrap()), tensor.dtype(), "{name}");
        assert_eq!(serde_json::from_value::<Vec<usize>>(theirs["shape"].clone()).unwrap(), tensor.shape());
        let bytes: Vec<u8> = serde_json::from_value(theirs["bytes"].clone()).unwrap();
        assert_eq!(bytes, bytes_of(tensor.data()), "{name}");
    }
}

fn bytes_of(data: &Data) -> Vec<u8> {
    match data {
        Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::F16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::BF16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I8(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::U8(v) => v.clone(),
        Data::Bool(v) => v.iter().map(|&x| u8::from(x)).collect(),
    }
}

#[test]
fn state_dicts_of_quantize_dynamic_read_as_pytorch_dequantises_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dynamic");
    let expected: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_slice(&std::fs::read(folder.join("floats.json")).unwrap()).unwrap();
    assert_eq!(expected.len(), 7);
    for (name, tensors) in expected {
        let file = pth::read(&folder.join(format!("{name}.pth"))).unwrap();
        assert_eq!(file.weights.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>(), "{name}");
        for (key, tensor) in tensors {
            let list = |field: &str| {
                let values = tensor[field].as_array().unwrap();
                values.iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>()
            };
            assert_eq!(numbers(file.weights[&key].data()), list("values"), "{name}: {key}");
            let quantized = file.quantized.get(&key);
            assert_eq!(quantized.is_some(), tensor.get("integers").is_some(), "{name}: {key}");
            if let Some(quantized) = quantized {
                assert_eq!(numbers(quantized.integers.data()), list("integers"), "{name}: {key}");
                assert_eq!(quantized.axis, (name == "per_channel").then_some(0), "{name}: {key}");
            }
        }
        assert!(file.unread.is_empty(), "{name}: {:?}", file.unread);
    }
}

#[test]
fn every_changed_bit_of_our_own_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let weights = Weights::from([
        ("a.weight".into(), Tensor::f32([3], vec![0.5, -1.0, 2.0])),
        ("b".into(), Tensor::i64([1], vec![7])),
    ]);
    safetensors::write(&path, &weights, r#"{"classes":["a","b"]}"#).unwrap();
    let (whole, read) = (std::fs::read(&path).unwrap(), safetensors::read(&path).unwrap());
    let key = whole.windows(15).position(|bytes| bytes == b"offshoot_sha256").unwrap();
    let mut found = 0;
    for bit in 0..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &changed).unwrap();
        match safetensors::read(&path) {
            Err(error) => {
                found += 1;
                let message = error.to_string();
                assert!(message.contains("w.safetensors"), "{message}");
            }
            // Spaces before the tensors, or the name of the hash itself: all else is what was written.
            Ok(other) => {
                assert_eq!(other.weights, read.weights, "bit {bit}");
                assert!((key..key + 15).contains(&(bit / 8)) || other == read, "bit {bit}");
            }
        }
    }
    assert!(found > whole.len() * 7, "{found} of {}", whole.len() * 8);
    // A file from before there was a hash, and one of another program.
    let mut plain = Vec::new();
    safetensors::write_to(&mut plain, &weights, r#"{"classes":["a","b"]}"#).unwrap();
    std::fs::write(&path, &plain).unwrap();
    let unhashed = safetensors::read(&path).unwrap();
    assert!(!unhashed.hashed && read.hashed);
    assert_eq!((unhashed.weights, unhashed.metadata), (read.weights, read.metadata));
}
