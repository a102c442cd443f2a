//! `report.html`: one page with all that is known of a run, made from the files of its directory.
//!
//! The page loads nothing: styles, charts and thumbnails are in it. Names of files and classes are escaped.

mod about;
mod answers;
mod chart;
mod damaged;
mod decisions;
mod explanations;
mod formats;
mod labels;
mod page;
mod table;
mod targets;
mod tensorboard;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offshoot_data::{Picture, Sample, Transform, read_picture};
use offshoot_files::{Kind, open, read_text};
use offshoot_formats::FormatError;
use offshoot_formats::atomic::write_atomically;
use offshoot_formats::error::Problem;
use offshoot_graph::Task;
use offshoot_graph::text::path_text;
use offshoot_infer::Figures;

pub(crate) use answers::Answers;
pub use chart::rate_curve_svg;
pub use explanations::{
    EXPLANATIONS_FILE, ExplainedPicture, Explanations, pictures_to_explain, thumbnail_transform,
};
pub use formats::{FORMAT_COLUMNS, FORMATS_FILE, FormatRow, FormatStatus, FormatsReport};
pub use tensorboard::{EVENTS_FILE, TENSORBOARD_FOLDER};

use about::Events;
use answers::Predictions;
use chart::{Axes, Line, lines, short};
use damaged::Damaged;
use page::{cards, escaped, isolated, page, section, wide};
use table::Table;

use crate::metrics::{Metrics, argmax, softmax};
use crate::recipe::{Recipe, RecipeError};
use crate::results::{Best, figure_name};
use crate::run::{GROUPS_FILE, HEALTH_FILE, LOG_FILE, PICTURES_FILE, RECIPE_FILE, RESULTS_FILE};

pub use crate::run::{PREDICTIONS_FILE, REPORT_FILE};

/// Pictures that are shown as those with the least likely labels.
const WORST: usize = 24;
/// Side of a thumbnail, in pixels.
const THUMBNAIL: usize = 160;
/// Classes of a confusion matrix that is drawn.
const MOST_CLASSES: usize = 40;
/// Pairs of classes that are named as confused.
const MOST_PAIRS: usize = 12;

/// Writes `report.html` and the events for TensorBoard into the folder `run`, from the tables that are there. `processor` is what the
/// executor says about itself. A table that is missing or damaged leaves its part of the page out; what is damaged, or no regular file,
/// is given back with the reason, a sentence each.
///
/// # Errors
/// When a file cannot be written, or another `report.html` is there.
pub fn write(run: &Path, processor: &str) -> Result<Vec<String>, FormatError> {
    check_ours(&run.join(REPORT_FILE))?;
    let mut damaged = Damaged { run, found: Vec::new() };
    let numbers = |table: Option<Table>, texts: &[&str]| table.map(|t| t.check_numbers(texts)).transpose();
    let results = damaged.table(RESULTS_FILE, &["epoch", "train_loss"], |t| numbers(t, &[]));
    let health = damaged.table(HEALTH_FILE, &["epoch", "group"], |t| numbers(t, &["group"]));
    tensorboard::write(run, &results, &health)?;
    let recipe = damaged.without(RECIPE_FILE, recipe_of(run));
    let predictions = damaged.without(PREDICTIONS_FILE, Predictions::read(run));
    let events = Events::of_log(damaged.table(LOG_FILE, &["time", "kind", "text"], Ok));
    let mut body = summary(&results, predictions.as_ref());
    body += &section("Run", &events.run(recipe.as_ref()));
    body += &section("Warnings", &events.warnings());
    body +=
        &section("Pictures", &about::pictures(&damaged.table(PICTURES_FILE, &["set", "class", "path"], Ok)));
    body += &section("Curves", &curves(&results, &health));
    let explained = damaged.without(EXPLANATIONS_FILE, Explanations::read(run)).unwrap_or_default();
    let transform = recipe.as_ref().and_then(|recipe| thumbnail_transform(&recipe.preprocessing));
    if let Some(predictions) = &predictions {
        let figures = predictions.figures();
        match &figures {
            Figures::Classes(metrics) => {
                let pictures = explained.confused(predictions, metrics, transform.as_ref());
                body += &section("Confusion", &(confusion(&predictions.classes, metrics) + &pictures));
                body += &section("Classes", &classes(&predictions.classes, metrics));
            }
            Figures::Labels(metrics) => {
                let classes = labels::classes(&predictions.classes, metrics);
                body += &section("Classes", &(labels::summary(metrics) + &classes));
            }
            Figures::Targets(metrics) => {
                let targets = targets::targets(&predictions.classes, metrics);
                body += &section("Targets", &(targets::summary(metrics) + &targets));
            }
        }
        let worst = worst(predictions, &figures, transform.as_ref(), &explained);
        body += &section("Pictures with the highest loss", &worst);
        if let Figures::Classes(_) = figures {
            body += &section("Calibration", &decisions::section(predictions, recipe.as_ref()));
        }
    }
    let formats = FormatsReport::read(run).map_err(|error| error.to_string());
    if let Some(formats) = damaged.without(FORMATS_FILE, formats) {
        body += &section("Formats", &formats.section());
    }
    body +=
        &section("Groups of parameters", &groups(&damaged.table(GROUPS_FILE, &["stage", "after_epoch"], Ok)));
    body += &section("Recipe", &recipe_section(run));
    body += &section("Environment", &environment(processor));
    let name = std::path::absolute(run).ok();
    let name = name.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let model = recipe.map_or(String::new(), |recipe| format!(": {}", recipe.model));
    let html = page(&format!("{name}{model}"), &body);
    write_atomically(&run.join(REPORT_FILE), |file| file.write_all(html.as_bytes()))?;
    Ok(damaged.found)
}

/// The recipe of the run; `None` where it has none.
fn recipe_of(run: &Path) -> Result<Option<Recipe>, String> {
    match Recipe::read(run) {
        Ok(recipe) => Ok(Some(recipe)),
        Err(RecipeError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(RecipeError::Read { source, .. }) => Err(source.to_string()),
        Err(RecipeError::Syntax { message, .. }) => {
            Err(message.lines().last().unwrap_or_default().to_owned())
        }
        Err(RecipeError::File { line, problem, .. }) => Err(format!("line {line}: {problem}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks that what has the name of the page, if anything does, is a page of ours.
fn check_ours(page: &Path) -> Result<(), FormatError> {
    let mut start = Vec::new();
    let read = open(page).and_then(|file| file.take(page::HEAD.len() as u64).read_to_end(&mut start));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(_) if start == page::HEAD.as_bytes() => return Ok(()),
        _ => {}
    }
    let what = "there is a file of this name already that is no report of offshoot".to_owned();
    Err(Problem::unsupported("report", what, "Move it away").at(page))
}

fn percent(x: f64) -> String {
    format!("{:.1} %", 100.0 * x)
}

fn summary(results: &Table, predictions: Option<&Predictions>) -> String {
    let numbers = |name: &str| results.numbers(name);
    let last = |name| numbers(name).into_iter().flatten().last();
    let (task, said) = task_of(results);
    let scores = numbers(&format!("val_{}", figure_name(task)));
    let epochs = (1..).zip(scores.into_iter().zip(numbers("val_loss")));
    let validated = epochs.filter(|(_, (accuracy, _))| accuracy.is_some());
    let best = validated
        .map(|(epoch, (val_accuracy, val_loss))| Best { epoch, val_accuracy, val_loss })
        .reduce(|best, now| if now.is_better_than(&best, task) { now } else { best });
    let mut all = Vec::new();
    if let Some(Best { epoch, val_accuracy, val_loss }) = best {
        let shown = if task == Task::Regression { short } else { percent };
        all.push((said, val_accuracy.map_or(String::new(), shown)));
        all.push(("best epoch", epoch.to_string()));
        all.push(("validation loss of the best epoch", val_loss.map_or(String::new(), short)));
    }
    all.push(("epochs", results.rows.len().to_string()));
    if let Some(predictions) = predictions {
        all.push(("validation pictures", predictions.samples.len().to_string()));
        let outputs = if task == Task::Regression { "targets" } else { "classes" };
        all.push((outputs, predictions.classes.len().to_string()));
    }
    all.extend(last("seconds").map(|seconds| ("training time", duration(seconds))));
    all.extend(
        last("images_per_second").map(|speed| ("pictures per second in the last epoch", short(speed))),
    );
    let peak = numbers("peak_mib").into_iter().flatten().reduce(f64::max);
    all.extend(peak.map(|peak| ("peak memory", format!("{peak:.0} MiB"))));
    let skipped: f64 = numbers("skipped_steps").into_iter().flatten().sum();
    if skipped > 0.0 {
        all.push(("skipped steps", short(skipped)));
    }
    cards(&all)
}

/// The task of a run as the columns of its epochs have it, and the figure of the best epoch in words.
fn task_of(results: &Table) -> (Task, &'static str) {
    let others =
        [(Task::Multi, "best validation mAP"), (Task::Regression, "validation MAE of the best epoch")];
    let found =
        others.into_iter().find(|(task, _)| results.column(&format!("val_{}", figure_name(*task))).is_some());
    found.unwrap_or((Task::Single, "best validation accuracy"))
}

fn duration(seconds: f64) -> String {
    match seconds as u64 {
        0..100 => format!("{seconds:.1} s"),
        s @ 100..6000 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// The columns of `results.csv` and `health.csv` that are drawn together.
fn curves(results: &Table, health: &Table) -> String {
    let epochs = results.numbers("epoch");
    let line = |column: &str, name: &str, unit: f64| {
        let points = epochs.iter().zip(results.numbers(column)).filter_map(|(&x, y)| Some((x?, unit * y?)));
        Line { name: name.into(), points: points.collect() }
    };
    let both = |what: &str, unit: f64| {
        [("training", "train"), ("validation", "val")]
            .map(|(name, set)| line(&format!("{set}_{what}"), name, unit))
    };
    let chart = |title: &str, drawn: &[Line], y: &str, log: bool| lines(title, drawn, Axes::epochs(y, log));
    let task = task_of(results).0;
    let evaluated = |what: &str, unit: f64| {
        let columns = [("training", format!("train_eval_{what}")), ("validation", format!("val_{what}"))];
        columns.map(|(name, column)| line(&column, name, unit))
    };
    let (figure, loss) = match task {
        Task::Single => (chart("Accuracy", &both("accuracy", 100.0), "accuracy, %", false), "cross entropy"),
        Task::Multi => {
            (chart("Mean average precision", &evaluated("map", 100.0), "mAP, %", false), "cross entropy")
        }
        Task::Regression => {
            let title = "Mean absolute error";
            (
                chart(title, &evaluated("mae", 1.0), "MAE, mean of the targets", false),
                "loss of standard deviations",
            )
        }
    };
    let rate = line("learning_rate", "base learning rate", 1.0);
    let mut charts = vec![
        chart("Loss", &both("loss", 1.0), loss, false),
        figure,
        chart("Learning rate", &[rate], "learning rate", false),
        chart("Gradient norm by group", &by_group(health, "gradient_norm"), "2-norm of the gradient", true),
        chart("Weight norm by group", &by_group(health, "weight_norm"), "2-norm of the weights", true),
        chart("Loss scale", &[line("loss_scale", "loss scale", 1.0)], "loss scale", true),
        chart("Skipped steps", &[line("skipped_steps", "skipped steps", 1.0)], "steps", false),
    ];
    if results.numbers("skipped_steps").into_iter().flatten().all(|steps| steps == 0.0) {
        charts.pop();
    }
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
    let mut places: HashMap<&str, usize> = HashMap::new();
    for ((group, epoch), y) in groups.zip(health.numbers("epoch")).zip(health.numbers(column)) {
        let (Some(epoch), Some(y)) = (epoch, y) else { continue };
        let place = *places.entry(group).or_insert_with(|| {
            lines.push(Line { name: group.to_owned(), points: Vec::new() });
            lines.len() - 1
        });
        lines[place].points.push((epoch, y));
    }
    // The one group there is and all of them are the same line.
    if lines.len() == 2 {
        lines.remove(0);
    }
    lines
}

fn confusion(classes: &[String], metrics: &Metrics) -> String {
    let labelled: Vec<u64> = metrics.per_class().iter().map(|class| class.images).collect();
    let mut html = String::new();
    if classes.len() <= MOST_CLASSES {
        let counts: HashMap<(usize, usize), u64> = metrics.confusion().collect();
        html += "<p>Number of validation pictures by label (rows) and prediction of the best model (columns).</p>";
        let mut table = String::from("<table class=\"confusion\"><thead><tr><th>label</th>");
        classes.iter().for_each(|class| table += &format!("<th>{}</th>", isolated(class)));
        table += "</tr></thead><tbody>";
        for (label, class) in classes.iter().enumerate() {
            let total = labelled[label].max(1) as f64;
            let _ = write!(table, "<tr><th>{}</th>", isolated(class));
            for predicted in 0..classes.len() {
                let count = counts.get(&(label, predicted)).copied().unwrap_or(0);
                table += &cell(count, count as f64 / total, label == predicted);
            }
            table += "</tr>";
        }
        let letters = |class: &String| class.chars().count() + 2;
        let first = classes.iter().map(letters).max().unwrap_or(0);
        let width = first + classes.iter().map(|class| letters(class).max(6)).sum::<usize>();
        html += &wide(&(table + "</tbody></table>"), width);
    }
    let pairs = pairs(metrics);
    let row = |&((label, predicted), count): &((usize, usize), u64)| {
        let part = percent(count as f64 / labelled[label].max(1) as f64);
        vec![classes[label].clone(), classes[predicted].clone(), count.to_string(), part]
    };
    let rows: Vec<Vec<String>> = pairs.iter().take(MOST_PAIRS).map(row).collect();
    if !rows.is_empty() {
        html += "<h3>Most confused</h3>";
        html += &page::table(&["label", "prediction", "pictures", "fraction of the label"], &rows, 2);
    }
    html
}

/// The labels that other classes were predicted for, with these and how often, the most frequent first.
fn pairs(metrics: &Metrics) -> Vec<((usize, usize), u64)> {
    let wrong = metrics.confusion().filter(|((label, predicted), _)| label != predicted);
    let mut pairs: Vec<((usize, usize), u64)> = wrong.collect();
    pairs.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    pairs
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
    // Of each class: pictures with the label, with the prediction, with both.
    let mut counts = vec![[0, 0, 0]; names.len()];
    for ((label, predicted), count) in metrics.confusion() {
        counts[label][0] += count;
        counts[predicted][1] += count;
        counts[label][2] += if label == predicted { count } else { 0 };
    }
    let row = |(name, [labelled, predicted, right]): (&String, [u64; 3])| {
        let right = right as f64;
        let ratio = |whole: u64| if whole > 0 { Some(right / whole as f64) } else { None };
        let f1 = ratio(labelled + predicted).map(|half| 2.0 * half);
        let shown = |x: Option<f64>| x.map_or("-".to_owned(), percent);
        let figures = [ratio(predicted), ratio(labelled), f1].map(shown);
        [vec![name.clone(), labelled.to_string()], figures.to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = names.iter().zip(counts).map(row).collect();
    page::table(&["class", "pictures", "precision", "recall", "F1"], &rows, 1)
}

/// Each picture with what it is ranked by, the worst the smallest, and what is said of it.
fn ranked(predictions: &Predictions, figures: &Figures) -> Vec<(f64, usize)> {
    let key = |(i, (row, sample)): (usize, (&[f32], &Sample))| match figures {
        Figures::Classes(_) => (softmax(row)[sample.label], i),
        Figures::Labels(_) => (-labels::loss(row, sample), i),
        Figures::Targets(_) => (-targets::loss(predictions, row, sample), i),
    };
    let mut pictures: Vec<(f64, usize)> = predictions.rows().enumerate().map(key).collect();
    pictures.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    pictures
}

/// The prediction for a picture that has one class.
fn answer(predictions: &Predictions, row: &[f32], label: usize) -> String {
    let (p, best) = (softmax(row), argmax(row));
    let right = best == label;
    let unbroken = |x: f64| percent(x).replace(' ', "\u{a0}");
    let (label, of_label) = (isolated(&predictions.classes[label]), unbroken(p[label]));
    let (said, of_best) = (isolated(&predictions.classes[best]), unbroken(p[best]));
    match right {
        true => format!("<div>{label} {of_label}</div><div><i>correct</i></div>"),
        false => {
            format!("<div><b>predicted {said} {of_best}</b></div><div>label {label} {of_label}</div>")
        }
    }
}

fn worst(
    predictions: &Predictions,
    figures: &Figures,
    transform: Option<&Transform>,
    explained: &Explanations,
) -> String {
    let (said, thresholds) = match figures {
        Figures::Classes(_) => ("to whose label the best model gives the lowest probability", Vec::new()),
        Figures::Labels(metrics) => ("with the highest loss of the best model", metrics.best_thresholds()),
        Figures::Targets(_) => ("whose targets the best model misses by most", Vec::new()),
    };
    let mut html = format!(
        "<p>The validation pictures {said}: mistakes of the model, wrong labels, or unusual pictures.</p>{}<div class=\"worst\">",
        explained.legend()
    );
    let rows: Vec<(&[f32], &Sample)> = predictions.rows().collect();
    for (_, i) in ranked(predictions, figures).into_iter().take(WORST) {
        let (row, sample) = rows[i];
        let path = &sample.path;
        let name = path_text(path.file_name().unwrap_or_default());
        let image = transform.and_then(|transform| thumbnail(path, transform)).unwrap_or_default();
        let map = explained.image(path);
        let answer = match figures {
            Figures::Classes(_) => answer(predictions, row, sample.label),
            Figures::Labels(_) => labels::answer(predictions, &thresholds, row, sample),
            Figures::Targets(_) => targets::answer(predictions, row, sample),
        };
        let _ = write!(html, "<figure>{image}{map}{answer}<small>{}</small></figure>", isolated(&name));
    }
    html + "</div>"
}

/// The picture as the network sees it, small. `None` where it cannot be read any more.
fn thumbnail(path: &Path, transform: &Transform) -> Option<String> {
    let picture = read_picture(path, &transform.decode_options()).ok()?;
    let small = Picture::new(THUMBNAIL, THUMBNAIL, transform.evaluate(&picture))?;
    let data = STANDARD.encode(small.to_jpeg(80).ok()?);
    Some(format!(
        "<img alt=\"\" width=\"{THUMBNAIL}\" height=\"{THUMBNAIL}\" src=\"data:image/jpeg;base64,{data}\">"
    ))
}

fn groups(table: &Table) -> String {
    if table.columns.len() != 7 {
        return String::new();
    }
    let columns: Vec<String> = table.columns.iter().map(|column| column.replace('_', " ")).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let cell = |(column, text): (&String, &String)| match (column.as_str(), text.parse::<f64>()) {
        ("learning_rate" | "weight_decay", Ok(number)) => short(number),
        ("trainable", _) => if text == "true" { "yes" } else { "no" }.to_owned(),
        _ => text.clone(),
    };
    let cells = |row: &Vec<String>| table.columns.iter().zip(row).map(cell).collect();
    let mut rows: Vec<Vec<String>> = table.rows.iter().map(cells).collect();
    name_parts(&mut rows);
    page::table(&columns, &rows, 3)
}

/// Tells the two rows of a group apart of which one has weight decay. A row is stage, epoch, group, .., weight decay.
fn name_parts(rows: &mut [Vec<String>]) {
    let groups: Vec<[String; 2]> = rows.iter().map(|row| [0, 2].map(|i| row[i].clone())).collect();
    let mut counts: HashMap<&[String; 2], usize> = HashMap::new();
    groups.iter().for_each(|group| *counts.entry(group).or_default() += 1);
    for (row, group) in rows.iter_mut().zip(&groups) {
        if counts[group] == 2 {
            let decays = row.last().is_some_and(|decay| decay != "0");
            row[2] += if decays { ": weights" } else { ": biases and norms" };
        }
    }
}

fn recipe_section(run: &Path) -> String {
    let text = read_text(&run.join(RECIPE_FILE), Kind::RECIPE).unwrap_or_default();
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
        ("logical processors", cores),
    ];
    page::facts(&rows)
}
