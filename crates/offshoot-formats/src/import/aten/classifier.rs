//! A followed program as a classifier of pictures: the picture that it takes, its logits, and the weights that it uses.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek};
use std::ops::Range;

use offshoot_graph::model::{BATCH, INPUT, OUTPUT};
use offshoot_graph::passes::prune;
use offshoot_graph::{DType, Data, Dim, GraphError, Metadata, Model, Shape, Tensor, ValueId, Weights};

use super::state::{Aten, Stacked};
use super::value::{Stored, Value};
use crate::ending::{logits, rows};
use crate::error::Problem;
use crate::import::Site;
use crate::metadata::{self, MAX_CLASSES, MAX_PICTURE};
use crate::pth::container::Archive;

/// What to do with a program that is none of a classifier of pictures.
pub(crate) const LAYOUT: &str = "Give a classifier of pictures, whose input is [batch, 3, height, width]";

const ONE_PICTURE: &str = "the program is for one picture, and some of its sizes are products with the number of pictures: they were \
     read as those of each picture of a batch. Where results of a batch are not those of its pictures alone, export it with a dynamic batch";

/// Our metadata in a file.
pub(crate) struct Own {
    pub(crate) json: String,
    pub(crate) place: String,
}

/// The most bytes of our metadata.
const MAX_METADATA: u64 = 16 << 20;

impl Own {
    /// What the entry `name` of an archive holds, where there is one, and what it says.
    pub(crate) fn read<R: Read + Seek>(
        archive: &Archive<R>,
        name: &str,
    ) -> Result<Option<(Own, Metadata)>, Problem> {
        if !archive.has(name) {
            return Ok(None);
        }
        let bytes = archive.read(name, MAX_METADATA)?;
        let json = String::from_utf8(bytes).map_err(|_| Problem::damaged(name, "it is not UTF-8"))?;
        let metadata = serde_json::from_str(&json).map_err(|e| Problem::damaged(name, e.to_string()))?;
        Ok(Some((Own { json, place: name.to_owned() }, metadata)))
    }
}

/// Reads tensors, and gives them the names beside them.
type Load<'a> = dyn FnMut(&[(String, Stored)]) -> Result<Weights, Problem> + 'a;

/// The file that a program is of.
pub(crate) struct Source<'a> {
    /// See [`Load`].
    pub(crate) load: &'a mut Load<'a>,
    /// The most bytes that the weights may take.
    pub(crate) limit: u64,
    /// What a file of ours says of itself.
    pub(crate) own: Option<Own>,
    /// Pixels a side of the pictures.
    pub(crate) side: usize,
}

/// A program as a classifier.
pub(crate) struct Classifier {
    pub(crate) model: Model,
    pub(crate) assumed_preprocessing: bool,
    pub(crate) warnings: Vec<String>,
}

impl Aten {
    /// The input of the graph: pictures of `side` pixels a side.
    pub(crate) fn picture(&mut self, side: usize, place: &str) -> Result<Value, Problem> {
        if !(1..=MAX_PICTURE).contains(&side) {
            let what = format!("its pictures have {side} pixels a side");
            return Err(Problem::TooLarge { place: place.into(), what, limit: MAX_PICTURE as u64 });
        }
        let shape = Shape(vec![Dim::symbol(BATCH), 3.into(), side.into(), side.into()]);
        let input = self.import.graph.add_input(INPUT, DType::F32, shape);
        Ok(self.define(input))
    }

    /// The classifier whose logits `result` is, at `end`.
    pub(crate) fn classifier(
        mut self,
        result: &Value,
        end: &dyn Site,
        source: Source<'_>,
    ) -> Result<Classifier, Problem> {
        let Source { load, limit, own, side } = source;
        let failed = |e: GraphError| end.damage(&e.to_string());
        let output = self.result(result, end)?;
        let mut graph = self.import.graph;
        let output = rows(&mut graph, output).map_err(failed)?;
        let classes = classes(&graph, output, end)?;
        graph.add_output(OUTPUT, output);
        let (graph, ending) = logits(graph, &Weights::new())?;
        let mut warnings: Vec<String> = ending.into_iter().collect();
        if self.of_one_picture {
            warnings.push(ONE_PICTURE.to_owned());
        }
        let mut graph = prune(&graph).map_err(failed)?;

        let kept: HashSet<&str> =
            graph.parameters().iter().map(|&id| graph.value(id).name.as_str()).collect();
        let used: Vec<(String, Stored)> =
            self.used.into_iter().filter(|(name, _)| kept.contains(name.as_str())).collect();
        let mut weights = floats(load(&used)?, &mut warnings)?;
        self.stacked.retain(|_, stacked| kept.contains(stacked.name.as_str()));
        weights.append(&mut stacked(load, limit, &self.stacked, &mut warnings)?);
        // Others keep weights among the constants, as `torch.jit.freeze` does; in a file of ours they are constants of the graph.
        for (name, _) in used.iter().filter(|(_, stored)| stored.constant && own.is_some()) {
            if let (Some(id), Some(tensor)) = (graph.find_parameter(name), weights.remove(name)) {
                graph.hold(id, tensor).map_err(failed)?;
            }
        }
        let (metadata, assumed_preprocessing) = match own {
            Some(Own { json, place }) => (metadata::parse(&json, &place, classes, Some(side))?, false),
            None => (metadata::assume(classes, Some(side), &mut warnings), true),
        };
        Ok(Classifier { model: Model { graph, weights, metadata }, assumed_preprocessing, warnings })
    }
}

/// The number of logits.
fn classes(graph: &offshoot_graph::Graph, output: ValueId, end: &dyn Site) -> Result<usize, Problem> {
    let shape = &graph.value(output).shape;
    match shape.0[..] {
        [ref batch, Dim::Fixed(classes)] if *batch == Dim::symbol(BATCH) && classes <= MAX_CLASSES => {
            Ok(classes)
        }
        [ref batch, Dim::Fixed(classes)] if *batch == Dim::symbol(BATCH) => {
            let what = format!("it gives {classes} classes");
            Err(Problem::TooLarge { place: end.place(), what, limit: MAX_CLASSES as u64 })
        }
        _ => {
            let what = format!("the result is {shape}, a classifier's is [{BATCH}, classes]");
            Err(Problem::unsupported(end.place(), what, LAYOUT))
        }
    }
}

/// The parameters that are made of rows of several tensors.
fn stacked(
    load: &mut Load<'_>,
    limit: u64,
    wanted: &HashMap<Vec<(Stored, Range<usize>)>, Stacked>,
    warnings: &mut Vec<String>,
) -> Result<Weights, Problem> {
    let bytes =
        wanted.values().map(|stacked| stacked.shape.iter().fold(4usize, |n, &side| n.saturating_mul(side)));
    let bytes = bytes.fold(0, usize::saturating_add);
    if bytes as u64 > limit {
        let what = format!("the weights of its LSTMs take {bytes} bytes");
        return Err(Problem::TooLarge { place: "the archive".into(), what, limit });
    }
    let sources: HashSet<Stored> = wanted.keys().flatten().map(|(stored, _)| *stored).collect();
    let sources: Vec<(String, Stored)> = sources.into_iter().map(|stored| (source(stored), stored)).collect();
    let loaded = floats(load(&sources)?, warnings)?;
    let mut weights = Weights::new();
    for (rows, Stacked { name, shape, .. }) in wanted {
        let mut all = Vec::with_capacity(shape.iter().product());
        for (stored, range) in rows {
            all.extend_from_slice(row_range(&loaded, *stored, range.clone()).unwrap_or_default());
        }
        let tensor = Tensor::new(shape.clone(), Data::F32(all));
        weights
            .insert(name.clone(), tensor.map_err(|e| Problem::damaged(format!("`{name}`"), e.to_string()))?);
    }
    Ok(weights)
}

fn source(stored: Stored) -> String {
    format!("{} {}", stored.node, stored.constant)
}

fn row_range(loaded: &Weights, stored: Stored, rows: Range<usize>) -> Option<&[f32]> {
    let tensor = loaded.get(&source(stored))?;
    let width: usize = tensor.shape().get(1..)?.iter().product();
    tensor.as_f32()?.get(rows.start * width..rows.end * width)
}

/// The weights as float32.
fn floats(weights: Weights, warnings: &mut Vec<String>) -> Result<Weights, Problem> {
    let mut converted = false;
    let mut float = |(name, tensor): (String, Tensor)| {
        if tensor.as_f32().is_some() {
            return Ok((name, tensor));
        }
        converted = true;
        let tensor = tensor.to_f32().ok_or_else(|| {
            let what = format!("its elements are {}, a weight's are floats", tensor.dtype());
            Problem::unsupported(format!("tensor `{name}`"), what, "Save the model before it is quantized")
        })?;
        Ok((name, tensor))
    };
    let weights = weights.into_iter().map(&mut float).collect::<Result<Weights, Problem>>()?;
    if converted {
        warnings.push("the file is not all float32; it is computed in float32 here".into());
    }
    Ok(weights)
}
