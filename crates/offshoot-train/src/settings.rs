//! Every setting of a training run, declared once: its name, types, default and words. [`Settings`], [`Recipe`], the comments of a
//! recipe file and the flags of the command line follow from it; ranges are in [`crate::ranges`].

mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use offshoot_data::{Augmentation, Columns};
use offshoot_graph::{Preprocessing, RegressionLoss, Score, Task};
use serde::{Deserialize, Serialize};

use crate::amp::Amp;
use crate::cache::CacheType;
use crate::freeze::Freeze;
use crate::optimizer::OptimizerKind;
use crate::progressive::Progressive;
use crate::ranges;
use crate::recipe_error::{RecipeError, bounded};
use crate::schedule::ScheduleKind;
use crate::unfreeze::{Rebuild, Unfreeze};

pub use toml::Value;
pub use values::{Augment, AugmentationSettings, DEFAULT_HEAD, OnNonFinite, PreprocessingSettings};

/// What a setting belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Group {
    Data,
    Model,
    Optimization,
    Augmentation,
    Caching,
    Output,
    Preprocessing,
}

/// How a setting is given in one text.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// By a text.
    One(Parser),
    /// By a text for each item of a list.
    Many(Parser),
    /// By a text for each entry of a table: the setting's name in the singular, and what parses a table of one entry.
    Entries(&'static str, Parser),
    /// By its name alone, which turns it on.
    Switch,
    /// Along with others, by what is named here.
    Elsewhere(&'static str),
}

/// Makes a value of the setting of that name.
pub type Parser = fn(&'static str, &str) -> Result<Value, String>;

/// What there is to know about a setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in a recipe file.
    pub name: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// What it is, for people.
    pub help: &'static str,
    /// What stands for its value.
    pub value: &'static str,
    /// Its default in words; empty where there is none to say.
    pub default: &'static str,
    /// How it is given in one text.
    pub form: Form,
    /// Whether it is off by default, and has no value then. The default in words is an example then.
    pub off: bool,
}

macro_rules! settings {
    ($(
        $(#[$attribute:meta])*
        $name:ident: $given:ty => $decided:ty, $group:ident, $value:literal, $form:expr, $help:literal,
        $(default $default:expr,)? $(words $words:literal)? $(off $example:literal)?;
    )*) => {
        /// Settings as a recipe file or the command line gives them; what is not given is decided by [`Recipe::resolve`].
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $(#[doc = $help] pub $name: Option<$given>,)*
        }

        /// Every setting of a training run, decided. Saved as `recipe.toml`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Recipe {
            $(#[doc = $help] $(#[$attribute])* pub $name: $decided,)*
        }

        /// All settings, in the order of a recipe file.
        pub const SETTINGS: &[Setting] = &[$(
            Setting {
                name: stringify!($name),
                group: Group::$group,
                help: $help,
                value: $value,
                default: concat!("" $(, $words)? $(, $example)?),
                form: $form,
                off: settings!(@off $($example)?),
            },
        )*];

        impl Settings {
            /// The defaults that depend on nothing.
            pub(crate) fn defaults() -> Settings {
                Settings { $($name: settings!(@default $($default)?),)* }
            }
        }
    };
    (@default) => { None };
    (@default $default:expr) => { Some($default) };
    (@off) => { false };
    (@off $example:literal) => { true };
}

settings! {
    model: String => String, Model, "NAME", Form::Elsewhere("model"), "The name of an architecture, or an ONNX file.",;
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights: PathBuf => Option<PathBuf>, Model, "FILE", Form::Elsewhere("weights"),
        "The file of pretrained weights. Without one, training starts from random weights.",;
    data: PathBuf => PathBuf, Data, "DATA", Form::Elsewhere("data"), "The folder or the table of pictures.",;
    #[serde(default)]
    task: Task => Task, Data, "TASK", Form::One(|_, text| choice(&["single", "multi", "regression"], text)),
        "What a picture has: single, one class; multi, any number of classes; or regression, numbers (targets).", default Task::Single, words "single";
    head: String => String, Model, "HEAD", Form::One(text),
        "New classification head: linear or mlp:256, with an optional dropout.",
        default DEFAULT_HEAD.into(), words "linear,dropout=0.2";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss: RegressionLoss => Option<RegressionLoss>, Optimization, "LOSS", Form::One(parsed::<RegressionLoss>),
        "Loss of regression, of differences in standard deviations of the training pictures: mse, l1 or huber:delta=1.",
        words "mse, where the task is regression";
    epochs: u64 => u64, Optimization, "N", Form::One(whole), "Number of epochs.", default 30, words "30";
    batch_size: usize => usize, Optimization, "N", Form::One(whole), "Batch size.", default 16, words "16";
    lr: f64 => f64, Optimization, "X", Form::One(real), "Peak learning rate.", default 1e-3, words "0.001";
    optimizer: OptimizerKind => OptimizerKind, Optimization, "NAME", Form::One(|_, text| choice(&["sgd", "adam", "adamw"], text)),
        "Optimizer: sgd, adam or adamw.", default OptimizerKind::AdamW, words "adamw";
    weight_decay: f64 => f64, Optimization, "X", Form::One(real),
        "Weight decay; not applied to biases and norms unless decay_norms_and_biases is on.", default 1e-2, words "0.01";
    momentum: f64 => f64, Optimization, "X", Form::One(real), "Momentum of SGD.", default 0.9, words "0.9";
    nesterov: bool => bool, Optimization, "on|off", Form::One(on_or_off),
        "Whether SGD uses Nesterov momentum.", default false, words "off";
    schedule: ScheduleKind => ScheduleKind, Optimization, "NAME", Form::One(parsed::<ScheduleKind>),
        "Learning rate schedule: cosine, constant, onecycle:rise=0.3, step:10,gamma=0.1 or plateau:patience=10.",
        default ScheduleKind::Cosine, words "cosine";
    warmup: f64 => f64, Optimization, "X", Form::One(real),
        "Learning rate warm-up, as a fraction of the steps of each stage.", default 0.05, words "0.05; 0 for onecycle";
    restart: bool => bool, Optimization, "on|off", Form::One(on_or_off),
        "Whether the schedule restarts at each unfreezing, and ends before the next. Else one covers the whole run.",
        default true, words "on";
    freeze: Freeze => Freeze, Model, "WHAT", Form::One(parsed::<Freeze>),
        "Parameters to freeze: backbone, none, or patterns on parameter names.",
        default Freeze::None,
        words "none; backbone where parameters are unfrozen later, and with pretrained weights where nothing is said of freezing";
    #[serde(default)]
    freeze_norms: bool => bool, Model, "on|off", Form::One(on_or_off),
        "Whether the parameters and running statistics of batch norms are frozen in the layers that are trained.",
        default false, words "off; on with pretrained weights where nothing is said of freezing";
    unfreeze: Vec<Unfreeze> => Vec<Unfreeze>, Model, "PATTERN@PERCENT%[:xF]", Form::Many(parsed::<Unfreeze>),
        "Parameters to unfreeze during training: layer4@50%:x0.1 trains layer4 after 50 % of the epochs, at 0.1 times the learning rate.",
        default Vec::new(),
        words "with pretrained weights the last block, @50%:x0.1; with one epoch, the whole network is trained";
    rebuild: Rebuild => Rebuild, Optimization, "WHOSE", Form::One(|_, text| choice(&["new", "all"], text)),
        "Optimizer state that is reset at an unfreezing: new (of the newly unfrozen parameters) or all.",
        default Rebuild::New, words "new";
    layer_decay: f64 => f64, Optimization, "X", Form::One(real),
        "Layer-wise learning rate decay: each layer's learning rate is this factor times that of the layer after it.",
        default 1.0, words "1";
    decay_norms_and_biases: bool => bool, Optimization, "on|off", Form::One(on_or_off),
        "Whether weight decay applies to biases and norms too.", default false, words "off";
    accumulate: usize => usize, Optimization, "N", Form::One(whole),
        "Gradient accumulation steps: batches per optimizer update.", default 1, words "1";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clip_norm: f64 => Option<f64>, Optimization, "X", Form::One(real), "Clip the gradient to this 2-norm.", off "1.0";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clip_value: f64 => Option<f64>, Optimization, "X", Form::One(real),
        "Clip each element of the gradient to this absolute value.", off "0.5";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ema: f64 => Option<f64>, Optimization, "DECAY", Form::One(real),
        "Decay per step of the exponential moving average (EMA) of the weights, which is validated and kept.", off "0.99";
    average_last: u64 => u64, Optimization, "N", Form::One(whole),
        "Validate the average of the weights of this many last epochs at the end, and keep it if it is better; 0 for none.",
        default 0, words "0";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patience: u64 => Option<u64>, Optimization, "N", Form::One(whole),
        "Early stopping: end after this many epochs without a better validation accuracy, mAP of several labels, or loss of regression (counted once everything is unfrozen).",
        off "5";
    min_delta: f64 => f64, Optimization, "X", Form::One(real),
        "Early-stopping minimum improvement: validation accuracy must rise by more than this to count as better, or the loss of regression fall.",
        default 0.0, words "0";
    label_smoothing: f64 => f64, Optimization, "X", Form::One(real),
        "Label smoothing: the fraction of the target that is spread over all classes; of several labels, over yes and no of each.", default 0.0, words "0";
    balance_classes: bool => bool, Optimization, "on|off", Form::Elsewhere("class_weights"),
        "Whether class weights in the loss are inverse to the number of pictures; of several labels, pictures without the class to those with it.", default false, words "off";
    #[serde(default)]
    balanced_sampling: bool => bool, Data, "on|off", Form::Switch,
        "Sample every class equally often in an epoch.", default false,;
    augment: Augment => Augment, Augmentation, "on|off", Form::Elsewhere("augment"),
        "Random augmentation of training pictures, as set under augmentation: on or off.", default Augment::On,;
    #[serde(default)]
    progressive: Vec<Progressive> => Vec<Progressive>, Augmentation, "SIZE@PERCENT%", Form::Many(parsed::<Progressive>),
        "Progressive resizing: the size of training pictures from a part of the epochs on, such as 128@0% and 224@60%.",
        default Vec::new(),;
    #[serde(default)]
    amp: Amp => Amp, Optimization, "MODE", Form::One(parsed::<Amp>),
        "Mixed precision: off, bf16 or fp16 (with loss scaling).", default Amp::Off, words "off";
    #[serde(default)]
    on_nonfinite: OnNonFinite => OnNonFinite, Optimization, "POLICY", Form::One(|_, text| choice(&["stop", "skip", "rollback"], text)),
        "What to do with a step whose loss or gradient is NaN or infinite: stop ends the run, skip leaves the step out, rollback goes back to the last good checkpoint and halves the learning rate.",
        default OnNonFinite::Stop, words "stop";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_views: u64 => Option<u64>, Caching, "K", Form::One(whole),
        "Number of fixed augmented views of each picture that training cycles through, so that their features can be cached.",
        off "4";
    #[serde(default)]
    cache_dtype: CacheType => CacheType, Caching, "TYPE", Form::One(|_, text| choice(&["f32", "f16"], text)),
        "Data type of cached features: f32, or f16, which takes half the space and changes the last digits of the result.",
        default CacheType::F32, words "f32";
    val_fraction: f64 => f64, Data, "X", Form::One(real),
        "Fraction of the pictures held out for validation, where there is no `val` folder.", default 0.2, words "0.2";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Columns => Option<Columns>, Data, "ROLE=COLUMN,...", Form::One(parsed::<Columns>),
        "Columns of a table of pictures that are not called path, label, split, group or weight: path=file,label=species.",;
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: PathBuf => Option<PathBuf>, Data, "DIR", Form::One(text),
        "The folder that the paths in a table of pictures are relative to, in place of the table's own.",;
    seed: u64 => u64, Optimization, "N", Form::One(whole), "Random seed.", default 0, words "0";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threads: usize => Option<usize>, Optimization, "N", Form::Elsewhere("threads"),
        "Number of threads; results do not depend on it.",;
    strict: bool => bool, Data, "on|off", Form::Switch,
        "Treat a picture that cannot be read as an error instead of skipping it.", default false,;
    lr_groups: BTreeMap<String, f64> => BTreeMap<String, f64>, Optimization, "PATTERN=LR", Form::Entries("lr_group", lr_group),
        "Learning rates by pattern on parameter names, such as 1e-4 for layer4.", default BTreeMap::new(),;
    class_weights: BTreeMap<String, f64> => BTreeMap<String, f64>, Optimization, "WHICH", Form::Elsewhere("class_weights"),
        "Class weights in the loss by name, such as 3 for a rare class; of several labels, of what has the class (pos_weight).", default BTreeMap::new(),;
    #[serde(default)]
    augmentation: AugmentationSettings => Augmentation, Augmentation, "", Form::Elsewhere("flip"),
        "Random augmentation of training pictures, where augment is on.",;
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reject_precision: f64 => Option<f64>, Output, "P", Form::One(real),
        "The fraction of the accepted validation pictures that is to be right, from which the reject threshold follows.",
        words "0.95, where a picture has one class";
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reject_score: Score => Option<Score>, Output, "SCORE", Form::One(|_, text| choice(&["energy", "probability"], text)),
        "What the reject threshold is compared with: energy or probability.", words "energy, where a picture has one class";
    preprocessing: PreprocessingSettings => Preprocessing, Preprocessing, "", Form::Elsewhere("size"),
        "Preprocessing: how pictures become network inputs.",;
}

impl Setting {
    /// The setting of that name.
    pub fn named(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// The name by which it is given, where it has a form of its own: that of an entry for a table.
    pub fn flag(&self) -> Option<&'static str> {
        match self.form {
            Form::One(_) | Form::Many(_) | Form::Switch => Some(self.name),
            Form::Entries(entry, _) => Some(entry),
            Form::Elsewhere(_) => None,
        }
    }

    /// The value that `text` gives it.
    ///
    /// # Errors
    /// When it gives none: what to give.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        match self.form {
            Form::One(parse) | Form::Many(parse) | Form::Entries(_, parse) => parse(self.name, text),
            Form::Switch => on_or_off(self.name, text),
            Form::Elsewhere(_) => Err("it is given along with others".into()),
        }
    }
}

impl Settings {
    /// Settings from values of [`Setting::parse`], in the order in which they were given.
    ///
    /// # Errors
    /// When a value is not of its setting's type.
    pub fn of_values(
        values: impl IntoIterator<Item = (&'static Setting, Value)>,
    ) -> Result<Settings, RecipeError> {
        let mut table = toml::Table::new();
        for (setting, value) in values {
            let name = setting.name.to_owned();
            match (setting.form, value) {
                (Form::Many(_), value) => {
                    let list = table.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                    list.as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
                }
                (Form::Entries(..), Value::Table(entry)) => {
                    let entries = table.entry(name).or_insert_with(|| Value::Table(toml::Table::new()));
                    entries.as_table_mut().into_iter().for_each(|entries| entries.extend(entry.clone()));
                }
                (_, value) => {
                    table.insert(name, value);
                }
            }
        }
        table.try_into().map_err(|e: toml::de::Error| RecipeError::Missing(bounded(e.message())))
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn text(_: &'static str, text: &str) -> Result<Value, String> {
    Ok(Value::String(text.to_owned()))
}

fn whole(name: &'static str, text: &str) -> Result<Value, String> {
    let number: u64 = ranges::parse(name, text)?;
    i64::try_from(number).map(Value::Integer).map_err(|error| error.to_string())
}

fn real(_: &'static str, text: &str) -> Result<Value, String> {
    f64::from_str(text).map(Value::Float).map_err(|error| error.to_string())
}

fn on_or_off(_: &'static str, text: &str) -> Result<Value, String> {
    match text {
        "on" => Ok(Value::Boolean(true)),
        "off" => Ok(Value::Boolean(false)),
        _ => Err("give on or off".into()),
    }
}

/// A text that `T` parses.
fn parsed<T: FromStr<Err: fmt::Display> + Serialize>(_: &'static str, text: &str) -> Result<Value, String> {
    let value = text.parse::<T>().map_err(|error| error.to_string())?;
    Value::try_from(value).map_err(|error| error.to_string())
}

/// One of some names.
fn choice(names: &[&str], text: &str) -> Result<Value, String> {
    match (names.contains(&text), names) {
        (true, _) | (_, []) => Ok(Value::String(text.to_owned())),
        (false, [first @ .., last]) => Err(format!("give {} or {last}", first.join(", "))),
    }
}

fn lr_group(_: &'static str, text: &str) -> Result<Value, String> {
    let parsed = text.rsplit_once('=').and_then(|(pattern, lr)| Some((pattern, lr.parse::<f64>().ok()?)));
    let (pattern, lr) = parsed.ok_or("give PATTERN=LR, as in layer4=1e-4")?;
    Ok(Value::Table(toml::Table::from_iter([(pattern.to_owned(), Value::Float(lr))])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_settings() {
        let given = [
            ("epochs", "5"),
            ("lr", "1e-2"),
            ("unfreeze", "layer4@50%:x0.1"),
            ("unfreeze", "layer3@75%"),
            ("lr_groups", "layer4=1e-4"),
            ("lr_groups", "fc=0.1"),
            ("nesterov", "on"),
            ("restart", "off"),
            ("strict", "on"),
            ("optimizer", "sgd"),
            ("freeze", "backbone"),
            ("schedule", "step:10,gamma=0.1"),
        ];
        let values = given.map(|(name, text)| {
            let setting = Setting::named(name).unwrap();
            (setting, setting.parse(text).unwrap())
        });
        let settings = Settings::of_values(values).unwrap();
        let wanted = Settings {
            epochs: Some(5),
            lr: Some(1e-2),
            unfreeze: Some(vec!["layer4@50%:x0.1".parse().unwrap(), "layer3@75%".parse().unwrap()]),
            lr_groups: Some(BTreeMap::from([("layer4".into(), 1e-4), ("fc".into(), 0.1)])),
            nesterov: Some(true),
            restart: Some(false),
            strict: Some(true),
            optimizer: Some(OptimizerKind::Sgd),
            freeze: Some(Freeze::Backbone),
            schedule: Some("step:10,gamma=0.1".parse().unwrap()),
            ..Settings::default()
        };
        assert_eq!(settings, wanted);
        for (name, bad, wanted) in [
            ("epochs", "0", "give a whole number, 1 to 1000000"),
            ("lr", "fast", "invalid float literal"),
            ("optimizer", "lion", "give sgd, adam or adamw"),
            ("nesterov", "1", "give on or off"),
            ("lr_groups", "fc", "give PATTERN=LR, as in layer4=1e-4"),
        ] {
            assert_eq!(Setting::named(name).unwrap().parse(bad), Err(wanted.to_owned()), "{name}");
        }
    }

    /// The words of a default are its value.
    #[test]
    fn defaults_are_what_their_words_say() {
        let defaults = toml::Table::try_from(Settings::defaults()).unwrap();
        for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
            let first = setting.default.split(';').next().unwrap();
            let Ok(said) = setting.parse(first) else { continue };
            match (setting.off, setting.form) {
                (true, _) => assert!(!defaults.contains_key(setting.name), "{}", setting.name),
                (false, Form::One(_)) => assert_eq!(defaults[setting.name], said, "{}", setting.name),
                _ => {}
            }
        }
    }
}
