//! Folders of the Hugging Face hub, `hf:OWNER/NAME[@REVISION]`, checked by the hashes that the hub gives.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use offshoot_formats::atomic::write_atomically;
use offshoot_graph::remedy::OUT;
use offshoot_graph::text::{quoted, shown};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::address::Address;
use super::proxies::Proxies;
use super::{Patience, PullOptions, Wanted, bring, io_error, transfer};
use crate::error::{Error, Result};
use crate::hash::{hex, sha256_of};

/// What a name of the hub starts with.
pub const HUB: &str = "hf:";

/// Where the hub is, unless the variable HF_ENDPOINT or a base URL says another place.
const ENDPOINT: &str = "https://huggingface.co";

/// The files that are brought, and whether a folder must have them.
const FILES: [(&str, bool); 3] =
    [("config.json", true), ("preprocessor_config.json", false), ("model.safetensors", true)];

/// Bytes of the largest listing, and of the largest file that is no large file of Git.
const MAX_SMALL: u64 = 8 << 20;

/// Bytes of the largest weights: no image classifier has more.
const MAX_WEIGHTS: u64 = 16 << 30;

/// A folder of the hub that was brought, or was there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PulledFolder {
    /// The folder.
    pub path: PathBuf,
    /// The commit that its files are of.
    pub revision: String,
    /// Its files.
    pub files: Vec<PulledFile>,
}

/// A file of a [`PulledFolder`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PulledFile {
    /// Its name in the folder.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Whether it had to be downloaded.
    pub downloaded: bool,
}

/// `hf:OWNER/NAME[@REVISION]`
#[derive(Clone, Debug, PartialEq, Eq)]
struct Repository<'a> {
    owner: &'a str,
    name: &'a str,
    revision: &'a str,
}

#[derive(Deserialize)]
struct Listing {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    /// SHA-1 of a blob of Git.
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

/// Brings `config.json`, `preprocessor_config.json` and `model.safetensors` of a repository of the Hugging Face hub into a folder, by
/// default one in the current folder that has the repository's name. Small files are checked by the hash of Git, large ones by their
/// SHA-256. The variable HF_TOKEN is sent to the hub, and nowhere else, where it is set.
///
/// # Errors
/// When the name or the base URL is none, the hub does not give the listing or a file, or a file has another hash.
pub fn pull_folder(
    name: &str,
    options: &PullOptions,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PulledFolder> {
    let repository = Repository::parse(name)?;
    let hub = hub(options.base_url.as_deref())?;
    let Listing { sha, siblings } = listing(&repository, &hub)?;
    if !is_hexadecimal(&sha, 40) {
        return Err(Error::Input(format!("{name}: the hub's listing names no commit")));
    }
    let wanted = wanted(name, &siblings)?;
    let path = options.out.clone().unwrap_or_else(|| repository.name.into());
    if path.to_str().is_none() {
        return Err(Error::advice(format_args!(
            "{}: the name is not UTF-8; choose another with {OUT}",
            shown(&path)
        )));
    }
    fs::create_dir_all(&path).map_err(io_error(&path, "create"))?;
    let folder = hub.file(&format!("{}/{}/resolve/{sha}", repository.owner, repository.name));
    let mut files = Vec::new();
    for (name, sibling) in wanted {
        let target = path.join(name);
        let address = folder.file(name);
        files.push(match &sibling.lfs {
            Some(large) => bring_large(name, &address, large, target, progress)?,
            None => bring_small(name, &address, sibling, &target)?,
        });
    }
    Ok(PulledFolder { path, revision: sha, files })
}

impl Repository<'_> {
    fn parse(text: &str) -> Result<Repository<'_>> {
        let is_part = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && part.len() < 200 && part.chars().all(known) && !part.contains("..")
        };
        let of = || {
            let (path, revision) = match text.strip_prefix(HUB)?.split_once('@') {
                Some((path, revision)) => (path, revision),
                None => (text.strip_prefix(HUB)?, "main"),
            };
            let (owner, name) = path.split_once('/')?;
            let whole = is_part(owner) && is_part(name) && revision.split('/').all(is_part);
            whole.then_some(Repository { owner, name, revision })
        };
        of().ok_or_else(|| {
            Error::Input(format!(
                "{}: no repository is called so; name one as {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION",
                quoted(text)
            ))
        })
    }
}

fn hub(base_url: Option<&str>) -> Result<Address> {
    let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|text| !text.is_empty());
    let text = base_url.map(str::to_owned).or(endpoint).unwrap_or_else(|| ENDPOINT.to_owned());
    let hub = super::parsed(&text)?;
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
    Ok(match token.filter(|_| hub.is_secure() || ["localhost", "127.0.0.1", "::1"].contains(&hub.host())) {
        Some(token) => hub.with_token(token),
        None => hub,
    })
}

fn listing(repository: &Repository<'_>, hub: &Address) -> Result<Listing> {
    let Repository { owner, name, revision } = repository;
    let revision = revision.replace('/', "%2F");
    let address = hub.file(&format!("api/models/{owner}/{name}/revision/{revision}")).asking("blobs=true");
    let bytes = small(&address, MAX_SMALL)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Input(format!("{address}: this is no listing of a repository: {error}")))
}

/// The files to bring, in the order of [`FILES`].
fn wanted<'a>(name: &str, siblings: &'a [Sibling]) -> Result<Vec<(&'static str, &'a Sibling)>> {
    let mut found = Vec::new();
    for (file, needed) in FILES {
        match siblings.iter().find(|sibling| sibling.rfilename == file) {
            Some(sibling) => found.push((file, sibling)),
            None if needed => {
                let others: Vec<_> =
                    siblings.iter().take(20).map(|s| quoted(&s.rfilename).to_string()).collect();
                return Err(Error::Input(format!(
                    "{name}: the repository has no {file}, without which it is no classifier in the form of transformers or timm; it has {}",
                    others.join(", ")
                )));
            }
            None => {}
        }
    }
    Ok(found)
}

fn bring_large(
    name: &'static str,
    address: &Address,
    LargeFile { sha256, size }: &LargeFile,
    target: PathBuf,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PulledFile> {
    if !is_hexadecimal(sha256, 64) || *size > MAX_WEIGHTS {
        return Err(Error::Input(format!(
            "{address}: the hub's listing has no SHA-256 of it, or a size of more than {MAX_WEIGHTS} bytes"
        )));
    }
    let wanted = Wanted { sha256: sha256.clone(), bytes: Some(*size..=*size), patience: Patience::default() };
    let pulled = bring(address, &wanted, target, progress)?;
    Ok(PulledFile { name, bytes: pulled.bytes, sha256: pulled.sha256, downloaded: pulled.downloaded })
}

fn bring_small(
    name: &'static str,
    address: &Address,
    sibling: &Sibling,
    target: &Path,
) -> Result<PulledFile> {
    let blob = sibling
        .blob
        .as_deref()
        .filter(|blob| is_hexadecimal(blob, 40))
        .ok_or_else(|| Error::Input(format!("{address}: the hub's listing has no hash of it")))?;
    let made = |bytes: &[u8], downloaded| {
        let sha256 = sha256_of(&mut &bytes[..]).map_err(io_error(target, "read"))?;
        Ok(PulledFile { name, bytes: bytes.len() as u64, sha256, downloaded })
    };
    match read_small(target) {
        Ok(bytes) if blob_hash(&bytes) == blob => return made(&bytes, false),
        Ok(_) => {
            return Err(Error::advice(format_args!(
                "{}: another file is there; remove it or choose another folder with {OUT}",
                shown(target)
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(io_error(target, "read")(source)),
    }
    let bytes = small(address, sibling.size.unwrap_or(MAX_SMALL).min(MAX_SMALL))?;
    let found = blob_hash(&bytes);
    if found != blob {
        return Err(Error::Input(format!(
            "{address}: Git's hash of what came is {found}, that of the listed file {blob}; nothing was kept"
        )));
    }
    write_atomically(target, |file| file.write_all(&bytes))?;
    made(&bytes, true)
}

/// The start of a file, one byte more than the hub's may have.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    offshoot_files::open(path)?.take(MAX_SMALL + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What Git calls a file with this content.
fn blob_hash(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The content of a file of `most` bytes at most.
fn small(address: &Address, most: u64) -> Result<Vec<u8>> {
    let answer = transfer::get(address, 0, most, &Proxies::of_environment()?, Patience::default())?;
    let from = answer.from.clone();
    let refused = |reason: String| Error::Input(format!("{from}: {reason}"));
    match answer.status() {
        200 => {}
        401 | 403 => {
            return Err(refused(
                "the hub refuses: there is no such repository, or it is private or gated. Accept its terms on the hub's page and set HF_TOKEN".into(),
            ));
        }
        404 => return Err(refused("the hub has no such repository, revision or file".into())),
        status => return Err(refused(format!("the server responded with status {status}"))),
    }
    if let Some(reason) = answer.is_no_file() {
        return Err(refused(reason));
    }
    let mut bytes = Vec::new();
    let ended = answer.read(|more| {
        bytes.extend_from_slice(more);
        match bytes.len() as u64 > most {
            true => Err(Error::Input(format!("{address}: more than {most} bytes came"))),
            false => Ok(()),
        }
    })?;
    ended.map_or(Ok(bytes), |reason| Err(refused(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git() {
        // git hash-object of an empty file, and of "hello\n"
        assert_eq!(blob_hash(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(blob_hash(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn names_of_repositories_are_read() {
        let of =
            |text| Repository::parse(text).map(|r| [r.owner, r.name, r.revision].map(str::to_owned)).ok();
        let owned = |parts: [&str; 3]| Some(parts.map(str::to_owned));
        assert_eq!(of("hf:timm/resnet18.a1_in1k"), owned(["timm", "resnet18.a1_in1k", "main"]));
        assert_eq!(of("hf:google/vit@refs/pr/1"), owned(["google", "vit", "refs/pr/1"]));
        for wrong in [
            "hf:",
            "hf:vit",
            "hf:a/b/c",
            "hf:a/b@",
            "hf:a/../b",
            "hf:../b",
            "hf:a/b@..",
            "hf:a/b@x//y",
            "hf:a/b?c",
            "hf:a b/c",
            "hf:a/b@x y",
            "hf:a/b#c",
            "hf:a/%2e%2e",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
