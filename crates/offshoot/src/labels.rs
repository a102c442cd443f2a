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
