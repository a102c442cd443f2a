//! `offshoot pull hf:OWNER/NAME` against a local server that stands for the hub.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::server::asked;
use crate::support::{CLASSES, SMALL, World, data};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves files by path, and tells what was asked for: the path, and the token that was shown.
fn serve(files: HashMap<String, Vec<u8>>) -> (String, Receiver<(String, Option<String>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = asked(&stream);
            let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { continue };
            let token = head.iter().find_map(|line| line.strip_prefix("authorization: bearer "));
            let _ = tell.send((path.to_owned(), token.map(str::to_owned)));
            let (status, body) = match files.get(path) {
                Some(body) => (200, body.as_slice()),
                None => (404, &b"no"[..]),
            };
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // A client that refuses the file closes the connection.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    (url, requests)
}

fn blob(content: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A repository `us/net` with the files of a folder, as the hub lists it. `change` may lie about them.
fn repository(folder: &Path, change: impl Fn(&mut Value)) -> HashMap<String, Vec<u8>> {
    let mut siblings = Vec::new();
    let mut files = HashMap::new();
    for name in ["README.md", "config.json", "model.safetensors"] {
        let content = fs::read(folder.join(name)).unwrap();
        let mut sibling = json!({"rfilename": name, "size": content.len(), "blobId": blob(&content)});
        if name.ends_with("safetensors") {
            let sha256 = offshoot::sha256(&folder.join(name)).unwrap();
            sibling["lfs"] = json!({"sha256": sha256, "size": content.len(), "pointerSize": 134});
        }
        siblings.push(sibling);
        files.insert(format!("/us/net/resolve/{COMMIT}/{name}"), content);
    }
    let mut listing = json!({"id": "us/net", "sha": COMMIT, "siblings": siblings});
    change(&mut listing);
    let listing = listing.to_string().into_bytes();
    for revision in ["main", "refs%2fpr%2f1"] {
        files.insert(format!("/api/models/us/net/revision/{revision}?blobs=true"), listing.clone());
    }
    files
}

/// A world, and the folder of the Hugging Face form in it.
fn exported(name: &str) -> (World, PathBuf) {
    let world = World::new(name);
    data(&world.path("d"), &CLASSES, 6);
    world.json(&format!("train d {SMALL} --epochs 1 --freeze backbone --out run"));
    let exported = world.json("export run --format huggingface --out ours");
    let folder = world.path(exported["files"][0]["path"].as_str().unwrap());
    (world, folder)
}

#[test]
fn a_repository_of_the_hub_is_brought_once() {
    let (world, ours) = exported("hub");
    let (url, requests) = serve(repository(&ours, |_| {}));
    let pulled = world.json(&format!("pull hf:us/net --base-url {url}"));
    assert_eq!((&pulled["path"], &pulled["revision"]), (&json!("net"), &json!(COMMIT)));
    assert_eq!(world.names("net"), ["config.json", "model.safetensors"]);
    assert!(pulled["files"].as_array().unwrap().iter().all(|file| file["downloaded"] == json!(true)));
    let (first, _) = requests.recv().unwrap();
    assert_eq!(first, "/api/models/us/net/revision/main?blobs=true");
    // It is the model.
    let [there, here] =
        ["net", "run"].map(|model| world.run(&format!("predict {model} d --json --logits")).out);
    assert!(there == here && !there.is_empty(), "{there}\n{here}");

    let again = world.json(&format!("pull hf:us/net@refs/pr/1 --base-url {url}"));
    assert!(
        again["files"].as_array().unwrap().iter().all(|file| file["downloaded"] == json!(false)),
        "{again}"
    );

    // The variables of the hub's own tools.
    let mut command = world.command("pull hf:us/net --out other");
    command.env("HF_ENDPOINT", &url).env("HF_TOKEN", "Secret");
    let said = command.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(String::from_utf8_lossy(&said.stdout).contains(COMMIT));
    assert!(requests.try_iter().any(|(_, token)| token.as_deref() == Some("secret")));

    world.write("net/config.json", "{}");
    let said = world.run(&format!("pull hf:us/net --base-url {url}"));
    assert!(said.code == Some(2) && said.err.contains("config.json: another file is there"), "{said:?}");
}

#[test]
fn what_the_hub_gives_is_checked() {
    let (world, ours) = exported("hub-lies");
    let zeros = |digits| "0".repeat(digits);
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change<'_>, &str); 7] = [
        (&|listing| listing["siblings"][1]["blobId"] = json!(zeros(40)), "nothing was kept"),
        (&|listing| listing["siblings"][1]["blobId"] = json!("../x"), "has no hash of it"),
        (&|listing| listing["siblings"][2]["lfs"]["sha256"] = json!(zeros(64)), "nothing was kept"),
        (&|listing| listing["siblings"][2]["lfs"]["size"] = json!(u64::MAX), "bytes"),
        (
            &|listing| listing["siblings"][2]["rfilename"] = json!("pytorch_model.bin"),
            "has no model.safetensors",
        ),
        (&|listing| listing["sha"] = json!("../../x"), "names no commit"),
        (&|listing| *listing = json!([1]), "no listing of a repository"),
    ];
    for (change, wanted) in cases {
        let (url, _requests) = serve(repository(&ours, change));
        let said = world.run(&format!("pull hf:us/net --base-url {url} --out got"));
        assert!(said.code == Some(2) && said.err.contains(wanted), "{wanted}: {said:?}");
        assert!(!world.path("got/model.safetensors").exists(), "{wanted}");
        let _ = fs::remove_dir_all(world.path("got"));
    }
    let (url, _requests) = serve(HashMap::new());
    for (name, wanted) in [("hf:us/other", "no such repository"), ("hf:net", "no repository is called so")] {
        let said = world.run(&format!("pull {name} --base-url {url}"));
        assert!(said.code == Some(2) && said.err.contains(wanted), "{said:?}");
    }
}
