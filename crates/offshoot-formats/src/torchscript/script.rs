//! The methods of a scripted model: from pictures of any size, as bytes or as floats, to logits or to labels.

use offshoot_graph::{Fit, Interpolation, Metadata, Preprocessing, Task};

use super::print::{MODULE, float};
use crate::error::Problem;

/// The attributes that the methods use.
pub(super) const ATTRIBUTES: &str = "  classes : List[str]\n";

/// The label of each picture, and the probabilities.
const ONE_LABEL: &str = r#"    best = torch.argmax(probabilities, 1)
    labels = annotate(List[str], [])
    for i in range(torch.size(best, 0)):
      _0 = torch.append(labels, classes[int(torch.select(best, 0, i))])
"#;

/// The labels of each picture whose probabilities reach `thresholds`.
fn several_labels(thresholds: &[f64]) -> String {
    let thresholds: Vec<String> = thresholds.iter().map(|threshold| format!("{threshold:?}")).collect();
    format!(
        r#"    thresholds = annotate(List[float], [{}])
    labels = annotate(List[List[str]], [])
    for i in range(torch.size(probabilities, 0)):
      names = annotate(List[str], [])
      for j in range(torch.len(classes)):
        p = torch.select(torch.select(probabilities, 0, i), 0, j)
        if torch.ge(float(p), thresholds[j]):
          _0 = torch.append(names, classes[j])
        else:
          pass
      _1 = torch.append(labels, names)
"#,
        thresholds.join(", ")
    )
}

/// `classify`, which gives labels and probabilities. None where numbers are predicted: those are what `forward` gives.
fn classify(metadata: &Metadata, probabilities: bool) -> String {
    let answers = "(self).forward(pictures, )";
    let (kind, labels, activated) = match metadata.task {
        Task::Single => {
            let logits = match metadata.temperature {
                Some(temperature) => format!("torch.div({answers}, {temperature:?})"),
                None => answers.to_owned(),
            };
            ("str", ONE_LABEL.to_owned(), format!("torch.softmax({logits}, 1, None)"))
        }
        Task::Multi => {
            ("List[str]", several_labels(&metadata.class_thresholds()), format!("torch.sigmoid({answers})"))
        }
        Task::Regression => return String::new(),
    };
    let probabilities = if probabilities { answers.to_owned() } else { activated };
    format!(
        r#"  def classify(self: {MODULE}.Model,
    pictures: Tensor) -> Tuple[List[{kind}], Tensor]:
    classes = self.classes
    probabilities = {probabilities}
{labels}    return (labels, probabilities)
"#
    )
}

/// `forward`, `classify` and `preprocess`. The network is the method `logits`, which gives probabilities where
/// `probabilities` says so.
pub(super) fn methods(metadata: &Metadata, probabilities: bool) -> Result<String, Problem> {
    let steps = &metadata.preprocessing;
    let classify = classify(metadata, probabilities);
    Ok(format!(
        r#"  def forward(self: {MODULE}.Model,
    pictures: Tensor) -> Tensor:
    return (self).logits((self).preprocess(pictures, ), )
{classify}  def preprocess(self: {MODULE}.Model,
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
    {h} = torch.size(x0, 2)
    {w} = torch.size(x0, 3)
{fit}{normalise}"#,
        h = if steps.fit == Fit::Pad { "h0" } else { "h" },
        w = if steps.fit == Fit::Pad { "w0" } else { "w" },
        fit = fit(steps)?,
        normalise = normalise(steps),
    ))
}

/// The lines that resize `x` of `h` by `w` to `rows` by `columns`, into `y2`: as Pillow does and we do, with whole numbers after
/// each of two directions, of which the first is down where that shrinks by more than twice as many pixels.
fn resize(interpolation: Interpolation, x: &str, rows: &str, columns: &str) -> Result<String, Problem> {
    let (operator, arguments) = match interpolation {
        Interpolation::Bilinear => ("torch._upsample_bilinear2d_aa", "False, None, None"),
        Interpolation::Bicubic => ("torch._upsample_bicubic2d_aa", "False, None, None"),
        Interpolation::Nearest => return Ok(nearest(x, rows, columns)),
        Interpolation::Lanczos => {
            return Err(Problem::unsupported(
                "preprocessing",
                "PyTorch has no Lanczos filter to put in the file",
                "Write the traced form, which takes prepared pictures: leave {script} out",
            ));
        }
    };
    let once = |from: &str, sides: &str| {
        let resized = format!("{operator}({from}, {sides}, {arguments})");
        format!("torch.clamp(torch.floor(torch.add({resized}, 0.5)), 0., 255.)")
    };
    // PyTorch resizes a column of one pixel wrongly: two of them side by side come to the same.
    Ok(format!(
        r#"    if torch.eq(w, 1):
      y0 = torch.cat([{x}, {x}], 3)
    else:
      y0 = {x}
    shrinks = torch.sub(h, {rows})
    if torch.__and__(torch.gt(shrinks, 0), torch.lt(torch.mul(torch.sub(w, {columns}), 2), shrinks)):
      between = [{rows}, torch.size(y0, 3)]
    else:
      between = [h, {columns}]
    y1 = {first}
    y2 = {second}
"#,
        first = once("y0", "between"),
        second = once("y1", &format!("[{rows}, {columns}]")),
    ))
}

/// The same for the nearest pixels. Where a middle falls between two of them, the rounding of a running sum decides, in Pillow and
/// here: it is computed as there.
fn nearest(x: &str, rows: &str, columns: &str) -> String {
    let mut lines = String::new();
    for (at, axis, from, to, source) in [("v", 2, "h", rows, x), ("u", 3, "w", columns, "y1")] {
        let made = axis - 1;
        let full = |count: &str, value: &str| {
            format!(
                "torch.full([{count}], {value}, dtype=7, layout=None, device=torch.device(\"cpu\"), pin_memory=False)"
            )
        };
        let first = full("1", &format!("torch.mul({at}0, 0.5)"));
        let others = full(&format!("torch.sub({to}, 1)"), &format!("{at}0"));
        lines += &format!(
            r#"    {at}0 = torch.div({from}, {to})
    {at}1 = torch.cumsum(torch.cat([{first}, {others}], 0), 0)
    y{made} = torch.index_select({source}, {axis}, torch.to({at}1, ops.prim.device({x}), 4))
"#
        );
    }
    lines
}

/// Steps from `x0`, `h` and `w` to the square `x2` of whole numbers from 0 to 255.
fn fit(steps: &Preprocessing) -> Result<String, Problem> {
    let (size, side) = (steps.size, steps.resize);
    let square = size.to_string();
    Ok(match steps.fit {
        Fit::Crop => format!(
            r#"    if torch.le(w, h):
      rh = torch.floordiv(torch.mul(h, {side}), w)
      rw = {side}
    else:
      rh = {side}
      rw = torch.floordiv(torch.mul(w, {side}), h)
{}    dh = torch.sub(rh, {size})
    dw = torch.sub(rw, {size})
    top = torch.floordiv(torch.add(dh, torch.remainder(torch.floordiv(dh, 2), 2)), 2)
    left = torch.floordiv(torch.add(dw, torch.remainder(torch.floordiv(dw, 2), 2)), 2)
    x2 = torch.slice(torch.slice(y2, 2, top, torch.add(top, {size})), 3, left, torch.add(left, {size}))
"#,
            resize(steps.interpolation, "x0", "rh", "rw")?
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
                r#"    side = ops.prim.max(h0, w0)
    top = torch.floordiv(torch.sub(side, h0), 2)
    left = torch.floordiv(torch.sub(side, w0), 2)
    sides = [left, torch.sub(torch.sub(side, w0), left), top, torch.sub(torch.sub(side, h0), top)]
    x1 = torch.cat([{}, {}, {}], 1)
    h = side
    w = side
{}    x2 = y2
"#,
                padded(0),
                padded(1),
                padded(2),
                resize(steps.interpolation, "x1", &square, &square)?
            )
        }
        Fit::Stretch => {
            format!("{}    x2 = y2\n", resize(steps.interpolation, "x0", &square, &square)?)
        }
    })
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
