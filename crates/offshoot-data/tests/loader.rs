//! Batches: complete, in order, and the same whatever the number of threads.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use offshoot_data::{
    Augmentation, Batch, DecodeError, Draw, Loader, LoaderOptions, Sample, Transform, read_picture,
};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{Fit, Preprocessing};

const SIZE: usize = 16;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Different pictures of different formats and sizes.
fn samples() -> Vec<Sample> {
    const NAMES: [&str; 11] = [
        "wide.png",
        "tall.png",
        "small.png",
        "thin.png",
        "square.jpg",
        "rgba.png",
        "baseline_422.jpg",
        "lossless.webp",
        "palette.gif",
        "rgb.bmp",
        "grey_deflate.tif",
    ];
    let sample = |(i, name): (usize, &&str)| Sample::new(golden().join(name), i % 3);
    NAMES.iter().enumerate().map(sample).collect()
}

fn transform(fit: Fit) -> Transform {
    Transform::new(&Preprocessing { size: SIZE, resize: SIZE + 2, fit, ..Preprocessing::default() }).unwrap()
}

fn loader(fit: Fit, change: impl FnOnce(&mut LoaderOptions)) -> Loader {
    let mut options = LoaderOptions::training(&transform(fit), 4, 7);
    change(&mut options);
    Loader::new(samples(), transform(fit), options)
}

fn batches(loader: &Loader, epoch: u64) -> Vec<Batch> {
    loader.epoch(epoch).map(Result::unwrap).collect()
}

fn once(index: usize) -> Draw {
    Draw { index, repetition: 0 }
}

#[test]
fn evaluation_yields_every_picture_in_order() {
    let transform = transform(Fit::Pad);
    let loader = Loader::new(samples(), transform.clone(), LoaderOptions::evaluation(&transform, 4));
    assert_eq!(loader.batches(), 3);
    let batches = batches(&loader, 0);
    assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [4, 4, 3]);
    let indices: Vec<u64> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
    assert_eq!(indices, (0..11).collect::<Vec<u64>>());
    let images: Vec<f32> = batches.iter().flat_map(|batch| batch.images.clone()).collect();
    for (sample, (image, label)) in samples()
        .iter()
        .zip(images.chunks(transform.input_len()).zip(batches.iter().flat_map(|batch| batch.labels.clone())))
    {
        let picture = read_picture(&sample.path, &transform.decode_options()).unwrap();
        let mut expected = vec![0.0; transform.input_len()];
        transform.normalize(&transform.evaluate(&picture), &mut expected);
        assert_eq!(image, expected, "{}", sample.path.display());
        assert_eq!(label, sample.label as i64);
    }
}

#[test]
fn a_training_picture_is_keyed_by_seed_epoch_and_index() {
    let transform = transform(Fit::Crop);
    for batch in batches(&loader(Fit::Crop, |_| ()), 5) {
        for (image, &index) in batch.images.chunks(transform.input_len()).zip(&batch.indices) {
            let path = &samples()[index as usize].path;
            let picture = read_picture(path, &transform.decode_options()).unwrap();
            let mut random = Random::new(7, 5, index, Purpose::Augment);
            let mut expected = vec![0.0; transform.input_len()];
            transform.normalize(
                &transform.augment(&picture, &Augmentation::default(), &mut random),
                &mut expected,
            );
            assert_eq!(image, expected);
        }
    }
}

#[test]
fn batches_do_not_depend_on_threads_or_prefetch() {
    for fit in [Fit::Crop, Fit::Pad] {
        let reference = batches(&loader(fit, |options| options.threads = 1), 3);
        for (threads, prefetch) in [(2, 0), (3, 5), (16, 1)] {
            let other = loader(fit, |options| {
                options.threads = threads;
                options.prefetch = prefetch;
            });
            assert_eq!(reference, batches(&other, 3), "{threads} threads, {prefetch} ahead");
        }
    }
}

#[test]
fn each_epoch_has_its_order_and_its_crops() {
    let loader = loader(Fit::Crop, |_| ());
    let (first, second) = (batches(&loader, 0), batches(&loader, 1));
    assert_eq!(first, batches(&loader, 0));
    let order =
        |batches: &[Batch]| batches.iter().flat_map(|batch| batch.indices.clone()).collect::<Vec<_>>();
    assert_ne!(order(&first), order(&second));
    let all = |batches: &[Batch]| order(batches).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(all(&first), (0..11).collect());
    assert_eq!(all(&second), all(&first));
}

#[test]
fn the_cache_changes_nothing_and_spares_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut copies = samples();
    for sample in &mut copies {
        let copy = folder.path().join(sample.path.file_name().unwrap());
        fs::copy(&sample.path, &copy).unwrap();
        sample.path = copy;
    }
    for (fit, augment) in [(Fit::Crop, false), (Fit::Pad, true), (Fit::Stretch, true)] {
        let plain = loader(fit, |options| options.augment = augment.then(Augmentation::default));
        let mut options = LoaderOptions::training(&transform(fit), 4, 7);
        options.augment = augment.then(Augmentation::default);
        options.cache_bytes = 1 << 20;
        let cached = Loader::new(copies.clone(), transform(fit), options);
        assert_eq!(batches(&plain, 0), batches(&cached, 0));
        assert_eq!(batches(&plain, 1), batches(&cached, 1));
    }

    let mut options = LoaderOptions::evaluation(&transform(Fit::Pad), 4);
    // Room for five pictures.
    options.cache_bytes = SIZE * SIZE * 3 * 6 - 1;
    let cached = Loader::new(copies.clone(), transform(Fit::Pad), options);
    assert_eq!(batches(&cached, 0).len(), 3);
    copies.iter().for_each(|sample| fs::remove_file(&sample.path).unwrap());
    assert_eq!(batches(&cached, 0).iter().map(Batch::len).sum::<usize>(), 5);
    assert_eq!(cached.skipped().len(), 6);
}

/// The samples with files that cannot be decoded at three places.
#[test]
fn an_epoch_can_start_late_without_reading_what_is_before() {
    let whole = batches(&loader(Fit::Crop, |_| ()), 3);
    let late = loader(Fit::Crop, |_| ());
    for from in 0..=whole.len() + 1 {
        let rest: Vec<Batch> = late.epoch_from(3, from).map(Result::unwrap).collect();
        assert_eq!(rest, whole[from.min(whole.len())..]);
    }
    let draws: Vec<Draw> = whole[1].indices.iter().map(|&i| once(i as usize)).collect();
    assert_eq!(late.batch(&draws, 3).unwrap(), whole[1]);
    assert_eq!(late.order(3)[4..8], draws);
}

#[test]
fn views_take_turns() {
    let turns = loader(Fit::Crop, |o| o.views = std::num::NonZeroU64::new(2));
    let anew = loader(Fit::Crop, |_| ());
    let all: Vec<Draw> = (0..samples().len()).map(once).collect();
    for epoch in 0..5 {
        assert_eq!(turns.batch(&all, epoch).unwrap(), anew.batch(&all, epoch % 2).unwrap());
        assert_eq!(turns.order(epoch), anew.order(epoch));
    }
}

#[test]
fn what_is_known_to_be_unusable_is_not_tried() {
    let one = loader(Fit::Crop, |_| ());
    one.leave_out([(2, "it was broken".to_owned()), (99, "it is not there".to_owned())]);
    assert!(!one.order(0).contains(&once(2)) && one.order(0).len() == 10);
    assert!(batches(&one, 0).iter().all(|batch| !batch.indices.contains(&2)));
    assert_eq!(one.unusable(), [(2, "it was broken".to_owned())]);
    assert!(one.skipped()[0].to_string().ends_with("small.png: it was broken"), "{}", one.skipped()[0]);
}

fn with_bad_files(folder: &Path) -> Vec<Sample> {
    let mut all = samples();
    let truncated = fs::read(golden().join("rgb.png")).unwrap();
    for (at, name, content) in [
        (0, "empty.jpg", &b""[..]),
        (5, "text.png", b"text"),
        (12, "truncated.png", &truncated[..truncated.len() / 2]),
    ] {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        all.insert(at, Sample::new(path, 0));
    }
    all
}

#[test]
fn bad_pictures_are_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let transform = transform(Fit::Crop);
    let loader = Loader::new(
        with_bad_files(folder.path()),
        transform.clone(),
        LoaderOptions::evaluation(&transform, 4),
    );
    assert_eq!(loader.batches(), 4);
    for epoch in 0..2 {
        let batches = batches(&loader, epoch);
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [4, 4, 3]);
        let indices: Vec<u64> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
        assert_eq!(indices, [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 13]);
    }
    assert_eq!(loader.batches(), 3);
    let skipped: Vec<_> = loader.skipped().into_iter().map(|error| error.source).collect();
    let truncated = DecodeError::Truncated { format: "PNG" };
    assert_eq!(skipped, [DecodeError::Empty, DecodeError::NotAPicture, truncated]);
}

#[test]
fn strict_stops_at_the_first_bad_picture_of_every_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let transform = transform(Fit::Crop);
    let options = LoaderOptions { strict: true, ..LoaderOptions::evaluation(&transform, 4) };
    let loader = Loader::new(with_bad_files(folder.path()), transform, options);
    for epoch in 0..2 {
        let mut iterator = loader.epoch(epoch);
        let error = iterator.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), format!("{}/empty.jpg: the file is empty", folder.path().display()));
        assert!(iterator.next().is_none());
    }
}

#[test]
fn nothing_but_bad_pictures_is_an_epoch_without_batches() {
    let transform = transform(Fit::Crop);
    let options = LoaderOptions::training(&transform, 4, 0);
    let absent = (0..9).map(|i| PathBuf::from(format!("absent/{i}.png"))).collect();
    let loader = Loader::unlabelled(absent, transform.clone(), options.clone());
    assert!(loader.epoch(0).next().is_none());
    assert_eq!(loader.skipped().len(), 9);
    assert!(Loader::new(Vec::new(), transform, options).epoch(0).next().is_none());
}

#[test]
fn an_epoch_can_be_left_early() {
    let loader = loader(Fit::Crop, |options| options.prefetch = 100);
    let mut epoch = loader.epoch(0);
    let first = epoch.next().unwrap().unwrap();
    drop(epoch);
    assert_eq!(first, batches(&loader, 0)[0]);
}

#[test]
fn balanced_classes_have_equal_places_and_repetitions_are_other_pictures() {
    // 8 pictures of class 0, 2 of class 1, 1 of class 2.
    let mut samples = samples();
    samples.iter_mut().enumerate().for_each(|(i, s)| s.label = usize::from(i >= 8) + usize::from(i >= 10));
    let mut options = LoaderOptions::training(&transform(Fit::Pad), 4, 7);
    options.balance = true;
    let loader = Loader::new(samples.clone(), transform(Fit::Pad), options);
    let mut all = BTreeSet::new();
    for epoch in 0..30 {
        let order = loader.order(epoch);
        assert_eq!(order.len(), 11);
        let places = |label| order.iter().filter(|draw| samples[draw.index].label == label).count();
        assert!((0..3).all(|label| (3..=4).contains(&places(label))), "{order:?}");
        let repeated: Vec<u32> =
            order.iter().filter(|draw| draw.index == 10).map(|draw| draw.repetition).collect();
        assert_eq!(repeated.iter().collect::<BTreeSet<_>>().len(), repeated.len());
        assert_ne!(order, loader.order(epoch + 1));
        all.extend(order.iter().map(|draw| draw.index));
    }
    assert_eq!(all, (0..11).collect());
    let flipped = |repetition| {
        let draw = Draw { index: 10, repetition };
        (0..8).map(|epoch| loader.batch(&[draw], epoch).unwrap().images).collect::<Vec<_>>()
    };
    assert_ne!(flipped(0), flipped(1));
    assert_eq!(flipped(1), flipped(1));
}

#[test]
fn mixing_needs_the_batch_only() {
    let mixed = |threads| {
        let augment = Augmentation { mixup: 0.4, cutmix: 1.0, ..Augmentation::default() };
        loader(Fit::Crop, |options| (options.augment, options.threads) = (Some(augment), threads))
    };
    let whole = batches(&mixed(1), 3);
    assert!(whole.iter().all(|batch| batch.partners.len() == batch.len()));
    assert_eq!(whole, batches(&mixed(3), 3));
    let late: Vec<Batch> = mixed(2).epoch_from(3, 1).map(Result::unwrap).collect();
    assert_eq!(late, whole[1..]);
    let plain = batches(&loader(Fit::Crop, |_| ()), 3);
    assert_eq!(whole[0].labels, plain[0].labels);
    assert_ne!(whole[0].images, plain[0].images);
}

#[test]
fn too_few_pictures_for_a_last_batch_join_the_one_before() {
    let whole = |batch_size, least| {
        let loader = loader(Fit::Pad, |options| (options.batch_size, options.least) = (batch_size, least));
        let all = batches(&loader, 2);
        assert_eq!(all.len(), loader.batches());
        (loader, all)
    };
    // 11 pictures.
    for (batch_size, least, lengths) in [
        (5, 1, &[5, 5, 1][..]),
        (5, 2, &[5, 6]),
        (10, 2, &[11]),
        (4, 2, &[4, 4, 3]),
        (4, 4, &[4, 7]),
        (11, 2, &[11]),
        (16, 2, &[11]),
    ] {
        let (loader, all) = whole(batch_size, least);
        assert_eq!(all.iter().map(Batch::len).collect::<Vec<_>>(), lengths, "{batch_size} {least}");
        let pictures = |all: &[Batch]| all.iter().flat_map(|batch| batch.indices.clone()).collect::<Vec<_>>();
        assert_eq!(pictures(&all), pictures(&whole(batch_size, 1).1), "the order stays");
        // As a resumed run goes on: also after the last batch.
        for from in 0..=all.len() + 1 {
            let late: Vec<Batch> = loader.epoch_from(2, from).map(Result::unwrap).collect();
            assert_eq!(late, all[from.min(all.len())..], "{batch_size} {least} {from}");
        }
    }
}

#[test]
fn pictures_that_cannot_be_used_leave_no_batch_too_small() {
    let folder = tempfile::tempdir().unwrap();
    let transform = transform(Fit::Crop);
    // 11 of the 14 can be used; which of them cannot is found out on the way.
    for (batch_size, lengths) in [(5, [5, 6]), (10, [11, 0])] {
        let options = LoaderOptions { least: 2, ..LoaderOptions::evaluation(&transform, batch_size) };
        let loader = Loader::new(with_bad_files(folder.path()), transform.clone(), options);
        for epoch in 0..2 {
            let found: Vec<usize> = batches(&loader, epoch).iter().map(Batch::len).collect();
            assert_eq!(found, lengths.into_iter().filter(|&n| n > 0).collect::<Vec<_>>());
        }
    }
}
