//! Requests that cannot be answered: each gets one clear error, and the server goes on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::{Running, picture};

const CLASSIFY: &str = "/v1/models/small:classify";
const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn addresses_and_methods_that_are_not_there() {
    let server = Running::start(|_| ());
    server.get("/nothing").refused(404, "no such address");
    server.get(CLASSIFY).refused(405, "other methods");
    server.post("/v1/models/small:train", "", b"").refused(404, "NAME:classify");
    server.post("/v1/models/large:classify", "", b"").refused(404, "no model `large`; there are: small");
    server.post("/v1/models/%ff%fe:classify", "", b"").refused(400, "");
    server.post("/v1/models/%1b%5b31m:classify", "", b"").refused(404, "`\\x1b[31m`");
    let long = format!("/v1/models/{}:classify", "x".repeat(5000));
    let answer = server.post(&long, "", b"");
    assert!(answer.status == 404 && answer.body.len() < 400, "{answer:?}");
    for query in
        ["top=0", "top=-1", "top=99999999999999999999999", "top=x", "logits=2", "what=1", "top=1&top=2"]
    {
        server.post(&format!("{CLASSIFY}?{query}"), "", &picture("rgb.png")).refused(400, "");
    }
    assert_eq!(server.raw(b"\x16\x03\x01 what is this\r\n\r\n").status, 400);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn bodies_that_are_no_pictures() {
    let server = Running::start(|_| ());
    let jpeg = picture("baseline_420.jpg");
    server.classify(b"").refused(400, "empty");
    server.classify(b"hello").refused(415, "not a picture");
    server.classify(&jpeg[..jpeg.len() / 2]).refused(422, "");
    server.classify(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]).refused(415, "not a picture");
    server.post(CLASSIFY, "Content-Encoding: gzip\r\n", &jpeg).refused(415, "`gzip` is not read");
    server.post(CLASSIFY, "Content-Type: text/html\r\n", &jpeg).refused(415, "`text/html` is not read");
    server.post(CLASSIFY, "Content-Type: text/\u{e9}\r\n", &jpeg).refused(400, "ASCII");
    assert_eq!(server.classify(&jpeg).status, 200);
}

#[test]
fn a_picture_that_says_it_is_huge() {
    let server = Running::start(|_| ());
    // The header of a PNG of 60000 x 60000 pixels; its checksum is looked at first.
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(60_000u32.to_be_bytes());
    chunk.extend(60_000u32.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(&chunk);
    png.extend(crc32(&chunk).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT");
    server.classify(&png).refused(413, "60000x60000 is 3600 megapixels");
}

/// The checksum of PNG.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
    !bytes.iter().fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn lists_and_forms_that_are_damaged() {
    let server = Running::start(|_| ());
    let post = |body: &[u8]| server.post(CLASSIFY, JSON, body);
    for body in [&b""[..], b"{}", b"[1]", b"[\"", b"null", b"\xff\xfe", b"[\"a\", [\"b\"]]"] {
        post(body).refused(400, "not a JSON list");
    }
    post("[".repeat(100_000).as_bytes()).refused(400, "not a JSON list");
    post(b"[]").refused(400, "the list is empty");
    post(b"[\"???\"]").refused(400, "picture 0: not base64");
    let rgb = STANDARD.encode(picture("rgb.png"));
    post(json!([rgb, STANDARD.encode("no")]).to_string().as_bytes()).refused(415, "picture 1: not a picture");

    let form = |kind: &str, body: &[u8]| {
        server.post(CLASSIFY, &format!("Content-Type: multipart/form-data{kind}\r\n"), body)
    };
    form("", b"x").refused(400, "damaged");
    form("; boundary=b", b"x").refused(400, "damaged");
    form("; boundary=b", b"--b\r\n").refused(400, "damaged");
    form("; boundary=b", b"--b--\r\n").refused(400, "no parts");
    let part =
        b"--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"\x1b[1m\xff\"\r\n\r\nno\r\n--b--\r\n";
    assert_eq!(form("; boundary=b", part).status / 100, 4);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn pages_of_other_origins_are_refused() {
    let server = Running::start(|_| ());
    let rgb = picture("rgb.png");
    for origin in ["http://elsewhere.example", "null", "http://localhost:1"] {
        server.post(CLASSIFY, &format!("Origin: {origin}\r\n"), &rgb).refused(403, "other origins");
    }
    assert_eq!(server.post(CLASSIFY, "Origin: http://localhost\r\n", &rgb).status, 200);
}
