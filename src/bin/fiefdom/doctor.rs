//! `doctor`: what is wrong in a root, and its repair.

use std::io::IsTerminal as _;
use std::path::Path;

use fiefdom::{DataRoot, Doctor as Examiner, Finding, Outcome, Repair, Report, Severity};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::args::Doctor;
use crate::failure::{DONE, Failure, WORK};
use crate::output::{Output, plain, say};

pub(crate) fn doctor(root: &DataRoot, out: Output, args: &Doctor) -> Result<u8, Failure> {
    let report = examine(root, out)?;
    print(out, &report)?;
    if !args.repair {
        out.document(&document(&report, None, &report))?;
        return Ok(code(&report));
    }
    let repairs = Examiner::repair(&report)?;
    for repair in &repairs {
        let finding = &repair.finding;
        let place = place(&report.root, finding);
        match &repair.outcome {
            Outcome::Done => out.line(format!("repaired {place}: {}", plain(&finding.repair)))?,
            Outcome::Skipped(reason) => out.line(format!("skipped {place}: {}", plain(reason)))?,
            Outcome::Failed(error) => say(format!("fiefdom: {place} could not be repaired: {error}")),
            _ => {}
        }
    }
    let after = examine(root, out)?;
    out.line(format!("after the repair: {}", summary(&after)))?;
    out.document(&document(&report, Some(&repairs), &after))?;
    let failed = repairs.iter().any(|repair| matches!(repair.outcome, Outcome::Failed(_)));
    Ok(if failed { WORK } else { code(&after) })
}

fn code(report: &Report) -> u8 {
    if report.damage() == 0 { DONE } else { WORK }
}

fn examine(root: &DataRoot, out: Output) -> Result<Report, Failure> {
    let bar = (!out.json && std::io::stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("{bar:30.cyan} {pos}/{len}  {elapsed_precise}  ETA {eta}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let report = Examiner::examine_watched(root.clone(), |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(report?)
}

fn print(out: Output, report: &Report) -> Result<(), Failure> {
    if !report.findings.is_empty() {
        let rows: Vec<Vec<String>> = report.findings.iter().map(|finding| row(&report.root, finding)).collect();
        out.table(&["", "INSTANCE", "WHERE", "WHAT, AND WHAT --repair DOES"], &rows)?;
    }
    out.line(summary(report))
}

fn row(root: &Path, finding: &Finding) -> Vec<String> {
    let severity = if finding.severity == Severity::Damage { "damage" } else { "note" };
    let instance = finding.instance.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let what = plain(&format!("{}. Repair: {}", finding.reason, finding.repair));
    vec![severity.to_owned(), instance, place(root, finding), what]
}

fn place(root: &Path, finding: &Finding) -> String {
    let path = finding.path.strip_prefix(root).unwrap_or(&finding.path).display();
    plain(&finding.offset.map_or_else(|| path.to_string(), |offset| format!("{path}@{offset}")))
}

fn summary(report: &Report) -> String {
    let notes = report.findings.len() - report.damage();
    format!(
        "{} instances ({} live), {} files: {} damaged, {notes} notes",
        report.instances,
        report.live,
        report.files,
        report.damage()
    )
}

fn document(report: &Report, repairs: Option<&[Repair]>, after: &Report) -> Value {
    let repairs = repairs.map(|repairs| repairs.iter().map(outcome).collect::<Vec<_>>());
    json!({
        "root": report.root.display().to_string(),
        "healthy": after.damage() == 0,
        "instances": report.instances,
        "live": report.live,
        "files": report.files,
        "damage": report.damage(),
        "findings": report.findings,
        "repairs": repairs,
        "left": after.findings.iter().filter(|f| f.severity == Severity::Damage).collect::<Vec<_>>(),
    })
}

fn outcome(repair: &Repair) -> Value {
    let (outcome, reason) = match &repair.outcome {
        Outcome::Done => ("done", None),
        Outcome::Skipped(reason) => ("skipped", Some(reason.clone())),
        Outcome::Failed(error) => ("failed", Some(error.to_string())),
        _ => ("unknown", None),
    };
    json!({ "path": repair.finding.path, "outcome": outcome, "reason": reason })
}
