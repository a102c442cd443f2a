//! Files that lie, end early, or ask for calls: each is one clear error, and nothing happens.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use offshoot_formats::checkpoint::load_weights;
use offshoot_formats::error::Problem;
use offshoot_formats::{pth, safetensors};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/weights")
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn read_pth(bytes: &[u8]) -> Result<pth::PthFile, Problem> {
    pth::read_from(Cursor::new(bytes))
}

fn read_safetensors(bytes: &[u8]) -> Result<safetensors::SafetensorsFile, Problem> {
    safetensors::read_from(bytes, bytes.len() as u64)
}

// --- files made by hand ---

/// A legacy file around the pickle `main`, with the storages `(key, count, bytes)`.
fn legacy_with(sys_info: &[u8], main: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    file.extend(sys_info);
    file.extend(main);
    file.extend(b"\x80\x02](");
    for (key, ..) in storages {
        file.extend(text(key));
    }
    file.extend(b"e.");
    for (_, count, bytes) in storages {
        file.extend(count.to_le_bytes());
        file.extend(*bytes);
    }
    file
}

fn legacy(main: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    legacy_with(b"\x80\x02}.", main, storages)
}

fn zip_of(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options =
            SimpleFileOptions::default().compression_method(method).compression_level(match method {
                CompressionMethod::Deflated => Some(1),
                _ => None,
            });
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn zip(main: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let names: Vec<String> = storages.iter().map(|(key, ..)| format!("any/where/data/{key}")).collect();
    let mut entries = vec![("any/where/data.pkl", main)];
    entries.extend(names.iter().zip(storages).map(|(name, (_, _, bytes))| (name.as_str(), *bytes)));
    zip_of(&entries, CompressionMethod::Stored)
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn long(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

fn tuple(items: &[i64]) -> Vec<u8> {
    let mut pickle = b"(".to_vec();
    items.iter().for_each(|&item| pickle.extend(long(item)));
    pickle.push(b't');
    pickle
}

/// The pickle of a tensor of 32-bit floats in the storage `0`.
fn tensor(elements: i64, offset: i64, shape: &[i64], strides: &[i64], view: &[u8]) -> Vec<u8> {
    let mut pickle = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    pickle.extend(text("storage"));
    pickle.extend(b"ctorch\nFloatStorage\n");
    pickle.extend([text("0"), text("cpu"), long(elements), view.to_vec()].concat());
    pickle.extend(b"tQ");
    pickle.extend([long(offset), tuple(shape), tuple(strides)].concat());
    pickle.extend(b"\x89}tR");
    pickle
}

/// The pickle of `{"w": value}`.
fn state(value: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}"[..], &text("w"), value, b"s."].concat()
}

const FOUR: &[u8] = &[0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64, 0, 0, 128, 64]; // 1, 2, 3, 4

#[test]
fn files_made_by_hand_read() {
    let view = [text("v"), long(1), long(3), b"\x87".to_vec()].concat();
    let whole = legacy(&state(&tensor(4, 0, &[2, 2], &[2, 1], b"N")), &[("0", 4, FOUR)]);
    let part = legacy(&state(&tensor(4, 1, &[2], &[1], &view)), &[("0", 4, FOUR)]);
    let zipped = zip(&state(&tensor(4, 0, &[2, 2], &[1, 2], b"")), &[("0", 4, FOUR)]);
    for (file, values) in
        [(whole, &[1.0, 2.0, 3.0, 4.0][..]), (part, &[3.0, 4.0]), (zipped, &[1.0, 3.0, 2.0, 4.0])]
    {
        assert_eq!(read_pth(&file).unwrap().weights["w"].as_f32(), Some(values));
    }
}

// --- calls ---

fn forbidden(file: &[u8]) -> String {
    match read_pth(file) {
        Err(Problem::ForbiddenCall { callable, .. }) => callable,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pickle_that_calls_os_system_is_refused_and_nothing_happens() {
    for file in ["evil-zip.pth", "evil-legacy.pth"] {
        assert!(golden(file).windows(6).any(|w| w == b"system"), "the file asks for nothing");
        let message = load_weights(&folder().join(file)).unwrap_err().to_string();
        for word in [file, "`posix.system`", "Nothing was run", "model.state_dict()"] {
            assert!(message.contains(word), "{message}");
        }
    }
    assert!(!Path::new("offshoot-ran-a-pickle").exists());
}

#[test]
fn every_way_to_call_is_refused_by_name() {
    let command = text("touch offshoot-ran-a-pickle");
    let ways: [Vec<u8>; 9] = [
        [b"cos\nsystem\n", &command[..], b"\x85R"].concat(),
        [&text("os")[..], &text("system"), b"\x93", &command, b"\x85R"].concat(),
        [b"(", &command[..], b"ios\nsystem\n"].concat(),
        [b"(cos\nsystem\n", &command[..], b"o"].concat(),
        [b"cos\nsystem\nq\x010h\x01", &command[..], b"\x85R"].concat(),
        [b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN", &command[..], b"\x85NtR"].concat(),
        [b"ctorch._utils\n_rebuild_parameter\n(cos\nsystem\n", &command[..], b"\x85R\x89NtR"].concat(),
        [b"ccollections\nOrderedDict\n(](", &text("k")[..], b"cos\nsystem\n", &command, b"\x85R\x86ltR"]
            .concat(),
        [b"}(", &text("k")[..], b"cos\nsystem\n", &command, b"\x85Ru"].concat(),
    ];
    for way in &ways {
        let main = state(way);
        assert_eq!(forbidden(&zip(&main, &[])), "os.system");
        assert_eq!(forbidden(&legacy(&main, &[])), "os.system");
        // Each pickle of a legacy file is read by the same machine.
        assert_eq!(forbidden(&legacy_with(&main, &state(b"N"), &[])), "os.system");
    }
    for name in ["builtins eval", "builtins getattr", "subprocess Popen", "torch load", "pickle loads"] {
        let (module, name) = name.split_once(' ').unwrap();
        let way = format!("c{module}\n{name}\n)R");
        assert_eq!(forbidden(&zip(&state(way.as_bytes()), &[])), format!("{module}.{name}"));
    }
    assert!(!Path::new("offshoot-ran-a-pickle").exists());
}

#[test]
fn sparse_tensors_are_refused_by_name() {
    let sparse = [b"ctorch._utils\n_rebuild_sparse_tensor\n(N", &tuple(&[1 << 40])[..], b"tR"].concat();
    let message = forbidden(&legacy(&state(&sparse), &[]));
    assert!(message.contains("torch._utils._rebuild_sparse_tensor"), "{message}");
}

#[test]
fn a_name_alone_and_an_unknown_class_are_inert() {
    let good = tensor(4, 0, &[4], &[1], b"N");
    // A class by name, and an instance with items and attributes, made without a call.
    for other in
        [&b"cmy.code\nClass\n"[..], b"cmy.code\nClass\n)\x81(K\x01K\x02u}b", b"cmy.code\nClass\n)}\x92]b"]
    {
        let main = [&b"\x80\x02}("[..], &text("w"), &good, &text("other"), other, b"u."].concat();
        let read = read_pth(&legacy(&main, &[("0", 4, FOUR)])).unwrap();
        assert_eq!(read.skipped, [("other".to_owned(), "my.code.Class".to_owned())]);
        assert_eq!(read.weights.len(), 1);
    }
}

// --- sizes ---

#[track_caller]
fn damaged(result: Result<impl std::fmt::Debug, Problem>, word: &str) {
    match result {
        Err(error @ Problem::Damaged { .. }) if error.to_string().contains(word) => {}
        other => panic!("not damaged with `{word}`: {other:?}"),
    }
}

#[track_caller]
fn too_large(result: Result<impl std::fmt::Debug, Problem>) {
    assert!(matches!(result, Err(Problem::TooLarge { .. })), "{result:?}");
}

#[test]
fn shapes_and_strides_beyond_the_storage_are_refused() {
    let max = i64::MAX;
    for (offset, shape, strides) in [
        (0, vec![5], vec![1]),
        (1, vec![4], vec![1]),
        (0, vec![2, 2], vec![3, 1]),
        (max, vec![1], vec![1]),
        (0, vec![2], vec![max]),
        (0, vec![max, max], vec![0, 0]),
        (0, vec![max, 4], vec![0, 1]),
        (0, vec![2, 2], vec![1]),
        (0, vec![-1], vec![1]),
        (0, vec![2], vec![-1]),
        (-1, vec![2], vec![1]),
        (0, vec![1; 65], vec![1; 65]),
    ] {
        let main = state(&tensor(4, offset, &shape, &strides, b"N"));
        damaged(read_pth(&legacy(&main, &[("0", 4, FOUR)])), "");
        damaged(read_pth(&zip(&main, &[("0", 4, FOUR)])), "");
    }
}

#[test]
fn a_stride_of_zero_cannot_claim_the_memory() {
    for elements in [1 << 27, 1 << 40, 1 << 60] {
        let main = state(&tensor(4, 0, &[elements], &[0], b"N"));
        too_large(read_pth(&legacy(&main, &[("0", 4, FOUR)])));
    }
    let main = state(&tensor(4, 0, &[1 << 20], &[0], b"N"));
    assert_eq!(read_pth(&legacy(&main, &[("0", 4, FOUR)])).unwrap().weights["w"].len(), 1 << 20);
}

#[test]
fn storages_that_lie_about_their_size_are_refused() {
    let main = |elements| state(&tensor(elements, 0, &[4], &[1], b"N"));
    damaged(read_pth(&legacy(&main(5), &[("0", 5, FOUR)])), "claims 20 bytes where 24 are left");
    damaged(read_pth(&legacy(&main(4), &[("0", 5, FOUR)])), "holds 5 elements");
    damaged(read_pth(&legacy(&main(4), &[("0", u64::MAX, FOUR)])), "elements");
    damaged(read_pth(&legacy(&main(i64::MAX), &[("0", 4, FOUR)])), "claims");
    damaged(read_pth(&legacy(&main(i64::MAX / 4), &[("0", 4, FOUR)])), "claims");
    damaged(read_pth(&legacy(&main(-4), &[("0", 4, FOUR)])), "persistent id");
    damaged(read_pth(&legacy(&main(4), &[])), "does not list it");
    damaged(read_pth(&legacy(&main(4), &[("1", 4, FOUR)])), "no tensor refers");
    damaged(read_pth(&legacy(&main(4), &[("0", 4, FOUR), ("0", 4, FOUR)])), "listed twice");
    damaged(read_pth(&zip(&main(5), &[("0", 4, FOUR)])), "claims 20 bytes and the entry 16");
    let three = state(&tensor(3, 0, &[3], &[1], b"N"));
    damaged(read_pth(&zip(&three, &[("0", 4, FOUR)])), "claims 12 bytes and the entry 16");
    damaged(read_pth(&zip(&main(4), &[])), "no entry `any/where/data/0`");
    too_large(read_pth(&zip(&main(1 << 58), &[("0", 4, FOUR)])));
}

#[test]
fn compressed_bombs_are_refused_before_they_are_opened() {
    let zeros = vec![0u8; 130 << 20];
    let bomb = zip_of(&[("a/data.pkl", &zeros)], CompressionMethod::Deflated);
    assert!(bomb.len() < 4 << 20, "{} bytes", bomb.len());
    damaged(read_pth(&bomb), "above the limit");

    let main = state(&tensor(130 << 18, 0, &[1], &[1], b""));
    let bomb = zip_of(&[("a/data.pkl", &main), ("a/data/0", &zeros)], CompressionMethod::Deflated);
    too_large(read_pth(&bomb));
}

#[test]
fn an_entry_that_claims_less_or_more_than_it_holds_is_refused() {
    for claim in [12u32, 16, 20] {
        let elements = i64::from(claim) / 4;
        let main = state(&tensor(elements, 0, &[elements], &[1], b""));
        let mut file = zip_of(&[("data.pkl", &main), ("data/0", FOUR)], CompressionMethod::Deflated);
        // The uncompressed size of the last entry, 24 bytes into its record in the directory.
        let record = file.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
        file[record + 24..record + 28].copy_from_slice(&claim.to_le_bytes());
        match claim {
            16 => assert!(read_pth(&file).is_ok()),
            _ => damaged(read_pth(&file), "entry `data/0`"),
        }
    }
}

#[test]
fn pickles_that_grow_are_bounded() {
    // A million tuples inside each other, and as many marks.
    let deep = [&b"\x80\x02N"[..], &b"\x85".repeat(1_000_000), b"."].concat();
    assert!(matches!(read_pth(&zip(&deep, &[])), Err(Problem::Unsupported { .. })));
    let marks = [&b"\x80\x02"[..], &b"(".repeat(1_000_000), b"N."].concat();
    assert!(read_pth(&zip(&marks, &[])).is_err());

    // A list of two references to a list of two references ...
    let doubled = [&b"\x80\x02]"[..], &b"2\x86".repeat(1000), b"."].concat();
    assert!(read_pth(&zip(&doubled, &[])).is_err());

    // More instructions than any checkpoint has.
    let endless = [&b"\x80\x02"[..], &b"N0".repeat(pth::MAX_PICKLE_STEPS as usize / 2 + 1), b"N."].concat();
    too_large(read_pth(&zip(&endless, &[])));

    // One long name or shape, referred to again and again.
    let name = "n".repeat(2000);
    let named = [&b"\x80\x02"[..], &text(&name), &text(&name), b"\x93."].concat();
    damaged(read_pth(&zip(&named, &[])), "short text");
    let one = state(&tensor(4, 0, &[1; 65], &[1; 65], b"N"));
    damaged(read_pth(&legacy(&one, &[("0", 4, FOUR)])), "_rebuild_tensor_v2");
}

#[test]
fn a_dictionary_that_contains_itself_ends() {
    let main = [&b"\x80\x02}q\x01"[..], &text("model"), b"h\x01s."].concat();
    let error = read_pth(&zip(&main, &[])).unwrap_err().to_string();
    assert!(error.contains("no state dict"), "{error}");
}

#[test]
fn broken_pickles_are_damage() {
    for main in [
        &b"."[..],
        b"N0N0.",
        b"(.",
        b"a.",
        b"u.",
        b"(u.",
        b"N(u.",
        b"}(K\x01u.",
        b"h\x07.",
        b"Q.",
        b"NQ.",
        b"NNR.",
        b"X\xff\xff\xff\xffa.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\x8b\xff\xff\xff\xff.",
        b"cos",
        b"Iabc",
        b"pabc\n.",
        b"\x82\x01.",
        b"\x97.",
        b"\xff.",
        b"",
    ] {
        damaged(read_pth(&zip(main, &[])), "");
    }
}

// --- cut short, changed ---

#[test]
fn a_file_cut_anywhere_is_one_error() {
    for name in ["dtypes-legacy.pth", "wrapped-legacy.pth", "plain-zip.pth", "deflated-zip.pth"] {
        let bytes = golden(name);
        assert!(read_pth(&bytes).is_ok());
        for len in 0..bytes.len() {
            assert!(read_pth(&bytes[..len]).is_err(), "{name} cut to {len}");
        }
    }
    let bytes = golden("dtypes.safetensors");
    assert!(read_safetensors(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(read_safetensors(&bytes[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    damaged(read_pth(&[golden("dtypes-legacy.pth"), vec![0; 3]].concat()), "3 bytes follow");
    damaged(read_safetensors(&[golden("dtypes.safetensors"), vec![0; 3]].concat()), "the file holds");
}

fn header(json: &str, data: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let honest = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(read_safetensors(&header(honest, 8)).is_ok());

    too_large(read_safetensors(&[&u64::MAX.to_le_bytes()[..], b"{}"].concat()));
    damaged(read_safetensors(&[&99_999_999u64.to_le_bytes()[..], b"{}"].concat()), "2 are left");
    damaged(read_safetensors(&header(honest, 7)), "the file holds 7");
    for json in [
        r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}}"#,
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"a":"#,
        "[]",
        "\u{0}",
    ] {
        damaged(read_safetensors(&header(json, 8)), "header");
    }
    // Tensors whose sizes sum to 2^64.
    let step = 1u64 << 60;
    let many: Vec<String> = (0..15)
        .map(|i| {
            format!(
                r#""{i:02}":{{"dtype":"U8","shape":[{step}],"data_offsets":[{},{}]}}"#,
                i * step,
                (i + 1) * step
            )
        })
        .collect();
    damaged(read_safetensors(&header(&format!("{{{}}}", many.join(",")), 8)), "the file holds 8");
    damaged(read_safetensors(&header(&"[".repeat(100_000), 0)), "header");
    damaged(read_safetensors(&header(&format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0)), "header");
}

fn mutated() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let names =
        ["wrapped-legacy.pth", "views-legacy.pth", "plain-zip.pth", "deflated-zip.pth", "dtypes.safetensors"];
    let files: Vec<Vec<u8>> = names.iter().map(|name| golden(name)).collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..8);
    (0..files.len(), changes).prop_map(move |(which, changes)| {
        let mut bytes = files[which].clone();
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        (which, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A changed file is read or refused, without a panic; what is read has tensors.
    #[test]
    fn changed_files_never_panic((which, bytes) in mutated()) {
        match which {
            4 => drop(read_safetensors(&bytes)),
            _ => if let Ok(file) = read_pth(&bytes) {
                prop_assert!(!file.weights.is_empty());
            },
        }
    }
}
