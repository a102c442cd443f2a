//! The convolutions that the benches time.

use offshoot_cpu::kernels::ConvShape;

/// A convolution of square pictures with a border of half its kernel. `layer` is the side of its input, channels in and out,
/// kernel and stride.
pub(crate) fn padded(batch: usize, layer: [usize; 5], groups: usize) -> ConvShape {
    let [side, in_c, out_c, kernel, stride] = layer;
    let pad = kernel / 2;
    let out = (side + 2 * pad - kernel) / stride + 1;
    ConvShape {
        batch,
        in_h: side,
        in_w: side,
        in_c,
        out_h: out,
        out_w: out,
        out_c,
        kernel: [kernel; 2],
        strides: [stride; 2],
        pads: [pad; 4],
        dilations: [1; 2],
        groups,
    }
}
