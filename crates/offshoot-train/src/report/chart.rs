//! Charts as SVG: lines and bars.

use std::fmt::Write as _;

use super::page::escaped;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;

/// A line of a chart: x and y.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart with a legend under it; y on a logarithmic scale where `log` is set. Empty where no line has a point.
pub(super) fn lines(title: &str, lines: &[Line], log: bool) -> String {
    let value = |y: f64| if log { libm::log10(y) } else { y };
    let usable = |&(_, y): &(f64, f64)| y.is_finite() && (!log || y > 0.0);
    let lines: Vec<(&str, Vec<(f64, f64)>)> = lines
        .iter()
        .map(|l| (&*l.name, l.points.iter().filter(|p| usable(p)).map(|&(x, y)| (x, value(y))).collect()))
        .filter(|(_, points): &(&str, Vec<_>)| !points.is_empty())
        .collect();
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
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escaped(title),
        escaped(title)
    );
    for tick in y_axis.ticks() {
        let y = y_axis.place(tick);
        let text = if log { format!("1e{tick}") } else { short(tick) };
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        );
    }
    for tick in x_axis.ticks() {
        let (x, y) = (x_axis.place(tick), HEIGHT - BOTTOM + 16.0);
        let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", short(tick));
    }
    for (place, (name, points)) in lines.iter().enumerate() {
        svg += &line(place, name, points, (&x_axis, &y_axis), log);
    }
    svg + "</svg>" + &legend(lines.iter().map(|(name, _)| *name)) + "</figure>"
}

fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut html = String::from("<div class=\"legend\">");
    for (place, name) in names.enumerate() {
        let _ = write!(html, "<span><i class=\"k{}\"></i>{}</span>", place % COLOURS, escaped(name));
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
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escaped(title),
        escaped(title)
    );
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

/// Colours that the page's style has.
const COLOURS: usize = 6;

fn line(place: usize, name: &str, points: &[(f64, f64)], (x, y): (&Axis, &Axis), log: bool) -> String {
    let at = |p: &(f64, f64)| format!("{:.1},{:.1}", x.place(p.0), y.place(p.1));
    let path: Vec<String> = points.iter().map(at).collect();
    let colour = place % COLOURS;
    let mut svg = format!("<polyline class=\"c{colour}\" points=\"{}\"/>", path.join(" "));
    for &(px, py) in points {
        let shown = if log { libm::exp10(py) } else { py };
        let _ = write!(
            svg,
            "<circle class=\"f{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{}\"><title>{}, epoch {}: {}</title></circle>",
            x.place(px),
            y.place(py),
            if points.len() > 40 { 1.5 } else { 2.5 },
            escaped(name),
            short(px),
            short(shown)
        );
    }
    svg
}

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
        low.is_finite().then_some(Axis { low: low - room, high: high + room, from, to, whole })
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// At most six: multiples of 1, 2 or 5 times a power of ten.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 5.0;
        let power = libm::exp10(libm::log10(rough).floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|&step| step >= rough);
        let step = step.unwrap_or(rough).max(if self.whole { 1.0 } else { 0.0 });
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last.min(first + 10)).map(|n| n as f64 * step).collect()
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

    #[test]
    fn a_chart_has_its_points_and_ticks_inside() {
        let line = |name: &str, points| Line { name: name.into(), points };
        let svg = lines("a < b", &[line("x", vec![(1.0, 0.5), (2.0, 0.75)]), line("none", vec![])], false);
        assert!(svg.contains("a &lt; b") && !svg.contains("none"));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("points=\"52.0,210.0 448.0,12.0\""), "{svg}");
        // One point, none, and none that a logarithm can take.
        assert!(lines("t", &[line("x", vec![(1.0, 3.0)])], true).contains("<circle"));
        assert_eq!(lines("t", &[line("x", vec![(1.0, f64::NAN)])], false), "");
        assert_eq!(lines("t", &[line("x", vec![(1.0, 0.0)])], true), "");
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
