//! A program as a classifier.

use std::io::{Read, Seek};

use offshoot_graph::model::BATCH;
use offshoot_graph::{Dim, Weights};

use super::archive::{MODEL, open};
use super::follow::{Follower, WAY_OUT, argument_problem};
use super::schema::{Argument, ExportedProgram, InputSpec, OutputSpec, TensorMeta};
use super::{METADATA_FILE, Pt2Model};
use crate::error::Problem;
use crate::import::Site;
use crate::import::aten::{Aten, Classifier, LAYOUT, Own, Source, Stored, Value};

pub(super) fn read(source: impl Read + Seek, size: Option<usize>) -> Result<Pt2Model, Problem> {
    let (program, file) = open(source)?;
    let own = Own::read(&file.archive, &format!("extra/{METADATA_FILE}"))?;
    let picture = Picture::of(&program)?;
    let stated = own.as_ref().map(|(_, metadata)| metadata.preprocessing.size);
    let side = stated.or(size).or(picture.side).unwrap_or(224);
    let mut aten = Aten::new("main", Dim::symbol(BATCH), picture.batch);
    let input = aten.picture(side, "the archive")?;

    let mut follower = Follower::new(&file, aten);
    follower.bind(&picture.name, input);
    let module = &program.graph_module;
    for spec in &module.signature.input_specs {
        follower.stored(spec)?;
    }
    for (index, node) in module.graph.nodes.iter().enumerate() {
        follower.node(index, node)?;
    }
    let result = result(&follower, &module.signature.output_specs)?;
    let source = Source {
        load: &mut |used: &[(String, Stored)]| file.load(used),
        limit: file.archive.memory_limit(),
        own: own.map(|(own, _)| own),
        side,
    };
    let Classifier { model, assumed_preprocessing, warnings } =
        follower.aten.classifier(&result, &End, source)?;
    Ok(Pt2Model { model, assumed_preprocessing, warnings })
}

pub(super) fn state_dict(source: impl Read + Seek) -> Result<Weights, Problem> {
    let (_, file) = open(source)?;
    file.load(&file.state_dict())
}

/// The end of the program.
struct End;

impl Site for End {
    fn name(&self) -> &str {
        "result"
    }

    fn place(&self) -> String {
        format!("{MODEL}, the output")
    }

    fn way_out(&self) -> &str {
        WAY_OUT
    }
}

/// The picture that a program was exported with.
struct Picture {
    name: String,
    /// The number of pictures, where the program is for no other one.
    batch: Option<i64>,
    /// Pixels a side, where they are known.
    side: Option<usize>,
}

impl Picture {
    fn of(program: &ExportedProgram) -> Result<Picture, Problem> {
        let refused = |what: String| Problem::unsupported(MODEL, what, LAYOUT);
        let inputs = program.graph_module.signature.input_specs.iter();
        let inputs: Vec<&Argument> = inputs
            .filter_map(|spec| match spec {
                InputSpec::UserInput { arg } => Some(arg),
                InputSpec::Parameter { .. }
                | InputSpec::Buffer { .. }
                | InputSpec::TensorConstant { .. }
                | InputSpec::CustomObj(_)
                | InputSpec::Token(_)
                | InputSpec::ConstantInput(_) => None,
            })
            .collect();
        let [Argument::AsTensor(name)] = inputs[..] else {
            return Err(refused(format!("it takes {} inputs, not one tensor", inputs.len())));
        };
        let meta =
            program.graph_module.graph.tensor_values.get(&name.name).ok_or_else(|| {
                Problem::damaged(MODEL, format!("`tensor_values` has no `{:.80}`", name.name))
            })?;
        Picture::of_tensor(&name.name, meta).map_err(refused)
    }

    fn of_tensor(name: &str, meta: &TensorMeta) -> Result<Picture, String> {
        // Half, float, double, bfloat16
        if !matches!(meta.dtype, 6..=8 | 13) {
            return Err("its input is no tensor of floats".into());
        }
        let sizes: Vec<Option<u64>> = meta.sizes.iter().map(|size| size.known()).collect();
        let [batch, channels, height, width] = sizes[..] else {
            return Err(format!("its input has {} axes", sizes.len()));
        };
        if channels.is_some_and(|channels| channels != 3) || height.zip(width).is_some_and(|(h, w)| h != w) {
            return Err("its input is no square picture with 3 channels".into());
        }
        let side = height.or(width).map(|side| usize::try_from(side).unwrap_or(usize::MAX));
        let batch = batch.map(|batch| i64::try_from(batch).unwrap_or(i64::MAX));
        Ok(Picture { name: name.to_owned(), batch, side })
    }
}

/// The one tensor that the program gives.
fn result<R: Read + Seek>(follower: &Follower<'_, R>, specs: &[OutputSpec]) -> Result<Value, Problem> {
    let mut results = Vec::new();
    for spec in specs {
        match spec {
            OutputSpec::UserOutput { arg } => results.push(arg),
            OutputSpec::BufferMutation(_) | OutputSpec::ParameterMutation(_) => {
                let way_out = "Call `model.eval()` before torch.export.export, and save it again";
                return Err(Problem::unsupported(MODEL, "the model was exported in training mode", way_out));
            }
            OutputSpec::LossOutput(_)
            | OutputSpec::GradientToParameter(_)
            | OutputSpec::GradientToUserInput(_)
            | OutputSpec::UserInputMutation(_)
            | OutputSpec::Token(_) => {
                let what = "it gives something else than a result: a loss, gradients, or another input";
                return Err(Problem::unsupported(MODEL, what, LAYOUT));
            }
        }
    }
    let [result] = results[..] else {
        let what = format!("it gives {} results, a classifier gives one tensor", results.len());
        return Err(Problem::unsupported(MODEL, what, LAYOUT));
    };
    follower.value(result).map_err(|wrong| argument_problem(&End.place(), "output", wrong))
}
