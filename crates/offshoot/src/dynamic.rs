//! Dynamic int8: weights of linear layers and LSTMs and tables of embeddings as bytes, activations quantized at each run.

use std::path::Path;

use offshoot_formats::onnx::{self, DynamicReport};
use offshoot_formats::safetensors;
use offshoot_graph::model::BATCH;
use offshoot_graph::remedy::{FORMAT, MODE};
use offshoot_graph::{Bindings, DType, Model, Op, Role, costs, passes};

use crate::compare::TOLERANCE;
use crate::error::{Error, Result};
use crate::export::{Output, Proof, export_onnx, export_within, shipped};
use crate::source::{Loaded, ModelSource, Overrides};

/// Below this part of a network's weights, a user should know that dynamic int8 does little for it.
const LITTLE: f64 = 0.5;

/// A model in dynamic int8, not written yet.
pub struct DynamicInt8 {
    float: Float,
    quantized: Vec<String>,
    kept_float: Vec<(String, String)>,
    convolutions: usize,
    weights: Share,
    operations: Option<Share>,
}

/// What there was before.
enum Float {
    /// A classifier of pictures, and the same in int8.
    Model { float: Box<Model>, int8: Box<Model> },
    /// An ONNX file of anything.
    File { source: ModelSource, overrides: Overrides, bytes: u64, int8: Vec<u8> },
}

/// A part of something.
#[derive(Clone, Copy, Debug)]
struct Share {
    part: u64,
    all: u64,
}

impl Share {
    fn ratio(self) -> f64 {
        self.part as f64 / self.all.max(1) as f64
    }
}

impl DynamicInt8 {
    /// Of an ONNX file, whatever it computes: what is no product and no LSTM is carried over as it is.
    ///
    /// # Errors
    /// When the file cannot be read, or nothing in it can be quantized.
    pub fn of_onnx(path: &Path, overrides: &Overrides) -> Result<DynamicInt8> {
        let onnx::DynamicModel { bytes: int8, report } = onnx::quantize_dynamic(path)?;
        let DynamicReport { quantized, kept_float, convolutions, stored_bytes, quantized_bytes, file_bytes } =
            report;
        let source = ModelSource::Path(path.to_owned());
        Ok(DynamicInt8 {
            float: Float::File { source, overrides: *overrides, bytes: file_bytes, int8 },
            quantized,
            kept_float: kept_float.into_iter().map(|k| (k.node, k.reason)).collect(),
            convolutions,
            weights: Share { part: quantized_bytes, all: stored_bytes },
            operations: None,
        })
    }

    /// Of a classifier of pictures.
    ///
    /// # Errors
    /// When it has no linear layer with finite weights.
    pub fn of_model(model: Model) -> Result<DynamicInt8> {
        let (graph, weights) = passes::dynamic_int8(&model.graph, &model.weights)?;
        let is_product = |op: &Op| matches!(op, Op::DynamicQuantizeMatMul { .. });
        let nodes = || graph.nodes().iter().filter(|n| is_product(&n.op));
        let quantized: Vec<String> = nodes().map(|n| n.name.clone()).collect();
        if quantized.is_empty() {
            return Err(Error::Input("the model has no linear layer with finite weights to quantize".into()));
        }
        let kept = graph.nodes().iter().filter(|n| {
            let weight = n.inputs.get(1).and_then(|&id| graph.parameter_info(id));
            matches!(n.op, Op::Gemm(_)) && weight.is_some()
        });
        let reason = "its weights are not all finite, or something else reads them too";
        let kept_float = kept.map(|n| (n.name.clone(), reason.to_owned())).collect();
        let parameters = graph
            .parameters()
            .iter()
            .filter(|&&id| graph.parameter_info(id).is_some_and(|p| p.role == Role::Weight));
        let mut shares = Share { part: 0, all: 0 };
        for &id in parameters {
            let elements = graph.value(id).shape.as_fixed().map_or(0, |s| s.iter().product::<usize>() as u64);
            shares.all += elements;
            shares.part += if graph.value(id).dtype == DType::I8 { elements } else { 0 };
        }
        let bindings = Bindings::from([(BATCH.to_owned(), 1)]);
        let operations = costs(&graph, &bindings).ok().map(|costs| Share {
            part: graph
                .nodes()
                .iter()
                .zip(&costs)
                .filter(|(n, _)| is_product(&n.op))
                .map(|(_, c)| c.operations)
                .sum(),
            all: costs.iter().map(|c| c.operations).sum(),
        });
        let convolutions = graph.nodes().iter().filter(|n| matches!(n.op, Op::Conv(_))).count();
        let int8 = Model { graph, weights, metadata: model.metadata.clone() };
        Ok(DynamicInt8 {
            float: Float::Model { float: Box::new(model), int8: Box::new(int8) },
            quantized,
            kept_float,
            convolutions,
            weights: shares,
            operations,
        })
    }

    /// How many layers compute with bytes.
    pub fn layers(&self) -> usize {
        self.quantized.len()
    }

    /// The fraction of the weights that became bytes, 0..1.
    pub fn weight_share(&self) -> f64 {
        self.weights.ratio()
    }

    /// The layers that stay in float, with the reasons.
    pub fn kept_float(&self) -> &[(String, String)] {
        &self.kept_float
    }

    /// What the user of a convolutional network should know, in words.
    pub fn advice(&self) -> Option<String> {
        if self.convolutions == 0 || self.weights.ratio() >= LITTLE {
            return None;
        }
        let operations = match self.operations {
            Some(share) => format!(" and {:.2} % of its operations", 100.0 * share.ratio()),
            None => String::new(),
        };
        Some(format!(
            "dynamic int8 gains little here: it touches {:.1} % of the network's weights{operations}. The rest is in {} convolutions, which stay in float: with integers that are scaled at each run, they are several times slower in ONNX Runtime. `{MODE} static` quantizes them",
            100.0 * self.weights.ratio(),
            self.convolutions
        ))
    }

    /// The float model and the one in int8, to run on pictures.
    ///
    /// # Errors
    /// When the ONNX file is no classifier of pictures.
    pub fn classifiers(&self) -> Result<[Model; 2]> {
        match &self.float {
            Float::Model { float, int8 } => Ok([(**float).clone(), (**int8).clone()]),
            Float::File { source, overrides, int8, .. } => {
                let Loaded { model, .. } = source.load(overrides)?;
                let options = onnx::ReadOptions { size: overrides.size, any_input: false };
                let read = onnx::read_bytes_with(int8.clone(), options);
                let mut int8 = read.map_err(|p| p.at(Path::new("the quantized file")))?.model;
                int8.metadata = model.metadata.clone();
                Ok([model, int8])
            }
        }
    }

    /// The float model, where it is a classifier of pictures.
    pub fn float(&self) -> Option<Model> {
        self.classifiers().ok().map(|[float, _]| float)
    }

    /// Looks for NaN among the weights of a file that is no classifier of pictures: it cannot be run here without its inputs.
    ///
    /// # Errors
    /// When a weight holds some. (An infinity may be a mask.)
    pub fn check_weights(&self) -> Result<()> {
        let Float::File { source, .. } = &self.float else { return Ok(()) };
        let Ok(Loaded { model, .. }) = source.load_any() else { return Ok(()) };
        let broken =
            model.weights.iter().find(|(_, t)| t.as_f32().is_some_and(|x| x.iter().any(|x| x.is_nan())));
        match broken {
            None => Ok(()),
            Some((name, _)) => Err(Error::Input(format!(
                "the parameter `{name}` holds NaN, and so does what the model gives; quantize weights that work"
            ))),
        }
    }

    /// Writes an ONNX file to `path`. One of a classifier is proven as [`export_onnx`] does it, against the model in int8, and
    /// compared with the float model; its manifest stands beside it.
    ///
    /// # Errors
    /// When it cannot be written, or a classifier gives NaN.
    pub fn write_onnx(
        &self,
        path: &Path,
        options: onnx::Options,
        proof: Option<Proof<'_>>,
    ) -> Result<[u64; 2]> {
        match &self.float {
            Float::File { bytes, int8, .. } => {
                let classifiers = proof.and_then(|proof| Some((proof, self.classifiers().ok()?)));
                match classifiers {
                    Some((proof, [float, model])) => self.write_file(path, &float, &model, proof)?,
                    None => onnx::write_quantized(path, int8)?,
                }
                Ok([int8.len() as u64, *bytes])
            }
            Float::Model { float, int8 } => {
                let before = onnx::write_bytes(&shipped(float)?, options).map_err(|p| p.at(path))?.len();
                match proof {
                    Some(proof) => {
                        let proof = Proof { float: Some(float), ..proof };
                        Ok([export_onnx(int8, path, options, proof)?.bytes, before as u64])
                    }
                    None => {
                        onnx::write(path, &shipped(int8)?, options)?;
                        Ok([size(path)?, before as u64])
                    }
                }
            }
        }
    }

    /// Writes the ONNX file of a classifier, whose bytes are made already.
    fn write_file(&self, path: &Path, float: &Model, int8: &Model, proof: Proof<'_>) -> Result<()> {
        let Float::File { int8: bytes, overrides, .. } = &self.float else { return Ok(()) };
        let write = |staged: &Path| Ok(onnx::write_quantized(staged, bytes)?);
        let read = |staged: &Path| {
            let options = onnx::ReadOptions { size: overrides.size, any_input: false };
            let mut model = onnx::read_with(staged, options)?.model;
            model.metadata = int8.metadata.clone();
            Ok((model, None))
        };
        let proof = Proof { float: Some(float), ..proof };
        export_within(Output::new("onnx", path), int8, TOLERANCE, write, read, proof)?;
        Ok(())
    }

    /// Writes weights as bytes under PyTorch's names, with their scales; offshoot builds the graph again. The proof is that of
    /// [`DynamicInt8::write_onnx`].
    ///
    /// # Errors
    /// When the file cannot be written, the graph is of no architecture, or the model gives NaN.
    pub fn write_safetensors(&self, path: &Path, proof: Proof<'_>) -> Result<[u64; 2]> {
        let (float, int8) = match &self.float {
            Float::Model { float, int8 } if int8.metadata.architecture.is_some() => (float, int8),
            Float::Model { .. } | Float::File { .. } => {
                return Err(Error::advice(format_args!(
                    "a .safetensors names an architecture, and this graph comes from a file: give {FORMAT} onnx"
                )));
            }
        };
        let metadata = serde_json::to_string(&int8.metadata)
            .map_err(|e| Error::Input(format!("the metadata cannot be written as JSON: {e}")))?;
        let failed = |source| Error::Io { path: path.to_owned(), action: "write", source };
        let mut before = Vec::new();
        safetensors::write_to(&mut before, &float.weights, &metadata).map_err(failed)?;
        let write = |staged: &Path| Ok(safetensors::write(staged, &int8.weights, &metadata)?);
        let read = |staged: &Path| {
            Ok((ModelSource::Path(staged.to_owned()).load(&Overrides::default())?.model, None))
        };
        let proof = Proof { float: Some(float), ..proof };
        let written = export_within(Output::new("safetensors", path), int8, TOLERANCE, write, read, proof)?;
        Ok([written.bytes, before.len() as u64])
    }
}

fn size(path: &Path) -> Result<u64> {
    let read = |source| Error::Io { path: path.to_owned(), action: "read", source };
    std::fs::metadata(path).map(|meta| meta.len()).map_err(read)
}
