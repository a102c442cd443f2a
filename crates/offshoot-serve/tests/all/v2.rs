//! The Open Inference Protocol v2.

use offshoot::Classifier;
use offshoot_graph::Tensor;
use offshoot_testing::difference;
use serde_json::{Value, json};

use crate::support::{Answer, Running, run};

const INFER: &str = "/v2/models/small/infer";
const SIZE: usize = 64;
const ROW: usize = 3 * SIZE * SIZE;

/// Inputs that differ, and their outputs.
fn inputs(count: usize) -> (Vec<f32>, Vec<f32>) {
    let numbers: Vec<f32> = (0..count * ROW).map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0).collect();
    let model = offshoot::ModelSource::Path(run().to_owned()).load(&Default::default()).unwrap().model;
    let device = offshoot::Device::cpu(offshoot::CpuOptions::default()).unwrap();
    let mut network = offshoot::Inference::new(&model, &device).unwrap();
    let outputs = network.run(&Tensor::f32([count, 3, SIZE, SIZE], numbers.clone())).unwrap();
    (numbers, outputs.into_f32().unwrap())
}

/// The names of the model's input and output.
fn names(server: &Running) -> (String, String) {
    let metadata = server.get("/v2/models/small").json();
    let name = |ends: &str| metadata[ends][0]["name"].as_str().unwrap().to_owned();
    (name("inputs"), name("outputs"))
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn in_json(answer: &Answer) -> Vec<f32> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let data = answer.json()["outputs"][0]["data"].clone();
    data.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// JSON, and bytes after it.
fn binary(server: &Running, json: &Value, tensor: &[u8]) -> Answer {
    let json = json.to_string();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", json.len());
    server.post(INFER, &headers, &[json.as_bytes(), tensor].concat())
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn metadata_and_health() {
    let server = Running::start(|_| ());
    let (input, output) = names(&server);
    for path in ["/v2/models/small", "/v2/models/small/versions/1"] {
        let wanted = json!({
            "name": "small", "versions": ["1"], "platform": "offshoot",
            "inputs": [{"name": input, "datatype": "FP32", "shape": [-1, 3, 64, 64]}],
            "outputs": [{"name": output, "datatype": "FP32", "shape": [-1, 2]}],
        });
        assert_eq!(server.get(path).json(), wanted);
    }
    let about = server.get("/v2").json();
    assert_eq!(about["name"], "offshoot");
    assert!(about["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
    for path in
        ["/v2/health/live", "/v2/health/ready", "/v2/models/small/ready", "/v2/models/small/versions/1/ready"]
    {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
    server.get("/v2/models/small/versions/2").refused(404, "its version is 1");
    server.get("/v2/models/other/ready").refused(404, "no model `other`");
}

#[test]
fn outputs_are_those_of_the_network_to_the_bit_in_json_and_binary() {
    let server = Running::start(|options| options.batching.max_batch = 4);
    let (input, output) = names(&server);
    let (numbers, wanted) = inputs(3);
    let flat = json!({"id": "a7", "inputs": [
        {"name": input, "shape": [3, 3, SIZE, SIZE], "datatype": "FP32", "data": numbers}]});
    let answer = server.post(INFER, "", flat.to_string().as_bytes());
    assert_eq!(bits(&in_json(&answer)), bits(&wanted));
    let json = answer.json();
    assert_eq!(
        (&json["id"], &json["model_name"], &json["model_version"]),
        (&json!("a7"), &json!("small"), &json!("1"))
    );
    assert_eq!(json["outputs"][0]["shape"], json!([3, 2]));

    let rows = |plane: &[f32]| plane.chunks(SIZE).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let planes = |row: &[f32]| row.chunks(SIZE * SIZE).map(rows).collect::<Vec<_>>();
    let nested: Vec<_> = numbers.chunks(ROW).map(planes).collect();
    let nested = json!({"inputs": [
        {"name": input, "shape": [3, 3, SIZE, SIZE], "datatype": "FP32", "data": nested}]});
    let answer = server.post("/v2/models/small/versions/1/infer", "", nested.to_string().as_bytes());
    assert_eq!(bits(&in_json(&answer)), bits(&wanted));

    let tensor = bytes(&numbers);
    for asked in [
        json!({"outputs": [{"name": output, "parameters": {"binary_data": true}}]}),
        json!({"parameters": {"binary_data_output": true}}),
    ] {
        let mut request = asked;
        request["inputs"] = json!([{"name": input, "shape": [3, 3, SIZE, SIZE], "datatype": "FP32",
            "parameters": {"binary_data_size": tensor.len()}}]);
        let answer = binary(&server, &request, &tensor);
        assert_eq!(answer.status, 200, "{answer:?}");
        let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
        let (json, found) = answer.body.split_at(length);
        let json: Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 4 * wanted.len());
        assert_eq!(found, bytes(&wanted));
    }
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let server = Running::start(|_| ());
    let (input, output) = names(&server);
    let post = |json: Value| server.post(INFER, "", json.to_string().as_bytes());
    let with = |change: &dyn Fn(&mut Value)| {
        let mut request = json!({"inputs": [
            {"name": input, "shape": [1, 3, SIZE, SIZE], "datatype": "FP32", "data": vec![0.5; ROW]}]});
        change(&mut request);
        post(request)
    };
    assert_eq!(with(&|_| ()).status, 200);
    with(&|r| r["inputs"][0]["name"] = json!("x\u{1b}")).refused(400, "no input `x\\x1b`");
    with(&|r| r["inputs"][0]["datatype"] = json!("INT8")).refused(400, "the model takes FP32");
    for shape in [json!([]), json!([3, 64, 64]), json!([0, 3, 64, 64]), json!([1, 3, 32, 128])] {
        with(&|r| r["inputs"][0]["shape"] = shape.clone()).refused(400, "the model takes [N, 3, 64, 64]");
    }
    with(&|r| r["inputs"][0]["shape"] = json!([u64::MAX, 3, 64, 64])).refused(400, "numbers in `data`");
    with(&|r| r["inputs"][0]["shape"] = json!([-1, 3, 64, 64])).refused(400, "not a request");
    with(&|r| r["inputs"][0]["data"] = json!([1, 2])).refused(400, "2 numbers in `data`");
    with(&|r| r["inputs"][0]["data"] = json!([vec![1.0; ROW - 1], [1.0]])).refused(400, "differ in length");
    with(&|r| r["inputs"][0]["data"][7] = json!("1")).refused(400, "not a request");
    with(&|r| r["inputs"][0]["data"][7] = json!(1e39)).refused(400, "picture 0: number 7 is inf");
    with(&|r| r["inputs"][0]["data"] = Value::Null).refused(400, "either `data` or");
    with(&|r| r["outputs"] = json!([{"name": "x"}])).refused(400, "no output `x`");
    let classes = json!([{"name": output, "parameters": {"classification": 2}}]);
    with(&|r| r["outputs"] = classes.clone()).refused(400, "`classification` is not read");
    with(&|r| r["inputs"] = json!([])).refused(400, "0 inputs; the model has one");
    for body in ["", "{}", "[]", "{\"inputs\":", "\u{fffd}"] {
        server.post(INFER, "", body.as_bytes()).refused(400, "not a request");
    }
    server.post(INFER, "", b"{\"inputs\":\xff}").refused(400, "not a request");
}

#[test]
fn binary_requests_that_are_damaged_are_refused() {
    let server = Running::start(|_| ());
    let (input, _) = names(&server);
    let request = |bytes: usize| {
        json!({"inputs": [{"name": input, "shape": [1, 3, SIZE, SIZE], "datatype": "FP32",
            "parameters": {"binary_data_size": bytes}}]})
    };
    let tensor = vec![0; 4 * ROW];
    assert_eq!(binary(&server, &request(4 * ROW), &tensor).status, 200);
    binary(&server, &request(4 * ROW), &tensor[1..]).refused(400, "bytes after the JSON");
    binary(&server, &request(4 * ROW - 4), &tensor[4..]).refused(400, "bytes of FP32");
    binary(&server, &request(usize::MAX), &tensor).refused(400, "bytes after the JSON");
    let nan = bytes(&vec![f32::NAN; ROW]);
    binary(&server, &request(4 * ROW), &nan).refused(400, "picture 0: number 0 is NaN");
    for length in ["x", "-1", "99999999999999999999999", "1000"] {
        let headers = format!("Inference-Header-Content-Length: {length}\r\n");
        server.post(INFER, &headers, b"{}").refused(400, "give the length of the JSON");
    }
}

#[test]
fn models_are_unloaded_and_loaded_again() {
    let server = Running::start(|_| ());
    let index = || server.post("/v2/repository/index", "", b"{}").json();
    assert_eq!(index(), json!([{"name": "small", "version": "1", "state": "READY", "reason": ""}]));
    let unload = || server.post("/v2/repository/models/small/unload", "", b"{}");
    assert_eq!(unload().status, 200);
    unload().refused(409, "not loaded");
    assert_eq!(index()[0]["state"], "UNAVAILABLE");
    server.get("/v2/models/small/ready").refused(409, "not loaded");
    server.classify(b"x").refused(409, "POST /v2/repository/models/small/load");
    let load = |name: &str| server.post(&format!("/v2/repository/models/{name}/load"), "", b"{}");
    assert_eq!(load("small").status, 200);
    assert_eq!(index()[0]["version"], "2");
    assert_eq!(load("small").status, 200);
    assert_eq!(server.get("/v2/models/small").json()["versions"], json!(["3"]));
    load("other").refused(404, "no model `other`");
    load("..%2f..%2fetc%2fpasswd").refused(404, "no model");
    assert_eq!(server.classify(&crate::support::picture("rgb.png")).status, 200);
}

#[test]
fn a_picture_gives_the_outputs_of_its_prepared_input() {
    // The two ways into a network are one: a picture that is prepared elsewhere has the outputs of the picture.
    let server = Running::start(|_| ());
    let (input, _) = names(&server);
    let gray = vec![0.25; ROW];
    let prepared = Classifier::open(run()).unwrap().prepared(gray.clone()).unwrap();
    let wanted = Classifier::open(run()).unwrap().classify_batch(&[&prepared]).unwrap();
    let request =
        json!({"inputs": [{"name": input, "shape": [1, 3, SIZE, SIZE], "datatype": "FP32", "data": gray}]});
    let found = in_json(&server.post(INFER, "", request.to_string().as_bytes()));
    assert_eq!(difference(&found, wanted[0].as_ref().unwrap().outputs()), 0.0);
}
