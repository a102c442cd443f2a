//! A local server that answers as a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// What the server does with the next request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// Everything asked for, ranges included.
    All,
    /// Everything, whatever the range.
    NoRanges,
    /// So many bytes of what it promises, then the end of the connection.
    Breaks(usize),
    /// A status and nothing else.
    Status(u16),
    /// These bytes, head included, after which the connection stays open for so many milliseconds.
    Raw(&'static str, u64),
}

/// Serves `content` once for each answer and tells the ranges that were asked for.
pub(super) fn serve(content: Vec<u8>, answers: &[Answer]) -> (String, Receiver<Option<usize>>) {
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

/// The lines of a request's head, in lower case.
pub(super) fn asked(stream: &TcpStream) -> Vec<String> {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect()
}

fn respond(mut stream: TcpStream, content: &[u8], answer: Answer) -> Option<usize> {
    let head = asked(&stream);
    let range =
        head.iter().find_map(|line| line.strip_prefix("range: bytes=")?.trim_end_matches('-').parse().ok());
    let (status, from, sent) = match answer {
        Answer::All => (if range.is_some() { 206 } else { 200 }, range.unwrap_or(0), usize::MAX),
        Answer::NoRanges => (200, 0, usize::MAX),
        Answer::Breaks(sent) => (200, 0, sent),
        Answer::Status(status) => (status, content.len(), 0),
        Answer::Raw(bytes, milliseconds) => {
            stream.write_all(bytes.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(milliseconds));
            return range;
        }
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
