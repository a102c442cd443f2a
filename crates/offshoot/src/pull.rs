//! Published weights over HTTPS.

mod address;
mod hub;
mod part;
mod proxies;
mod transfer;

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use offshoot_graph::remedy::{OUT, WEIGHTS};
use offshoot_graph::text::shown;
use offshoot_models::{Published, UnknownArchitecture, find};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::hash::sha256;
use address::Address;
pub use hub::{HUB, PulledFile, PulledFolder, pull_folder};
use part::Part;
use proxies::Proxies;
pub use transfer::Patience;

/// Twice the largest file of weights that is published for the registry's architectures.
const MAX_BYTES: u64 = 1 << 30;

/// What to bring.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PullOptions {
    /// The file to write; the published name in the current folder where not given.
    pub out: Option<PathBuf>,
    /// Where the published files are instead, as `https://mirror.example/models`. A name and a password in it are sent and
    /// never printed.
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

/// What is known of a file to download.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The start of its SHA-256 in hexadecimal.
    pub sha256: String,
    /// The sizes that it may have. `None` where that is not known; then it has 1 GiB at most.
    pub bytes: Option<RangeInclusive<u64>>,
    /// How long to wait for it.
    pub patience: Patience,
}

/// Brings the published weights called `name`: that of an architecture for the best of them, or with a version behind it
/// (`resnet50.IMAGENET1K_V1`, or short `resnet50.V1`). See [`fetch_wanted`] for how.
///
/// # Errors
/// When there are no such weights or no hash of them is known, the base URL is none, and as [`fetch_wanted`].
pub fn pull(name: &str, options: &PullOptions, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<Pulled> {
    let published = find_published(name)?;
    let Published { url, sha256, .. } = published;
    if sha256.is_empty() {
        return Err(Error::advice(format_args!(
            "{name}: no hash of the published weights is known, so that they cannot be checked; download {url} yourself and \
             give it with {WEIGHTS} FILE"
        )));
    }
    let file_name = url.rsplit('/').next().unwrap_or(name);
    let path = options.out.clone().unwrap_or_else(|| file_name.into());
    if path.to_str().is_none() {
        return Err(Error::advice(format_args!(
            "{}: the name is not UTF-8, and the result can hold no other; choose another with {OUT}",
            shown(&path)
        )));
    }
    let address = match &options.base_url {
        Some(base) => parsed(base)?.file(file_name),
        None => parsed(url)?,
    };
    let wanted =
        Wanted { sha256: sha256.to_owned(), bytes: published.bytes(), patience: Patience::default() };
    bring(&address, &wanted, path, progress)
}

/// The published weights called `name`, see [`pull`].
fn find_published(name: &str) -> Result<Published> {
    let (first, version) = match name.split_once('.') {
        Some((first, version)) => (first, Some(version)),
        None => (name, None),
    };
    // The name in the message is the one that was given.
    let architecture =
        find(first).map_err(|unknown| UnknownArchitecture { name: name.to_owned(), ..unknown })?;
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

/// A URL that was given. It is in no message, for it may hold a password.
fn parsed(url: &str) -> Result<Address> {
    Address::parse(url).ok_or_else(|| {
        Error::Input(
            "the base URL is none: give one as https://mirror.example/models, http:// or https://".into(),
        )
    })
}

/// [`fetch_wanted`] of a file of which only the start of its SHA-256 in hexadecimal is known.
///
/// # Errors
/// As there.
pub fn fetch(
    url: &str,
    sha256: &str,
    path: PathBuf,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Pulled> {
    fetch_wanted(url, &Wanted { sha256: sha256.to_owned(), ..Wanted::default() }, path, progress)
}

/// Brings the file at the `http://` or `https://` URL `url` to `path`, if it is not there. A download that broke off goes on where it stopped: until it is whole the
/// file has `.part` at the end of its name. Of several at once one downloads, and the others wait for it. A file with another
/// hash than the wanted one is deleted. `progress` is given the bytes so far and, where the server says it, of how many.
///
/// The proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) are used.
///
/// # Errors
/// When the server does not give the file, in time, whole, and of a size that it may have; it cannot be written, or its hash is
/// another one.
pub fn fetch_wanted(
    url: &str,
    wanted: &Wanted,
    path: PathBuf,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Pulled> {
    bring(&parsed(url)?, wanted, path, progress)
}

fn bring(
    address: &Address,
    wanted: &Wanted,
    path: PathBuf,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Pulled> {
    if let Some(there) = present(&path, wanted)? {
        return Ok(there);
    }
    let proxies = Proxies::of_environment()?;
    let stalled = wanted.patience.longest_pause();
    let Some(mut part) = Part::open(&path, stalled, &mut |bytes| progress(bytes, None))? else {
        return present(&path, wanted)?.ok_or_else(|| {
            Error::Input(format!("{}: another process has made and removed it; try again", shown(&path)))
        });
    };
    let went_on = download(address, wanted, &proxies, &mut part, progress)?;
    let mut found = part.sha256()?;
    if went_on && !found.starts_with(&wanted.sha256) {
        // What was there before was the start of something else.
        part.clear()?;
        download(address, wanted, &proxies, &mut part, progress)?;
        found = part.sha256()?;
    }
    if !found.starts_with(&wanted.sha256) {
        part.remove()?;
        return Err(Error::Input(format!(
            "{address}: the SHA-256 of what came is {found}, that of the published file starts with {}; nothing was kept",
            wanted.sha256
        )));
    }
    let bytes = part.len()?;
    part.keep_as(&path)?;
    Ok(Pulled { path, bytes, sha256: found, pinned_digits: wanted.sha256.len(), downloaded: true })
}

/// The file at `path`, which is the wanted one. `None` where there is none.
fn present(path: &Path, wanted: &Wanted) -> Result<Option<Pulled>> {
    let Wanted { sha256: start, .. } = wanted;
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(path, "read")(source)),
    };
    if !meta.is_file() {
        return Err(Error::advice(format_args!(
            "{}: this is there and no plain file; choose the name of a file with {OUT}",
            shown(path)
        )));
    }
    let found = sha256(path)?;
    if !found.starts_with(start) {
        return Err(Error::advice(format_args!(
            "{}: the file is there, but its SHA-256 {found} does not start with {start}; remove it or choose another with \
             {OUT}",
            shown(path)
        )));
    }
    let (path, bytes, pinned_digits) = (path.to_owned(), meta.len(), start.len());
    Ok(Some(Pulled { path, bytes, sha256: found, pinned_digits, downloaded: false }))
}

/// Downloads what is missing of `part`. Whether it went on with what was there.
fn download(
    address: &Address,
    wanted: &Wanted,
    proxies: &Proxies,
    part: &mut Part,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<bool> {
    let most = wanted.bytes.as_ref().map_or(MAX_BYTES, |bytes| *bytes.end());
    if part.len()? > most {
        part.clear()?;
    }
    let have = part.len()?;
    let answer = transfer::get(address, have, most, proxies, wanted.patience)?;
    let from = answer.from.clone();
    let refused = |reason: String| Err(Error::Input(format!("{from}: {reason}")));
    let start = match (answer.status(), answer.range()) {
        (200, _) => 0,
        (206, Some((first, _))) if have > 0 && first == have => have,
        // Nothing is missing, or the part is of another file: the hash tells.
        (416, _) if have > 0 => return Ok(true),
        (206, _) if have > 0 => {
            part.clear()?;
            return download(address, wanted, proxies, part, progress);
        }
        (status, _) => return refused(format!("the server responded with status {status}")),
    };
    if let Some(reason) = answer.is_no_file() {
        return refused(reason);
    }
    let total = answer.length().map(|length| start.saturating_add(length));
    let of_range = answer.range().and_then(|(_, total)| total).filter(|_| start > 0);
    let least = wanted.bytes.as_ref().map_or(0, |bytes| *bytes.start());
    if let Some(bytes) = total.into_iter().chain(of_range).find(|bytes| !(least..=most).contains(bytes)) {
        let kept = if have == 0 { "; nothing was kept" } else { "" };
        return refused(match wanted.bytes {
            Some(_) => format!(
                "the server promises a file of {bytes} bytes, and the published one has about {most}{kept}"
            ),
            None => {
                format!("the server promises a file of {bytes} bytes; no weights are so large{kept}")
            }
        });
    }
    if start == 0 {
        part.clear()?;
    }
    let mut done = start;
    let ended = answer.read(|bytes| {
        done += bytes.len() as u64;
        if done > most {
            part.clear()?;
            return Err(Error::Input(format!(
                "{address}: more than {most} bytes came; the published file is not so large"
            )));
        }
        part.append(bytes)?;
        progress(done, total);
        Ok(())
    })?;
    let short = done < total.unwrap_or(least);
    let broke = ended.or_else(|| short.then(|| "the connection broke off".to_owned()));
    match broke {
        None => Ok(start > 0),
        Some(reason) if done == 0 => refused(reason),
        Some(reason) => refused(format!(
            "{reason}; {} holds what has come: run the command again to go on",
            shown(part.path())
        )),
    }
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, action, source }
}
