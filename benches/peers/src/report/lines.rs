//! How a cost grows: lines on two logarithmic axes.

use super::stats::Spread;
use super::svg::{Anchor, COLOURS, Picture, WIDTH};
use super::text;
use crate::harness::Measured;

const LEFT: f64 = 84.0;
const RIGHT: f64 = 48.0;
const TOP: f64 = 64.0;
const PLOT: f64 = 320.0;
const LEGEND: f64 = 18.0;
const MOST_MARKS: usize = 8;

/// One line: of one series on one file system.
struct Line {
    name: String,
    colour: usize,
    main: bool,
    points: Vec<(f64, Spread)>,
}

/// The same row of every results file, the main one first.
pub fn draw(rows: &[(char, &Measured)]) -> Option<String> {
    let first = rows.first()?.1;
    let lines = lines(rows);
    let points = || lines.iter().flat_map(|line| &line.points);
    let across = Axis::over(points().map(|(x, _)| *x), 1.0)?.between(LEFT, WIDTH - RIGHT);
    // At least a factor of ten high: what hardly changes has to look so.
    let up = Axis::over(points().flat_map(|(_, y)| [y.least, y.most]), 10.0)?.between(TOP + PLOT, TOP);

    let mut picture = Picture::new();
    picture.text((LEFT, 26.0), Anchor::Start, "title", &first.title);
    let better = if first.is_rate() { "more is better" } else { "less is better" };
    let what = format!("{}, {better}: the median of the runs, and their reach", first.unit);
    picture.text((LEFT, 44.0), Anchor::Start, "faint", &what);
    for tick in up.ticks() {
        let y = up.at(tick);
        picture.line((LEFT, y), (WIDTH - RIGHT, y), "grid");
        picture.text((LEFT - 8.0, y + 4.0), Anchor::End, "faint", &text::exact(tick));
    }
    for tick in marks(&lines, &across) {
        let x = across.at(tick);
        picture.line((x, TOP), (x, TOP + PLOT), "grid");
        picture.text((x, TOP + PLOT + 18.0), Anchor::Middle, "faint", &text::exact(tick));
    }
    picture.line((LEFT, TOP), (LEFT, TOP + PLOT), "axis");
    picture.line((LEFT, TOP + PLOT), (WIDTH - RIGHT, TOP + PLOT), "axis");
    let axis = first.axis.as_deref().unwrap_or_default();
    picture.text((f64::midpoint(LEFT, WIDTH - RIGHT), TOP + PLOT + 38.0), Anchor::Middle, "", axis);

    let mut y = TOP + PLOT + 64.0;
    for line in &lines {
        let (colour, dashed) = (line.colour, if line.main { "" } else { " dashed" });
        let places: Vec<_> = line.points.iter().map(|(x, spread)| (across.at(*x), up.at(spread.median))).collect();
        picture.path(&places, &format!("line s{colour}{dashed}"));
        for ((x, spread), place) in line.points.iter().zip(places) {
            let x = across.at(*x);
            picture.line((x, up.at(spread.least)), (x, up.at(spread.most)), &format!("s{colour}"));
            picture.dot(place, &format!("f{colour}"));
        }
        picture.path(&[(LEFT, y - 4.0), (LEFT + 34.0, y - 4.0)], &format!("line s{colour}{dashed}"));
        picture.dot((LEFT + 17.0, y - 4.0), &format!("f{colour}"));
        picture.text((LEFT + 44.0, y), Anchor::Start, "", &line.name);
        y += LEGEND;
    }
    Some(picture.finish(&first.title, y))
}

fn lines(rows: &[(char, &Measured)]) -> Vec<Line> {
    let mut names: Vec<&str> = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    for (letter, row) in rows {
        for series in &row.series {
            // A logarithm knows nothing at zero and below.
            let shown = Spread::of(&series.values).filter(|spread| spread.least > 0.0);
            let (Some(spread), Some(x)) = (shown, series.x.filter(|x| *x > 0.0)) else { continue };
            let known = names.iter().position(|name| *name == series.name);
            let colour = known.unwrap_or_else(|| {
                names.push(&series.name);
                names.len() - 1
            }) % COLOURS;
            let name = if rows.len() > 1 { format!("{}, {letter}", series.name) } else { series.name.clone() };
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push((x, spread)),
                None => lines.push(Line { name, colour, main: *letter == 'A', points: vec![(x, spread)] }),
            }
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// Where the horizontal axis is marked: at the points themselves, while there is room for them.
fn marks(lines: &[Line], across: &Axis) -> Vec<f64> {
    let mut at: Vec<f64> = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x).collect();
    at.sort_by(f64::total_cmp);
    at.dedup();
    if at.len() <= MOST_MARKS { at } else { across.ticks() }
}

/// A logarithmic axis.
struct Axis {
    least: f64,
    most: f64,
    begins: f64,
    ends: f64,
}

impl Axis {
    /// From the smallest to the largest, and at least a factor of `least_factor` long.
    fn over(values: impl Iterator<Item = f64>, least_factor: f64) -> Option<Self> {
        let (least, most) = values.fold((f64::INFINITY, 0.0_f64), |(a, b), value| (a.min(value), b.max(value)));
        if !(least.is_finite() && most > 0.0) {
            return None;
        }
        // A little air at both ends.
        let lacking = (least_factor / (most / least)).max(1.0).sqrt() * 1.12;
        Some(Self { least: least / lacking, most: most * lacking, begins: 0.0, ends: 1.0 })
    }

    fn between(self, begins: f64, ends: f64) -> Self {
        Self { begins, ends, ..self }
    }

    fn at(&self, value: f64) -> f64 {
        self.begins + (value / self.least).ln() / (self.most / self.least).ln() * (self.ends - self.begins)
    }

    /// Powers of ten; on a short axis what lies between them as well.
    fn ticks(&self) -> Vec<f64> {
        let decades = (self.most / self.least).log10();
        let parts: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = self.least.log10().floor() as i32..=self.most.log10().ceil() as i32;
        let all = powers.flat_map(|power| {
            // Divided, because a product with a negative power is not the decimal number.
            parts.iter().map(move |part| if power < 0 { part / 10_f64.powi(-power) } else { part * 10_f64.powi(power) })
        });
        all.filter(|tick| *tick >= self.least && *tick <= self.most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hardly_changes_looks_flat() {
        let axis = Axis::over([100.0, 104.0].into_iter(), 10.0).unwrap().between(400.0, 0.0);
        assert!((axis.at(100.0) - axis.at(104.0)).abs() < 10.0);
        assert_eq!(axis.ticks(), [50.0, 100.0, 200.0]);
    }

    #[test]
    fn a_long_axis_is_marked_at_powers_of_ten() {
        let axis = Axis::over([0.1, 10_000.0].into_iter(), 1.0).unwrap();
        assert_eq!(axis.ticks(), [0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        assert!((axis.at(1_000.0) - axis.at(100.0) - (axis.at(100.0) - axis.at(10.0))).abs() < 1e-9);
    }

    #[test]
    fn an_axis_of_nothing_is_none() {
        assert!(Axis::over(std::iter::empty(), 10.0).is_none());
    }
}
