//! Places where files are to be written, tried before the work.

use std::io;
use std::path::Path;

/// Whether a file can be written at `path`: there is a folder for it where one can write, and nothing is in the way but a
/// regular file, which would be replaced. It is found out by making a file in the folder, which is removed at once.
///
/// # Errors
/// What is in the way.
pub fn check_file(path: &Path) -> io::Result<()> {
    if path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidFilename, "it names no file"));
    }
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder is in the way"));
        }
        Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
            return Err(io::Error::other("a pipe, a device or a socket is in the way"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    try_writing(folder.unwrap_or(Path::new(".")))
}

/// Whether files can be written into the folder `path`, which need not be there yet.
///
/// # Errors
/// What is in the way.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let here =
        path.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.symlink_metadata().is_ok());
    if here == Some(path) && !path.as_os_str().is_empty() && !path.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no folder"));
    }
    try_writing(here.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// An error of a temporary file without its name, which is nobody's business.
pub fn plain(error: io::Error) -> io::Error {
    match (error.raw_os_error(), error.kind()) {
        (Some(_), _) => error,
        (None, kind) => match system_error(&error.to_string()) {
            Some(code) => io::Error::from_raw_os_error(code),
            None if kind == io::ErrorKind::Other => error,
            None => kind.into(),
        },
    }
}

/// The number of the system's error in a message: `tempfile` wraps such an error together with the name, and gives out neither alone.
fn system_error(message: &str) -> Option<i32> {
    let (_, rest) = message.split_once("(os error ")?;
    rest.split_once(')')?.0.parse().ok()
}

fn try_writing(folder: &Path) -> io::Result<()> {
    match folder.metadata() {
        Ok(meta) if !meta.is_dir() => {
            let text = match folder.file_name() {
                Some(name) => format!("`{}` is no folder", name.to_string_lossy().escape_debug()),
                None => "it is no folder".to_owned(),
            };
            Err(io::Error::new(io::ErrorKind::NotADirectory, text))
        }
        // Without a name, where the file system can do that: nobody sees it.
        Ok(_) => tempfile::tempfile_in(folder).map(drop).map_err(plain),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::new(io::ErrorKind::NotFound, "there is no such folder"))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_place_is_tried_and_left_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "old").unwrap();
        fs::create_dir(at("folder")).unwrap();
        assert!(check_file(&at("new")).is_ok() && check_file(&at("file")).is_ok());
        assert!(check_folder(&at("folder")).is_ok() && check_folder(&at("folder/a/b")).is_ok());
        let kind = |tried: io::Result<()>| tried.unwrap_err().kind();
        assert_eq!(kind(check_file(&at("none/x"))), io::ErrorKind::NotFound);
        assert_eq!(kind(check_file(&at("folder"))), io::ErrorKind::IsADirectory);
        assert_eq!(kind(check_file(&at("file/x"))), io::ErrorKind::NotADirectory);
        assert_eq!(kind(check_folder(&at("file"))), io::ErrorKind::NotADirectory);
        assert_eq!(kind(check_folder(&at("file/x/y"))), io::ErrorKind::NotADirectory);
        assert_eq!(kind(check_file(Path::new("/"))), io::ErrorKind::InvalidFilename);
        let names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(fs::read(at("file")).unwrap(), b"old");
        assert_eq!(fs::read_dir(at("folder")).unwrap().count(), 0);
    }

    #[test]
    fn an_error_of_a_temporary_file_says_what_the_system_says() {
        let folder = tempfile::tempdir().unwrap();
        let error = tempfile::Builder::new().tempfile_in(folder.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none"));
        let error = plain(error);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.raw_os_error().is_some() && !error.to_string().contains("none"), "{error}");
        assert_eq!(plain(io::Error::other("it is full")).to_string(), "it is full");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_and_places_that_take_no_files_are_refused() {
        for path in ["/dev/null", "/dev/full", "/proc/x"] {
            assert!(check_file(Path::new(path)).is_err(), "{path}");
        }
        assert!(check_folder(Path::new("/proc/x")).is_err());
    }
}
