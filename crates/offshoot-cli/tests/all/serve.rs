//! `offshoot serve`: from its first line to the signal that ends it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::World;

/// Starts a server and returns what it says once it is ready.
fn start(world: &World, arguments: &str) -> (Child, Value) {
    let mut command = world.command(&format!("serve {arguments} --listen 127.0.0.1:0 --json"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")))
}

fn post(address: &str, path: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Ends it with a signal, and returns its exit code and what it logged.
fn end(mut child: Child, signal: &str) -> (Option<i32>, String) {
    let kill = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", child.id())).status();
    assert!(kill.unwrap().success());
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (child.wait().unwrap().code(), log)
}

#[test]
fn answers_are_the_lines_of_predict_and_signals_end_it_with_0() {
    let world = World::trained();
    for signal in ["TERM", "INT"] {
        let (child, ready) = start(world, "run again=run");
        assert_eq!(ready["models"], json!(["again", "run"]));
        let address = ready["listening"].as_str().unwrap();
        let picture = fs::read(world.path("d/red/00.bmp")).unwrap();
        let predicted = world.run("predict run d/red/00.bmp --json --logits --top 2").json();
        for name in ["run", "again"] {
            let found = post(address, &format!("/v1/models/{name}:classify?top=2&logits=true"), &picture);
            let mut wanted = predicted.clone();
            wanted["path"] = "-".into();
            assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), wanted);
        }
        let (code, log) = end(child, signal);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopping after the requests that have begun"), "{log}");
        assert_eq!(log.lines().filter(|line| line.contains("status=200")).count(), 2, "{log}");
    }
}

#[test]
fn what_cannot_be_served_is_an_error() {
    let world = World::trained();
    for (arguments, part) in [
        ("gone.onnx", "gone.onnx"),
        ("run run", "a second model is called `run`"),
        ("b@d=run", "`b@d` cannot be the name of a model"),
        ("run --listen 192.0.2.1:9", "--listen gives another address"),
        ("run --max-batch 0", "--max-batch"),
        ("run --max-delay-ms NaN", "give a number from 0 to 60000"),
        ("", "MODEL"),
    ] {
        let said = world.run(&format!("serve {arguments} --json"));
        assert_eq!(said.code, Some(2), "{arguments}: {said:?}");
        assert!(said.err.contains(part) && said.out.starts_with("{\"error\""), "{arguments}: {said:?}");
    }
}
