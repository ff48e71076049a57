//! A comparison: one bar for each contender, with the reach of its runs.

use super::stats::Spread;
use super::svg::{Anchor, GREY, Picture, WIDTH};
use super::text;
use crate::harness::Measured;

const MARGIN: f64 = 20.0;
const TOP: f64 = 58.0;
const BAR: f64 = 14.0;
const NAME: f64 = 20.0;
/// What is kept free on the right of the longest bar, for its figures.
const FIGURES: f64 = 200.0;

/// The same row of every results file, the main one first.
pub fn draw(rows: &[(char, &Measured)]) -> Option<String> {
    let first = rows.first()?.1;
    let mut bars: Vec<(&str, Vec<(char, Spread)>)> = Vec::new();
    for (letter, row) in rows {
        for series in &row.series {
            let Some(spread) = Spread::of(&series.values) else { continue };
            match bars.iter_mut().find(|(name, _)| *name == series.name) {
                Some((_, spreads)) => spreads.push((*letter, spread)),
                None => bars.push((&series.name, vec![(*letter, spread)])),
            }
        }
    }
    let longest = bars.iter().flat_map(|(_, spreads)| spreads).map(|(_, spread)| spread.most).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let at = |value: f64| MARGIN + value.max(0.0) / longest * (WIDTH - 2.0 * MARGIN - FIGURES);

    let mut picture = Picture::new();
    picture.text((MARGIN, 26.0), Anchor::Start, "title", &first.title);
    let better = if first.is_rate() { "more is better" } else { "less is better" };
    let what = format!("{}, {better}: the median of the runs, and their reach", first.unit);
    picture.text((MARGIN, 44.0), Anchor::Start, "faint", &what);
    let mut y = TOP;
    for (name, spreads) in &bars {
        picture.text((MARGIN + 5.0, y + 13.0), Anchor::Start, "", name);
        y += NAME;
        let colour = if crate::report::is_ours(name) { 0 } else { GREY };
        for (letter, spread) in spreads {
            let pale = if *letter == 'A' { "" } else { " pale" };
            picture.bar((MARGIN, y), at(spread.median) - MARGIN, BAR, &format!("f{colour}{pale}"));
            let middle = y + BAR / 2.0;
            if spread.least < spread.most {
                picture.line((at(spread.least), middle), (at(spread.most), middle), "reach");
                for end in [spread.least, spread.most] {
                    picture.line((at(end), middle - 3.0), (at(end), middle + 3.0), "reach");
                }
            }
            let letter = if rows.len() > 1 { format!("{letter}  ") } else { String::new() };
            let figures = format!("{letter}{}", text::spread(spread, ""));
            picture.text((at(spread.most) + 8.0, middle + 4.0), Anchor::Start, "", &figures);
            y += BAR + 4.0;
        }
        y += 6.0;
    }
    picture.line((MARGIN, TOP), (MARGIN, y), "axis");
    Some(picture.finish(&first.title, y + 12.0))
}
