//! The report: a page and its pictures, made from the results alone. The same results give the same
//! bytes.
//!
//! `judge` says whether goals are kept; `page` is the page, `tables` one row of it, `prose` its
//! words; `bars` and `lines` are the pictures.

mod bars;
mod judge;
mod lines;
mod page;
mod prose;
mod stats;
mod svg;
mod tables;
mod text;

use std::path::{Path, PathBuf};

use crate::harness::{Measured, Outcome, Results};
use crate::rows::{self, Goal};

/// Writes the page and its pictures; the first of the results is the main one.
pub fn write(results: &[PathBuf], page: &Path, plots: &Path) -> Outcome<()> {
    let read = |path: &PathBuf| -> Outcome<Results> {
        let of_path = |e: &dyn std::error::Error| format!("{}: {e}", path.display());
        let bytes = std::fs::read(path).map_err(|e| of_path(&e))?;
        Ok(serde_json::from_slice(&bytes).map_err(|e| of_path(&e))?)
    };
    let results: Vec<_> = results.iter().map(read).collect::<Outcome<_>>()?;
    let order: Vec<_> = rows::all().iter().map(|row| row.name).collect();
    // Links are relative to the page.
    let link = page.parent().and_then(|dir| plots.strip_prefix(dir).ok()).unwrap_or(plots);
    let report = Report::of(&results, &rows::goals(), &order, link)?;
    std::fs::create_dir_all(plots)?;
    page.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    for (name, svg) in &report.plots {
        std::fs::write(plots.join(name), svg)?;
    }
    Ok(std::fs::write(page, report.page)?)
}

/// The page, and the pictures with their file names.
pub struct Report {
    pub page: String,
    pub plots: Vec<(String, String)>,
}

impl Report {
    /// `order` has the names of the rows as they shall follow each other, `link` is the directory of the pictures.
    fn of(results: &[Results], goals: &[Goal], order: &[&str], link: &Path) -> Outcome<Self> {
        if results.is_empty() {
            return Err("no results: name at least one file".into());
        }
        let entries = entries(results, order);
        let mut plots = Vec::new();
        for entry in &entries {
            let draw = if entry.first().axis.is_some() { lines::draw } else { bars::draw };
            plots.extend(draw(&entry.rows).map(|svg| (format!("{}.svg", entry.first().row), svg)));
        }
        Ok(Self { page: page::page(results, &entries, goals, &plots, link)?, plots })
    }
}

/// One row, as each of the results has it, with the letter of that.
struct Entry<'a> {
    rows: Vec<(char, &'a Measured)>,
}

impl<'a> Entry<'a> {
    fn first(&self) -> &'a Measured {
        self.rows[0].1
    }
}

/// What the results of a file system are called.
fn letters() -> impl Iterator<Item = char> {
    'A'..='Z'
}

fn entries<'a>(results: &'a [Results], order: &[&str]) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    for (letter, result) in letters().zip(results) {
        for row in &result.rows {
            match entries.iter_mut().find(|entry| entry.first().row == row.row) {
                Some(entry) => entry.rows.push((letter, row)),
                None => entries.push(Entry { rows: vec![(letter, row)] }),
            }
        }
    }
    // Those that the program does not know any more come last, in the order of the file.
    entries.sort_by_key(|entry| order.iter().position(|name| *name == entry.first().row).unwrap_or(usize::MAX));
    entries
}

/// Whether a series is fiefdom's, by its name.
fn is_ours(series: &str) -> bool {
    series.starts_with("fiefdom")
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
