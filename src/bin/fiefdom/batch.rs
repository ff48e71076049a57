//! The part of `show` that is about a batch: how far it is, and not how it keeps its books.

use fiefdom::Record;
use serde_json::Value;

use crate::failure::Failure;
use crate::output::{Output, plain};

/// The lines of `show`; says whether it is a batch.
pub(crate) fn show(out: Output, record: &Record<Value>) -> Result<bool, Failure> {
    let state = &record.state;
    let (Some(total), "batch") = (state["total"].as_u64(), &*record.kind) else { return Ok(false) };
    let count = |field: &str| state[field].as_u64().unwrap_or(0);
    let open = state["open"].as_array().map_or(&[][..], Vec::as_slice);
    let interrupted = open.iter().filter(|item| item["interrupted"] == true).count() as u64;
    let (completed, failed, at_work) = (count("completed"), count("failed"), open.len() as u64 - interrupted);
    let to_come = total.saturating_sub(completed + failed + open.len() as u64);
    let parts = [
        (completed, "completed"),
        (failed, "failed"),
        (at_work, "at work"),
        (interrupted, "interrupted"),
        (to_come, "to come"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
    let what = if state["jobs"] == true { "jobs" } else { "items" };
    out.line(format!("{what:<10} {total}: {}", parts.join(", ")))?;
    let settings = state["settings"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let settings: Vec<String> = settings.map(|(name, value)| format!("{name} {value}")).collect();
    if !settings.is_empty() {
        out.line(format!("settings   {}", plain(&settings.join(", "))))?;
    }
    Ok(true)
}
