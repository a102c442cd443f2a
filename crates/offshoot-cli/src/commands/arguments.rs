//! Arguments that several commands share.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use offshoot::jobs::Table;
use offshoot::{
    CpuOptions, Device, Error, Fit, InferencePrecision, Isa, Loaded, ModelSource, Overrides, Policy, Tta,
    jobs,
};
use offshoot_data::{Columns, DecodeOptions, FolderOptions, set_max_pixels};
use offshoot_files::set_memory_limit;
use offshoot_graph::Metadata;
use offshoot_graph::text::shown;
use offshoot_train::ranges;
use offshoot_train::recipe::{Augment, AugmentationSettings, PreprocessingSettings};

use super::printer::Printer;
use super::{Failure, world};

/// How the executor runs.
#[derive(Args)]
pub(crate) struct Processor {
    /// Number of threads [default: all of the machine's, shared by the processes that mpirun starts on it]. Results do not depend on it.
    #[arg(long, help_heading = "Execution", value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Instruction set: portable, avx2, avx512, avx512bf16, amx or neon [default: the machine's best].
    #[arg(long, help_heading = "Execution", value_name = "NAME", value_parser = isa)]
    isa: Option<Isa>,
    #[command(flatten)]
    memory: MemoryLimit,
    #[command(flatten)]
    pictures: PictureLimit,
}

/// In which precision a network is run.
#[derive(Args)]
pub(crate) struct PrecisionArgument {
    /// What matrix products compute on: f32, or bf16 with sums in f32, which is several times as fast on processors with a matrix unit
    /// (AMX). With bf16 a logit is off by about a hundredth of the largest one.
    #[arg(long, help_heading = "Execution", value_name = "TYPE", default_value_t)]
    precision: InferencePrecision,
}

impl PrecisionArgument {
    /// The processors, which run networks in this precision.
    pub(crate) fn device(&self, processor: &Processor) -> Result<Device, Failure> {
        Ok(processor.device()?.with_precision(self.precision))
    }
}

/// How much memory a network may take.
#[derive(Args)]
pub(crate) struct MemoryLimit {
    /// Most memory for the pictures and activations of a batch, in MiB [default: 1024]: batches are made smaller to fit, and
    /// a network where one picture takes more is refused. A file whose constants are larger than itself may take as much for
    /// them.
    #[arg(long, help_heading = "Execution", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    memory_limit: Option<u64>,
}

impl MemoryLimit {
    /// Makes it the limit of all that is done from now on.
    pub(crate) fn apply(&self) {
        if let Some(mib) = self.memory_limit {
            set_memory_limit(mib << 20);
        }
    }
}

/// How large pictures may be.
#[derive(Args)]
pub(crate) struct PictureLimit {
    /// Leave out pictures of more than this many million pixels, which take much memory [default: 256].
    #[arg(long, help_heading = "Data", value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    max_megapixels: Option<u64>,
}

impl PictureLimit {
    /// Makes it the limit of all that is read from now on.
    pub(crate) fn apply(&self) {
        if let Some(millions) = self.max_megapixels {
            set_max_pixels(millions * 1_000_000);
        }
    }
}

impl Processor {
    pub(crate) fn device(&self) -> Result<Device, Failure> {
        self.pictures.apply();
        self.memory.apply();
        let threads = self.threads.or_else(world::own_threads);
        if let Some(threads) = threads {
            // The optimizer and the search for pictures use rayon's own pool. It can be there already only in a
            // process that has run a command before, which this one has not.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global();
        }
        Ok(Device::cpu(CpuOptions { threads, isa: self.isa, ..CpuOptions::default() })?)
    }
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads: usize = ranges::parse("threads", text)?;
    NonZeroUsize::new(threads).ok_or_else(|| "give at least 1".into())
}

/// Takes a whole number in the range of a setting.
pub(crate) fn whole<T: TryFrom<u64>>(
    setting: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text: &str| ranges::parse(setting, text)
}

fn isa(name: &str) -> Result<Isa, String> {
    Isa::by_name(name).ok_or_else(|| {
        let known: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        format!("this machine has {}", known.join(", "))
    })
}

/// What happens to training pictures at random.
#[derive(Args)]
pub(crate) struct AugmentationArguments {
    /// Random augmentation of training pictures: on or off [default: on, which is random resized crops and horizontal
    /// flips; off where the backbone is frozen and no other flag asks for augmentation].
    #[arg(long, help_heading = "Augmentation", value_name = "on|off", value_parser = augment)]
    pub(crate) augment: Option<Augment>,
    /// Range of the area of a random resized crop, as fractions of the picture [default: 0.08,1].
    #[arg(long, help_heading = "Augmentation", value_name = "FROM,TO", value_parser = pair)]
    crop_scale: Option<Pair>,
    /// Range of the aspect ratio (width / height) of a random resized crop [default: 0.75,1.3333].
    #[arg(long, help_heading = "Augmentation", value_name = "FROM,TO", value_parser = pair)]
    crop_ratio: Option<Pair>,
    /// Probability of a horizontal flip [default: 0.5].
    #[arg(long, help_heading = "Augmentation", value_name = "P", allow_negative_numbers = true)]
    flip: Option<f64>,
    /// Probability of a vertical flip [default: 0].
    #[arg(long, help_heading = "Augmentation", value_name = "P", allow_negative_numbers = true)]
    flip_vertical: Option<f64>,
    /// Largest angle of a random rotation, in degrees [default: 0].
    #[arg(long, help_heading = "Augmentation", value_name = "DEGREES", allow_negative_numbers = true)]
    rotate: Option<f64>,
    /// Color jitter: strength for brightness, contrast, saturation and hue, such as 0.4,0.4,0.4,0.1 [default:
    /// 0,0,0,0].
    #[arg(long, alias = "colour-jitter", help_heading = "Augmentation", value_name = "B,C,S,H", value_parser = jitter)]
    color_jitter: Option<Jitter>,
    /// Augmentation policy: trivial (TrivialAugment), rand:OPERATIONS,MAGNITUDE (RandAugment) or off [default: off].
    #[arg(long, help_heading = "Augmentation", value_name = "POLICY")]
    policy: Option<Policy>,
    /// Probability of random erasing [default: 0].
    #[arg(long, help_heading = "Augmentation", value_name = "P", allow_negative_numbers = true)]
    erase: Option<f64>,
    /// Mixup with this alpha of the beta distribution, such as 0.2 [default: 0, off].
    #[arg(long, help_heading = "Augmentation", value_name = "ALPHA", allow_negative_numbers = true)]
    mixup: Option<f64>,
    /// CutMix with this alpha of the beta distribution, such as 1 [default: 0, off].
    #[arg(long, help_heading = "Augmentation", value_name = "ALPHA", allow_negative_numbers = true)]
    cutmix: Option<f64>,
}

impl AugmentationArguments {
    /// As settings of a recipe; `None` where nothing is given.
    pub(crate) fn settings(&self) -> Option<AugmentationSettings> {
        let jitter = |i: usize| self.color_jitter.map(|Jitter(values)| values[i]);
        let settings = AugmentationSettings {
            crop_scale: self.crop_scale.map(|pair| pair.0),
            crop_ratio: self.crop_ratio.map(|pair| pair.0),
            flip: self.flip,
            flip_vertical: self.flip_vertical,
            rotate: self.rotate,
            brightness: jitter(0),
            contrast: jitter(1),
            saturation: jitter(2),
            hue: jitter(3),
            policy: self.policy,
            erase: self.erase,
            mixup: self.mixup,
            cutmix: self.cutmix,
        };
        (settings != AugmentationSettings::default()).then_some(settings)
    }
}

/// Two numbers. (A plain array would be taken for two values of the flag.)
#[derive(Clone, Copy, Debug)]
struct Pair([f64; 2]);

/// Brightness, contrast, saturation, hue.
#[derive(Clone, Copy, Debug)]
struct Jitter([f64; 4]);

fn numbers<const N: usize>(text: &str) -> Option<[f64; N]> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|n| f64::from_str(n.trim()).ok()).collect();
    numbers?.try_into().ok()
}

fn pair(text: &str) -> Result<Pair, String> {
    numbers(text).map(Pair).ok_or_else(|| "give two numbers: FROM,TO".into())
}

fn jitter(text: &str) -> Result<Jitter, String> {
    numbers(text).map(Jitter).ok_or_else(|| "give four numbers: 0.4,0.4,0.4,0.1".into())
}

fn augment(text: &str) -> Result<Augment, String> {
    match text {
        "on" => Ok(Augment::On),
        "off" => Ok(Augment::Off),
        _ => Err("give on or off".into()),
    }
}

/// How a table of pictures is read.
#[derive(Args)]
pub(crate) struct TableArguments {
    /// Columns of a table of pictures that are not called path, label, split, group or weight: path=file,label=species.
    #[arg(long, help_heading = "Data", value_name = "ROLE=COLUMN,...")]
    pub(crate) columns: Option<Columns>,
    /// The folder that the paths in a table of pictures are relative to, in place of the table's own.
    #[arg(long, help_heading = "Data", value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

impl TableArguments {
    /// The same for a job.
    pub(crate) fn table(&self) -> Table {
        Table { columns: self.columns.clone().unwrap_or_default(), root: self.root.clone() }
    }

    /// How pictures that `decode` decodes are found, for a model that says this of itself.
    pub(crate) fn options(&self, decode: DecodeOptions, model: &Metadata) -> FolderOptions {
        self.table().options(decode, model)
    }
}

/// Changes to the preprocessing that travels with a model.
#[derive(Args)]
pub(crate) struct PreprocessingArguments {
    /// Input size of the network, in pixels (height and width).
    #[arg(long, help_heading = "Preprocessing", value_name = "PIXELS", value_parser = whole::<usize>("preprocessing.size"))]
    pub(crate) size: Option<usize>,
    /// How a picture becomes a square: crop, pad or stretch.
    #[arg(long, help_heading = "Preprocessing", value_parser = fit)]
    pub(crate) fit: Option<Fit>,
    /// Mean of each channel, subtracted (RGB, on 0..1): 0.485,0.456,0.406
    #[arg(long, help_heading = "Preprocessing", value_name = "R,G,B", value_parser = channels, allow_hyphen_values = true)]
    pub(crate) mean: Option<Channels>,
    /// Standard deviation of each channel, divided by (RGB, on 0..1): 0.229,0.224,0.225
    #[arg(long, help_heading = "Preprocessing", value_name = "R,G,B", value_parser = deviations)]
    pub(crate) std: Option<Channels>,
}

impl PreprocessingArguments {
    /// As settings of a recipe; `None` where nothing is changed.
    pub(crate) fn settings(&self) -> Option<PreprocessingSettings> {
        let (mean, std) = (self.mean.map(|c| c.0), self.std.map(|c| c.0));
        let settings = PreprocessingSettings {
            size: self.size,
            fit: self.fit,
            mean,
            std,
            ..PreprocessingSettings::default()
        };
        (settings != PreprocessingSettings::default()).then_some(settings)
    }

    pub(crate) fn overrides(&self) -> Overrides {
        let (mean, std) = (self.mean.map(|c| c.0), self.std.map(|c| c.0));
        Overrides { size: self.size, fit: self.fit, mean, std }
    }
}

/// Three numbers. (A plain array would be taken for three values of the flag.)
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels(pub(crate) [f32; 3]);

fn fit(text: &str) -> Result<Fit, String> {
    match text {
        "crop" => Ok(Fit::Crop),
        "pad" => Ok(Fit::Pad),
        "stretch" => Ok(Fit::Stretch),
        _ => Err("give crop, pad or stretch".into()),
    }
}

fn channels(text: &str) -> Result<Channels, String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|n| f32::from_str(n.trim()).ok()).collect();
    let numbers = numbers.filter(|n| n.iter().all(|x| x.is_finite()));
    let three = numbers.and_then(|n| <[f32; 3]>::try_from(n).ok());
    three.map(Channels).ok_or_else(|| "give three numbers: R,G,B".into())
}

fn deviations(text: &str) -> Result<Channels, String> {
    let channels = channels(text)?;
    let check = |&x: &f32| ranges::check_real("preprocessing.std", Some(x.into()));
    channels.0.iter().try_for_each(check).map_err(|error| error.to_string())?;
    Ok(channels)
}

/// Test-time augmentation.
#[derive(Args)]
pub(crate) struct TtaArgument {
    /// Test-time augmentation: average the predictions over views of each picture: off, flip (the picture and its
    /// mirror image) or ten (four corners, the center, and their mirror images; for --fit crop).
    #[arg(long, help_heading = "Preprocessing", value_name = "VIEWS", value_parser = tta, default_value = "off", num_args = 0..=1, default_missing_value = "flip")]
    pub(crate) tta: Tta,
}

fn tta(text: &str) -> Result<Tta, String> {
    match text {
        "off" => Ok(Tta::Off),
        "flip" => Ok(Tta::Flip),
        "ten" => Ok(Tta::Ten),
        _ => Err("give off, flip or ten".into()),
    }
}

/// The pair that names a pretrained model, where no MODEL is given.
#[derive(Args)]
pub(crate) struct Pretrained {
    /// In place of MODEL: an architecture, with --weights.
    #[arg(long, help_heading = "Model", value_name = "NAME", requires = "weights")]
    model: Option<String>,
    /// The weights of --model: a .pth, .safetensors, TorchScript .pt or .pt2.
    #[arg(long, help_heading = "Model", value_name = "FILE", requires = "model")]
    weights: Option<PathBuf>,
    #[command(flatten)]
    last: LastArgument,
}

/// Which weights of a run.
#[derive(Args)]
pub(crate) struct LastArgument {
    /// Of a run directory, use the weights of the last checkpoint instead of those of the best epoch.
    #[arg(long, help_heading = "Model")]
    last: bool,
}

impl LastArgument {
    /// The file of the run directory `path` where that is asked for, else `path`.
    pub(crate) fn of(&self, path: PathBuf) -> Result<PathBuf, Failure> {
        Ok(jobs::checkpoint_of(&ModelSource::Path(path), self.last)?.path().to_owned())
    }
}

impl Pretrained {
    /// The model, and the paths that are left: MODEL comes first among `paths` unless --model names it.
    pub(crate) fn source(&self, paths: Vec<PathBuf>) -> Result<(ModelSource, Vec<PathBuf>), Failure> {
        let (source, rest) = self.named(paths)?;
        match &source {
            ModelSource::Path(_) => Ok((jobs::checkpoint_of(&source, self.last())?, rest)),
            ModelSource::Pretrained { .. } => Ok((source, rest)),
        }
    }

    /// Whether the last checkpoint of a run is asked for.
    pub(crate) fn last(&self) -> bool {
        self.last.last
    }

    /// [`Pretrained::source`], where a run stands for all its checkpoints.
    pub(crate) fn named(&self, mut paths: Vec<PathBuf>) -> Result<(ModelSource, Vec<PathBuf>), Failure> {
        if let (Some(architecture), Some(weights)) = (self.model.clone(), self.weights.clone()) {
            return Ok((ModelSource::Pretrained { architecture, weights }, paths));
        }
        if paths.is_empty() {
            let text = "give MODEL (a run directory, a .safetensors of ours, an .onnx, a TorchScript .pt, a .pt2 or a Hugging Face folder), or --model NAME --weights FILE";
            return Err(Error::Input(text.into()).into());
        }
        let model = paths.remove(0);
        Ok((ModelSource::Path(model), paths))
    }

    /// [`Pretrained::named`], where a command takes no other path.
    pub(crate) fn only_source(&self, paths: &[PathBuf]) -> Result<ModelSource, Failure> {
        let (source, rest) = self.named(paths.to_vec())?;
        match rest.first() {
            None => Ok(source),
            Some(extra) => {
                Err(Error::Input(format!("one model at a time; unexpected argument {}", shown(extra))).into())
            }
        }
    }
}

/// Loads a model and says what was assumed, and whether it is that of a run which is not finished.
pub(crate) fn load(source: &ModelSource, overrides: &Overrides) -> Result<Loaded, Failure> {
    Ok(jobs::open(source, overrides, &mut Printer::default())?)
}

/// The error of a command that needs DATA.
pub(crate) fn no_data() -> Error {
    Error::Input("give DATA, a folder with a folder of pictures for each class, after the model".into())
}

/// DATA, which must be all that is left; `None` where nothing is left.
pub(crate) fn data(paths: Vec<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    match &paths[..] {
        [] => Ok(None),
        [path] => Ok(Some(path.clone())),
        [_, extra, ..] => {
            Err(Error::Input(format!("one DATA is enough; unexpected argument {}", shown(extra))).into())
        }
    }
}
