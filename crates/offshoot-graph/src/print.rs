//! A graph as text, one node a line.

use std::fmt;

use crate::graph::{Graph, Source};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed = |id| {
            let value = self.value(id);
            format!("{}: {}{}", value.name, value.dtype, value.shape)
        };
        let inputs: Vec<String> = self.inputs().iter().map(|&id| typed(id)).collect();
        writeln!(f, "graph {}({}) {{", self.name(), inputs.join(", "))?;
        for &id in self.parameters() {
            let frozen = match self.parameter_info(id) {
                Some(p) if p.trainable => "",
                _ => " (frozen)",
            };
            writeln!(f, "  param {}{frozen}", typed(id))?;
        }
        for (id, value) in self.values() {
            if matches!(value.source, Source::Constant(_)) {
                writeln!(f, "  const {}", typed(id))?;
            }
        }
        for node in self.nodes() {
            let inputs: Vec<&str> = node.inputs.iter().map(|&id| self.value(id).name.as_str()).collect();
            let outputs: Vec<String> = node.outputs.iter().map(|&id| typed(id)).collect();
            // The attributes are what the debug form has in braces.
            let debug = format!("{:?}", node.op);
            let attributes = debug.find('{').zip(debug.rfind('}')).map_or("", |(from, to)| &debug[from..=to]);
            let space = if attributes.is_empty() { "" } else { " " };
            writeln!(
                f,
                "  {} = {}({}){space}{attributes}",
                outputs.join(", "),
                node.op.name(),
                inputs.join(", ")
            )?;
        }
        let outputs: Vec<String> =
            self.outputs().iter().map(|(name, id)| format!("{name} = {}", self.value(*id).name)).collect();
        writeln!(f, "  return {}", outputs.join(", "))?;
        for (parameter, value) in self.results() {
            writeln!(f, "  {} <- {}", self.value(*parameter).name, self.value(*value).name)?;
        }
        f.write_str("}\n")
    }
}
