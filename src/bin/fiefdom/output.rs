//! What goes to standard output: tables that fit, colours only on a terminal, or JSON.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

use console::{Style, Term, measure_text_width, truncate_str};
use fiefdom::Status;
use serde::Serialize;

use crate::failure::Failure;

/// Spaces between two columns.
const GAP: usize = 2;

#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// One line of text; nothing with `--json`.
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<(), Failure> {
        if !self.json {
            writeln!(io::stdout().lock(), "{}", text.as_ref())?;
        }
        Ok(())
    }

    /// One JSON document on one line; nothing without `--json`.
    pub(crate) fn document<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        if self.json {
            let text = serde_json::to_string(value).map_err(io::Error::from)?;
            writeln!(io::stdout().lock(), "{text}")?;
        }
        Ok(())
    }

    /// A table whose last column takes what is left of the terminal's width. Elsewhere nothing is
    /// cut.
    pub(crate) fn table(self, head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let term = Term::stdout();
        let width = if term.is_term() { usize::from(term.size().1) } else { usize::MAX };
        let columns = head.len();
        let mut widths: Vec<usize> = head.iter().map(|h| measure_text_width(h)).collect();
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                widths[column] = widths[column].max(measure_text_width(cell));
            }
        }
        let print = |cells: &[String], style: Option<&Style>| {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                line.push_str(cell);
                if column + 1 < columns {
                    line.extend(std::iter::repeat_n(' ', widths[column] - measure_text_width(cell) + GAP));
                }
            }
            let line = truncate_str(line.trim_end(), width, "…").into_owned();
            self.line(style.map_or(line.clone(), |style| style.apply_to(line).to_string()))
        };
        let head: Vec<String> = head.iter().map(|&h| h.to_owned()).collect();
        print(&head, Some(&Style::new().bold()))?;
        rows.iter().try_for_each(|row| print(row, None))
    }
}

/// A message, to standard error. That nobody reads it changes nothing (`eprintln!` would panic).
pub(crate) fn say(message: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// A status in its colour.
pub(crate) fn status(status: Status) -> String {
    let style = match status {
        Status::Succeeded => Style::new().green(),
        Status::Failed => Style::new().red(),
        Status::Interrupted | Status::Cancelled => Style::new().yellow(),
        Status::Running | Status::Starting => Style::new().cyan(),
        _ => Style::new(),
    };
    style.apply_to(status.as_str()).to_string()
}

/// Text that somebody else chose, without what would control a terminal or break a line.
pub(crate) fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// A duration, as short as it is clear: `340ms`, `12.3s`, `4m05s`, `3h20m`, `5d`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago that was.
pub(crate) fn age(at: chrono::DateTime<chrono::Utc>) -> String {
    // A clock that was set back makes it the future: then it is now.
    let age = (chrono::Utc::now() - at).to_std().unwrap_or_default();
    if age.as_secs() < 60 { format!("{}s", age.as_secs()) } else { short(age) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short_and_clear() {
        let cases = [(340, "340ms"), (12_300, "12.3s"), (245_000, "4m05s"), (12_000_000, "3h20m"), (432_000_000, "5d")];
        for (ms, text) in cases {
            assert_eq!(short(Duration::from_millis(ms)), text);
        }
    }
}
