//! durare on SQLite: a program of its own in `durare/`, because it links another SQLite, and because
//! its features would change the JSON of everybody else in this one.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Outcome, Setting};

/// The program, when it was built into the same directory as this one.
fn program() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name("fiefdom-peer-durare");
    path.is_file().then_some(path)
}

/// Durable steps per second of `callers` workflows that each take one step after the other; `None` when
/// the program is not there.
pub fn rate(setting: &Setting, callers: usize, synchronous: &str) -> Outcome<Option<f64>> {
    let Some(program) = program() else { return Ok(None) };
    let dir = setting.fresh_dir("durare-")?;
    let seconds = setting.run_for.as_secs_f64().to_string();
    let out = Command::new(program).arg(&dir).args([&callers.to_string(), synchronous, &seconds]).output()?;
    if !out.status.success() {
        return Err(format!("durare: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(Some(String::from_utf8(out.stdout)?.trim().parse()?))
}
