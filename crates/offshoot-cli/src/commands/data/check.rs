//! `offshoot data check`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use offshoot::{
    Dataset, Error, PictureError, Recipe, Settings, Transform, jobs, own_preprocessing, starting_model,
};
use offshoot_data::{DecodeError, picture_ending};
use offshoot_graph::Executor;
use offshoot_graph::text::{escaped, path_text, shown};
use offshoot_train::data_check::{
    Balance, Duplicate, Kinship, LabelOptions, Member, Suspect, balance, duplicates, suspects,
};
use serde::Serialize;

use super::super::arguments::{PreprocessingArguments, Processor, TableArguments, whole};
use super::super::{Outcome, print};

#[derive(Args)]
pub(crate) struct Arguments {
    /// A folder with one folder of pictures for each class, or with `train` and `val` folders that hold those; or a table of pictures.
    data: PathBuf,
    /// Architecture to look for wrong labels with; needs --weights.
    #[arg(long, help_heading = "Model", value_name = "NAME", requires = "weights")]
    model: Option<String>,
    /// Pretrained weights of --model: a .pth, .safetensors, TorchScript .pt or .pt2.
    #[arg(long, help_heading = "Model", value_name = "FILE", requires = "model")]
    weights: Option<PathBuf>,
    /// Number of cross-validation folds of the linear probe that looks for wrong labels.
    #[arg(long, help_heading = "Data", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=100))]
    folds: u64,
    /// Maximum number of suspected wrong labels to print.
    #[arg(long, help_heading = "Output", value_name = "N", default_value_t = 40, value_parser = whole::<usize>("suspects"))]
    top: usize,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    table: TableArguments,
    #[command(flatten)]
    processor: Processor,
    /// Fraction of the pictures held out for validation, where there is no `val` folder [default: 0.2].
    #[arg(long, help_heading = "Data", value_name = "X", allow_negative_numbers = true)]
    val_fraction: Option<f64>,
    /// Random seed of the split and the folds [default: 0].
    #[arg(long, help_heading = "Data", value_name = "N", value_parser = whole::<u64>("seed"))]
    seed: Option<u64>,
    /// Exit with 1 if anything is found.
    #[arg(long, help_heading = "Output")]
    strict: bool,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Serialize)]
struct Unreadable {
    path: String,
    reason: String,
}

#[derive(Serialize)]
struct Report {
    images: usize,
    problems: usize,
    unreadable: Vec<Unreadable>,
    duplicates: Vec<Duplicate>,
    balance: Balance,
    /// How many files of each kind were left out, being pictures of kinds that are not read, by the file extension.
    unread_kinds: BTreeMap<String, usize>,
    /// How many files are no pictures, by the file extension.
    other_files: BTreeMap<String, usize>,
    /// How the folder was read.
    notes: Vec<String>,
    /// `null` without a model.
    labels: Option<Vec<Suspect>>,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        let recipe = self.recipe()?;
        Transform::new(&recipe.preprocessing)?;
        let executor = self.processor.device()?;
        let data = Dataset::open(&recipe.data, &recipe.folder_options())?;
        let images = data.train.len() + data.val.len();
        let (bar, read) = (print::bar(images as u64, "pictures"), AtomicU64::new(0));
        let (duplicates, broken) =
            duplicates(&data, &|| bar.set_position(read.fetch_add(1, Ordering::Relaxed) + 1));
        bar.finish_and_clear();
        let labels = match self.model {
            None => None,
            Some(_) => Some(self.labels(&recipe, &data, &executor)?),
        };
        let unreadable: Vec<Unreadable> = data.skipped.iter().chain(&broken).map(unreadable).collect();
        let mut unread_kinds = BTreeMap::new();
        let of_kind =
            data.skipped.iter().filter(|e| matches!(e.source.cause(), DecodeError::UnsupportedFormat { .. }));
        of_kind.for_each(|e| *unread_kinds.entry(picture_ending(&e.path)).or_insert(0) += 1);
        let (balance, other_files, notes) = (balance(&data), data.others, data.notes);
        let named = labels.as_ref().map_or(0, Vec::len);
        let problems = unreadable.len() + duplicates.len() + usize::from(balance.imbalanced) + named;
        let report = Report {
            images,
            problems,
            unreadable,
            duplicates,
            balance,
            unread_kinds,
            other_files,
            notes,
            labels,
        };
        let printed = if self.json { print::json(&report) } else { report.print() };
        print::verdict(printed, !self.strict || problems == 0)
    }

    fn recipe(&self) -> Result<Recipe, Error> {
        let own = match &self.model {
            Some(model) => own_preprocessing(model, self.weights.as_deref())?,
            None => offshoot::Preprocessing::default(),
        };
        let settings = Settings {
            model: Some(self.model.clone().unwrap_or_else(|| "none".into())),
            weights: self.weights.clone(),
            data: Some(self.data.clone()),
            head: Some("linear".into()),
            val_fraction: self.val_fraction,
            seed: self.seed,
            preprocessing: self.preprocessing.settings(),
            columns: self.table.columns.clone(),
            root: self.table.root.clone(),
            ..Settings::default()
        };
        Ok(Recipe::resolve(settings, &own)?)
    }

    fn labels(
        &self,
        recipe: &Recipe,
        data: &Dataset,
        executor: &dyn Executor,
    ) -> Result<Vec<Suspect>, Error> {
        let model = starting_model(recipe, &data.classes, &mut print::warning)?;
        let bar = print::bar((data.train.len() + data.val.len()) as u64, "features");
        let options =
            LabelOptions { folds: self.folds as usize, seed: recipe.seed, ..LabelOptions::default() };
        let mut done = |n: usize| bar.set_position(n as u64);
        let mut found = suspects(|| model.clone(), data, executor, options, &mut done)?;
        bar.finish_and_clear();
        found.truncate(self.top);
        Ok(found)
    }
}

fn unreadable(error: &PictureError) -> Unreadable {
    Unreadable { path: path_text(&error.path), reason: error.source.to_string() }
}

impl Report {
    fn print(&self) -> Outcome {
        self.notes.iter().try_for_each(|note| print::line(&format!("note          {note}")))?;
        print::line(&format!("pictures      {}", self.images))?;
        if !self.other_files.is_empty() {
            let n: usize = self.other_files.values().sum();
            print::line(&format!("other files   {n}: {}", jobs::counted(&self.other_files)))?;
        }
        if !self.unread_kinds.is_empty() {
            let n: usize = self.unread_kinds.values().sum();
            print::line(&format!("kinds not read  {n}: {}", jobs::counted(&self.unread_kinds)))?;
        }
        print::line(&format!("unreadable    {}", self.unreadable.len()))?;
        for Unreadable { path, reason } in &self.unreadable {
            print::line(&format!("  {path}: {reason}"))?;
        }
        let [identical, reencoded, near] = [Kinship::Identical, Kinship::Reencoded, Kinship::Near]
            .map(|kind| self.duplicates.iter().filter(|pair| pair.kind == kind).count());
        print::line(&format!("duplicates    {identical} identical, {reencoded} re-encoded, {near} similar"))?;
        for pair in &self.duplicates {
            print::line(&pair_line(pair))?;
        }
        self.print_balance()?;
        match &self.labels {
            None => print::line("labels        not checked; give --model NAME --weights FILE"),
            Some(labels) => {
                print::line(&format!("labels        {} look wrong, the most certain first", labels.len()))?;
                labels.iter().try_for_each(|suspect| print::line(&suspect_line(suspect)))
            }
        }
    }

    fn print_balance(&self) -> Outcome {
        let Balance { classes, ratio, imbalanced } = &self.balance;
        let advice =
            if *imbalanced { "; see --class-weights balanced and --balanced-sampling of train" } else { "" };
        print::line(&format!(
            "classes       {}, the largest {ratio:.1} times the smallest{advice}",
            classes.len()
        ))?;
        let names: Vec<String> = classes.iter().map(|c| escaped(&c.class)).collect();
        let width = print::widest(names.iter().map(String::as_str));
        classes.iter().zip(&names).try_for_each(|(c, name)| {
            print::line(&format!(
                "  {}  {} to train with, {} to validate with",
                print::padded(name, width),
                c.train,
                c.val
            ))
        })
    }
}

fn place(Member { path, split, class }: &Member) -> String {
    format!("{} ({split}, {class})", shown(path))
}

fn pair_line(pair: &Duplicate) -> String {
    let kind = match pair.kind {
        Kinship::Identical => "identical",
        Kinship::Reencoded => "re-encoded",
        Kinship::Near => "similar",
    };
    let mut notes = String::new();
    if pair.across_splits {
        notes += ", ACROSS SPLITS";
    }
    if pair.labels_differ {
        notes += ", OTHER LABEL";
    }
    let [a, b] = &pair.pictures;
    format!("  {kind} (distance {:.1}){notes}: {} and {}", pair.distance, place(a), place(b))
}

fn suspect_line(s: &Suspect) -> String {
    let (label, other) = (100.0 * s.label_probability, 100.0 * s.suggested_probability);
    format!("  {}: {label:.1} % its label, {other:.1} % {}", place(&s.picture), s.suggested)
}
