//! The nodes that the output needs, each after what it reads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::attributes::NodeView;
use super::proto::{GraphProto, NodeProto};
use crate::error::Problem;

/// Who makes each value of a graph.
pub(super) struct Producers<'a> {
    nodes: &'a [NodeProto],
    by_output: HashMap<&'a str, usize>,
    given: HashSet<&'a str>,
}

impl<'a> Producers<'a> {
    /// Checks that each value is made once.
    pub(super) fn new(graph: &'a GraphProto) -> Result<Producers<'a>, Problem> {
        let inputs = graph.input.iter().map(|v| v.name.as_str());
        let given: HashSet<&str> = inputs.chain(graph.initializer.iter().map(|t| t.name.as_str())).collect();
        let mut by_output = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                if given.contains(output.as_str()) || by_output.insert(output.as_str(), index).is_some() {
                    let node = NodeView { proto: node };
                    return Err(node.damaged(format!("it makes `{output}`, which is made elsewhere too")));
                }
            }
        }
        Ok(Producers { nodes: &graph.node, by_output, given })
    }

    /// The node that makes `value`.
    pub(super) fn producer(&self, value: &str) -> Option<NodeView<'a>> {
        self.by_output.get(value).map(|&i| NodeView { proto: &self.nodes[i] })
    }

    /// The nodes that `output` needs, in the file's order where that is possible.
    pub(super) fn needed(&self, output: &str) -> Result<Vec<NodeView<'a>>, Problem> {
        let needed = self.mark(output)?;
        let mut waiting: HashMap<usize, usize> = HashMap::new();
        let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
        for &reader in &needed {
            let sources = self.sources(reader).count();
            waiting.insert(reader, sources);
            for source in self.sources(reader) {
                readers.entry(source).or_default().push(reader);
            }
        }
        let free = waiting.iter().filter(|&(_, &count)| count == 0);
        let mut ready: BinaryHeap<Reverse<usize>> = free.map(|(&node, _)| Reverse(node)).collect();
        let mut order = Vec::with_capacity(needed.len());
        while let Some(Reverse(node)) = ready.pop() {
            order.push(NodeView { proto: &self.nodes[node] });
            waiting.remove(&node);
            for reader in readers.get(&node).into_iter().flatten() {
                if let Some(count) = waiting.get_mut(reader) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push(Reverse(*reader));
                    }
                }
            }
        }
        match waiting.keys().min() {
            Some(&node) => {
                Err(NodeView { proto: &self.nodes[node] }.damaged("it takes part in a cycle of nodes"))
            }
            None => Ok(order),
        }
    }

    /// Every node that `output` depends on.
    fn mark(&self, output: &str) -> Result<HashSet<usize>, Problem> {
        let mut needed = HashSet::new();
        let mut stack: Vec<usize> = self.by_output.get(output).copied().into_iter().collect();
        while let Some(index) = stack.pop() {
            if !needed.insert(index) {
                continue;
            }
            let node = &self.nodes[index];
            for input in node.input.iter().filter(|i| !i.is_empty()) {
                match self.by_output.get(input.as_str()) {
                    Some(&source) => stack.push(source),
                    None if self.given.contains(input.as_str()) => {}
                    None => {
                        let node = NodeView { proto: node };
                        let what = format!("it reads `{input}`, which no node, input or initializer gives");
                        return Err(node.damaged(what));
                    }
                }
            }
        }
        Ok(needed)
    }

    /// The nodes whose outputs a node reads, once for each time.
    fn sources(&self, node: usize) -> impl Iterator<Item = usize> {
        self.nodes[node].input.iter().filter_map(|i| self.by_output.get(i.as_str()).copied())
    }
}
