//! A small model, a server, and a client.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use offshoot::{CpuOptions, Device, FineTune, PreprocessingSettings};
use offshoot_serve::{ModelFile, Options, Server};
use serde_json::Value;

/// Small pictures of the repository.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../offshoot-data/tests/golden").join(name)
}

pub(crate) fn picture(name: &str) -> Vec<u8> {
    fs::read(golden(name)).unwrap()
}

pub(crate) const PICTURES: [&str; 6] =
    ["baseline_420.jpg", "baseline_444.jpg", "exif_3.jpg", "exif_6.jpg", "lossy.webp", "rgb.png"];

/// A run with a small network.
pub(crate) fn run() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve");
        let _ = fs::remove_dir_all(&root);
        for (i, picture) in PICTURES.iter().cycle().take(12).enumerate() {
            let class = root.join("data").join(["left", "right"][i % 2]);
            fs::create_dir_all(&class).unwrap();
            fs::copy(golden(picture), class.join(format!("{i}-{picture}"))).unwrap();
        }
        let small = PreprocessingSettings { size: Some(64), ..PreprocessingSettings::default() };
        let tuned = FineTune::new("mobilenet_v2", root.join("data")).epochs(1);
        tuned.set(|settings| settings.preprocessing = Some(small)).run(root.join("run")).unwrap();
        root.join("run")
    })
}

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// One that serves the small network as `small`, at a port of its own.
    pub(crate) fn start(change: impl FnOnce(&mut Options)) -> Running {
        let source = offshoot::ModelSource::Path(run().to_owned());
        let small = ModelFile::new("small", source, Default::default()).unwrap();
        Running::serving(vec![small], change)
    }

    pub(crate) fn serving(models: Vec<ModelFile>, change: impl FnOnce(&mut Options)) -> Running {
        let mut options = Options { listen: "127.0.0.1:0".parse().unwrap(), ..Options::default() };
        change(&mut options);
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let server = Server::start(models, device, options).unwrap();
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || server.run(|| stopped.load(Ordering::SeqCst)).unwrap());
        Running { address, stop, thread: Some(thread) }
    }

    /// Asks it to stop.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Waits for its end.
    pub(crate) fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes and returns the answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // Where it refuses early, it closes the connection before it has read all.
        let _ = stream.write_all(bytes);
        Answer::read(&mut stream)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.raw(&request("GET", path, "", b""))
    }

    pub(crate) fn post(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.raw(&request("POST", path, headers, body))
    }

    /// Posts a picture.
    pub(crate) fn classify(&self, picture: &[u8]) -> Answer {
        self.post("/v1/models/small:classify?top=2&logits=true", "Content-Type: image/jpeg\r\n", picture)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

/// A request with the length of its body, after which the connection ends.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads until the connection ends.
    pub(crate) fn read(stream: &mut TcpStream) -> Answer {
        let mut all = Vec::new();
        let ended = stream.read_to_end(&mut all);
        let end = all.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {ended:?}, {:?}", String::from_utf8_lossy(&all)));
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: all[end + 4..].to_vec() }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The message of an error.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, part: &str) {
        let message = self.json()["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(self.status, status, "{message}");
        assert!(message.contains(part), "{message}");
    }
}
