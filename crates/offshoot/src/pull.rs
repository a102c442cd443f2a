//! Published weights over HTTPS.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use offshoot_graph::text::shown;
use offshoot_models::{Published, find};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::manifest::sha256;

/// Larger than any file of weights that is published for the registry's architectures.
const MAX_BYTES: u64 = 4 << 30;

/// What to bring.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PullOptions {
    /// The file to write; the published name in the current folder where not given.
    pub out: Option<PathBuf>,
    /// Where the published files are instead, as `https://mirror.example/models`.
    pub base_url: Option<String>,
}

/// A file that was brought, or was there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pulled {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// How many of the 64 digits are pinned: all, or the eight that PyTorch and timm put in a file's name.
    pub pinned_digits: usize,
    /// Whether it had to be downloaded.
    pub downloaded: bool,
}

/// Brings the published weights called `name`: that of an architecture for the best of them, or with a version behind it
/// (`resnet50.IMAGENET1K_V1`, or short `resnet50.V1`). A download that broke off goes on where it stopped: until it is whole
/// the file has `.part` at the end of its name. A file with another hash than the pinned one is deleted. `progress` hears the
/// bytes so far and, where the server says it, of how many.
///
/// The proxies of the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) are used.
///
/// # Errors
/// When there are no such weights or no hash of them is known, the server does not give them, the file cannot be written,
/// or its hash is not the pinned one.
pub fn pull(name: &str, options: &PullOptions, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<Pulled> {
    let Published { url, sha256, .. } = find_published(name)?;
    if sha256.is_empty() {
        return Err(Error::Input(format!(
            "{name}: no hash of the published weights is known, so that they cannot be checked; download {url} yourself and \
             give it with --weights FILE"
        )));
    }
    let file_name = url.rsplit('/').next().unwrap_or(name);
    let url = match &options.base_url {
        Some(base) => format!("{}/{file_name}", base.trim_end_matches('/')),
        None => url.to_string(),
    };
    let path = options.out.clone().unwrap_or_else(|| file_name.into());
    fetch(&url, sha256, path, progress)
}

/// The published weights called `name`, see [`pull`].
fn find_published(name: &str) -> Result<Published> {
    let (architecture, version) = match name.split_once('.') {
        Some((architecture, version)) => (find(architecture)?, Some(version)),
        None => (find(name)?, None),
    };
    let all = architecture.all_published();
    let found = match version {
        None => all.first(),
        Some(version) => all.iter().find(|published| published.is_called(version)),
    };
    found.copied().ok_or_else(|| {
        let versions: Vec<&str> = all.iter().map(|published| published.version).collect();
        Error::Input(match versions.is_empty() {
            true => format!("{name}: there are no published weights that we know of"),
            false => {
                format!("{name}: no published weights are called so; there are {}", versions.join(", "))
            }
        })
    })
}

/// Brings the file at `url` whose SHA-256 in hexadecimal starts with `sha256` to `path`, as [`pull`] does.
///
/// # Errors
/// As [`pull`].
pub fn fetch(
    url: &str,
    sha256: &str,
    path: PathBuf,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Pulled> {
    if path.exists() {
        let (bytes, found) = hash(&path)?;
        return match found.starts_with(sha256) {
            true => Ok(Pulled { path, bytes, sha256: found, pinned_digits: sha256.len(), downloaded: false }),
            false => Err(Error::Input(format!(
                "{}: the file is there, but its SHA-256 {found} does not start with {sha256}; remove it or choose another \
                 with --out",
                shown(path)
            ))),
        };
    }
    let part = part_of(&path)?;
    if let Err(error) = download(url, &part, progress) {
        // Nothing has come: nothing stays.
        if fs::metadata(&part).is_ok_and(|meta| meta.len() == 0) {
            fs::remove_file(&part).map_err(io_error(&part, "remove"))?;
        }
        return Err(error);
    }
    let (bytes, found) = hash(&part)?;
    if !found.starts_with(sha256) {
        fs::remove_file(&part).map_err(io_error(&part, "remove"))?;
        return Err(Error::Input(format!(
            "{url}: the SHA-256 of what came is {found}, that of the published file starts with {sha256}; nothing was kept"
        )));
    }
    fs::rename(&part, &path).map_err(io_error(&path, "create"))?;
    sync_folder(&path)?;
    Ok(Pulled { path, bytes, sha256: found, pinned_digits: sha256.len(), downloaded: true })
}

/// Where a download is until it is whole: beside its final place, so that it can be renamed.
fn part_of(path: &Path) -> Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::Input(format!("{}: this is no name of a file", shown(path))))?;
    let mut part = name.to_owned();
    part.push(".part");
    Ok(path.with_file_name(part))
}

/// Downloads what is missing of `part`.
fn download(url: &str, part: &Path, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .append(true)
        .open(part)
        .map_err(io_error(part, "create"))?;
    let have = file.metadata().map_err(io_error(part, "read"))?.len();
    let failed = |error: ureq::Error, done: u64| {
        Error::Input(match done {
            0 => format!("{url}: {error}"),
            _ => {
                format!("{url}: {error}; {} holds what has come: run the command again to go on", shown(part))
            }
        })
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .http_status_as_error(false)
        .user_agent(concat!("offshoot/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response = request.call().map_err(|error| failed(error, have))?;
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let length = header("content-length").and_then(|text| text.parse::<u64>().ok());
    let goes_on = header("content-range").is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
    let start = match response.status().as_u16() {
        200 => 0,
        206 if goes_on => have,
        // Nothing is missing, or the part is of another file: the hash tells.
        416 if have > 0 => return Ok(()),
        status => return Err(Error::Input(format!("{url}: the server answers with status {status}"))),
    };
    if start == 0 {
        file.set_len(0).map_err(io_error(part, "write"))?;
        file.rewind().map_err(io_error(part, "write"))?;
    }
    let total = length.map(|length| start.saturating_add(length));
    let mut reader = response.into_body().into_reader();
    let (mut buffer, mut done) = (vec![0; 1 << 16], start);
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error.into(), done)),
        };
        done += count as u64;
        if done > MAX_BYTES {
            file.set_len(0).map_err(io_error(part, "write"))?;
            return Err(Error::Input(format!(
                "{url}: more than {MAX_BYTES} bytes came; no weights are so large"
            )));
        }
        file.write_all(&buffer[..count]).map_err(io_error(part, "write"))?;
        progress(done, total);
    }
    if total.is_some_and(|total| done < total) {
        return Err(failed(io::Error::from(io::ErrorKind::UnexpectedEof).into(), done));
    }
    file.sync_all().map_err(io_error(part, "write"))
}

/// Size and SHA-256 of a file.
fn hash(path: &Path) -> Result<(u64, String)> {
    let bytes = fs::metadata(path).map_err(io_error(path, "read"))?.len();
    Ok((bytes, sha256(path)?))
}

/// Makes the new name of a file last.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    offshoot_files::sync_folder(folder).map_err(io_error(folder, "write"))
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, action, source }
}
