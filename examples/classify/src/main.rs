//! Says what is in pictures: `classify MODEL PICTURE..`. Eight threads share one classifier.

#![allow(clippy::print_stdout, reason = "it is what this program is for")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use offshoot::Classifier;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let model = arguments.next().ok_or("give a model and pictures: classify MODEL PICTURE..")?;
    let pictures: Vec<PathBuf> = arguments.collect();
    let (classifier, next) = (Classifier::open(model)?, AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(picture) = pictures.get(next.fetch_add(1, Ordering::Relaxed)) {
                    println!("{}", line(&classifier, picture));
                }
            });
        }
    });
    Ok(())
}

/// The three best classes of a picture, or why there are none.
fn line(classifier: &Classifier, picture: &PathBuf) -> String {
    match classifier.classify_file(picture) {
        Ok(found) => {
            let guess = |guess: &offshoot::Guess| format!("{} {:.3}", guess.class, guess.probability);
            let top: Vec<String> = found.top(3).iter().map(guess).collect();
            format!("{}: {}", picture.display(), top.join(", "))
        }
        Err(error) => error.to_string(),
    }
}
