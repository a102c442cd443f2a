//! Predictions are those of `predict`, to the bit, however they are asked for.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offshoot::{CpuOptions, Device, ModelSource, PredictOptions, View, predict};
use serde_json::{Value, json};

use crate::support::{PICTURES, Running, golden, picture, run};

/// What `offshoot predict --top 2 --logits --json` prints of each picture, with another path.
fn predicted(named: impl Fn(&str) -> String) -> Vec<String> {
    let model = ModelSource::Path(run().to_owned()).load(&Default::default()).unwrap().model;
    let device = Device::cpu(CpuOptions::default()).unwrap();
    let paths: Vec<PathBuf> = PICTURES.map(golden).into();
    let mut found = Vec::new();
    let skipped = predict(
        &model,
        paths,
        &[View::default()],
        PredictOptions { top: 2, logits: true, threshold: None },
        &device,
        |mut prediction| {
            prediction.path = named(PICTURES[found.len()]).into();
            found.push(serde_json::to_string(&prediction).unwrap());
            Ok(())
        },
    );
    assert!(skipped.unwrap().is_empty() && found.len() == PICTURES.len());
    found
}

#[test]
fn the_answer_for_a_picture_is_the_json_of_predict_whatever_it_was_batched_with() {
    let wanted = predicted(|_| "-".into());
    for (max_batch, delay) in [(1, 0), (4, 30), (8, 5)] {
        let server = Running::start(|options| {
            options.batching.max_batch = max_batch;
            options.batching.max_delay = Duration::from_millis(delay);
        });
        thread::scope(|scope| {
            for client in 0..8 {
                let (server, wanted) = (&server, &wanted);
                scope.spawn(move || {
                    for turn in 0..PICTURES.len() {
                        let i = (client + turn) % PICTURES.len();
                        let answer = server.classify(&picture(PICTURES[i]));
                        assert_eq!((answer.status, answer.text()), (200, &*wanted[i]), "{}", PICTURES[i]);
                    }
                });
            }
        });
    }
}

#[test]
fn several_pictures_come_as_multipart_or_as_a_list_of_base64() {
    let server = Running::start(|options| options.batching.max_batch = 4);
    let path = "/v1/models/small:classify?top=2&logits=true";
    let mut form = Vec::new();
    for name in PICTURES {
        let head = format!(
            "--limit\r\nContent-Disposition: form-data; name=\"p\"; filename=\"{name}\"\r\nContent-Type: image/x\r\n\r\n"
        );
        form.extend([head.as_bytes(), &picture(name), b"\r\n"].concat());
    }
    form.extend(b"--limit--\r\n");
    let answer = server.post(path, "Content-Type: multipart/form-data; boundary=limit\r\n", &form);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), format!("{{\"predictions\":[{}]}}", predicted(str::to_owned).join(",")));

    let list: Vec<String> = PICTURES.iter().map(|name| STANDARD.encode(picture(name))).collect();
    let answer = server.post(path, "Content-Type: application/json\r\n", json!(list).to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let place = |name: &str| PICTURES.iter().position(|n| *n == name).unwrap().to_string();
    assert_eq!(answer.text(), format!("{{\"predictions\":[{}]}}", predicted(place).join(",")));

    // One in a list is a list of one.
    let one = json!([STANDARD.encode(picture(PICTURES[0]))]).to_string();
    let answer = server.post(path, "Content-Type: application/json\r\n", one.as_bytes());
    assert_eq!(answer.json()["predictions"].as_array().map(Vec::len), Some(1));
}

#[test]
fn models_health_and_the_page_are_there() {
    let server = Running::start(|_| ());
    assert_eq!(server.get("/healthz").json(), json!({"live": true}));
    assert_eq!(server.get("/readyz").json(), json!({"ready": true}));
    let models = server.get("/v1/models").json();
    let wanted =
        json!({"name": "small", "version": "1", "ready": true, "classes": 2, "size": 64, "waiting": 0});
    assert_eq!(models["models"], Value::Array(vec![wanted]));
    let page = server.get("/");
    assert_eq!(page.status, 200);
    assert!(page.text().starts_with("<!doctype html>") && page.text().ends_with("</html>\n"));
    assert!(!page.text().contains("http"), "the page needs nothing from elsewhere");
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let answer = server.post("/v1/models/small:classify", "X-Request-Id: mine-7\r\n", &picture("rgb.png"));
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("mine-7")));
    assert!(answer.header("server-timing").unwrap().starts_with("decode;dur="));
    assert_eq!(answer.json()["top"].as_array().map(Vec::len), Some(2));
}
