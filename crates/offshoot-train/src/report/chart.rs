//! Charts as SVG: lines and bars.

use std::fmt::Write as _;

use super::page::{escaped, isolated};
use crate::lr_find::RateCurve;
use offshoot_infer::calibration::{Bin, Calibration};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
/// Above the plot stands what y is, below it the numbers of x and what x is.
const TOP: f64 = 30.0;
const BOTTOM: f64 = 46.0;

/// Lines that are drawn in one chart.
const MOST_LINES: usize = 100;

/// Points that are drawn in one chart.
const MOST_POINTS: usize = 2000;

/// A line of a chart: x and y.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// What the axes of a chart show, with the units. y is on a logarithmic scale where `log` is set.
#[derive(Clone, Copy)]
pub(super) struct Axes<'a> {
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) log: bool,
}

impl<'a> Axes<'a> {
    /// A chart over the epochs of a run.
    pub(super) fn epochs(y: &'a str, log: bool) -> Axes<'a> {
        Axes { x: "epoch", y, log }
    }

    /// The names of the axes, at their ends.
    fn labels(&self) -> String {
        format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text x=\"4\" y=\"14\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 6.0,
            escaped(self.x),
            escaped(self.y)
        )
    }
}

/// A chart with a legend under it. Empty where no line has a point.
pub(super) fn lines(title: &str, lines: &[Line], axes: Axes<'_>) -> String {
    let log = axes.log;
    let value = |y: f64| if log { libm::log10(y) } else { y };
    let usable = |&(_, y): &(f64, f64)| y.is_finite() && (!log || y > 0.0);
    let lines: Vec<(&str, Vec<(f64, f64)>)> = lines
        .iter()
        .map(|l| (&*l.name, l.points.iter().filter(|p| usable(p)).map(|&(x, y)| (x, value(y))).collect()))
        .filter(|(_, points): &(&str, Vec<_>)| !points.is_empty())
        .collect();
    let more = lines.len().saturating_sub(MOST_LINES);
    let lines = &lines[..lines.len() - more];
    // A logarithmic axis goes from power to power of ten.
    let ends = |y: f64| if log { [y.floor(), y.ceil()] } else { [y, y] };
    let all = || lines.iter().flat_map(|(_, points)| points);
    let Some((x_axis, y_axis)) = Axis::of(all().map(|p| p.0), LEFT, WIDTH - RIGHT, true).zip(Axis::of(
        all().flat_map(|p| ends(p.1)),
        HEIGHT - BOTTOM,
        TOP,
        log,
    )) else {
        return String::new();
    };
    let mut svg = head(title, HEIGHT) + &axes.labels();
    for tick in y_axis.ticks() {
        let y = y_axis.place(tick);
        let text = if log { format!("1e{tick}") } else { short(tick) };
        svg += &y_tick(y, &text);
    }
    for tick in x_axis.ticks() {
        svg += &x_tick(x_axis.place(tick), &short(tick));
    }
    for (place, (name, points)) in lines.iter().enumerate() {
        svg += &line(place, name, points, (&x_axis, &y_axis), axes);
    }
    let rest = (more > 0).then(|| format!("and {more} more, not drawn"));
    svg + "</svg>" + &legend(lines.iter().map(|(name, _)| *name).chain(rest.as_deref())) + "</figure>"
}

/// A reliability diagram: both axes from 0 to 100 %, a line where they are equal, and a point for each bin with pictures, the larger
/// the more it has.
pub(super) fn reliability(title: &str, series: &[(&str, &Calibration)], axes: Axes<'_>) -> String {
    let axis = |from, to| Axis { low: 0.0, high: 100.0, from, to, whole: true };
    let (x, y) = (axis(LEFT, WIDTH - RIGHT), axis(HEIGHT - BOTTOM, TOP));
    let mut svg = head(title, HEIGHT) + &axes.labels();
    for tick in y.ticks() {
        svg += &y_tick(y.place(tick), &short(tick));
        svg += &x_tick(x.place(tick), &short(tick));
    }
    let _ = write!(
        svg,
        "<line class=\"ideal\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        x.place(0.0),
        y.place(0.0),
        x.place(100.0),
        y.place(100.0)
    );
    for (place, (name, calibration)) in series.iter().enumerate() {
        let filled: Vec<&Bin> = calibration.bins.iter().filter(|bin| bin.pictures > 0).collect();
        let most = filled.iter().map(|bin| bin.pictures).max().unwrap_or(1) as f64;
        let at = |bin: &Bin| (x.place(100.0 * bin.confidence), y.place(100.0 * bin.accuracy));
        let path: Vec<String> =
            filled.iter().map(|bin| at(bin)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, "<polyline class=\"c{place}\" points=\"{}\"/>", path.join(" "));
        for bin in filled {
            let ((cx, cy), r) = (at(bin), 2.5 + 5.5 * (bin.pictures as f64 / most).sqrt());
            let _ = write!(
                svg,
                "<circle class=\"f{place}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{r:.1}\"><title>{}: {} pictures, confidence {:.1} %, accuracy \
                 {:.1} %</title></circle>",
                escaped(name),
                bin.pictures,
                100.0 * bin.confidence,
                100.0 * bin.accuracy
            );
        }
    }
    svg + "</svg>" + &legend(series.iter().map(|(name, _)| *name)) + "</figure>"
}

/// Points, of which many are drawn in part, and a line where both numbers are equal. Empty where no point is finite.
pub(super) fn scatter(title: &str, points: &[(f64, f64)], axes: Axes<'_>) -> String {
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let points: Vec<&(f64, f64)> = points.iter().step_by(every).filter(finite).collect();
    let all = || points.iter().flat_map(|p| [p.0, p.1]);
    let both = Axis::of(all(), LEFT, WIDTH - RIGHT, false).zip(Axis::of(all(), HEIGHT - BOTTOM, TOP, false));
    let Some((x, y)) = both else { return String::new() };
    let mut svg = head(title, HEIGHT) + &axes.labels();
    for tick in y.ticks() {
        svg += &y_tick(y.place(tick), &short(tick));
    }
    for tick in x.ticks() {
        svg += &x_tick(x.place(tick), &short(tick));
    }
    let [low, high] = [all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max)];
    let _ = write!(
        svg,
        "<line class=\"ideal\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        x.place(low),
        y.place(low),
        x.place(high),
        y.place(high)
    );
    for (a, b) in points {
        let _ = write!(
            svg,
            "<circle class=\"f0\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
            x.place(*a),
            y.place(*b)
        );
    }
    svg + "</svg></figure>"
}

/// The loss over the learning rate, which is on a logarithmic scale, as an SVG file of its own, with a mark at the suggestion.
/// Losses far above the first are cut off.
pub fn rate_curve_svg(curve: &RateCurve) -> String {
    let log = |rate: f64| libm::log10(rate);
    let usable = curve.points.iter().filter(|point| point.loss.is_finite() && point.lr > 0.0);
    let points: Vec<(f64, f64)> = usable.map(|point| (log(point.lr), point.loss)).collect();
    let low = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let first = points.first().map_or(low, |point| point.1);
    let cut = first + (first - low).max(0.1);
    let shown = || points.iter().map(|&(x, loss)| (x, loss.min(cut)));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"920\" height=\"540\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#475467\"><title>Learning rate range test</title>\
         <style>.grid{{stroke:#e3e6eb}}</style><rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"
    );
    let axes = Axes { x: "learning rate (logarithmic scale)", y: "training loss (smoothed)", log: false };
    svg += &axes.labels();
    let x_axis = Axis::of(shown().map(|p| p.0), LEFT, WIDTH - RIGHT, true);
    let Some((x, y)) = x_axis.zip(Axis::of(shown().map(|p| p.1), HEIGHT - BOTTOM, TOP, false)) else {
        return svg + "</svg>\n";
    };
    y.ticks().into_iter().for_each(|tick| svg += &y_tick(y.place(tick), &short(tick)));
    x.ticks().into_iter().for_each(|tick| svg += &x_tick(x.place(tick), &format!("1e{tick}")));
    let path: Vec<String> = shown().map(|(a, b)| format!("{:.1},{:.1}", x.place(a), y.place(b))).collect();
    let _ = write!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#2563eb\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    if let Some(rate) = curve.suggestion {
        let place = x.place(log(rate));
        let anchor = if place > WIDTH / 2.0 { "end" } else { "start" };
        let _ = write!(
            svg,
            "<line x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#ea580c\" stroke-width=\"1.5\" \
             stroke-dasharray=\"5 3\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"#c2410c\">suggestion {rate:.1e}</text>",
            HEIGHT - BOTTOM,
            if place > WIDTH / 2.0 { place - 5.0 } else { place + 5.0 },
            TOP - 4.0
        );
    }
    svg + "</svg>\n"
}

fn head(title: &str, height: f64) -> String {
    let title = escaped(title);
    format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">"
    )
}

/// A number of the axis at the left, with a line across the plot.
fn y_tick(y: f64, text: &str) -> String {
    format!(
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
        WIDTH - RIGHT,
        LEFT - 6.0,
        y + 4.0
    )
}

/// A number of the axis at the bottom, with a short line.
fn x_tick(x: f64, text: &str) -> String {
    let bottom = HEIGHT - BOTTOM;
    format!(
        "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
         <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
        bottom + 4.0,
        bottom + 18.0
    )
}

fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut html = String::from("<div class=\"legend\">");
    for (place, name) in names.enumerate() {
        let _ = write!(html, "<span><i class=\"k{}\"></i>{}</span>", place % COLOURS, isolated(name));
    }
    html + "</div>"
}

/// Width of a letter of the names beside bars, about.
const LETTER: f64 = 6.8;
/// Room for a number after a bar.
const NUMBER: f64 = 46.0;
/// Height of a bar, and of the gap between two groups of them.
const BAR: f64 = 13.0;
const GAP: f64 = 9.0;

/// Groups of bars from 0 to the right, one bar in each group for each series.
pub(super) struct Bars {
    pub(super) series: Vec<String>,
    /// A name and its numbers, in the order of the series.
    pub(super) groups: Vec<(String, Vec<Option<f64>>)>,
}

/// A bar chart with a legend under it. Empty where no number is above 0.
pub(super) fn bars(title: &str, Bars { series, groups }: &Bars) -> String {
    let numbers = groups.iter().flat_map(|(_, numbers)| numbers).flatten();
    let most = numbers.copied().filter(|x| x.is_finite()).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let letters = groups.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let names = (LETTER * letters as f64 + 8.0).min(WIDTH / 2.0);
    let group_height = BAR * series.len() as f64;
    let height = (group_height + GAP) * groups.len() as f64;
    let mut svg = head(title, height);
    for (place, (name, numbers)) in groups.iter().enumerate() {
        let top = place as f64 * (group_height + GAP) + GAP / 2.0;
        let (x, y, name) = (names - 8.0, top + group_height / 2.0 + 4.0, escaped(name));
        let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{name}</text>");
        for (place, &number) in numbers.iter().enumerate() {
            let Some(number) = number.filter(|x| x.is_finite()) else { continue };
            let (y, width) = (top + BAR * place as f64, number / most * (WIDTH - names - NUMBER));
            let _ = write!(
                svg,
                "<rect class=\"f{}\" x=\"{names}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                place % COLOURS,
                BAR - 2.0,
                names + width + 5.0,
                y + BAR - 3.0,
                short(number)
            );
        }
    }
    svg + "</svg>" + &legend(series.iter().map(String::as_str)) + "</figure>"
}

/// Colors that the page's style has.
const COLOURS: usize = 6;

fn line(place: usize, name: &str, points: &[(f64, f64)], (x, y): (&Axis, &Axis), axes: Axes<'_>) -> String {
    let at = |p: &(f64, f64)| format!("{:.1},{:.1}", x.place(p.0), y.place(p.1));
    let path: Vec<String> = points.iter().map(at).collect();
    let colour = place % COLOURS;
    let mut svg = format!("<polyline class=\"c{colour}\" points=\"{}\"/>", path.join(" "));
    for &(px, py) in points {
        let shown = if axes.log { libm::exp10(py) } else { py };
        let _ = write!(
            svg,
            "<circle class=\"f{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{}\"><title>{}, {} {}: {}</title></circle>",
            x.place(px),
            y.place(py),
            if points.len() > 40 { 1.5 } else { 2.5 },
            escaped(name),
            escaped(axes.x),
            short(px),
            short(shown)
        );
    }
    svg
}

/// What rounding may leave of an end that is a tick, in steps.
const ROUNDING: f64 = 1e-9;

/// A range of numbers and the pixels that it lies on.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    whole: bool,
}

impl Axis {
    /// `whole` axes have ticks at whole numbers only.
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64, whole: bool) -> Option<Axis> {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        let room = if high > low { 0.0 } else { 0.5 * high.abs().max(1e-6) };
        let axis = Axis { low: low - room, high: high + room, from, to, whole };
        low.is_finite().then_some(if whole { axis } else { axis.over_ticks() })
    }

    /// The same axis, made longer so that it starts and ends at a tick.
    fn over_ticks(self) -> Axis {
        let step = self.step();
        let (low, high) = ((self.low / step + ROUNDING).floor(), (self.high / step - ROUNDING).ceil());
        Axis { low: low * step, high: high * step, ..self }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Between two ticks: 1, 2 or 5 times a power of ten.
    fn step(&self) -> f64 {
        let rough = (self.high - self.low) / 5.0;
        let power = libm::exp10(libm::log10(rough).floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|&step| step >= rough);
        step.unwrap_or(rough).max(if self.whole { 1.0 } else { f64::MIN_POSITIVE })
    }

    /// At most eleven: the multiples of the step.
    fn ticks(&self) -> Vec<f64> {
        let step = self.step();
        let (first, last) =
            ((self.low / step - ROUNDING).ceil() as i64, (self.high / step + ROUNDING).floor() as i64);
        (first..=last.min(first.saturating_add(10))).map(|n| n as f64 * step).collect()
    }
}

/// A number with about four digits.
pub(super) fn short(x: f64) -> String {
    let text = match x.abs() {
        0.0 => return "0".into(),
        size if !(1e-3..1e5).contains(&size) => return format!("{x:.1e}"),
        size if size >= 100.0 => format!("{x:.0}"),
        size if size >= 1.0 => format!("{x:.2}"),
        _ => format!("{x:.4}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lr_find::RatePoint;

    #[test]
    fn a_chart_has_its_points_and_ticks_inside() {
        let line = |name: &str, points| Line { name: name.into(), points };
        let svg = lines(
            "a < b",
            &[line("x", vec![(1.0, 0.5), (2.0, 0.75)]), line("none", vec![])],
            Axes::epochs("y < z", false),
        );
        assert!(svg.contains("a &lt; b") && !svg.contains("none"));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("points=\"56.0,224.0 446.0,30.0\""), "{svg}");
        assert!(svg.contains(">epoch</text>") && svg.contains(">y &lt; z</text>"), "{svg}");
        // One point, none, and none that a logarithm can take.
        let drawn = |y, log| lines("t", &[line("x", vec![(1.0, y)])], Axes::epochs("y", log));
        assert!(drawn(3.0, true).contains("<circle"));
        assert_eq!([drawn(f64::NAN, false), drawn(0.0, true)], ["", ""]);
    }

    #[test]
    fn points_are_drawn_beside_the_line_where_both_numbers_are_equal() {
        let axes = Axes { x: "x", y: "y < z", log: false };
        let svg = scatter("a < b", &[(0.0, 0.0), (1.0, 2.0), (f64::NAN, 1.0)], axes);
        assert_eq!((svg.matches("<circle").count(), svg.matches("class=\"ideal\"").count()), (2, 1));
        assert!(
            svg.contains("a &lt; b") && svg.contains("x1=\"56.0\" y1=\"224.0\" x2=\"446.0\" y2=\"30.0\""),
            "{svg}"
        );
        let many: Vec<(f64, f64)> = (0..9000).map(|i| (f64::from(i), 1.0)).collect();
        assert!(scatter("t", &many, axes).matches("<circle").count() <= MOST_POINTS);
        assert_eq!(scatter("t", &[(f64::INFINITY, 1.0)], axes), "");
    }

    #[test]
    fn a_curve_of_rates_has_ticks_and_a_mark_at_the_suggestion() {
        let points = [(1e-3, 2.0), (1e-2, 1.0), (1e-1, 1.5), (1.0, 90.0)];
        let points = points.map(|(lr, loss)| RatePoint { lr, loss }).to_vec();
        let svg = rate_curve_svg(&RateCurve { suggestion: Some(1e-2), points: points.clone() });
        for tick in ["1e-3", "1e-2", "1e-1", "1e0"] {
            assert!(svg.contains(&format!("text-anchor=\"middle\">{tick}</text>")), "{svg}");
        }
        // The first and the exploded loss are at half height and at the top, the mark at a third of the width.
        assert!(svg.contains("points=\"56.0,127.0 186.0,224.0 316.0,175.5 446.0,30.0\""), "{svg}");
        assert!(
            svg.contains("<line x1=\"186.0\" x2=\"186.0\"") && svg.contains("suggestion 1.0e-2"),
            "{svg}"
        );
        let none = rate_curve_svg(&RateCurve { suggestion: None, points });
        assert!(!none.contains("suggestion") && none.ends_with("</svg>\n"));
        let empty = rate_curve_svg(&RateCurve { suggestion: None, points: Vec::new() });
        assert!(empty.ends_with("</svg>\n"));
    }

    #[test]
    fn a_reliability_diagram_counts_the_pictures_of_each_point() {
        let bin = |pictures, confidence, accuracy| Bin { pictures, confidence, accuracy };
        let bins = vec![bin(0, 0.0, 0.0), bin(3, 0.5, 1.0), bin(12, 0.9, 0.75)];
        let svg = reliability(
            "t",
            &[("as it is", &Calibration { bins, error: 0.1 })],
            Axes { x: "x", y: "y", log: false },
        );
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(
            svg.contains("<title>as it is: 12 pictures, confidence 90.0 %, accuracy 75.0 %</title>"),
            "{svg}"
        );
    }

    #[test]
    fn bars_are_as_long_as_their_numbers() {
        let groups = vec![("a < b".into(), vec![Some(0.5), Some(1.0)]), ("c".into(), vec![None, Some(0.0)])];
        let svg = bars("t", &Bars { series: vec!["1".into(), "16".into()], groups });
        assert!(svg.contains("a &lt; b") && svg.matches("<rect").count() == 3, "{svg}");
        for width in ["width=\"186.0\"", "width=\"372.0\"", "width=\"0.0\""] {
            assert!(svg.contains(width), "{svg}");
        }
        let nothing = vec![("a".into(), vec![Some(f64::NAN), None])];
        assert_eq!(bars("t", &Bars { series: vec!["1".into(), "16".into()], groups: nothing }), "");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.25, 1.0, 2.34567, 1234.5, 1e-7].map(short),
            ["0", "0.25", "1", "2.35", "1234", "1.0e-7"]
        );
    }
}
