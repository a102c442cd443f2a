//! The classifier, of every kind of model file, from one thread and from eight.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use offshoot::{
    Classification, Classifier, CpuOptions, Device, Error, FineTune, ModelSource, PredictOptions,
    PreprocessingSettings, View, predict,
};

/// Small pictures of the repository.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/offshoot-data/tests/golden").join(name)
}

const PICTURES: [&str; 6] =
    ["baseline_420.jpg", "baseline_444.jpg", "exif_3.jpg", "exif_6.jpg", "exif_8.jpg", "rgb.png"];

fn pictures() -> Vec<PathBuf> {
    let all: Vec<PathBuf> = PICTURES.map(golden).into();
    all.iter().for_each(|path| assert!(path.is_file(), "{}", path.display()));
    all
}

/// A folder with a run, and its best model as ONNX and TorchScript.
fn trained() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("classify");
        let _ = fs::remove_dir_all(&root);
        for (i, picture) in pictures().iter().cycle().take(12).enumerate() {
            let class = root.join("data").join(["left", "right"][i % 2]);
            fs::create_dir_all(&class).unwrap();
            let ending = picture.extension().unwrap().to_str().unwrap();
            fs::copy(picture, class.join(format!("{i}.{ending}"))).unwrap();
        }
        let small = PreprocessingSettings { size: Some(64), ..PreprocessingSettings::default() };
        let tuned = FineTune::new("mobilenet_v2", root.join("data"))
            .epochs(1)
            .set(|settings| settings.preprocessing = Some(small))
            .run(root.join("run"))
            .unwrap();
        tuned.export_onnx(root.join("model.onnx")).unwrap();
        tuned.export_torchscript(root.join("model.pt")).unwrap();
        root
    })
}

/// The bits of what was found.
fn bits(found: &Classification) -> (Vec<u32>, Vec<u64>) {
    let outputs = found.outputs().iter().map(|x| x.to_bits());
    (outputs.collect(), found.probabilities().iter().map(|p| p.to_bits()).collect())
}

fn shared<T: Send + Sync>(_: &T) {}

#[test]
fn answers_are_those_of_predict_whatever_the_model_is_stored_in() {
    let executor = Device::cpu(CpuOptions::default()).unwrap();
    for file in ["run", "run/best.safetensors", "model.onnx", "model.pt"] {
        let path = trained().join(file);
        let classifier = Classifier::open(&path).unwrap();
        assert_eq!(classifier.classes(), ["left", "right"]);
        let model = ModelSource::Path(path).load(&Default::default()).unwrap().model;
        let mut predicted = Vec::new();
        let views = [View::default()];
        let failed = predict(
            &model,
            pictures(),
            &views,
            PredictOptions { top: 2, logits: true, threshold: None },
            &executor,
            |prediction| {
                predicted.push(prediction);
                Ok(())
            },
        );
        assert!(failed.unwrap().is_empty());
        assert_eq!(predicted.len(), PICTURES.len());
        for prediction in predicted {
            let found = classifier.classify(&fs::read(&prediction.path).unwrap()).unwrap();
            let place = format!("{file}: {}", prediction.path.display());
            assert_eq!(found.top(2), prediction.top, "{place}");
            assert_eq!(
                bits(&found).0,
                prediction.logits.unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            );
            let from_file = classifier.classify_file(&prediction.path).unwrap();
            assert_eq!(bits(&from_file), bits(&found), "{place}");
        }
    }
}

#[test]
fn eight_threads_share_one() {
    let classifier = Classifier::open(trained().join("run")).unwrap();
    shared(&classifier);
    let files: Vec<Vec<u8>> = pictures().iter().map(|path| fs::read(path).unwrap()).collect();
    let wanted: Vec<_> = files.iter().map(|file| bits(&classifier.classify(file).unwrap())).collect();
    assert!(wanted.iter().any(|found| found != &wanted[0]), "the pictures are told apart");
    thread::scope(|scope| {
        for first in 0..8 {
            let (classifier, files, wanted) = (&classifier, &files, &wanted);
            scope.spawn(move || {
                for i in (first..first + 4 * files.len()).map(|i| i % files.len()) {
                    assert_eq!(bits(&classifier.classify(&files[i]).unwrap()), wanted[i], "picture {i}");
                }
            });
        }
    });
}

#[test]
fn pixels_are_classified_and_what_is_no_picture_is_a_typed_error() {
    let classifier = Classifier::open(trained().join("run")).unwrap();
    let pixels: Vec<u8> = (0..20 * 10 * 3).map(|i| (i * 7 % 251) as u8).collect();
    // The same picture as a file: PNM, binary.
    let file = [b"P6 20 10 255\n", &pixels[..]].concat();
    let found = classifier.classify_pixels(20, 10, &pixels).unwrap();
    assert_eq!(bits(&found), bits(&classifier.classify(&file).unwrap()));
    assert!((found.probabilities().iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(found.top(9).len(), 2);
    assert!(matches!(classifier.classify_pixels(20, 11, &pixels), Err(Error::Pixels { height: 11, .. })));
    assert!(matches!(classifier.classify_pixels(0, 0, &[]), Err(Error::Pixels { .. })));
    assert!(matches!(classifier.classify(b"no picture"), Err(Error::Decode(_))));
    assert!(matches!(classifier.classify_file("nowhere.jpg"), Err(Error::Picture(_))));
    assert!(Classifier::open(trained().join("data")).is_err());
}

#[test]
fn the_program_says_what_is_in_pictures() {
    let classifier = Classifier::open(trained().join("run")).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_classify"));
    let output = program.arg(trained().join("model.onnx")).args(pictures()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for picture in pictures() {
        let best = classifier.classify_file(&picture).unwrap().top(1).remove(0).class;
        let start = format!("{}: {best} ", picture.display());
        assert!(text.lines().any(|line| line.starts_with(&start)), "{start}\n{text}");
    }
}
