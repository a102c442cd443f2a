//! What is counted, and the description of the addresses.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{PICTURES, Running, picture, request};

/// The series of a text of OpenMetrics.
fn series(server: &Running) -> BTreeMap<String, f64> {
    let answer = server.get("/metrics");
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(answer.text().ends_with("# EOF\n"));
    let lines = answer.text().lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, x)| (name.into(), x.parse().unwrap()))
        .collect()
}

#[test]
fn requests_errors_batches_and_times_are_counted() {
    let server = Running::start(|options| options.batching.max_delay = std::time::Duration::ZERO);
    for name in PICTURES {
        assert_eq!(server.classify(&picture(name)).status, 200);
    }
    server.classify(b"no").refused(415, "");
    // What clients make up is no series.
    server.post("/v1/models/made-up:classify", "", b"").refused(404, "");
    let found = series(&server);
    let of = r#"model="small",version="1""#;
    let is = |name: &str, wanted: f64| assert_eq!(found.get(name), Some(&wanted), "{name}: {found:#?}");
    is(&format!(r#"offshoot_requests_total{{{of},code="200"}}"#), 6.0);
    is(&format!(r#"offshoot_requests_total{{{of},code="415"}}"#), 1.0);
    is(&format!(r#"offshoot_errors_total{{{of},code="415"}}"#), 1.0);
    is(&format!("offshoot_queue_pictures{{{of}}}"), 0.0);
    is(&format!("offshoot_batch_pictures_sum{{{of}}}"), 6.0);
    is(&format!("offshoot_batch_pictures_count{{{of}}}"), 6.0);
    for (stage, count) in [("decode", 6.0), ("queue", 6.0), ("compute", 6.0), ("total", 7.0)] {
        is(&format!(r#"offshoot_latency_seconds_count{{{of},stage="{stage}"}}"#), count);
    }
    is(r#"offshoot_http_requests_total{code="404"}"#, 1.0);
    assert!(!found.keys().any(|name| name.contains("made-up")));

    let statistics = server.get("/v2/models/small/stats").json()["model_stats"][0].clone();
    assert_eq!(statistics["inference_count"], 6);
    assert_eq!(statistics["inference_stats"]["success"]["count"], 6);
    assert_eq!(statistics["inference_stats"]["fail"]["count"], 1);
    assert!(statistics["inference_stats"]["compute_infer"]["ns"].as_u64().unwrap() > 0);
    assert_eq!(server.get("/v2/models/stats").json()["model_stats"][0], statistics);
}

#[test]
fn pictures_that_wait_together_are_one_batch() {
    let server = Running::start(|options| {
        options.batching.max_batch = 4;
        options.batching.max_delay = std::time::Duration::from_secs(600);
        options.limits.time = std::time::Duration::from_secs(600);
    });
    std::thread::scope(|scope| {
        for name in &PICTURES[..4] {
            scope.spawn(|| assert_eq!(server.classify(&picture(name)).status, 200));
        }
    });
    let found = series(&server);
    let of = r#"{model="small",version="1"}"#;
    assert_eq!(found[&format!("offshoot_batch_pictures_sum{of}")], 4.0);
    assert_eq!(found[&format!("offshoot_batch_pictures_count{of}")], 1.0);
}

#[test]
fn every_address_of_the_description_is_there() {
    let server = Running::start(|_| ());
    let description = server.get("/openapi.json").json();
    let mut count = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{name}", "small").replace("{version}", "1");
            if path.ends_with("/load") || path.ends_with("/unload") {
                continue;
            }
            let answer = server.raw(&request(&method.to_uppercase(), &path, "", b""));
            assert!(![404, 405].contains(&answer.status), "{method} {path}: {answer:?}");
            count += 1;
        }
    }
    assert!(count >= 20, "{count}");
    references(&description, &description);
}

/// Each `$ref` leads somewhere.
fn references(value: &Value, whole: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref") {
                let place = target.as_str().unwrap().strip_prefix('#').unwrap();
                assert!(whole.pointer(place).is_some(), "{target}");
            }
            map.values().for_each(|value| references(value, whole));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, whole)),
        _ => {}
    }
}
