//! `offshoot data show`

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use offshoot::jobs::writable_file;
use offshoot::{
    Dataset, Error, Loader, LoaderOptions, Preprocessing, Recipe, Settings, Transform, own_preprocessing,
};
use offshoot_data::{Batch, Draw, Letters, Sample, Tile, contact_sheet};
use offshoot_formats::atomic::write_atomically;
use offshoot_graph::Task;
use offshoot_graph::text::{path_text, shown};
use serde_json::json;

use super::super::arguments::{
    AugmentationArguments, PictureLimit, PreprocessingArguments, TableArguments, whole,
};
use super::super::{Outcome, print};

/// The most pixels of a sheet, so that a flag cannot ask for all memory.
const MOST_PIXELS: usize = 1 << 28;

/// Of a sheet as a JPEG.
const QUALITY: u8 = 92;

#[derive(Args)]
pub(crate) struct Arguments {
    /// A folder with one folder of pictures for each class, or with `train` and `val` folders that hold those; or a table of pictures.
    data: PathBuf,
    /// Picture file to write: a .png or a .jpg.
    #[arg(long, help_heading = "Output", value_name = "FILE.png", default_value = "sheet.png", value_parser = picture_file)]
    out: PathBuf,
    /// Architecture whose preprocessing is shown [default: ImageNet's at 224 pixels].
    #[arg(long, help_heading = "Model", value_name = "NAME")]
    model: Option<String>,
    /// Recipe file (TOML) with settings, as for train; flags take precedence over it.
    #[arg(long, help_heading = "Model", value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Number of pictures to show.
    #[arg(long, help_heading = "Output", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pictures: u64,
    /// Number of augmented views of each picture: one for each epoch from the first on.
    #[arg(long, help_heading = "Output", value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(0..=100))]
    views: u64,
    #[command(flatten)]
    augmentation: AugmentationArguments,
    #[command(flatten)]
    preprocessing: PreprocessingArguments,
    #[command(flatten)]
    table: TableArguments,
    #[command(flatten)]
    pictures_limit: PictureLimit,
    /// Fraction of the pictures held out for validation, where there is no `val` folder [default: 0.2].
    #[arg(long, help_heading = "Data", value_name = "X", allow_negative_numbers = true)]
    val_fraction: Option<f64>,
    /// Random seed [default: 0].
    #[arg(long, help_heading = "Data", value_name = "N", value_parser = whole::<u64>("seed"))]
    seed: Option<u64>,
    /// Print one JSON object on one line.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Outcome {
        self.pictures_limit.apply();
        writable_file(&self.out)?;
        let recipe = self.recipe()?;
        if recipe.task == Task::Regression {
            let text = "data show names the classes of pictures, and the task of the recipe is regression";
            return Err(Error::Input(text.into()).into());
        }
        let transform = Transform::new(&recipe.preprocessing)?;
        let size = recipe.preprocessing.size;
        let pixels = (self.pictures as usize * (self.views as usize + 1)).saturating_mul((size + 168).pow(2));
        if pixels > MOST_PIXELS {
            let text = "the sheet would be too large; give fewer --pictures or --views, or a smaller --size";
            return Err(Error::Input(text.into()).into());
        }
        let data = Dataset::open(&recipe.data, &recipe.folder_options())?;
        print::notes(&data.notes);
        print::skipped(&data.skipped);
        let mut rows = self.rows(&recipe, &data, &transform)?;
        let letters = Letters::new();
        let legend = number_names(&mut rows, &letters);
        let sheet = contact_sheet(&rows, size, &letters);
        let bytes =
            if is_png(&self.out) { sheet.to_png() } else { sheet.to_jpeg(QUALITY) }.map_err(Error::Input)?;
        write_atomically(&self.out, |file| file.write_all(&bytes))?;
        if self.json {
            let path = path_text(&self.out);
            return print::json(
                &json!({"path": path, "pictures": rows.len(), "views": self.views, "legend": legend}),
            );
        }
        legend.iter().try_for_each(|(number, name)| print::line(&format!("{number}  {name}")))?;
        print::line(&format!(
            "{}: {} pictures, each as it is validated with and as it is in {} epochs",
            shown(&self.out),
            rows.len(),
            self.views
        ))
    }

    fn recipe(&self) -> Result<Recipe, Error> {
        let file = self.recipe.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        let settings = Settings {
            model: self.model.clone(),
            data: Some(self.data.clone()),
            augment: self.augmentation.augment,
            augmentation: self.augmentation.settings(),
            preprocessing: self.preprocessing.settings(),
            val_fraction: self.val_fraction,
            seed: self.seed,
            columns: self.table.columns.clone(),
            root: self.table.root.clone(),
            ..Settings::default()
        };
        let settings = settings.over(file)?;
        let own = match &settings.model {
            Some(model) => own_preprocessing(model, settings.weights.as_deref())?,
            None => Preprocessing::default(),
        };
        let model = settings.model.clone().unwrap_or_else(|| "none".into());
        Ok(Recipe::resolve(Settings { model: Some(model), ..settings }, &own)?)
    }

    /// A row for each of the first pictures of the first epoch, which are mixed with each other.
    fn rows(&self, recipe: &Recipe, data: &Dataset, transform: &Transform) -> Result<Vec<Vec<Tile>>, Error> {
        let plain = LoaderOptions::evaluation(transform, 1);
        let options = LoaderOptions {
            shuffle: true,
            seed: recipe.seed,
            balance: recipe.balanced_sampling,
            augment: recipe.augmentation(),
            ..plain.clone()
        };
        let loader = |options| Loader::new(data.train.clone(), transform.clone(), options);
        let (plain, training) = (loader(plain), loader(options));
        let mut shown: Vec<Draw> = Vec::new();
        let mut rows: Vec<Vec<Tile>> = Vec::new();
        for draw in training.order(0) {
            if rows.len() as u64 == self.pictures {
                break;
            }
            match plain.batch(&[draw], 0) {
                Ok(batch) => {
                    rows.push(tiles(&batch, data, transform, |sample| {
                        [name(&sample.path), class(data, sample)]
                    }));
                    shown.push(draw);
                }
                Err(error) => print::skipped(&[error]),
            }
        }
        for epoch in 0..self.views {
            let batch = training.batch(&shown, epoch)?;
            let tiles = tiles(&batch, data, transform, |_| Default::default());
            for (i, (row, tile)) in rows.iter_mut().zip(tiles).enumerate() {
                row.push(Tile { caption: target(&batch, i, data), ..tile });
            }
        }
        Ok(rows)
    }
}

/// Names that no font here can draw become numbers on the sheet; they are returned with these.
fn number_names(rows: &mut [Vec<Tile>], letters: &Letters) -> BTreeMap<String, String> {
    let mut numbers: BTreeMap<String, String> = BTreeMap::new();
    for text in rows.iter_mut().flatten().flat_map(|tile| &mut tile.caption) {
        // A caption may be a share and a class.
        let (share, name) = match text.split_once(' ') {
            Some((share, name)) if share.parse::<f64>().is_ok() => (format!("{share} "), name.to_owned()),
            _ => (String::new(), text.clone()),
        };
        if !letters.can_draw(&name) {
            let next = format!("#{}", numbers.len() + 1);
            let number = numbers.entry(name).or_insert(next);
            *text = format!("{share}{number}");
        }
    }
    numbers.into_iter().map(|(name, number)| (number, name)).collect()
}

fn is_png(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"))
}

fn picture_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_jpeg =
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpg") || e.eq_ignore_ascii_case("jpeg"));
    if is_png(&path) || is_jpeg { Ok(path) } else { Err("give a name that ends in .png or .jpg".into()) }
}

fn tiles(
    batch: &Batch,
    data: &Dataset,
    transform: &Transform,
    caption: impl Fn(&Sample) -> [String; 2],
) -> Vec<Tile> {
    let inputs = batch.images.chunks_exact(transform.input_len()).zip(&batch.indices);
    let tile = |(input, &index): (&[f32], &u64)| Tile {
        pixels: transform.denormalize(input),
        caption: caption(&data.train[index as usize]),
    };
    inputs.map(tile).collect()
}

fn name(path: &Path) -> String {
    path_text(path.file_name().unwrap_or_default())
}

fn class(data: &Dataset, sample: &Sample) -> String {
    data.classes[sample.label].clone()
}

/// The target for a picture.
fn target(batch: &Batch, i: usize, data: &Dataset) -> [String; 2] {
    let class = |label: i64| &data.classes[label as usize];
    let own = class(batch.labels[i]);
    match batch.partners.get(i) {
        None => [own.clone(), String::new()],
        Some(partner) => {
            let (share, other) = (partner.share, class(partner.label));
            [format!("{:.2} {own}", 1.0 - share), format!("{share:.2} {other}")]
        }
    }
}
