//! Recovery after a kill: a process of our own loads a root and is killed. Then the root is opened,
//! every instance is used once, and whatever was acknowledged must be there.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fiefdom::Durability;
use serde_json::json;

use super::load::{Latencies, Loaded, Setting, Targets, finish, id, update};
use super::report::Figures;
use super::scratch::{failed, log_bytes};
use crate::failure::Failure;

/// What the victim says when its load begins.
const READY: &str = "ready";

/// Longest time that the victim has to make its instances.
const START: Duration = Duration::from_secs(60);

pub(super) async fn run(setting: &Setting, root: &Path) -> Result<Figures, Failure> {
    let (cloned, path) = (setting.clone(), root.to_owned());
    let lived = tokio::task::spawn_blocking(move || life(&cloned, &path));
    let acknowledged = lived.await.map_err(|e| Failure::Output(io::Error::other(e)))??;
    let left = log_bytes(root);

    let begun = Instant::now();
    let store = setting.open(root, setting.options()).await?;
    let opened = begun.elapsed();
    let (latencies, mut lost, mut commit_bytes) = (Latencies::new(), 0, 0);
    let mut elapsed = Duration::ZERO;
    for (number, &known) in acknowledged.iter().enumerate() {
        let asked = Instant::now();
        let instance = store.get(&id(number)?).await?;
        let count = update(&instance).await?;
        latencies.note(asked.elapsed());
        elapsed += asked.elapsed();
        // The one just made is not of the dead process.
        lost += known.saturating_sub(count - 1);
        if number == 0 {
            commit_bytes = super::load::commit_bytes(&*instance.record().await?)?;
        }
    }
    store.shutdown().await?;
    let total: u64 = acknowledged.iter().sum();
    let open_us = u64::try_from(opened.as_micros()).unwrap_or(u64::MAX);
    let figures = Figures::of(&Loaded { latencies, elapsed }, commit_bytes);
    Ok(figures
        .more("acknowledged", json!(total))
        .more("lost", json!(lost))
        .more("log_bytes", json!(left))
        .more("open_us", json!(open_us))
        .lost(lost)
        .note(format!(
            "recovery: {:.1} ms to open the root with {:.1} MiB of log; of {total} acknowledged changes {}",
            opened.as_secs_f64() * 1000.0,
            mebibytes(left),
            if lost == 0 { "none is lost".to_owned() } else { format!("{lost} ARE LOST") },
        )))
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Starts the victim, kills it after the time, and gives the last acknowledged count of each
/// instance. Blocks.
fn life(setting: &Setting, root: &Path) -> Result<Vec<u64>, Failure> {
    let start = |e| failed("start", "this program again", e);
    let mut command = Command::new(std::env::current_exe().map_err(start)?);
    command.args(["bench", "--victim"]).arg(root);
    command.arg("--callers").arg(setting.callers.to_string());
    command.arg("--record-bytes").arg(setting.record_bytes.to_string());
    command.arg("--durability").arg(if setting.durability == Durability::Os { "os" } else { "disk" });
    let mut victim = Victim(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(start)?);
    let said = victim.0.stdout.take().ok_or_else(|| start(io::ErrorKind::BrokenPipe.into()))?;
    let (tell, told) = std::sync::mpsc::channel();
    let callers = setting.callers;
    let reader = std::thread::Builder::new().name("fiefdom-acks".into()).spawn(move || {
        let mut counts = vec![0_u64; callers];
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            match line.split_once(' ').map(|(number, count)| (number.parse::<usize>(), count.parse::<u64>())) {
                Some((Ok(number), Ok(count))) if number < callers => counts[number] = counts[number].max(count),
                _ if line == READY => drop(tell.send(())),
                _ => {}
            }
        }
        counts
    });
    let reader = reader.map_err(start)?;
    let ready = wait(setting, START, || told.try_recv().is_ok() || reader.is_finished());
    let begun = ready && !reader.is_finished();
    // It does not end by itself: when it does, it failed, and has said why.
    let ended = begun && wait(setting, setting.run_for, || reader.is_finished());
    drop(victim);
    let counts = reader.join().map_err(|_| failed("read", "what was acknowledged", io::ErrorKind::Other.into()))?;
    if (!begun || ended) && !setting.stop.is_cancelled() {
        let reason = "the process that was to be killed ended by itself; see what it said";
        return Err(failed("load", root, io::Error::other(reason)));
    }
    // Interrupted: it may not even have made its instances.
    Ok(if setting.stop.is_cancelled() { Vec::new() } else { counts })
}

/// Whether it comes true in time, and before an interrupt.
fn wait(setting: &Setting, patience: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < patience && !setting.stop.is_cancelled() {
        if is_true() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Killed and gone when this is dropped.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the victim does: it changes its instances, and prints what is acknowledged, until it is
/// killed or nobody reads it any more.
pub(super) async fn be_the_victim(setting: &Setting, root: &Path) -> Result<(), Failure> {
    let store = setting.open(root, setting.options()).await?;
    let made = setting.populate(&store, setting.callers).await?;
    let targets = Targets::live(&store, &made.ids).await?;
    writeln!(io::stdout().lock(), "{READY}")?;
    let tasks = (0..setting.callers).map(|caller| {
        let targets = std::sync::Arc::clone(&targets);
        tokio::spawn(async move {
            loop {
                let count = targets.update(caller).await?;
                if writeln!(io::stdout().lock(), "{caller} {count}").is_err() {
                    return Ok(());
                }
            }
        })
    });
    finish(tasks.collect()).await
}
