//! The models of a server, by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::http::StatusCode;
use offshoot::{Classifier, Device, Error, ModelSource, Overrides, batch_within, check_memory};
use offshoot_graph::text::shown;

use crate::batch::Batcher;
use crate::failure::Failure;
use crate::metrics::{Metrics, Of, Statistics};
use crate::options::Batching;

/// The longest name of a model.
const LONGEST: usize = 100;

/// A model and the name that it is served by.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFile {
    name: String,
    source: ModelSource,
    overrides: Overrides,
}

/// A name that no address can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: `{}` cannot be the name of a model in an address: 1 to {LONGEST} letters of ASCII, digits, `.`, `-` and `_`, the first of them a letter or digit; give NAME=PATH",
    shown(path), offshoot_graph::text::shortened(&offshoot_graph::text::escaped(name), LONGEST)
)]
pub struct NameError {
    /// The model's file.
    pub path: PathBuf,
    /// The name.
    pub name: String,
}

impl ModelFile {
    /// A file or a run directory under a name.
    ///
    /// # Errors
    /// When the name cannot be part of an address.
    pub fn new(name: &str, source: ModelSource, overrides: Overrides) -> Result<ModelFile, NameError> {
        let is_good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let begins = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if begins && name.len() <= LONGEST && name.bytes().all(is_good) {
            return Ok(ModelFile { name: name.to_owned(), source, overrides });
        }
        Err(NameError { path: source.path().to_owned(), name: name.to_owned() })
    }

    /// A file or a run directory under its own name, without the extension of a file.
    ///
    /// # Errors
    /// When the name cannot be part of an address.
    pub fn of(path: impl AsRef<Path>, overrides: Overrides) -> Result<ModelFile, NameError> {
        let path = path.as_ref();
        // The name of `.` and of links is that of the folder itself.
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
        let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        ModelFile::new(&name, ModelSource::Path(path.to_owned()), overrides)
    }

    /// The name that it is served by.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A model that is loaded.
pub(crate) struct Served {
    /// How often it has been loaded.
    pub(crate) version: u64,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) batcher: Batcher,
    /// The names of the network's input and output.
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) of: Of,
    pub(crate) statistics: Arc<Statistics>,
}

impl Served {
    fn open(file: &ModelFile, version: u64, models: &Models) -> Result<Served, Error> {
        let loaded = file.source.load(&file.overrides)?;
        check_memory(&loaded.model, file.source.path())?;
        for warning in &loaded.warnings {
            tracing::warn!(model = file.name, "{}", offshoot_graph::text::escaped(warning));
        }
        let classifier = Arc::new(Classifier::new(&loaded.model, &models.device)?);
        let max_batch = batch_within(&loaded.model, models.batching.max_batch);
        let batching = Batching { max_batch, ..models.batching };
        let (of, statistics) = (Of::new(&file.name, version), Arc::<Statistics>::default());
        let watch = {
            let (metrics, of, statistics) =
                (Arc::clone(&models.metrics), of.clone(), Arc::clone(&statistics));
            Box::new(move |pictures| {
                metrics.batch(&of, pictures);
                statistics.batch(pictures);
            })
        };
        let batcher = Batcher::start(Arc::clone(&classifier), batching, watch);
        let batcher = batcher.map_err(|e| Error::Input(format!("no threads for a model: {e}")))?;
        let graph = &loaded.model.graph;
        let input = graph.inputs().first().map(|&id| graph.value(id).name.clone()).unwrap_or_default();
        let output = graph.outputs().first().map(|(name, _)| name.clone()).unwrap_or_default();
        Ok(Served { version, classifier, batcher, input, output, of, statistics })
    }
}

/// All models that were named when the server started.
pub(crate) struct Models {
    entries: BTreeMap<String, Entry>,
    device: Device,
    batching: Batching,
    metrics: Arc<Metrics>,
}

struct Entry {
    file: ModelFile,
    loads: AtomicU64,
    current: RwLock<Option<Arc<Served>>>,
    /// Held while it is loaded or unloaded.
    changing: Mutex<()>,
}

impl Models {
    /// Loads all of them.
    ///
    /// # Errors
    /// When one cannot be loaded, or two have one name.
    pub(crate) fn open(
        files: Vec<ModelFile>,
        device: Device,
        batching: Batching,
        metrics: Arc<Metrics>,
    ) -> Result<Models, Error> {
        let mut models = Models { entries: BTreeMap::new(), device, batching, metrics };
        for file in files {
            let name = file.name.clone();
            let path = shown(file.source.path());
            let entry = Entry {
                file,
                loads: AtomicU64::new(0),
                current: RwLock::default(),
                changing: Mutex::default(),
            };
            if models.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::Input(format!(
                    "{path}: a second model is called `{name}`; give NAME=PATH"
                )));
            }
            models.load(&name)?;
        }
        Ok(models)
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Each model, in the order of the names; `None` for one that is not loaded.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, Option<Arc<Served>>)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.get()))
    }

    /// A model that is loaded.
    ///
    /// # Errors
    /// When there is none of that name, or it is not loaded.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Served>, Failure> {
        self.entry(name)?.get().ok_or_else(|| {
            let message = format!("the model `{name}` is not loaded; POST /v2/repository/models/{name}/load");
            Failure::new(StatusCode::CONFLICT, message)
        })
    }

    /// Reads a model again, or for the first time. Requests that have begun keep the one that they have.
    ///
    /// # Errors
    /// When its file cannot be used; a model that is loaded stays then.
    pub(crate) fn load(&self, name: &str) -> Result<(), Error> {
        let entry = self.entries.get(name).ok_or_else(|| Error::Input(format!("no model `{name}`")))?;
        let _changing = entry.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let version = entry.loads.fetch_add(1, Ordering::Relaxed) + 1;
        let served = Served::open(&entry.file, version, self)?;
        entry.set(Some(Arc::new(served)));
        tracing::info!(model = name, version, "loaded");
        Ok(())
    }

    /// Forgets a model. Requests that have begun keep it until they end.
    ///
    /// # Errors
    /// When there is none of that name, or it is not loaded.
    pub(crate) fn unload(&self, name: &str) -> Result<(), Failure> {
        let entry = self.entry(name)?;
        let _changing = entry.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.get(name)?;
        entry.set(None);
        tracing::info!(model = name, "unloaded");
        Ok(())
    }

    /// An error where there is no model of that name, loaded or not.
    ///
    /// # Errors
    /// That one.
    pub(crate) fn check(&self, name: &str) -> Result<(), Failure> {
        self.entry(name).map(|_| ())
    }

    /// Lets no picture wait for others any more.
    pub(crate) fn hurry(&self) {
        self.all().filter_map(|(_, served)| served).for_each(|served| served.batcher.hurry());
    }

    fn entry(&self, name: &str) -> Result<&Entry, Failure> {
        self.entries.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.names().collect();
            let name = offshoot_graph::text::escaped(name);
            let name = offshoot_graph::text::shortened(&name, LONGEST);
            let message = format!("no model `{name}`; there are: {}", known.join(", "));
            Failure::new(StatusCode::NOT_FOUND, message)
        })
    }
}

impl Entry {
    fn get(&self) -> Option<Arc<Served>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, served: Option<Arc<Served>>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = served;
    }
}
