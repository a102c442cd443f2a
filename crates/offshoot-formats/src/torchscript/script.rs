//! The methods of a scripted model: from pictures of any size, as bytes or as floats, to logits or to labels.

use offshoot_graph::{Fit, Interpolation, Preprocessing};

use super::print::{MODULE, float};
use crate::error::Problem;

/// The attributes that the methods use.
pub(super) const ATTRIBUTES: &str = "  classes : List[str]\n";

/// `forward`, `classify` and `preprocess`. The network is the method `logits`, which gives probabilities where
/// `probabilities` says so.
pub(super) fn methods(steps: &Preprocessing, probabilities: bool) -> Result<String, Problem> {
    let resize = resize_operator(steps.interpolation)?;
    let answers = "(self).forward(pictures, )";
    let probabilities = match probabilities {
        true => answers.to_owned(),
        false => format!("torch.softmax({answers}, 1, None)"),
    };
    Ok(format!(
        r#"  def forward(self: {MODULE}.Model,
    pictures: Tensor) -> Tensor:
    return (self).logits((self).preprocess(pictures, ), )
  def classify(self: {MODULE}.Model,
    pictures: Tensor) -> Tuple[List[str], Tensor]:
    classes = self.classes
    probabilities = {probabilities}
    best = torch.argmax(probabilities, 1)
    labels = annotate(List[str], [])
    for i in range(torch.size(best, 0)):
      _0 = torch.append(labels, classes[int(torch.select(best, 0, i))])
    return (labels, probabilities)
  def preprocess(self: {MODULE}.Model,
    pictures: Tensor) -> Tensor:
    if torch.eq(torch.dim(pictures), 3):
      x = torch.unsqueeze(pictures, 0)
    else:
      x = pictures
    if torch.ne(torch.dim(x), 4):
      ops.prim.RaiseException("give pictures as [3, height, width] or [n, 3, height, width]", "builtins.ValueError")
    else:
      pass
    if torch.ne(torch.size(x, 1), 3):
      ops.prim.RaiseException("give pictures with three channels: red, green, blue", "builtins.ValueError")
    else:
      pass
    if torch.eq(ops.prim.dtype(x), 0):
      scale = 1.
    else:
      scale = 255.
      if torch.is_floating_point(x):
        pass
      else:
        ops.prim.RaiseException("give pictures as uint8 from 0 to 255, or as floats from 0 to 1", "builtins.ValueError")
    x0 = torch.mul(torch.to(x, 6), scale)
    h = torch.size(x0, 2)
    w = torch.size(x0, 3)
{fit}{normalise}"#,
        fit = fit(steps, resize),
        normalise = normalise(steps),
    ))
}

/// The operator that resizes as the preprocessing says, and its arguments after the size.
fn resize_operator(interpolation: Interpolation) -> Result<(&'static str, &'static str), Problem> {
    match interpolation {
        Interpolation::Bilinear => Ok(("torch._upsample_bilinear2d_aa", "False, None, None")),
        Interpolation::Bicubic => Ok(("torch._upsample_bicubic2d_aa", "False, None, None")),
        Interpolation::Nearest => Ok(("torch._upsample_nearest_exact2d", "None, None")),
        Interpolation::Lanczos => Err(Problem::unsupported(
            "preprocessing",
            "PyTorch has no Lanczos filter to put in the file",
            "Write the traced form, which takes prepared pictures: leave --script out",
        )),
    }
}

/// Steps from `x0`, `h` and `w` to the square `x2` of whole numbers from 0 to 255.
fn fit(steps: &Preprocessing, (operator, arguments): (&str, &str)) -> String {
    let (size, resize) = (steps.size, steps.resize);
    let resized = |from: &str, to: &str| {
        format!("torch.clamp(torch.round({operator}({from}, {to}, {arguments})), 0., 255.)")
    };
    match steps.fit {
        Fit::Crop => format!(
            r#"    if torch.le(w, h):
      rh = torch.floordiv(torch.mul(h, {resize}), w)
      rw = {resize}
    else:
      rh = {resize}
      rw = torch.floordiv(torch.mul(w, {resize}), h)
    x1 = {}
    dh = torch.sub(rh, {size})
    dw = torch.sub(rw, {size})
    top = torch.floordiv(torch.add(dh, torch.remainder(torch.floordiv(dh, 2), 2)), 2)
    left = torch.floordiv(torch.add(dw, torch.remainder(torch.floordiv(dw, 2), 2)), 2)
    x2 = torch.slice(torch.slice(x1, 2, top, torch.add(top, {size})), 3, left, torch.add(left, {size}))
"#,
            resized("x0", "[rh, rw]")
        ),
        Fit::Pad => {
            let padded = |channel: usize| {
                let colour = float(steps.background[channel].into());
                format!(
                    "torch.pad(torch.slice(x0, 1, {channel}, {}), sides, \"constant\", {colour})",
                    channel + 1
                )
            };
            format!(
                r#"    side = ops.prim.max(h, w)
    top = torch.floordiv(torch.sub(side, h), 2)
    left = torch.floordiv(torch.sub(side, w), 2)
    sides = [left, torch.sub(torch.sub(side, w), left), top, torch.sub(torch.sub(side, h), top)]
    x1 = torch.cat([{}, {}, {}], 1)
    x2 = {}
"#,
                padded(0),
                padded(1),
                padded(2),
                resized("x1", &format!("[{size}, {size}]"))
            )
        }
        Fit::Stretch => format!("    x2 = {}\n", resized("x0", &format!("[{size}, {size}]"))),
    }
}

fn normalise(steps: &Preprocessing) -> String {
    let channel = |c: usize| {
        let (mean, std) = (float(steps.mean[c]), float(steps.std[c]));
        format!("torch.div(torch.sub(torch.slice(x3, 1, {c}, {}), {mean}), {std})", c + 1)
    };
    format!(
        "    x3 = torch.div(x2, 255.)\n    return torch.cat([{}, {}, {}], 1)\n",
        channel(0),
        channel(1),
        channel(2)
    )
}
