//! Attention relevance: what the tokens that the head reads have taken from the patches, through all layers.

use offshoot_graph::op::Op;
use offshoot_graph::{Graph, ValueId};

use super::layer::{Layer, layers};
use super::places::{Grid, Layout};
use super::{Heatmap, shape_of_one};
use crate::error::{Error, Result};

/// The attentions of a transformer.
pub(super) struct Attentions {
    /// Their probabilities, [heads, tokens, tokens] for a picture, in the order of the network; then the last tokens.
    values: Vec<ValueId>,
    /// The last tokens.
    grid: Grid,
}

impl Attentions {
    /// Finds those of a network whose every attention is one of all tokens to all.
    pub(super) fn find(graph: &Graph) -> Result<Attentions> {
        let refused = |what: &str| {
            let text = format!("attention does not fit this network: {what}; use layercam or occlusion");
            Error::Option { option: "method", text }
        };
        let (mut values, mut tokens) = (Vec::new(), None);
        for node in graph.nodes() {
            let Op::Softmax { axis } = node.op else { continue };
            let shape = shape_of_one(graph, node.outputs[0]).unwrap_or_default();
            if let [1, _] = shape[..] {
                continue; // of the classes
            }
            let all = match shape[..] {
                [_, .., queries, keys] if axis + 1 == shape.len() && queries == keys => {
                    *tokens.get_or_insert(keys) == keys
                }
                _ => false,
            };
            if !all {
                return Err(refused("it has attention that is not of all tokens to all"));
            }
            values.push(node.outputs[0]);
        }
        let tokens = tokens.ok_or_else(|| refused("it has no attention"))?;
        let holds_all = |layer: &Layer| match layer.grid.layout {
            Layout::Tokens { before } => before + layer.grid.places() == tokens,
            Layout::ChannelsFirst | Layout::ChannelsLast | Layout::Flat => false,
        };
        let last = layers(graph).into_iter().rfind(holds_all);
        let last = last.ok_or_else(|| refused("its tokens are not those of places of the picture"))?;
        values.push(last.value);
        Ok(Attentions { values, grid: last.grid })
    }

    /// The values whose gradients are needed.
    pub(super) fn values(&self) -> &[ValueId] {
        &self.values
    }

    /// The relevance of each patch, from each value with its gradient: the rows of R that belong to the tokens which the head
    /// reads, where R is the product over the layers of I + mean over the heads of max(0, attention * gradient) (Chefer et al.,
    /// 2021, equations 5 and 6, for self-attention). Where the head reads tokens before the patches and patches too, both count half.
    pub(super) fn relevance(&self, mut read: impl FnMut(usize) -> Result<[Vec<f32>; 2]>) -> Result<Heatmap> {
        let layers = self.values.len() - 1;
        let [_, gradient] = read(layers)?;
        let mut row = self.read_tokens(&gradient);
        // One row of the product, from the last layer to the first: the whole matrices are not multiplied.
        for layer in (0..layers).rev() {
            let [attention, gradient] = read(layer)?;
            row = followed(&row, &attention, &gradient);
        }
        let values = row[self.before()..].iter().map(|&x| x as f32).collect();
        Ok(Heatmap { rows: self.grid.rows, columns: self.grid.columns, values })
    }

    /// The tokens before the patches.
    fn before(&self) -> usize {
        match self.grid.layout {
            Layout::Tokens { before } => before,
            Layout::ChannelsFirst | Layout::ChannelsLast | Layout::Flat => 0,
        }
    }

    /// How much each token counts among those that the head reads, which have a gradient.
    fn read_tokens(&self, gradient: &[f32]) -> Vec<f64> {
        let is_read = |token: &[f32]| token.iter().any(|&x| x != 0.0);
        let read: Vec<bool> = gradient.chunks_exact(self.grid.channels).map(is_read).collect();
        let (before, patches) = read.split_at(self.before());
        let counts = [before, patches].map(|part| part.iter().filter(|&&read| read).count());
        let parts = counts.iter().filter(|&&count| count > 0).count().max(1) as f64;
        let share = |(token, &read): (usize, &bool)| {
            let count = counts[usize::from(token >= self.before())];
            if read { 1.0 / (parts * count as f64) } else { 0.0 }
        };
        read.iter().enumerate().map(share).collect()
    }
}

/// row (I + mean over the heads of max(0, attention * gradient)).
fn followed(row: &[f64], attention: &[f32], gradient: &[f32]) -> Vec<f64> {
    let tokens = row.len();
    let heads = (attention.len() / (tokens * tokens)).max(1) as f64;
    let mut next = row.to_vec();
    let queries = attention.chunks_exact(tokens).zip(gradient.chunks_exact(tokens)).enumerate();
    for (query, (attention, gradient)) in queries {
        let share = row[query % tokens] / heads;
        if share != 0.0 {
            let products = attention.iter().zip(gradient).map(|(&a, &g)| f64::from(a) * f64::from(g));
            next.iter_mut().zip(products).for_each(|(x, product)| *x += share * product.max(0.0));
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relevance_follows_positive_products() {
        // Two heads of two tokens; the second has no gradient.
        let attention = [0.5, 0.5, 0.25, 0.75, 1.0, 0.0, 0.0, 1.0];
        let gradient = [2.0, -1.0, 4.0, 4.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(followed(&[1.0, 0.0], &attention, &gradient), [1.5, 0.0]);
        assert_eq!(followed(&[0.0, 1.0], &attention, &gradient), [0.5, 2.5]);
    }
}
