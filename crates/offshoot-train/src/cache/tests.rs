use super::*;

fn cache(budget: u64) -> (tempfile::TempDir, Cache) {
    let root = tempfile::tempdir().unwrap();
    let options = CacheOptions { folder: Some(root.path().join("a/b")), budget };
    let cache = Cache::new(&options, root.path()).unwrap();
    (root, cache)
}

fn layout(dtype: CacheType) -> Layout {
    Layout { shape: vec![3], dtype, rows: 4 }
}

fn key(n: u8) -> Hash {
    blake3::hash(&[n])
}

const ROWS: [[f32; 3]; 3] = [[1.0, -2.5, 1e-9], [0.1, 0.2, 0.3], [4.0, 1e9, 6.0]];

/// Rows 0, 1 and 3; the picture of row 2 is broken.
fn fill(cache: &Cache, key: Hash, dtype: CacheType) -> Result<RowFile, CacheError> {
    let mut writer = cache.create(key, layout(dtype), 1)?;
    for (row, values) in [0, 1, 3].into_iter().zip(&ROWS) {
        writer.put(row, values)?;
    }
    writer.finish(vec![(2, "it is broken".into())])
}

fn read(file: &RowFile, row: usize) -> Option<Vec<f32>> {
    let mut values = Vec::new();
    file.read(row, &mut values).map(|()| values)
}

#[test]
fn rows_come_back_as_they_were_and_rounded_where_asked_for() {
    let (_root, cache) = cache(1 << 20);
    assert!(cache.open(key(1)).is_none());
    for dtype in [CacheType::F32, CacheType::F16] {
        let written = fill(&cache, key(1), dtype).unwrap();
        let found = cache.open(key(1)).unwrap();
        assert_eq!(found.layout(), &layout(dtype));
        assert_eq!(found.unusable(), [(2, "it is broken".to_string())]);
        for (row, values) in [0, 1, 3].into_iter().zip(ROWS) {
            let mut expected = values.to_vec();
            dtype.round(&mut expected);
            assert_eq!(read(&written, row).unwrap(), expected);
            assert_eq!(read(&found, row).unwrap(), expected);
            assert_eq!(expected == values, dtype == CacheType::F32);
        }
    }
    assert!(cache.open(key(2)).is_none());
}

#[test]
fn every_cut_and_every_changed_byte_is_found() {
    let (_root, cache) = cache(1 << 20);
    drop(fill(&cache, key(1), CacheType::F32).unwrap());
    let path = cache.path(key(1));
    let whole = fs::read(&path).unwrap();
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(cache.open(key(1)).is_none(), "cut to {len}");
        assert!(!path.exists());
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&path, &changed).unwrap();
        let Some(file) = cache.open(key(1)) else { continue };
        let rows: Vec<_> = [0, 1, 3].into_iter().map(|row| read(&file, row)).collect();
        // The place of the row that holds nothing is not read.
        let unread = (MAGIC.len() + 2 * 20..MAGIC.len() + 3 * 20).contains(&at);
        assert_eq!(rows.iter().all(Option::is_some), unread, "byte {at}");
        for (row, expected) in rows.iter().zip(ROWS).filter_map(|(row, e)| Some((row.as_ref()?, e))) {
            assert_eq!(row, &expected);
        }
    }
    // Of another key, under this name.
    drop(fill(&cache, key(2), CacheType::F32).unwrap());
    fs::rename(cache.path(key(2)), &path).unwrap();
    assert!(cache.open(key(1)).is_none());
}

#[test]
fn a_file_cut_short_while_it_is_open_is_found() {
    let (_root, cache) = cache(1 << 20);
    let file = fill(&cache, key(1), CacheType::F32).unwrap();
    File::options().write(true).open(cache.path(key(1))).unwrap().set_len(30).unwrap();
    assert!(read(&file, 0).is_some() && read(&file, 3).is_none());
    assert!(!cache.path(key(1)).exists());
}

/// Makes the file look as if it was used so many hours ago.
fn age(path: &Path, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(3600 * hours);
    File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

#[test]
fn the_longest_unused_make_room_and_those_in_use_stay() {
    let (_root, mut cache) = cache(1 << 20);
    let fill = |cache: &Cache, n| fill(cache, key(n), CacheType::F32);
    let there = |cache: &Cache| [0, 1, 2, 3].map(|n| cache.path(key(n)).exists());
    drop(fill(&cache, 0).unwrap());
    let bytes = fs::metadata(cache.path(key(0))).unwrap().len();
    cache.budget = bytes * 2 + 50;
    drop(fill(&cache, 1).unwrap());
    age(&cache.path(key(1)), 2);
    age(&cache.path(key(0)), 1);
    // Reading makes it the last to go.
    drop(cache.open(key(1)).unwrap());
    let two = fill(&cache, 2).unwrap();
    assert_eq!(there(&cache), [false, true, true, false]);
    let one = cache.open(key(1)).unwrap();
    let error = fill(&cache, 3).unwrap_err();
    assert!(matches!(error, CacheError::NoRoom { .. }) && error.to_string().contains("`cache_budget`"));
    drop(two);
    fill(&cache, 3).unwrap();
    assert_eq!(there(&cache), [false, true, false, true]);
    assert_eq!(read(&one, 1).unwrap(), ROWS[1]);
}

#[test]
fn what_killed_processes_left_is_removed_and_what_is_in_the_making_is_not() {
    let (_root, cache) = cache(1 << 20);
    let writer = cache.create(key(1), layout(CacheType::F32), 1).unwrap();
    let temporary = writer.out.get_ref().path().to_owned();
    let left = cache.folder.join(format!(".{}abc.tmp", key(9)));
    fs::write(&left, "half a file").unwrap();
    for path in [&temporary, &left] {
        age(path, 1);
    }
    drop(fill(&cache, key(2), CacheType::F32).unwrap());
    assert!(temporary.exists() && !left.exists());
    drop(writer);
    assert!(!temporary.exists() && !cache.path(key(1)).exists());
}

#[test]
fn nothing_of_others_is_removed() {
    let (_root, mut cache) = cache(1 << 20);
    let others = ["notes.tmp", ".left.tmp", "iris.features", &format!("{}0.features", key(5)), "x"];
    let write = |cache: &Cache| {
        fs::create_dir_all(&cache.folder).unwrap();
        for name in others {
            fs::write(cache.folder.join(name), [0; 4096]).unwrap();
            age(&cache.folder.join(name), 2);
        }
    };
    let all_there = |cache: &Cache| others.iter().all(|name| cache.folder.join(name).exists());
    // In a folder of our own, where somebody left them.
    drop(fill(&cache, key(0), CacheType::F32).unwrap());
    write(&cache);
    let bytes = fs::metadata(cache.path(key(0))).unwrap().len();
    cache.budget = bytes + 50;
    drop(fill(&cache, key(1), CacheType::F32).unwrap());
    assert!(all_there(&cache) && !cache.path(key(0)).exists());
    // In a folder of theirs not even files with names like ours are.
    cache.folder = cache.folder.join("theirs");
    write(&cache);
    for name in [format!("{}.features", key(7)), format!(".{}abc.tmp", key(7))] {
        fs::write(cache.folder.join(&name), [0; 60]).unwrap();
        age(&cache.folder.join(name), 2);
    }
    assert!(cache.open(key(7)).is_none());
    // Enough for the rows alone.
    cache.budget = 100;
    let error = fill(&cache, key(1), CacheType::F32).unwrap_err();
    assert!(matches!(error, CacheError::Unmarked { .. }), "{error}");
    assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), others.len() + 2);
    cache.budget = 1 << 20;
    let file = fill(&cache, key(1), CacheType::F32).unwrap();
    File::options().write(true).open(cache.path(key(1))).unwrap().set_len(30).unwrap();
    assert!(read(&file, 0).is_some() && read(&file, 3).is_none() && cache.path(key(1)).exists());
}

#[cfg(unix)]
#[test]
fn others_may_read_the_files_as_the_umask_says() {
    use std::os::unix::fs::PermissionsExt;
    let (_root, cache) = cache(1 << 20);
    drop(fill(&cache, key(0), CacheType::F32).unwrap());
    let plain = cache.folder.join("plain");
    fs::write(&plain, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&cache.path(key(0))), mode(&plain));
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let options = CacheOptions { folder: Some(file.join("x")), budget: 1 << 20 };
    let cache = Cache::new(&options, root.path()).unwrap();
    let error = fill(&cache, key(1), CacheType::F32).unwrap_err().to_string();
    assert!(error.contains("file/x") && error.contains("`cache_dir`"), "{error}");
    assert!(Cache::new(&CacheOptions { budget: 0, ..options }, root.path()).is_none());
}
