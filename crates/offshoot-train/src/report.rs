//! `report.html`: one page with all that is known of a run, made from the files of its directory.
//!
//! The page loads nothing: styles, charts and thumbnails are in it. Names of files and classes are escaped.

mod answers;
mod calibration;
mod chart;
mod formats;
mod page;
mod table;
mod tensorboard;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offshoot_data::{Picture, Transform, read_picture};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;

pub(crate) use answers::Answers;
pub use answers::PREDICTIONS_FILE;
pub use calibration::{BINS, Bin, Calibration, calibration, temperature};
pub use formats::{FORMAT_COLUMNS, FORMATS_FILE, FormatRow, FormatStatus, FormatsReport};
pub use tensorboard::{EVENTS_FILE, TENSORBOARD_FOLDER};

use answers::Predictions;
use chart::{Line, lines, short};
use page::{cards, escaped, page, section};
use table::Table;

use crate::health::HEALTH_FILE;
use crate::metrics::{Metrics, argmax, softmax};
use crate::recipe::{RECIPE_FILE, Recipe};
use crate::run::{Best, GROUPS_FILE, RESULTS_FILE};

/// The name of the page in a run directory.
pub const REPORT_FILE: &str = "report.html";

/// Pictures that are shown as the worst.
const WORST: usize = 24;
/// Side of a thumbnail, in pixels.
const THUMBNAIL: usize = 160;
/// Classes of a confusion matrix that is drawn.
const MOST_CLASSES: usize = 40;
/// Pairs of classes that are named as confused.
const MOST_PAIRS: usize = 12;

/// Writes `report.html` and the events for TensorBoard into the folder `run`, from the tables that are there. `processor` is what the
/// executor says about itself.
///
/// # Errors
/// When a file cannot be written. A table that is missing or damaged leaves its part of the page out.
pub fn write(run: &Path, processor: &str) -> Result<(), FormatError> {
    let results = Table::read(&run.join(RESULTS_FILE)).unwrap_or_default();
    let health = Table::read(&run.join(HEALTH_FILE)).unwrap_or_default();
    tensorboard::write(run, &results, &health)?;
    let recipe = Recipe::read(run).ok();
    let predictions = Predictions::read(run);
    let mut body = summary(&results, predictions.as_ref());
    body += &section("Curves", &curves(&results, &health));
    if let Some(predictions) = &predictions {
        let metrics = predictions.metrics();
        body += &section("Confusion", &confusion(&predictions.classes, &metrics));
        body += &section("Classes", &classes(&predictions.classes, &metrics));
        body += &section("The worst pictures", &worst(predictions, recipe.as_ref()));
        body += &section("Calibration", &calibration_section(predictions));
    }
    if let Some(formats) = FormatsReport::read(run) {
        body += &section("Targets", &formats.section());
    }
    body += &section("Groups of parameters", &groups(run));
    body += &section("Recipe", &recipe_section(run));
    body += &section("Environment", &environment(processor));
    let name = std::path::absolute(run).ok();
    let name = name.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let model = recipe.map_or(String::new(), |recipe| format!(": {}", recipe.model));
    let html = page(&format!("{name}{model}"), &body);
    write_atomically(&run.join(REPORT_FILE), |file| file.write_all(html.as_bytes()))
}

fn percent(x: f64) -> String {
    format!("{:.1} %", 100.0 * x)
}

fn summary(results: &Table, predictions: Option<&Predictions>) -> String {
    let numbers = |name| results.numbers(name);
    let last = |name| numbers(name).into_iter().flatten().last();
    let epochs = (1..).zip(numbers("val_accuracy").into_iter().zip(numbers("val_loss")));
    let validated = epochs.filter(|(_, (accuracy, _))| accuracy.is_some());
    let best = validated
        .map(|(epoch, (val_accuracy, val_loss))| Best { epoch, val_accuracy, val_loss })
        .reduce(|best, now| if now.is_better_than(&best) { now } else { best });
    let mut all = Vec::new();
    if let Some(Best { epoch, val_accuracy, val_loss }) = best {
        all.push(("best validation accuracy", val_accuracy.map_or(String::new(), percent)));
        all.push(("its epoch", epoch.to_string()));
        all.push(("its loss", val_loss.map_or(String::new(), short)));
    }
    all.push(("epochs", results.rows.len().to_string()));
    if let Some(predictions) = predictions {
        all.push(("validation pictures", predictions.labels.len().to_string()));
        all.push(("classes", predictions.classes.len().to_string()));
    }
    all.extend(last("seconds").map(|seconds| ("training time", duration(seconds))));
    all.extend(last("images_per_second").map(|speed| ("pictures a second, last epoch", short(speed))));
    let peak = numbers("peak_mib").into_iter().flatten().reduce(f64::max);
    all.extend(peak.map(|peak| ("most memory", format!("{peak:.0} MiB"))));
    cards(&all)
}

fn duration(seconds: f64) -> String {
    match seconds as u64 {
        0..100 => format!("{seconds:.1} s"),
        s @ 100..6000 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// The columns of `results.csv` that are drawn together.
fn curves(results: &Table, health: &Table) -> String {
    let epochs = results.numbers("epoch");
    let line = |column: &str, name: &str| {
        let points = epochs.iter().zip(results.numbers(column)).filter_map(|(&x, y)| Some((x?, y?)));
        Line { name: name.into(), points: points.collect() }
    };
    let both = |what: &str| {
        [("training", "train"), ("validation", "val")].map(|(name, set)| line(&format!("{set}_{what}"), name))
    };
    let mut charts = vec![
        lines("Loss", &both("loss"), false),
        lines("Accuracy", &both("accuracy"), false),
        lines("Learning rate", &[line("learning_rate", "of the main group")], false),
        lines("Gradient norm by group", &by_group(health, "gradient_norm"), true),
        lines("Weight norm by group", &by_group(health, "weight_norm"), true),
    ];
    let scale = line("loss_scale", "loss scale");
    charts.push(lines("Loss scale", &[scale], true));
    charts.retain(|chart| !chart.is_empty());
    if charts.is_empty() {
        return String::new();
    }
    format!("<div class=\"charts\">{}</div>", charts.concat())
}

/// A line for each group of `health.csv`.
fn by_group(health: &Table, column: &str) -> Vec<Line> {
    let Some(groups) = health.column("group") else { return Vec::new() };
    let mut lines: Vec<Line> = Vec::new();
    for ((group, epoch), y) in groups.zip(health.numbers("epoch")).zip(health.numbers(column)) {
        let (Some(epoch), Some(y)) = (epoch, y) else { continue };
        match lines.iter_mut().find(|line| line.name == group) {
            Some(line) => line.points.push((epoch, y)),
            None => lines.push(Line { name: group.to_owned(), points: vec![(epoch, y)] }),
        }
    }
    // The one group there is and all of them are the same line.
    if lines.len() == 2 {
        lines.remove(0);
    }
    lines
}

fn confusion(classes: &[String], metrics: &Metrics) -> String {
    let counts: Vec<&[u64]> = metrics.confusion().collect();
    let mut html = String::new();
    if classes.len() <= MOST_CLASSES {
        html += "<p>Rows are the labels, columns what the best model says.</p><div class=\"scroll\"><table class=\"confusion\">\
                 <thead><tr><th></th>";
        classes.iter().for_each(|class| html += &format!("<th>{}</th>", escaped(class)));
        html += "</tr></thead><tbody>";
        for (label, row) in counts.iter().enumerate() {
            let total = row.iter().sum::<u64>().max(1);
            let _ = write!(html, "<tr><th>{}</th>", escaped(&classes[label]));
            for (predicted, &count) in row.iter().enumerate() {
                html += &cell(count, count as f64 / total as f64, label == predicted);
            }
            html += "</tr>";
        }
        html += "</tbody></table></div>";
    }
    let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
    for (label, row) in counts.iter().enumerate() {
        let wrong = row.iter().enumerate().filter(|&(predicted, &count)| predicted != label && count > 0);
        pairs.extend(wrong.map(|(predicted, &count)| (count, label, predicted)));
    }
    pairs.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let row = |&(count, label, predicted): &(u64, usize, usize)| {
        let total = counts[label].iter().sum::<u64>().max(1);
        let part = percent(count as f64 / total as f64);
        vec![classes[label].clone(), classes[predicted].clone(), count.to_string(), part]
    };
    let rows: Vec<Vec<String>> = pairs.iter().take(MOST_PAIRS).map(row).collect();
    if !rows.is_empty() {
        html += "<h3>Most confused</h3>";
        html += &page::table(&["label", "taken for", "pictures", "of the label's"], &rows, 2);
    }
    html
}

/// A count on a ground that is the stronger the larger its part.
fn cell(count: u64, part: f64, right: bool) -> String {
    if count == 0 {
        return "<td></td>".into();
    }
    let colour = if right { "37,99,235" } else { "220,38,38" };
    format!("<td style=\"background:rgba({colour},{:.2})\">{count}</td>", 0.12 + 0.55 * part)
}

fn classes(names: &[String], metrics: &Metrics) -> String {
    let counts: Vec<&[u64]> = metrics.confusion().collect();
    let row = |(class, name): (usize, &String)| {
        let right = counts[class][class] as f64;
        let labelled = counts[class].iter().sum::<u64>();
        let predicted = counts.iter().map(|row| row[class]).sum::<u64>();
        let ratio = |whole: u64| if whole > 0 { Some(right / whole as f64) } else { None };
        let f1 = ratio(labelled + predicted).map(|half| 2.0 * half);
        let shown = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.3}"));
        let figures = [ratio(predicted), ratio(labelled), f1].map(shown);
        [vec![name.clone(), labelled.to_string()], figures.to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = names.iter().enumerate().map(row).collect();
    page::table(&["class", "pictures", "precision", "recall", "F1"], &rows, 1)
}

fn worst(predictions: &Predictions, recipe: Option<&Recipe>) -> String {
    let transform = recipe.and_then(|recipe| {
        let own = &recipe.preprocessing;
        let resize = own.resize * THUMBNAIL / own.size.max(1);
        let small =
            offshoot_graph::Preprocessing { size: THUMBNAIL, resize: resize.max(THUMBNAIL), ..own.clone() };
        Transform::new(&small).ok()
    });
    let mut pictures: Vec<(f64, usize, usize, f64)> = predictions
        .rows()
        .enumerate()
        .map(|(i, (row, label))| {
            let (p, best) = (softmax(row), argmax(row));
            (p[label], i, best, p[best])
        })
        .collect();
    pictures.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut html = String::from(
        "<p>Those whose label the best model thinks least likely: mistakes, wrong labels, or pictures unlike the others.</p>\
         <div class=\"worst\">",
    );
    for &(of_label, i, best, of_best) in pictures.iter().take(WORST) {
        let path = &predictions.paths[i];
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (label, said) = (&predictions.classes[predictions.labels[i]], &predictions.classes[best]);
        let image = transform.as_ref().and_then(|transform| thumbnail(path, transform)).unwrap_or_default();
        let answer = match best == predictions.labels[i] {
            true => format!("{} {}", escaped(said), percent(of_best)),
            false => format!("<b>{} {}</b>", escaped(said), percent(of_best)),
        };
        let _ = write!(
            html,
            "<figure>{image}<div>{answer}</div><div>is {} ({})</div><small>{}</small></figure>",
            escaped(label),
            percent(of_label),
            escaped(&name)
        );
    }
    html + "</div>"
}

/// The picture as the network sees it, small. `None` where it cannot be read any more.
fn thumbnail(path: &Path, transform: &Transform) -> Option<String> {
    let picture = read_picture(path, &transform.decode_options()).ok()?;
    let small = Picture::new(THUMBNAIL, THUMBNAIL, transform.evaluate(&picture))?;
    let data = STANDARD.encode(small.to_jpeg(80).ok()?);
    Some(format!("<img alt=\"\" loading=\"lazy\" src=\"data:image/jpeg;base64,{data}\">"))
}

fn calibration_section(predictions: &Predictions) -> String {
    let (logits, labels, classes) = (&predictions.logits, &predictions.labels, predictions.classes.len());
    let Some(fitted) = temperature(logits, labels, classes) else { return String::new() };
    let [before, after] = [1.0, fitted].map(|t| calibration(logits, labels, classes, t));
    let points = |calibration: &Calibration| {
        let filled = calibration.bins.iter().filter(|bin| bin.pictures > 0);
        filled.map(|bin| (100.0 * bin.confidence, 100.0 * bin.accuracy)).collect()
    };
    let line = |name: &str, points| Line { name: name.into(), points };
    let lines = [
        line("as it is", points(&before)),
        line("divided by the temperature", points(&after)),
        line("ideal", vec![(0.0, 0.0), (100.0, 100.0)]),
    ];
    let figures = cards(&[
        ("expected calibration error", percent(before.error)),
        ("temperature fitted on these pictures", short(fitted)),
        ("the error with it, on these pictures", percent(after.error)),
    ]);
    format!(
        "{figures}<p>Across: how sure the model is, in percent; up: how often it is right. Above the line it is \
         too modest, below it too sure. The logits are those of the shipped model, which the temperature does not change.</p>\
         <div class=\"charts\">{}</div>",
        chart::lines("Reliability", &lines, false)
    )
}

fn groups(run: &Path) -> String {
    let Some(table) = Table::read(&run.join(GROUPS_FILE)) else { return String::new() };
    let columns: Vec<String> = table.columns.iter().map(|column| column.replace('_', " ")).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    page::table(&columns, &table.rows, 0)
}

fn recipe_section(run: &Path) -> String {
    let text = std::fs::read_to_string(run.join(RECIPE_FILE)).unwrap_or_default();
    match text.trim().is_empty() {
        true => String::new(),
        false => format!("<pre>{}</pre>", escaped(text.trim())),
    }
}

fn environment(processor: &str) -> String {
    let cores = std::thread::available_parallelism().map_or("unknown".into(), |n| n.to_string());
    let rows = [
        ("offshoot", env!("CARGO_PKG_VERSION").to_owned()),
        ("executor", processor.to_owned()),
        ("system", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("processors", cores),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    page::table(&["what", "is"], &rows, 2)
}
