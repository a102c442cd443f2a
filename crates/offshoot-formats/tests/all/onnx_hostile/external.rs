//! Elements of tensors in files beside the model.

use std::fs;
use std::path::Path;

use offshoot_formats::{FormatError, onnx};

use super::files::{external, head, model, plain_conv, refused_with};

/// Reads a model whose weight `w` is where `entries` say, from a folder with `w.bin`.
fn read_external(entries: &[(&str, &str)]) -> Result<(), FormatError> {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("model");
    fs::create_dir(&inside).unwrap();
    let elements = vec![0; 4 * 108];
    fs::write(inside.join("w.bin"), &elements).unwrap();
    fs::create_dir(inside.join("sub")).unwrap();
    fs::write(inside.join("sub/w.bin"), &elements).unwrap();
    fs::write(folder.path().join("outside.bin"), &elements).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path().join("outside.bin"), inside.join("link.bin")).unwrap();
    let path = inside.join("m.onnx");
    let place = folder.path().join("outside.bin").display().to_string();
    let entries: Vec<(&str, &str)> =
        entries.iter().map(|&(k, v)| (k, if v == "ABSOLUTE" { place.as_str() } else { v })).collect();
    fs::write(&path, model(&[plain_conv(), external("w", &[4, 3, 3, 3], &entries), head()])).unwrap();
    onnx::read(&path).map(|_| ())
}

#[test]
fn elements_beside_the_file_are_read() {
    read_external(&[("location", "w.bin")]).unwrap();
    read_external(&[("location", "./w.bin"), ("offset", "0"), ("length", "432")]).unwrap();
    read_external(&[("location", "sub//./w.bin")]).unwrap();
    read_external(&[("location", "sub/../w.bin")]).unwrap();
    read_external(&[("location", "w.bin"), ("offset", "0"), ("length", "432"), ("checksum", "x")]).unwrap();
}

#[test]
fn elements_elsewhere_are_refused() {
    for (entries, part) in [
        (vec![("location", "../outside.bin")], "does not stay in the model's folder"),
        (vec![("location", "../missing.bin")], "does not stay in the model's folder"),
        (vec![("location", "sub/../../outside.bin")], "does not stay in the model's folder"),
        (vec![("location", "sub")], "it is a folder"),
        (vec![("location", "ABSOLUTE")], "does not stay in the model's folder"),
        (vec![("location", "missing.bin")], "cannot be opened"),
        (vec![("location", "")], "`w`"),
        (vec![("location", ".")], "`w`"),
        (vec![], "not named"),
        (vec![("location", "w.bin"), ("offset", "4")], "of a file of 432"),
        (vec![("location", "w.bin"), ("offset", "18446744073709551615")], "of a file of 432"),
        (vec![("location", "w.bin"), ("length", "8")], "432"),
        (vec![("location", "w.bin"), ("offset", "-4")], "no number"),
        #[cfg(unix)]
        (vec![("location", "link.bin")], "symbolic link"),
    ] {
        let message = read_external(&entries).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("m.onnx"), "{entries:?}: {message}");
    }
    let bytes = model(&[plain_conv(), external("w", &[4, 3, 3, 3], &[("location", "w.bin")]), head()]);
    refused_with(&bytes, &["tensor `w`", "`w.bin`", "onnx.save"]);
}

/// A model whose weight is in `w.bin` beside it.
fn beside() -> Vec<u8> {
    model(&[plain_conv(), external("w", &[4, 3, 3, 3], &[("location", "w.bin")]), head()])
}

/// Each case as ONNX Runtime 1.32 has it.
#[cfg(unix)]
#[test]
fn links_are_followed_to_where_the_model_is() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let read = |name: &str, make: fn(&Path)| {
        let folder = root.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        make(&folder);
        onnx::read(&folder.join("m.onnx")).map(|_| ()).map_err(|e| e.to_string())
    };
    fn put(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    const W: [u8; 432] = [0; 432];
    let plain = read("a_link_to_a_file_in_a_folder_below", |at| {
        put(&at.join("m.onnx"), &beside());
        put(&at.join("s/real.bin"), &W);
        symlink("s/real.bin", at.join("w.bin")).unwrap();
    });
    assert_eq!(plain, Ok(()));
    let absolute = read("an_absolute_link_that_stays", |at| {
        put(&at.join("m.onnx"), &beside());
        put(&at.join("real.bin"), &W);
        symlink(at.join("real.bin"), at.join("w.bin")).unwrap();
    });
    assert_eq!(absolute, Ok(()));
    let cache = read("models--x/snapshots/abc/onnx", |at| {
        let blobs = at.join("../../../blobs");
        put(&blobs.join("aaaa"), &beside());
        put(&blobs.join("bbbb"), &W);
        symlink("../../../blobs/aaaa", at.join("m.onnx")).unwrap();
        symlink("../../../blobs/bbbb", at.join("w.bin")).unwrap();
    });
    assert_eq!(cache, Ok(()));
    let moved = read("a_model_that_is_a_link_and_elements_beside_the_link", |at| {
        put(&at.join("s/m.onnx"), &beside());
        put(&at.join("w.bin"), &W);
        symlink("s/m.onnx", at.join("m.onnx")).unwrap();
    });
    assert_eq!(moved, Ok(()));
    let another = read("models--y/snapshots/abc", |at| {
        put(&at.join("../../blobs/aaaa"), &beside());
        symlink("../../blobs/aaaa", at.join("m.onnx")).unwrap();
        symlink("../../../models--x/blobs/bbbb", at.join("w.bin")).unwrap();
    });
    assert!(another.as_ref().unwrap_err().contains("symbolic link"), "{another:?}");
    let folder = read("a_folder_that_is_a_link_out", |at| {
        let model = model(&[plain_conv(), external("w", &[4, 3, 3, 3], &[("location", "d/bbbb")]), head()]);
        put(&at.join("m.onnx"), &model);
        symlink("../models--x/blobs", at.join("d")).unwrap();
    });
    assert!(folder.as_ref().unwrap_err().contains("symbolic link"), "{folder:?}");
}

#[cfg(unix)]
#[test]
fn a_pipe_beside_the_file_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, beside()).unwrap();
    let pipe = folder.path().join("w.bin");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let message = onnx::read(&path).unwrap_err().to_string();
    assert!(message.contains("it is a pipe"), "{message}");
    for read in [onnx::read(&pipe).err(), offshoot_formats::safetensors::read(&pipe).err()] {
        assert!(read.unwrap().to_string().contains("pipe"));
    }
    assert!(offshoot_formats::content::of(&pipe).unwrap_err().to_string().contains("pipe"));
}
