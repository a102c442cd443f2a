//! Folders that a new run may have: empty ones, and those of a run that never reached a checkpoint.

use std::fs;
use std::io;
use std::path::Path;

use offshoot_files::{Kind, read_text};

use crate::recipe::Recipe;
use crate::run::{
    BASE_FILE, BASE_HASH_FILE, GROUPS_FILE, LAST_FILE, PICTURES_FILE, RECIPE_FILE, RunError, has_checkpoint,
    is_temporary,
};

/// The folder of cached features, where they are cached with the run.
const CACHE: &str = "cache";

/// What a run has written before its first checkpoint is whole. A finished epoch leaves more.
const BEFORE: [&str; 7] =
    [RECIPE_FILE, PICTURES_FILE, GROUPS_FILE, BASE_FILE, BASE_HASH_FILE, LAST_FILE, CACHE];

/// Checks that nothing is in the way of a new run in the folder `run`. What a run has left that never reached a checkpoint is not:
/// [`clear`] removes it.
pub(crate) fn check(run: &Path) -> Result<(), RunError> {
    let name = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A folder called as a file of a run is somebody's.
        let is_folder = name != CACHE && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder { name + "/" } else { name }
    };
    let names = match fs::read_dir(run) {
        Ok(entries) => entries.map(|entry| Some(name(entry.ok()?))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => return Err(RunError::Occupied { run: run.to_owned() }),
    };
    let names: Option<Vec<String>> = names.collect();
    let names = names.unwrap_or_default();
    let ours = |name: &String| BEFORE.contains(&&**name) || is_temporary(name);
    // The recipe is the first file that a run writes under its own name, and not one that somebody wrote.
    let started = names.iter().all(|name| is_temporary(name)) || is_recipe_of_run(run);
    match has_checkpoint(run) {
        true => Err(RunError::Exists { run: run.to_owned() }),
        false if started && names.iter().all(ours) => Ok(()),
        false => Err(RunError::Occupied { run: run.to_owned() }),
    }
}

/// Whether the folder has a recipe that a run wrote, to the letter.
fn is_recipe_of_run(run: &Path) -> bool {
    let text = read_text(&run.join(RECIPE_FILE), Kind::RECIPE).unwrap_or_default();
    Recipe::read(run).is_ok_and(|recipe| recipe.to_toml() == text)
}

/// Removes what [`check`] allows, of a run that nobody trains any more.
pub(crate) fn clear(run: &Path) -> Result<(), RunError> {
    check(run)?;
    for name in BEFORE {
        let path = run.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RunError::Remove { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use offshoot_graph::Preprocessing;

    use super::*;
    use crate::recipe::Settings;
    use crate::run::{BEST_FILE, RESULTS_FILE, STATE_FILE};

    fn with(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(root.path().join(name), "x").unwrap());
        if names.contains(&RECIPE_FILE) {
            recipe().write(root.path()).unwrap();
        }
        root
    }

    fn recipe() -> Recipe {
        let settings = Settings { model: Some("m".into()), data: Some("d".into()), ..Settings::default() };
        Recipe::resolve(settings, &Preprocessing::default()).unwrap()
    }

    #[test]
    fn a_recipe_that_somebody_wrote_is_kept() {
        let root = with(&[RECIPE_FILE]);
        let path = root.path().join(RECIPE_FILE);
        let text = format!("# mine\n{}", fs::read_to_string(&path).unwrap());
        for text in [text.as_str(), "lr = 0.1", "x"] {
            fs::write(&path, text).unwrap();
            let error = clear(root.path()).unwrap_err().to_string();
            assert!(error.contains("`out`") && fs::read_to_string(&path).unwrap() == text, "{error}");
        }
    }

    #[test]
    fn a_folder_is_free_when_nothing_or_no_checkpoint_is_in_it() {
        check(&with(&[]).path().join("a/b")).unwrap();
        for free in [
            &[][..],
            &[RECIPE_FILE],
            &[RECIPE_FILE, PICTURES_FILE, LAST_FILE, BASE_FILE],
            &[".recipe.tomlx1.tmp"],
        ] {
            let root = with(free);
            check(root.path()).unwrap();
            clear(root.path()).unwrap();
            let left =
                fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            // A lock on the folder removes the temporary ones.
            assert!(left.into_iter().all(|name| name.ends_with(".tmp")), "{free:?}");
        }
    }

    #[test]
    fn nothing_of_others_and_no_model_is_overwritten() {
        let foreign = [
            &["note.txt"][..],
            &[RECIPE_FILE, "note.txt"],
            &[PICTURES_FILE],
            &[RECIPE_FILE, BEST_FILE],
            &[RECIPE_FILE, RESULTS_FILE],
            &[".mine.tmp"],
        ];
        for names in foreign {
            let root = with(names);
            let error = clear(root.path()).unwrap_err().to_string();
            assert!(error.contains("`out`") && !error.contains("`resume`"), "{error}");
            assert!(names.iter().all(|name| root.path().join(name).exists()));
        }
        for name in ["photos", GROUPS_FILE] {
            let root = with(&[RECIPE_FILE]);
            fs::create_dir(root.path().join(name)).unwrap();
            let error = clear(root.path()).unwrap_err().to_string();
            assert!(error.contains("`out`") && root.path().join(name).is_dir(), "{error}");
        }
        let error = check(with(&[RECIPE_FILE, STATE_FILE]).path()).unwrap_err().to_string();
        assert!(error.contains("`resume`") && error.contains("`out`"), "{error}");
        assert!(check(&with(&["note.txt"]).path().join("note.txt")).is_err());
    }
}
