//! `offshoot pull` against a local server.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use offshoot::fetch;
use support::World;

/// SHA-256 of the million letters `a` (FIPS 180-2, appendix B.3).
const MILLION: &str = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

fn content() -> Vec<u8> {
    vec![b'a'; 1_000_000]
}

/// What the server does with the next request.
#[derive(Clone, Copy)]
enum Answer {
    /// Everything asked for, ranges included.
    All,
    /// Everything, whatever the range.
    NoRanges,
    /// So many bytes of what it promises, then the end of the connection.
    Breaks(usize),
    /// A status and nothing else.
    Status(u16),
}

/// Serves `content` once for each answer and tells the ranges that were asked for.
fn serve(content: Vec<u8>, answers: &[Answer]) -> (String, Receiver<Option<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, ranges) = channel();
    let answers = answers.to_vec();
    thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let _ = tell.send(respond(stream, &content, answer));
        }
    });
    (url, ranges)
}

fn respond(stream: TcpStream, content: &[u8], answer: Answer) -> Option<usize> {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut range = None;
    for line in lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()) {
        if let Some(from) = line.to_lowercase().strip_prefix("range: bytes=") {
            range = from.trim_end_matches('-').parse().ok();
        }
    }
    let mut stream = stream;
    let (status, from, sent) = match answer {
        Answer::All => (if range.is_some() { 206 } else { 200 }, range.unwrap_or(0), usize::MAX),
        Answer::NoRanges => (200, 0, usize::MAX),
        Answer::Breaks(sent) => (200, 0, sent),
        Answer::Status(status) => (status, content.len(), 0),
    };
    let body = &content[from..];
    let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    if status == 206 {
        head += &format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(&body[..body.len().min(sent)]).unwrap();
    range
}

#[test]
fn a_file_is_brought_once() {
    let world = World::new("once");
    let (url, _) = serve(content(), &[Answer::All]);
    let path = world.path("weights.pth");
    let mut seen = Vec::new();
    let mut progress = |done, total| seen.push((done, total));
    let pulled = fetch(&url, &MILLION[..8], path.clone(), &mut progress).unwrap();
    assert_eq!((pulled.bytes, pulled.sha256.as_str(), pulled.pinned_digits), (1_000_000, MILLION, 8));
    assert!(pulled.downloaded);
    assert_eq!(seen.last(), Some(&(1_000_000, Some(1_000_000))));
    assert_eq!(fs::read(&path).unwrap(), content());
    // The server is gone: it is not asked again.
    let again = fetch(&url, MILLION, path.clone(), &mut |_, _| {}).unwrap();
    assert!(!again.downloaded);
    let error = fetch(&url, "00000000", path, &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("does not start with 00000000"), "{error}");
    assert_eq!(fs::read_dir(&world.root).unwrap().count(), 1);
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    for second in [Answer::All, Answer::NoRanges] {
        let world = World::new("resumes");
        let (url, ranges) = serve(content(), &[Answer::Breaks(300_000), second]);
        let path = world.path("weights.pth");
        let error = fetch(&url, MILLION, path.clone(), &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("run the command again to go on"), "{error}");
        assert!(!path.exists());
        assert_eq!(world.names(""), ["weights.pth.part"]);
        fetch(&url, MILLION, path.clone(), &mut |_, _| {}).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content());
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [None, Some(300_000)]);
        assert_eq!(fs::read_dir(&world.root).unwrap().count(), 1);
    }
}

#[test]
fn another_hash_and_a_refusal_leave_nothing() {
    let world = World::new("refused");
    let (url, _) = serve(b"no weights".to_vec(), &[Answer::All, Answer::Status(404)]);
    let said = world.run(&format!("pull mobilenet_v2.V1 --base-url {url}/models/ --out w.pth"));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(
        said.err.contains("/models/mobilenet_v2-b0353104.pth") && said.err.contains("nothing was kept"),
        "{said:?}"
    );
    let said = world.run(&format!("pull mobilenet_v2 --base-url {url} --out w.pth"));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("404"), "{said:?}");
    assert_eq!(fs::read_dir(&world.root).unwrap().count(), 0);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = world.run(&format!("pull resnet50 --base-url http://{closed}"));
    assert!(said.code == Some(2) && said.err.contains("resnet50-11ad3fa6.pth"), "{said:?}");
    assert_eq!(fs::read_dir(&world.root).unwrap().count(), 0);
    let said = world.run("pull resnet50.V3");
    assert!(said.code == Some(2) && said.err.contains("IMAGENET1K_V2, IMAGENET1K_V1"), "{said:?}");
    let said = world.run("pull vit_small_patch14_dinov2");
    assert!(said.code == Some(2) && said.err.contains("no hash"), "{said:?}");
}

#[test]
fn models_are_listed() {
    let world = World::new("models");
    let said = world.run("models --json");
    assert_eq!(said.code, Some(0), "{said:?}");
    let listed: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let models = listed["models"].as_array().unwrap();
    let find = |name: &str| models.iter().find(|m| m["name"] == name).unwrap();
    // What torchvision says of its weights: parameters, and billions of multiply-adds at the same size.
    for (name, parameters, billions) in [
        ("resnet50", 25_557_032, 4.089),
        ("mobilenet_v2", 3_504_872, 0.301),
        ("mobilenet_v3_large", 5_483_032, 0.217),
        ("efficientnet_b4", 19_341_616, 4.394),
        ("convnext_small", 50_223_688, 8.684),
        ("vit_b_16", 86_567_656, 17.564),
        ("vgg16_bn", 138_365_992, 15.47),
        ("densenet121", 7_978_856, 2.834),
        ("regnet_y_400mf", 4_344_144, 0.402),
        ("squeezenet1_1", 1_235_496, 0.349),
    ] {
        let model = find(name);
        assert_eq!(model["parameters"], parameters, "{name}");
        let found = model["multiply_adds"].as_f64().unwrap() / 1e9;
        assert!((found / billions - 1.0).abs() < 0.02, "{name}: {found}");
    }
    assert!(find("vit_small_patch14_dinov2")["classes"].is_null());
    let said = world.run("models");
    let others: usize = models.iter().map(|model| model["other_weights"].as_array().unwrap().len()).sum();
    assert_eq!(said.out.lines().count(), models.len() + others + 2, "{said:?}");
    let resnet = find("resnet50");
    assert_eq!(resnet["weights"]["version"], "IMAGENET1K_V2");
    assert_eq!(resnet["other_weights"][0]["accuracy"], 76.13);
}
