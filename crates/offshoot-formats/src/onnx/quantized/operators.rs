//! Operators whose scales and zero points the file stores.

use super::super::attributes::NodeView;
use super::super::proto::NodeProto;
use super::{FLOAT, Kind, Note, Pass, Steps, attributes, int};
use crate::error::Problem;

/// 1.5 * 2^23: a float of at most 2^22 plus this has no bits for fractions, so that adding it rounds half to even.
pub(super) const ROUND: f32 = 12_582_912.0;

impl<'a> Pass<'a> {
    pub(super) fn quantize_linear(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let mut steps = self.steps_at(node, [1, 2])?;
        // Without a zero point, an attribute may say what the integers are.
        let data_type = i32::try_from(node.int("output_dtype", 0)).ok();
        if let (None, Some(data_type)) = (&steps.zero_point, data_type.filter(|&of| Kind::of(of).is_some())) {
            steps.zero_point = Some(self.zero(node, data_type)?);
        }
        let output = node.required_output()?;
        if self.stored.contains_key(node.required(0)?) {
            self.rounded_weights.insert(output, node.required(0)?);
        }
        // (What is no zero point is an error of the node itself.)
        if self.kind(node, steps.zero_point.as_deref()).is_ok_and(|kind| !kind.eight) {
            return self.quantized(node, node.required(0)?.to_owned(), &steps, output);
        }
        if !self.is_one_of_several(&steps.scale) && self.is_read(node, &steps) {
            self.steps.insert(output.to_owned(), steps);
        }
        self.nodes.push(NodeProto { domain: String::new(), ..node.proto.clone() });
        Ok(())
    }

    /// Whether a QuantizeLinear is one that a graph is made of. (Another is an error of its own, not of what reads it.)
    fn is_read(&mut self, node: NodeView<'a>, steps: &Steps) -> bool {
        let plain = ["precision", "block_size"].iter().all(|name| node.int(name, 0) == 0)
            && matches!(node.int("output_dtype", 0), 0 | 2 | 3)
            && self.kind(node, steps.zero_point.as_deref()).is_ok();
        let scale = self.floats(node, &steps.scale);
        plain && scale.is_ok_and(|scale| scale.iter().all(|&s| s > 0.0 && s.is_finite()))
    }

    pub(super) fn dequantize_linear(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let x = node.required(0)?;
        if self.stored.contains_key(x) || self.rounded_weights.contains_key(x) {
            return self.stored_weight(node, x);
        }
        if self.levels.contains_key(x) {
            let steps = self.steps_at(node, [1, 2])?;
            let output = node.required_output()?;
            self.dequantized(node, x, &steps, None, Some(output))?;
            return Ok(());
        }
        self.nodes.push(NodeProto { domain: String::new(), ..node.proto.clone() });
        Ok(())
    }

    /// QLinearConv: x, w and y with their scales and zero points, and a bias of i32.
    pub(super) fn conv(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let [x, w, y] = [[1, 2], [4, 5], [6, 7]].map(|at| self.steps_at(node, at));
        let (x, w, y) = (x?, w?, y?);
        let mut inputs = vec![
            self.dequantized(node, node.required(0)?, &x, None, None)?,
            self.dequantized(node, node.required(3)?, &w, Some(0), None)?,
        ];
        if let Some(bias) = node.input(8) {
            inputs.push(self.bias(node, bias, [&x.scale, &w.scale], 1.0)?);
        }
        self.computed(node, "Conv", inputs, attributes(node, &[]), &y)
    }

    /// QLinearMatMul: a, b and y with their scales and zero points.
    pub(super) fn matmul(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let [a, b, y] = [[1, 2], [4, 5], [6, 7]].map(|at| self.steps_at(node, at));
        let (a, b, y) = (a?, b?, y?);
        let inputs = vec![
            self.dequantized(node, node.required(0)?, &a, None, None)?,
            self.dequantized(node, node.required(3)?, &b, Some(1), None)?,
        ];
        self.computed(node, "MatMul", inputs, Vec::new(), &y)
    }

    /// QGemm: a and b with their scales and zero points, a bias of i32, and the steps of y, without which it is floats.
    pub(super) fn gemm(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let (a, b) = (self.steps_at(node, [1, 2])?, self.steps_at(node, [4, 5])?);
        let columns = i64::from(!node.flag("transB"));
        let mut inputs = vec![
            self.dequantized(node, node.required(0)?, &a, None, None)?,
            self.dequantized(node, node.required(3)?, &b, Some(columns), None)?,
        ];
        if let Some(bias) = node.input(6) {
            let factor = node.float("alpha").unwrap_or(1.0);
            inputs.push(self.bias(node, bias, [&a.scale, &b.scale], factor)?);
        }
        if node.input(7).is_some() {
            let y = self.steps_at(node, [7, 8])?;
            return self.computed(node, "Gemm", inputs, attributes(node, &[]), &y);
        }
        let output = node.required_output()?;
        self.push("Gemm", node.name().to_owned(), inputs, attributes(node, &[]), Some(output));
        Ok(())
    }

    /// A sum or product of two quantized tensors.
    pub(super) fn pair(&mut self, node: NodeView<'a>, op: &str) -> Result<(), Problem> {
        let [a, b, y] = [[1, 2], [4, 5], [6, 7]].map(|at| self.steps_at(node, at));
        let (a, b, y) = (a?, b?, y?);
        let inputs = vec![
            self.dequantized(node, node.required(0)?, &a, None, None)?,
            self.dequantized(node, node.required(3)?, &b, None, None)?,
        ];
        self.computed(node, op, inputs, Vec::new(), &y)
    }

    /// A function of one quantized tensor: x and y with their scales and zero points.
    pub(super) fn function(&mut self, node: NodeView<'a>, op: &str) -> Result<(), Problem> {
        if node.flag("channels_last") {
            return Err(node.unsupported("quantized pictures with their channels last are not read", FLOAT));
        }
        if op == "Softmax" && node.int("opset", 13) < 13 && node.int("axis", -1) != -1 {
            return Err(node.unsupported("a softmax over several axes is not read", FLOAT));
        }
        let (x, y) = (self.steps_at(node, [1, 2])?, self.steps_at(node, [3, 4])?);
        let inputs = vec![self.dequantized(node, node.required(0)?, &x, None, None)?];
        let mut given = attributes(node, &["channels_last", "opset"]);
        if op == "Softmax" && !node.has("axis") {
            given.push(int("axis", -1));
        }
        self.computed(node, op, inputs, given, &y)
    }

    /// QLinearConcat: the steps of y, then each part with its own.
    pub(super) fn concat(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let y = self.steps_at(node, [0, 1])?;
        let mut inputs = Vec::new();
        for part in (2..node.proto.input.len()).step_by(3) {
            let steps = self.steps_at(node, [part + 1, part + 2])?;
            inputs.push(self.dequantized(node, node.required(part)?, &steps, None, None)?);
        }
        self.computed(node, "Concat", inputs, attributes(node, &[]), &y)
    }

    /// What moves quantized floats, or takes the largest of them, leaves their steps as they are.
    pub(super) fn moved(&mut self, node: NodeView<'a>) -> Result<(), Problem> {
        let reads = match node.op() {
            "MaxPool" | "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze" | "Slice" | "Split"
            | "Identity" | "Expand" | "Tile" | "DepthToSpace" | "SpaceToDepth" | "GlobalMaxPool"
            | "Gather" => 1,
            "Concat" => node.proto.input.len(),
            "Shape" | "Size" => {
                let mut sizes = node.proto.clone();
                if let Some(levels) = node.input(0).and_then(|x| self.levels.get(x)) {
                    sizes.input[0].clone_from(levels);
                }
                self.nodes.push(sizes);
                return Ok(());
            }
            _ => {
                return Err(
                    node.unsupported("it reads quantized numbers, for which it has no meaning here", FLOAT)
                );
            }
        };
        let Some(steps) = node.input(0).and_then(|x| self.steps.get(x)).cloned() else { return Ok(()) };
        let mut inputs = node.proto.input.clone();
        for (index, input) in inputs.iter_mut().enumerate().take(reads) {
            let name = node.required(index)?;
            if self.steps.get(name) != Some(&steps) {
                let what = "it joins numbers that are quantized in different ways";
                return Err(node.unsupported(what, FLOAT));
            }
            *input = self.dequantized(node, name, &steps, None, None)?;
        }
        let mut outputs = Vec::new();
        for output in &node.proto.output {
            outputs.push(if output.is_empty() {
                String::new()
            } else {
                self.unused(format!("{output}.float"))
            });
        }
        self.nodes.push(NodeProto { input: inputs, output: outputs.clone(), ..node.proto.clone() });
        for (output, float) in node.proto.output.iter().zip(outputs) {
            if !output.is_empty() && self.readers.contains_key(output.as_str()) {
                self.quantized(node, float, &steps, output)?;
            }
        }
        Ok(())
    }

    /// The operator on floats, and its result in steps of `y` under the name that the node has for it.
    pub(super) fn computed(
        &mut self,
        node: NodeView<'a>,
        op: &str,
        inputs: Vec<String>,
        attributes: Vec<super::AttributeProto>,
        y: &Steps,
    ) -> Result<(), Problem> {
        let float = self.push(op, format!("{}.float", node.name()), inputs, attributes, None);
        self.quantized(node, float, y, node.required_output()?)
    }

    /// x, quantized, under the name `output`.
    fn quantized(
        &mut self,
        node: NodeView<'a>,
        x: String,
        steps: &Steps,
        output: &str,
    ) -> Result<(), Problem> {
        let kind = self.kind(node, steps.zero_point.as_deref())?;
        self.steps.insert(output.to_owned(), steps.clone());
        if kind.eight {
            let inputs = [vec![x, steps.scale.clone()], steps.zero_point.iter().cloned().collect()].concat();
            self.push(
                "QuantizeLinear",
                format!("{}.quantize", node.name()),
                inputs,
                Vec::new(),
                Some(output),
            );
            return Ok(());
        }
        self.note(Note::Activations);
        let zero_point = match &steps.zero_point {
            Some(name) => self.one_integer(node, name)?,
            None => 0,
        };
        let levels = self.push(
            "Div",
            format!("{}.levels", node.name()),
            vec![x, steps.scale.clone()],
            Vec::new(),
            None,
        );
        let bounds = [kind.low - zero_point, kind.high - zero_point].map(|bound| bound as f32);
        let levels = self.rounded(node, levels, bounds)?;
        self.levels.insert(output.to_owned(), levels);
        Ok(())
    }

    /// x within bounds, rounded half to even.
    pub(super) fn rounded(
        &mut self,
        node: NodeView<'a>,
        x: String,
        [low, high]: [f32; 2],
    ) -> Result<String, Problem> {
        let mut x = x;
        for (op, number) in [("Max", low), ("Min", high), ("Add", ROUND), ("Sub", ROUND)] {
            let number = self.number(node, number)?;
            x = self.push(op, format!("{}.rounded", node.name()), vec![x, number], Vec::new(), None);
        }
        Ok(x)
    }

    /// The floats that `x` stands for, with scales along `axis` where there are several.
    pub(super) fn dequantized(
        &mut self,
        node: NodeView<'a>,
        x: &str,
        steps: &Steps,
        axis: Option<i64>,
        output: Option<&str>,
    ) -> Result<String, Problem> {
        let name = format!("{x}.floats");
        if let Some(levels) = self.levels.get(x).cloned() {
            self.same_zero_point(node, x, steps.zero_point.as_deref())?;
            return Ok(self.push("Mul", name, vec![levels, steps.scale.clone()], Vec::new(), output));
        }
        if let Some(tensor) = self.stored.get(x)
            && Kind::of(tensor.data_type.unwrap_or_default()).is_some_and(|kind| !kind.eight)
        {
            return self.floats_of(node, x, steps, axis, output);
        }
        let steps = self.matched(node, steps)?;
        let inputs = [vec![x.to_owned(), steps.scale], steps.zero_point.into_iter().collect()].concat();
        let attributes = axis.map(|axis| int("axis", axis)).into_iter().collect();
        Ok(self.push("DequantizeLinear", name, inputs, attributes, output))
    }

    /// That levels are read with the zero point that was taken from them.
    pub(super) fn same_zero_point(
        &mut self,
        node: NodeView<'a>,
        x: &str,
        zero_point: Option<&str>,
    ) -> Result<(), Problem> {
        let taken = self.steps.get(x).and_then(|steps| steps.zero_point.clone());
        if taken.as_deref() == zero_point {
            return Ok(());
        }
        let mut number = |name: Option<&str>| name.map_or(Ok(0), |name| self.one_integer(node, name));
        if number(taken.as_deref())? == number(zero_point)? {
            return Ok(());
        }
        let what = format!("`{x}` was quantized with another zero point than it is read with");
        Err(node.unsupported(what, FLOAT))
    }

    pub(super) fn note(&mut self, note: Note) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}
