//! The lock map in Python, run by python3.

use std::process::Command;

use crate::harness::{Outcome, Setting};

/// Operations per second: `mode` is `update` or `create`.
pub fn rate(setting: &Setting, mode: &str, callers: usize, instances: usize) -> Outcome<f64> {
    let dir = setting.fresh_dir("python-")?;
    let out = Command::new("python3")
        .args(["-c", include_str!("lock_map.py"), mode])
        .arg(&dir)
        .args([callers.to_string(), instances.to_string(), setting.run_for.as_secs_f64().to_string()])
        .output()?;
    if !out.status.success() {
        return Err(format!("lock_map.py: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(String::from_utf8(out.stdout)?.trim().parse()?)
}
