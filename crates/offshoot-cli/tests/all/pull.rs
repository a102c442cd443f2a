//! `offshoot pull` against a local server.

mod hub;
mod server;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use offshoot::{Patience, Pulled, Wanted, fetch, fetch_wanted};

use self::server::{Answer, asked, serve};
use crate::support::World;

/// SHA-256 of the million letters `a` (FIPS 180-2, appendix B.3).
const MILLION: &str = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

fn content() -> Vec<u8> {
    vec![b'a'; 1_000_000]
}

fn wanted(sha256: &str) -> Wanted {
    Wanted { sha256: sha256.into(), ..Wanted::default() }
}

/// The message of a download of the million letters to `weights.pth` that must fail.
#[track_caller]
fn failure(world: &World, url: &str, wanted: &Wanted) -> String {
    fetch_wanted(url, wanted, world.path("weights.pth"), &mut |_, _| {}).unwrap_err().to_string()
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

/// Waits for a fifth of a second.
fn impatient(sha256: &str) -> Wanted {
    let moment = Duration::from_millis(200);
    let patience = Patience {
        connection: 5 * moment,
        answer: 2 * moment,
        idle: moment,
        period: 2 * moment,
        bytes_per_period: 1 << 10,
    };
    Wanted { patience, ..wanted(sha256) }
}

#[test]
fn a_server_that_stops_or_crawls_is_given_up_on() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    for (answer, said) in [
        (Answer::Raw("", 60_000), "sent nothing for 0.2 s"),
        (Answer::Raw("HTTP/1.1 200 OK\r\nContent-", 60_000), "sent nothing for 0.2 s"),
        (Answer::Raw(HEAD, 60_000), "sent nothing for 0.2 s"),
        (
            Answer::Raw("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 9\r\n\r\n", 60_000),
            "sent nothing",
        ),
    ] {
        let world = World::new("stalls");
        // A redirect leads to a server that says nothing.
        let (url, _) = serve(content(), &[answer, Answer::Raw("", 60_000)]);
        let error = failure(&world, &url, &impatient(MILLION));
        assert!(error.contains(said), "{answer:?}: {error}");
        assert!(world.names("").is_empty(), "{answer:?}");
    }
    // A byte now and then: of the body, of the head, and of a chunk's size, none of which comes to an end.
    for (start, byte, said) in [
        (HEAD, "a", "too slow"),
        ("HTTP/1.1 200 OK\r\nX: ", "x", "has not responded within 0.4 s"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0", "far too long"),
    ] {
        let world = World::new("crawls");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            asked(&stream);
            let mut bytes = start;
            while stream.write_all(bytes.as_bytes()).is_ok() {
                bytes = byte;
                thread::sleep(Duration::from_millis(50));
            }
        });
        let small = Wanted { bytes: Some(0..=2 << 10), ..impatient(MILLION) };
        let wanted = if start == HEAD { impatient(MILLION) } else { small };
        let error = failure(&world, &url, &wanted);
        assert!(error.contains(said), "{error}");
        assert_eq!(world.path("weights.pth.part").exists(), said == "too slow", "{error}");
    }
}

#[test]
fn of_several_at_once_one_downloads_and_all_end_well() {
    let world = World::new("several");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            count.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                asked(&stream);
                let mut stream = stream;
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").unwrap();
                for part in content().chunks(100_000) {
                    stream.write_all(part).unwrap();
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    let pulled: Vec<Pulled> = thread::scope(|scope| {
        let pull = || fetch(&url, MILLION, world.path("weights.pth"), &mut |_, _| {}).unwrap();
        let all: Vec<_> = (0..4).map(|_| scope.spawn(pull)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(pulled.iter().filter(|pulled| pulled.downloaded).count(), 1);
    assert_eq!(served.load(Ordering::SeqCst), 1);
    assert_eq!(world.read("weights.pth"), content());
    assert_eq!(world.names(""), ["weights.pth"]);
}

#[test]
fn one_takes_over_from_another_that_fails() {
    let world = World::new("takes over");
    let held = fs::File::create(world.path("weights.pth.part")).unwrap();
    held.lock().unwrap();
    let (url, _) = serve(content(), &[Answer::All]);
    let error = failure(&world, &url, &impatient_of_others());
    assert!(error.contains("weights.pth.part: another process downloads it"), "{error}");
    let waits = thread::scope(|scope| {
        let waits = scope.spawn(|| fetch(&url, MILLION, world.path("weights.pth"), &mut |_, _| {}));
        thread::sleep(Duration::from_millis(200));
        // As after an error of the other one.
        fs::remove_file(world.path("weights.pth.part")).unwrap();
        drop(held);
        waits.join().unwrap()
    });
    assert!(waits.unwrap().downloaded);
    assert_eq!(world.names(""), ["weights.pth"]);
}

/// Waits hardly at all for another process.
fn impatient_of_others() -> Wanted {
    let moment = Duration::from_millis(5);
    let patience = Patience { connection: moment, answer: moment, period: moment, ..Patience::default() };
    Wanted { patience, ..wanted(MILLION) }
}

#[test]
fn a_size_that_cannot_be_is_refused_before_a_byte_is_written() {
    let world = World::new("sizes");
    let known = Wanted { bytes: Some(999_000..=1_001_000), ..wanted(MILLION) };
    for (answer, wanted, said) in [
        (
            Answer::Raw("HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\naaaa", 0),
            &wanted(MILLION),
            "promises a file of 4611686018427387904 bytes; no weights are so large",
        ),
        (
            Answer::Raw("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\naaaa", 0),
            &known,
            "promises a file of 5000 bytes, and the published one has about 1001000",
        ),
        (
            Answer::Raw("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html>", 0),
            &known,
            "a web page",
        ),
        (
            Answer::Raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1000000\r\n\r\n", 0),
            &known,
            "compressed",
        ),
        // As many bytes as there are without a length: kept, for more may come.
        (Answer::Raw("HTTP/1.1 200 OK\r\n\r\naaaa", 0), &known, "broke off"),
    ] {
        let (url, _) = serve(content(), &[answer]);
        let error = failure(&world, &url, wanted);
        assert!(error.contains(said), "{error}");
        let left = world.names("");
        assert_eq!(left.is_empty(), said != "broke off", "{left:?}");
    }
    // More than the published file has, whose length the server does not say.
    let small = Wanted { bytes: Some(10..=500_000), ..wanted(MILLION) };
    let body = format!("HTTP/1.1 200 OK\r\n\r\n{}", "a".repeat(1_000_000));
    let (url, _) = serve(content(), &[Answer::Raw(body.leak(), 0)]);
    let error = failure(&world, &url, &small);
    assert!(error.contains("more than 500000 bytes came"), "{error}");
    assert!(world.names("").is_empty());
}

#[test]
fn a_body_ends_where_the_server_says() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
        + &format!("7a120\r\n{}\r\n", "a".repeat(500_000)).repeat(2)
        + "0\r\n\r\n";
    let more = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "a".repeat(1_000_900));
    for body in [chunked, more] {
        let world = World::new("ends");
        let (url, _) = serve(content(), &[Answer::Raw(body.leak(), 0)]);
        assert!(fetch(&url, MILLION, world.path("weights.pth"), &mut |_, _| {}).unwrap().downloaded);
        assert_eq!(world.read("weights.pth"), content());
    }
    let world = World::new("cut");
    let cut =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7a120\r\n{}", "a".repeat(100_000));
    let (url, ranges) = serve(content(), &[Answer::Raw(cut.leak(), 0), Answer::All]);
    let error = failure(&world, &url, &wanted(MILLION));
    assert!(error.contains("run the command again to go on"), "{error}");
    fetch(&url, MILLION, world.path("weights.pth"), &mut |_, _| {}).unwrap();
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [None, Some(100_000)]);
}

#[test]
fn what_is_no_start_of_the_file_is_downloaded_again() {
    for (part, answers, asked) in [
        // The start of something else.
        ("b".repeat(300_000), &[Answer::All, Answer::All][..], vec![Some(300_000), None]),
        // Longer than the file: the server has no such range.
        ("a".repeat(1_200_000), &[Answer::Status(416), Answer::All], vec![Some(1_200_000), None]),
        // All of it.
        ("a".repeat(1_000_000), &[Answer::Status(416)], vec![Some(1_000_000)]),
        // Another range than the one that was asked for.
        (
            "a".repeat(10),
            &[
                Answer::Raw(
                    "HTTP/1.1 206 X\r\nContent-Range: bytes 0-9/1000000\r\nContent-Length: 10\r\n\r\naaaaaaaaaa",
                    0,
                ),
                Answer::All,
            ],
            vec![Some(10), None],
        ),
    ] {
        let world = World::new("no start");
        world.write("weights.pth.part", &part);
        let (url, ranges) = serve(content(), answers);
        fetch(&url, MILLION, world.path("weights.pth"), &mut |_, _| {}).unwrap();
        assert_eq!(world.read("weights.pth"), content());
        assert_eq!(world.names(""), ["weights.pth"]);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), asked);
    }
    // Longer than any size that it may have: not even asked for.
    let world = World::new("too long");
    world.write("weights.pth.part", "a".repeat(1_200_000));
    let (url, ranges) = serve(content(), &[Answer::All]);
    let known = Wanted { bytes: Some(1_000_000..=1_000_100), ..wanted(MILLION) };
    fetch_wanted(&url, &known, world.path("weights.pth"), &mut |_, _| {}).unwrap();
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [None]);
}

#[test]
fn redirects_are_followed_within_reason() {
    let world = World::new("redirects");
    let (target, _) = serve(content(), &[Answer::All]);
    let redirect = |to: &str| {
        Answer::Raw(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").leak(), 0)
    };
    let (url, _) = serve(content(), &[redirect("/other"), redirect(&format!("{target}/x"))]);
    fetch(&url, MILLION, world.path("weights.pth"), &mut |_, _| {}).unwrap();
    assert_eq!(world.read("weights.pth"), content());
    let world = World::new("redirected");
    for (answers, said) in [
        (vec![redirect("/loop"); 20], "redirects more than 10 times"),
        (vec![redirect("file:///etc/passwd")], "no http:// or https:// URL"),
        (vec![redirect("ftp://h/x")], "no http:// or https:// URL"),
        (vec![Answer::Status(302)], "status 302"),
    ] {
        let (url, _) = serve(content(), &answers);
        let error = failure(&world, &url, &wanted(MILLION));
        assert!(error.contains(said), "{error}");
        assert!(world.names("").is_empty(), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn nothing_but_an_own_plain_file_is_gone_on_with() {
    use std::os::unix::fs::{chown, symlink};
    type Make = fn(&World);
    let make: [(&str, Make); 6] = [
        ("no plain file", |world| symlink("victim", world.path("weights.pth.part")).unwrap()),
        ("no plain file", |world| symlink("nowhere", world.path("weights.pth.part")).unwrap()),
        ("no plain file", |world| fs::create_dir(world.path("weights.pth.part")).unwrap()),
        ("no plain file", |world| {
            let made = std::process::Command::new("mkfifo").arg(world.path("weights.pth.part")).status();
            assert!(made.unwrap().success());
        }),
        ("second name", |world| fs::hard_link(world.path("victim"), world.path("weights.pth.part")).unwrap()),
        ("another user", |world| {
            world.write("weights.pth.part", "aaa");
            // Nobody but root can; then a second name stands for it.
            if chown(world.path("weights.pth.part"), Some(12_345), None).is_err() {
                fs::hard_link(world.path("weights.pth.part"), world.path("second")).unwrap();
            }
        }),
    ];
    for (said, make) in make {
        let world = World::new("part");
        world.write("victim", "mine");
        make(&world);
        let error = failure(&world, "http://127.0.0.1:9/", &wanted(MILLION));
        assert!(error.contains("weights.pth.part: a download would go") && error.contains(said), "{error}");
        assert_eq!(world.text("victim"), "mine");
        assert!(!world.path("nowhere").exists());
    }
    for out in ["folder", "pipe"] {
        let world = World::new("place");
        fs::create_dir(world.path("folder")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(world.path("pipe")).status().unwrap().success());
        let said = world.run(&format!("pull resnet18 --out {out} --base-url http://127.0.0.1:9"));
        assert!(
            said.code == Some(2) && said.err.contains(&format!("{out}: this is there and no plain file")),
            "{said:?}"
        );
    }
}

#[test]
fn passwords_are_sent_and_never_printed() {
    let world = World::new("passwords");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let (tell, heard) = channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        tell.send(asked(&stream)).unwrap();
        stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let url = format!("http://me:geheim@{place}/models?token=geheim");
    let said = world.run(&format!("pull mobilenet_v2 --json --base-url {url}"));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains(&format!("http://{place}/models/mobilenet_v2-7ebf99e0.pth?...: ")), "{said:?}");
    let head = heard.recv().unwrap();
    // echo -n me:geheim | base64
    assert!(head.contains(&"authorization: basic bwu6z2vozwlt".to_owned()), "{head:?}");
    assert_eq!(head[0], "get /models/mobilenet_v2-7ebf99e0.pth?token=geheim http/1.1");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut all = vec![said];
    for base in [
        &format!("http://me:geheim@{closed}/?geheim"),
        "ftp://me:geheim@h/",
        "http://me:geheim@h:99999",
        "geheim",
    ] {
        all.push(world.run(&format!("pull mobilenet_v2 --json --base-url {base}")));
    }
    let mut help = world.command("pull --help");
    let help = help.env("OFFSHOOT_WEIGHTS_URL", "http://me:geheim@h/").output().unwrap();
    assert!(!String::from_utf8(help.stdout).unwrap().contains("geheim"));
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "NO_PROXY"] {
        for value in [&format!("http://me:geheim@{closed}"), "http://me:geheim@h:port", "geheim://"] {
            let mut command = world.command(&format!("pull mobilenet_v2 --json --base-url http://{closed}"));
            let output = command.env(variable, value).output().unwrap();
            let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            let used = value.contains(&closed.to_string());
            assert!(variable == "HTTPS_PROXY" && used || err.contains(variable), "{variable}={value}: {err}");
            all.push(crate::support::Said { code: output.status.code(), out, err });
        }
    }
    for said in all {
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(!format!("{said:?}").contains("geheim"), "{said:?}");
    }
    assert!(world.names("").is_empty());
}

#[test]
fn names_of_weights_and_files_that_cannot_be_are_named() {
    let world = World::new("names");
    for name in ["../../x", "", ".", "resnet50/../x", "resnet500.V1"] {
        let output = world.command("pull").arg(name).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(&format!("no architecture is called `{name}`")), "{err}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let mut command = world.command("pull resnet18 --base-url http://127.0.0.1:9 --out");
        let output = command.arg(std::ffi::OsStr::from_bytes(b"a\xff.pth")).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && err.contains("a\\xff.pth: the name is not UTF-8"),
            "{err}"
        );
    }
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
        ("resnext50_32x4d", 25_028_904, 4.23),
        ("wide_resnet50_2", 68_883_240, 11.398),
        ("mnasnet1_0", 4_383_312, 0.314),
        ("shufflenet_v2_x1_0", 2_278_604, 0.145),
        ("efficientnet_v2_s", 21_458_488, 8.366),
        ("googlenet", 6_624_904, 1.498),
        // Without the auxiliary classifier.
        ("inception_v3", 23_834_568, 5.713),
        ("swin_t", 28_288_354, 4.491),
        ("swin_v2_t", 28_351_570, 5.94),
        ("maxvit_t", 30_919_624, 5.558),
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
