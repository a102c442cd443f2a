//! Class activation maps: from the activations of a layer and the gradient of a class's logit by them.

use super::Heatmap;
use super::places::Grid;

/// Grad-CAM: max(0, sum over channels of mean(gradient) * activation), where the mean is over the places of a channel.
pub(super) fn grad_cam(activations: &[f32], gradients: &[f32], grid: Grid) -> Heatmap {
    let places = grid.places();
    let mean = |channel: usize| {
        let sum: f64 = (0..places).map(|place| f64::from(gradients[grid.index(channel, place)])).sum();
        sum / places as f64
    };
    let means: Vec<f64> = (0..grid.channels).map(mean).collect();
    map(grid, |channel, place| means[channel] * f64::from(activations[grid.index(channel, place)]))
}

/// LayerCAM: max(0, sum over channels of max(0, gradient) * activation).
pub(super) fn layer_cam(activations: &[f32], gradients: &[f32], grid: Grid) -> Heatmap {
    map(grid, |channel, place| {
        let index = grid.index(channel, place);
        f64::from(gradients[index].max(0.0)) * f64::from(activations[index])
    })
}

/// The sums over the channels, where they are above 0.
fn map(grid: Grid, part: impl Fn(usize, usize) -> f64) -> Heatmap {
    let at = |place| (0..grid.channels).map(|channel| part(channel, place)).sum::<f64>().max(0.0) as f32;
    Heatmap { rows: grid.rows, columns: grid.columns, values: (0..grid.places()).map(at).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::places::Layout;
    use super::*;

    #[test]
    fn channels_are_weighted_by_their_gradients() {
        let grid = Grid { layout: Layout::ChannelsFirst, rows: 1, columns: 2, channels: 2 };
        let (activations, gradients) = ([1.0, 2.0, 3.0, 4.0], [1.0, -3.0, 2.0, 0.0]);
        // Means of the gradients: -1 and 1.
        assert_eq!(grad_cam(&activations, &gradients, grid).values, [2.0, 2.0]);
        assert_eq!(layer_cam(&activations, &gradients, grid).values, [7.0, 0.0]);
    }

    #[test]
    fn tokens_before_the_places_are_left_out() {
        let grid = Grid { layout: Layout::Tokens { before: 1 }, rows: 2, columns: 1, channels: 2 };
        let activations = [9.0, 9.0, 1.0, 3.0, 2.0, 4.0];
        let gradients = [9.0, 9.0, 1.0, 2.0, -3.0, 0.0];
        assert_eq!(layer_cam(&activations, &gradients, grid).values, [7.0, 0.0]);
    }
}
