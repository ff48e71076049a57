//! `fiefdom bench` as its users run it: the tail of the latencies, and a load that lasts.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::{Bound, Goal};
use crate::harness::{Figure, Outcome, Row, Setting};

/// The sustained load lasts so many times as long as a run of the others: ten minutes for two seconds.
const LASTS: u32 = 300;

/// The first and the last part of the sustained load.
const FIRST: &str = "first tenth";
const LAST: &str = "last tenth";

/// The most that the limits of a store allow: four full segments of 64 MiB, the one in use, and the
/// filler behind it.
const LOG_MIB: f64 = 321.0;

const STALLS: &str = "What waits is the flush of the log, for milliseconds now and then, and everybody behind it; a plain \
append on the same disk, alone, does not. The files of instances at work are not flushed when a segment goes, and a segment \
is freed a MiB at a time, with three times as long for the commits in between; disk A discards freed blocks at once, and \
every flush waits for that (1.6 ms for a MiB that is freed with others, 4 ms for one alone, now and then 30 to 60 ms). What \
is left besides is the writing of files. What would close it: segments that are used again without being made blank, which \
needs lines that tell to which use of a segment they belong (segments that are made blank were built and measured: no \
better).";

const SWAY: &str = "On disk A the rate sways by an eighth from one minute to the next, without a direction: in a run of 150 s \
of the same day its tenths were 246, 277, 242, 229, 217, 239, 240, 259, 269 and 262 thousand a second, the last 1.06x the \
first. Memory and log stay as they are. What would show it: a longer run, or the middle of several tenths.";

pub fn rows() -> Vec<Row> {
    let row = |name, title, unit, at_most, contender: fn(&Setting) -> Outcome<Vec<Figure>>| Row {
        name,
        title,
        unit,
        axis: None,
        at_most,
        contenders: vec![Box::new(contender)],
    };
    vec![
        row("tail", "Durable update at half of the saturated rate, from when it was due, 64 instances", "us", 5, tail),
        row("sustained", "Durable updates at saturation for ten minutes, 64 instances", "updates/s", 1, rate),
        row("sustained-memory", "Resident memory in those ten minutes", "MiB", 1, memory),
        row("sustained-log", "The commit log in those ten minutes", "MiB", 1, log),
    ]
}

pub fn goals() -> Vec<Goal> {
    let goal =
        |row, ours, theirs, bound| Goal { row, ours, theirs, bound, if_missed: "Its cause has not been looked for." };
    vec![
        Goal { if_missed: STALLS, ..goal("tail", "p99.9", Some("p50"), Bound::AtMost(10.0)) },
        Goal { if_missed: SWAY, ..goal("sustained", LAST, Some(FIRST), Bound::AtLeast(0.9)) },
        goal("sustained-memory", LAST, Some(FIRST), Bound::AtMost(1.1)),
        goal("sustained-log", "most", None, Bound::AtMost(LOG_MIB)),
    ]
}

fn tail(setting: &Setting) -> Outcome<Vec<Figure>> {
    // Long enough for percentiles of thousandths, and to fill segments of the default size.
    let tail = bench(setting, "tail", if setting.quick { setting.run_for } else { setting.run_for * 6 })?;
    let ours = ["p50", "p99", "p99.9", "max"].map(|name| Ok(Figure::new(name, at(&tail, &["latency_us", name])?)));
    let disk = ["p50", "p99.9", "max"].map(|name| {
        Ok(Figure::new(format!("append and fdatasync alone, {name}"), at(&tail, &["append", "latency_us", name])?))
    });
    ours.into_iter().chain(disk).collect()
}

fn rate(setting: &Setting) -> Outcome<Vec<Figure>> {
    ends(setting, "per_second", 1.0)
}

fn memory(setting: &Setting) -> Outcome<Vec<Figure>> {
    ends(setting, "resident_bytes", f64::from(1 << 20))
}

fn log(setting: &Setting) -> Outcome<Vec<Figure>> {
    let intervals = intervals(sustained(setting)?)?;
    let all = intervals.iter().map(|interval| at(interval, &["log_bytes"])).collect::<Outcome<Vec<f64>>>()?;
    Ok(vec![Figure::new("most", all.into_iter().fold(0.0, f64::max) / f64::from(1 << 20))])
}

fn ends(setting: &Setting, name: &str, unit: f64) -> Outcome<Vec<Figure>> {
    let intervals = intervals(sustained(setting)?)?;
    let (first, last) = intervals.first().zip(intervals.last()).ok_or("no intervals")?;
    Ok(vec![Figure::new(FIRST, at(first, &[name])? / unit), Figure::new(LAST, at(last, &[name])? / unit)])
}

fn intervals(sustained: &Value) -> Outcome<&Vec<Value>> {
    sustained["intervals"].as_array().ok_or_else(|| "no intervals".into())
}

/// One load serves all of its rows.
fn sustained(setting: &Setting) -> Outcome<&'static Value> {
    static MEASURED: OnceLock<Value> = OnceLock::new();
    if let Some(measured) = MEASURED.get() {
        return Ok(measured);
    }
    let lasts = if setting.quick { setting.run_for * 3 } else { setting.run_for * LASTS };
    let measured = bench(setting, "sustained", lasts)?;
    Ok(MEASURED.get_or_init(|| measured))
}

/// One shape, measured by the program of this project as it is released: `FIEFDOM_BIN`, else where
/// `cargo build --release` puts it.
fn bench(setting: &Setting, shape: &str, lasts: Duration) -> Outcome<Value> {
    let program = std::env::var_os("FIEFDOM_BIN")
        .unwrap_or_else(|| OsString::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/fiefdom")));
    if !Path::new(&program).is_file() {
        return Err(format!("{} is missing: build it with cargo build --release", program.display()).into());
    }
    let mut bench = Command::new(program);
    bench.args(["--json", "bench", "--shape", shape, "--seconds", &lasts.as_secs_f64().to_string()]);
    let out = bench.arg("--dir").arg(setting.fresh_dir("bench-")?).output()?;
    if !out.status.success() {
        return Err(format!("fiefdom bench: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(serde_json::from_slice::<Value>(&out.stdout)?["shapes"][0].take())
}

fn at(value: &Value, path: &[&str]) -> Outcome<f64> {
    let found = path.iter().fold(value, |value, name| &value[name]);
    found.as_f64().ok_or_else(|| format!("no {path:?} in {value}").into())
}
