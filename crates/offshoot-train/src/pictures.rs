//! Where the steps of an epoch get their inputs from: pictures, or features kept from them.

use offshoot_data::{Loader, PictureError};
use offshoot_graph::Tensor;
use offshoot_graph::random::{Purpose, Random};

use crate::evaluate::images;
use crate::step::TrainStep;
use crate::train::TrainError;

/// Inputs of a step.
pub(crate) struct Inputs {
    /// Pictures, or features where `ready`.
    pub(crate) tensor: Tensor,
    /// Whether the frozen part has been run.
    pub(crate) ready: bool,
    pub(crate) labels: Tensor,
    /// Places of the pictures in the list of samples.
    pub(crate) indices: Vec<u64>,
}

/// The pictures of training or of validation.
pub(crate) enum Pictures {
    /// Decoded anew, or from the loader's own cache of pixels.
    Loader(Loader),
    /// Gone through the frozen part once.
    Features(Features),
}

impl Pictures {
    /// The pictures that could not be used so far.
    pub(crate) fn skipped(&self) -> Vec<PictureError> {
        match self {
            Pictures::Loader(loader) => loader.skipped(),
            Pictures::Features(features) => features.skipped.clone(),
        }
    }

    /// The batches of an epoch, from the batch `from` on.
    pub(crate) fn epoch(
        &self,
        epoch: u64,
        from: u64,
    ) -> Box<dyn Iterator<Item = Result<Inputs, PictureError>> + '_> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        match self {
            Pictures::Loader(loader) => {
                let size = loader.transform().preprocessing().size;
                // Pictures that are passed over are decoded all the same: only that tells which are usable.
                Box::new(loader.epoch(epoch).skip(from).map(move |batch| {
                    let mut batch = batch?;
                    let labels = Tensor::i64([batch.len()], std::mem::take(&mut batch.labels));
                    let indices = std::mem::take(&mut batch.indices);
                    let tensor = Tensor::f32([indices.len(), 3, size, size], batch.images);
                    Ok(Inputs { tensor, ready: false, labels, indices })
                }))
            }
            Pictures::Features(features) => Box::new(features.epoch(epoch, from).map(Ok)),
        }
    }
}

/// What the trainable part of a network reads, for each picture of a set.
pub(crate) struct Features {
    /// The shape of one picture's.
    shape: Vec<usize>,
    rows: Vec<Row>,
    data: Vec<f32>,
    /// How many samples there are, usable or not.
    samples: usize,
    skipped: Vec<PictureError>,
    batch_size: usize,
    /// The seed of the order; `None` to keep the order of the samples.
    shuffle: Option<u64>,
}

/// What came of computing features.
pub(crate) enum Computed {
    /// All of them.
    Features(Features),
    /// They would take more memory than allowed, or are of no use.
    DoWithout,
    /// By request.
    Stopped,
}

struct Row {
    index: u64,
    label: i64,
}

impl Features {
    /// Runs the frozen part of `step` on each picture of `loader`, which neither shuffles nor augments. `done` is told how
    /// many pictures are done and says whether to go on.
    pub(crate) fn compute(
        step: &mut TrainStep,
        loader: &Loader,
        (batch_size, shuffle): (usize, Option<u64>),
        budget: usize,
        mut done: impl FnMut(usize) -> bool,
    ) -> Result<Computed, TrainError> {
        let samples = loader.samples().len();
        let mut features = Features {
            shape: vec![],
            rows: vec![],
            data: vec![],
            samples,
            skipped: vec![],
            batch_size,
            shuffle,
        };
        for batch in loader.epoch(0) {
            let batch = batch?;
            let rows = batch.indices.iter().zip(&batch.labels);
            features.rows.extend(rows.map(|(&index, &label)| Row { index, label }));
            let tensor = step.features(images(batch, loader.transform().preprocessing().size))?;
            features.shape = tensor.shape()[1..].to_vec();
            let bytes = features.shape.iter().product::<usize>().checked_mul(samples * size_of::<f32>());
            if bytes.is_none_or(|bytes| bytes > budget) {
                return Ok(Computed::DoWithout);
            }
            features.data.extend_from_slice(tensor.as_f32().unwrap_or_default());
            if !done(features.rows.len()) {
                return Ok(Computed::Stopped);
            }
        }
        features.skipped = loader.skipped();
        Ok(Computed::Features(features))
    }

    /// The memory that the features take.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }

    fn epoch(&self, epoch: u64, from: usize) -> impl Iterator<Item = Inputs> + '_ {
        let order = self.order(epoch);
        let batches = order.len().div_ceil(self.batch_size);
        (from..batches).map(move |batch| {
            let start = batch * self.batch_size;
            self.gather(&order[start..order.len().min(start + self.batch_size)])
        })
    }

    /// Rows in the order in which a loader goes through its pictures.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let Some(seed) = self.shuffle else { return (0..self.rows.len()).collect() };
        let mut rows: Vec<Option<usize>> = vec![None; self.samples];
        for (place, row) in self.rows.iter().enumerate() {
            rows[row.index as usize] = Some(place);
        }
        Random::new(seed, epoch, 0, Purpose::Shuffle).shuffle(&mut rows);
        rows.into_iter().flatten().collect()
    }

    fn gather(&self, rows: &[usize]) -> Inputs {
        let len: usize = self.shape.iter().product();
        let data: Vec<f32> = rows.iter().flat_map(|&r| &self.data[r * len..(r + 1) * len]).copied().collect();
        let shape: Vec<usize> = std::iter::once(rows.len()).chain(self.shape.iter().copied()).collect();
        Inputs {
            tensor: Tensor::f32(shape, data),
            ready: true,
            labels: Tensor::i64([rows.len()], rows.iter().map(|&r| self.rows[r].label).collect()),
            indices: rows.iter().map(|&r| self.rows[r].index).collect(),
        }
    }
}
