//! How a server begins and ends.

use std::io::Write as _;
use std::net::TcpStream;

use offshoot::{CpuOptions, Device, ModelSource};
use offshoot_serve::{ModelFile, Options, ServeError, Server};

use crate::support::{Answer, Running, picture, request, run};

#[test]
fn a_server_that_stops_finishes_what_has_begun_and_accepts_nothing_more() {
    let server = Running::start(|_| ());
    let (address, body) = (server.address, picture("baseline_420.jpg"));
    let whole = request("POST", "/v1/models/small:classify", "", &body);
    let mut begun = server.connect();
    begun.write_all(&whole[..whole.len() - 10]).unwrap();
    // It has been accepted when a later one has been answered.
    assert_eq!(server.get("/readyz").status, 200);
    // One that waits for its next request is closed.
    let mut idle = server.connect();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(server.get("/readyz").status, 200);
    server.stop();
    while TcpStream::connect(address).is_ok() {}
    begun.write_all(&whole[whole.len() - 10..]).unwrap();
    assert_eq!(Answer::read(&mut begun).status, 200);
    assert_eq!(Answer::read(&mut idle).status, 200);
    server.join();
}

#[test]
fn what_cannot_be_served_is_an_error_at_the_start() {
    let device = Device::cpu(CpuOptions::default()).unwrap();
    let options = Options { listen: "127.0.0.1:0".parse().unwrap(), ..Options::default() };
    let start = |models: Vec<ModelFile>, options| match Server::start(models, device.clone(), options) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    };
    let gone = ModelFile::of(run().with_file_name("gone.onnx"), Default::default()).unwrap();
    assert!(start(vec![gone], options).to_string().contains("gone.onnx"));
    let twice = vec![
        ModelFile::of(run(), Default::default()).unwrap(),
        ModelFile::of(run(), Default::default()).unwrap(),
    ];
    assert!(start(twice, options).to_string().contains("a second model is called `run`"));
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = Options { listen: held.local_addr().unwrap(), ..options };
    let error = start(vec![ModelFile::of(run(), Default::default()).unwrap()], taken);
    assert!(matches!(error, ServeError::Listen { address, .. } if address == taken.listen), "{error}");
}

#[test]
fn a_name_is_part_of_an_address() {
    let named = |name: &str| ModelFile::new(name, ModelSource::Path("x".into()), Default::default());
    for name in ["a", "resnet18", "v1.2-best_3", "0"] {
        assert_eq!(named(name).unwrap().name(), name);
    }
    for name in ["", ".", "..", "-a", "a b", "a/b", "a:b", "\u{e9}", "a\n", &"x".repeat(101)] {
        assert!(named(name).unwrap_err().to_string().contains("NAME=PATH"), "{name}");
    }
    assert_eq!(ModelFile::of("photos/pets.v2.onnx", Default::default()).unwrap().name(), "pets.v2");
    assert_eq!(ModelFile::of(run().join("."), Default::default()).unwrap().name(), "run");
}
