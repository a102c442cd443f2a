//! Pictures of a model's classes.

use std::path::Path;

use offshoot_data::{FolderError, FolderOptions, Labelled};

/// The pictures of a folder with a folder for each of `classes`, which may also be called by the index of the class.
///
/// # Errors
/// When there are none, or a folder is called otherwise.
pub fn labelled(root: &Path, classes: &[String], options: &FolderOptions) -> Result<Labelled, FolderError> {
    let refused = match offshoot_data::labelled(root, classes, options) {
        Err(error) => error,
        found => return found,
    };
    let indices: Vec<String> = (0..classes.len()).map(|index| index.to_string()).collect();
    match offshoot_data::labelled(root, &indices, options) {
        Ok(mut found) => {
            let name = |index: &String| {
                index.parse().ok().and_then(|i: usize| classes.get(i)).unwrap_or(index).clone()
            };
            found.absent = found.absent.iter().map(name).collect();
            Ok(found)
        }
        Err(_) => Err(refused),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A BMP file of one black pixel.
    fn pixel() -> Vec<u8> {
        let mut file = b"BM".to_vec();
        for field in [58u32, 0, 54, 40, 1, 1, 24 << 16 | 1] {
            file.extend(field.to_le_bytes());
        }
        file.resize(58, 0);
        file
    }

    #[test]
    fn folders_are_called_as_the_classes_or_by_their_indices() {
        let classes = ["ash", "oak", "yew"].map(str::to_owned);
        let labels = |folders: [&str; 2]| {
            let root = tempfile::tempdir().unwrap();
            for folder in folders {
                fs::create_dir(root.path().join(folder)).unwrap();
                fs::write(root.path().join(folder).join("a.bmp"), pixel()).unwrap();
            }
            let found = labelled(root.path(), &classes, &FolderOptions::default())?;
            let labels: Vec<usize> = found.samples.iter().map(|sample| sample.label).collect();
            Ok::<_, FolderError>((labels, found.absent))
        };
        let wanted = (vec![0, 2], vec!["oak".to_owned()]);
        assert_eq!(labels(["ash", "yew"]).unwrap(), wanted);
        assert_eq!(labels(["0", "2"]).unwrap(), wanted);
        for refused in [["0", "yew"], ["0", "3"], ["00", "1"]] {
            assert!(matches!(labels(refused), Err(FolderError::UnknownClass { .. })), "{refused:?}");
        }
    }
}
