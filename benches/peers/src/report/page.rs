//! The page.

use std::path::Path;

use super::judge::{self, Judged};
use super::prose::{self, Subject};
use super::{Entry, letters, tables, text};
use crate::harness::{Outcome, Results};
use crate::rows::Goal;

/// A goal, as far as it was measured, with what each of the results says of it.
struct Answer<'a> {
    goal: &'a Goal,
    entry: Option<&'a Entry<'a>>,
    judged: Vec<(char, Option<Judged>)>,
}

impl Answer<'_> {
    fn missed_on(&self) -> Vec<char> {
        let missed = |judged: &Option<Judged>| judged.is_some_and(|judged| !judged.kept);
        self.judged.iter().filter(|(_, judged)| missed(judged)).map(|(letter, _)| *letter).collect()
    }

    fn worded(&self) -> String {
        self.entry.map_or_else(String::new, |entry| judge::worded(self.goal, entry.first()))
    }
}

/// # Errors
///
/// When a goal is missed and nothing says why.
pub fn page(
    results: &[Results],
    entries: &[Entry],
    goals: &[Goal],
    plots: &[(String, String)],
    link: &Path,
) -> Outcome<String> {
    let answers: Vec<_> = goals.iter().map(|goal| answer(goal, entries, results.len())).collect();
    let silent = |answer: &&Answer| !answer.missed_on().is_empty() && answer.goal.if_missed.trim().is_empty();
    let silent: Vec<_> =
        answers.iter().filter(silent).map(|answer| format!("{}: {}", answer.goal.row, answer.worded())).collect();
    if !silent.is_empty() {
        return Err(format!("missed, and `if_missed` says nothing: {}", silent.join("; ")).into());
    }

    let mut out = "# Performance\n\n".to_owned();
    out += &text::paragraph(prose::INTRODUCTION);
    out += "\n## How to read it\n\n";
    prose::READING.iter().for_each(|item| out += &text::item(item));
    out += &format!("\n{}", machines(results));
    out += "\n## How it is run\n\n";
    out += &text::paragraph(prose::RUNNING);
    out.push('\n');
    if !answers.is_empty() {
        out += &table_of_goals(&answers, results.len());
        out.push('\n');
    }
    out += &missed(&answers);
    out += &failed(entries);
    let subjects = prose::SUBJECTS.iter().chain([&prose::OTHER]);
    for subject in subjects {
        let mut rows =
            entries.iter().filter(|entry| Subject::of(&entry.first().row).heading == subject.heading).peekable();
        if rows.peek().is_some() {
            out += &format!("## {}\n\n", subject.heading);
            if !subject.says.is_empty() {
                out += &text::paragraph(subject.says);
                out.push('\n');
            }
            rows.for_each(|entry| out += &tables::section(entry, plots, link));
        }
    }
    Ok(out.trim_end().to_owned() + "\n")
}

fn answer<'a>(goal: &'a Goal, entries: &'a [Entry<'a>], count: usize) -> Answer<'a> {
    let entry = entries.iter().find(|entry| entry.first().row == goal.row);
    let on = |letter: char| {
        let row = entry?.rows.iter().find(|(of, _)| *of == letter)?.1;
        judge::judge(goal, row)
    };
    Answer { goal, entry, judged: letters().take(count).map(|letter| (letter, on(letter))).collect() }
}

fn machines(results: &[Results]) -> String {
    let machines = || results.iter().map(|results| &results.machine);
    let line = |what: &str, cells: Vec<String>| std::iter::once(what.to_owned()).chain(cells).collect::<Vec<_>>();
    let several = results.len() > 1;
    let mut out = format!("## The machine{}\n\n", if several { "s and the disks" } else { "" });
    out += &text::table(&[
        line("", letters().take(results.len()).map(String::from).collect()),
        line("processor", machines().map(|m| format!("{} cores, {}", m.cores, m.cpu)).collect()),
        line("memory", machines().map(|m| format!("{:.0} GiB", m.memory_gib)).collect()),
        line("kernel", machines().map(|m| format!("Linux {}", m.kernel)).collect()),
        line("file system", machines().map(|m| format!("`{}`", m.file_system)).collect()),
        line("compiler", machines().map(|m| format!("{}, release build", m.rust)).collect()),
        line("date", machines().map(|m| m.date.clone()).collect()),
    ]);
    out
}

fn table_of_goals(answers: &[Answer], count: usize) -> String {
    let mut rows = vec![vec!["work".to_owned(), "goal".to_owned()]];
    rows[0].extend(letters().take(count).map(String::from));
    for answer in answers {
        let Some(entry) = answer.entry else {
            let mut row = vec![format!("`{}`", answer.goal.row), String::new()];
            row.resize(2 + count, "not measured".to_owned());
            rows.push(row);
            continue;
        };
        let title = &entry.first().title;
        let unit = judge::unit(answer.goal, entry.first());
        let mut row = vec![format!("[{title}]({})", text::anchor(title)), answer.worded()];
        row.extend(answer.judged.iter().map(|(_, judged)| match judged {
            None => "not measured".to_owned(),
            Some(judged) => {
                let verdict = if judged.kept { "kept" } else { "**missed**" };
                format!("{}, {verdict}", text::spread(&judged.figure, &unit))
            }
        }));
        rows.push(row);
    }
    let missed = answers.iter().filter(|answer| !answer.missed_on().is_empty()).count();
    let open = answers.iter().filter(|answer| answer.judged.iter().all(|(_, judged)| judged.is_none())).count();
    let mut says =
        format!("{} of {} are kept wherever they were measured", answers.len() - missed - open, answers.len());
    says += &if missed > 0 { format!(", {missed} missed somewhere") } else { String::new() };
    says += &if open > 0 { format!(", {open} not measured") } else { String::new() };
    format!("## Goals\n\n{}\n{}", text::paragraph(&format!("{says}.")), text::table(&rows))
}

fn missed(answers: &[Answer]) -> String {
    let mut out = String::new();
    for answer in answers {
        let (Some(entry), missed) = (answer.entry, answer.missed_on()) else { continue };
        if missed.is_empty() {
            continue;
        }
        if out.is_empty() {
            out += "## Goals that are missed\n\n";
        }
        let letters = missed.iter().map(char::to_string).collect::<Vec<_>>().join(" and ");
        let (title, worded, why) = (&entry.first().title, answer.worded(), answer.goal.if_missed);
        out += &text::paragraph(&format!("**{title}** ({worded}), missed on {letters}. {why}"));
        out.push('\n');
    }
    out
}

/// Rows of which there is less than there should be, or nothing.
fn failed(entries: &[Entry]) -> String {
    let mut out = String::new();
    for (letter, row) in entries.iter().flat_map(|entry| &entry.rows) {
        let Some(reason) = &row.failed else { continue };
        if out.is_empty() {
            out += "## Measurements that failed\n\n";
        }
        out += &text::item(&format!("{} (`{}`), on {letter}: {}", row.title, row.row, tables::one_line(reason)));
    }
    if out.is_empty() { out } else { out + "\n" }
}
