//! One row of the report: its picture and its tables.

use std::path::Path;

use super::stats::Spread;
use super::{Entry, is_ours, text};
use crate::harness::{Measured, Series};

/// Everything that is said of a row.
pub fn section(entry: &Entry, plots: &[(String, String)], link: &Path) -> String {
    let first = entry.first();
    let mut out = format!("### {}\n\n", first.title);
    let picture = format!("{}.svg", first.row);
    if plots.iter().any(|(name, _)| *name == picture) {
        out += &format!("![{}]({})\n\n", first.title, link.join(picture).display());
    }
    let rounds = rounds(entry);
    if !rounds.is_empty() {
        out += &text::paragraph(&format!("In {}; {rounds}.", first.unit));
        out.push('\n');
        out += &if first.axis.is_some() { by_position(entry) } else { by_series(entry) };
        out.push('\n');
    }
    for (letter, row) in &entry.rows {
        if let Some(reason) = &row.failed {
            out += &text::paragraph(&format!("**The measurement on {letter} ended early:** {}", one_line(reason)));
            out.push('\n');
        }
    }
    out
}

/// An error may have several lines.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn rounds(entry: &Entry) -> String {
    let of = |row: &Measured| row.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
    let counts: Vec<_> = entry.rows.iter().map(|(letter, row)| (letter, of(row))).filter(|(_, n)| *n > 0).collect();
    let plural = |n: usize| if n == 1 { "1 round".to_owned() } else { format!("{n} rounds") };
    match counts.as_slice() {
        [] => String::new(),
        [(_, first), rest @ ..] if rest.iter().all(|(_, n)| n == first) => plural(*first),
        _ => counts.iter().map(|(letter, n)| format!("{} on {letter}", plural(*n))).collect::<Vec<_>>().join(", "),
    }
}

/// A line for each contender; then one for each peer, and what we are beside it.
fn by_series(entry: &Entry) -> String {
    let names = names(entry);
    let mut figures = vec![head("", entry.rows.iter().map(|(letter, _)| letter.to_string()))];
    for name in &names {
        let cells = entry.rows.iter().map(|(_, row)| figure(find(row, name, None)));
        figures.push(head(name, cells));
    }
    let ours: Vec<_> = names.iter().filter(|name| is_ours(name)).collect();
    let peers: Vec<_> = names.iter().filter(|name| !is_ours(name)).collect();
    if ours.is_empty() || peers.is_empty() {
        return text::table(&figures);
    }
    let columns = || ours.iter().flat_map(|name| entry.rows.iter().map(move |(letter, row)| (*name, *letter, *row)));
    let mut ratios = vec![head("divided by", columns().map(|(name, letter, _)| format!("{name}: {letter}")))];
    for peer in peers {
        let cells = columns().map(|(name, _, row)| ratio(row, find(row, name, None), find(row, peer, None)));
        ratios.push(head(peer, cells));
    }
    format!("{}\n{}", text::table(&figures), text::table(&ratios))
}

/// A line for each position.
fn by_position(entry: &Entry) -> String {
    let names = names(entry);
    let mut positions: Vec<f64> =
        entry.rows.iter().flat_map(|(_, row)| &row.series).filter_map(|series| series.x).collect();
    positions.sort_by(f64::total_cmp);
    positions.dedup();
    let axis = entry.first().axis.as_deref().unwrap_or_default();
    let columns = || names.iter().flat_map(|name| entry.rows.iter().map(move |(letter, row)| (name, *letter, *row)));
    let mut figures = vec![head(axis, columns().map(|(name, letter, _)| format!("{name}: {letter}")))];
    for x in &positions {
        figures.push(head(&text::exact(*x), columns().map(|(name, _, row)| figure(find(row, name, Some(*x))))));
    }
    let pairs: Vec<_> = names
        .iter()
        .filter(|name| is_ours(name))
        .flat_map(|ours| names.iter().filter(|name| !is_ours(name)).map(move |peer| (ours, peer)))
        .collect();
    if pairs.is_empty() {
        return text::table(&figures);
    }
    let columns = || pairs.iter().flat_map(|pair| entry.rows.iter().map(move |(letter, row)| (pair, *letter, *row)));
    let title =
        |((ours, peer), letter, _): (&(&String, &String), char, &Measured)| format!("{ours} / {peer}: {letter}");
    let mut ratios = vec![head(axis, columns().map(title))];
    for x in &positions {
        let cells =
            columns().map(|((ours, peer), _, row)| ratio(row, find(row, ours, Some(*x)), find(row, peer, Some(*x))));
        ratios.push(head(&text::exact(*x), cells));
    }
    format!("{}\n{}", text::table(&figures), text::table(&ratios))
}

/// A line of a table.
fn head(first: &str, rest: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(rest).collect()
}

/// Every series of a row, in the order in which they were measured.
fn names(entry: &Entry) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for series in entry.rows.iter().flat_map(|(_, row)| &row.series) {
        if !names.contains(&series.name) {
            names.push(series.name.clone());
        }
    }
    names
}

fn find<'a>(row: &'a Measured, name: &str, x: Option<f64>) -> Option<&'a Series> {
    row.series.iter().find(|series| series.name == name && (x.is_none() || series.x == x))
}

fn figure(series: Option<&Series>) -> String {
    let spread = series.and_then(|series| Spread::of(&series.values));
    spread.map_or_else(|| "–".to_owned(), |spread| text::spread(&spread, ""))
}

fn ratio(row: &Measured, ours: Option<&Series>, theirs: Option<&Series>) -> String {
    let Some(spread) = ours.zip(theirs).and_then(|(ours, theirs)| Spread::of_ratios(ours, theirs)) else {
        return "–".to_owned();
    };
    format!("{} {}", text::spread(&spread, "x"), standing(row, &spread))
}

fn standing(row: &Measured, ratio: &Spread) -> &'static str {
    let (more, less) = if row.is_rate() { ("ahead", "**behind**") } else { ("**behind**", "ahead") };
    if ratio.least > 1.0 {
        more
    } else if ratio.most < 1.0 {
        less
    } else {
        "level"
    }
}
