//! `bench`: what fiefdom does on the user's own disk, beside what that disk can do.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates and times for people to read"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a source of load has threads and pauses of its own, and writes beside a store to measure the disk"
)]

mod churn;
mod cold;
mod limit;
mod load;
mod recovery;
mod report;
mod scratch;
mod sustained;
mod tail;
mod warm;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Utc;
use clap::{Args as ClapArgs, ValueEnum};
use fiefdom::Durability;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::{DONE, Failure, INTERRUPTED, WORK};
use crate::output::{Output, say, short};
use load::Setting;
use report::{Figures, HEAD, Measured};
use scratch::{FileSystem, Machine, failed};

pub(crate) const HELP: &str = "\
Every operation is an update of one instance with a small state, acknowledged at
the durability that is asked for. Shapes:
  warm       each caller updates an instance of its own, which stays live
  cold       nothing is live, and all callers come at once; each instance is
             used once
  churn      a quarter of the instances may be live, and they are used in random
             order
  recovery   a process under load is killed (SIGKILL), the root is opened, and
             each instance is used once; every update that was acknowledged must
             be there
  tail       half of the rate of warm; a latency counts from when the update was
             due, and the commit log is checkpointed several times meanwhile
  sustained  all callers at full speed: the rate of each tenth of the time, the
             memory, the log

Beside each shape is what the disk itself did right after it: APPEND is the time
in which the bytes of one commit are appended to a plain file, and flushed
unless the durability is os. Times are in microseconds. Files are in the page
cache, so a cold start is that of a process, not of a machine.

A directory of its own is made in DIR, and removed at the end, also at Ctrl-C.

Exit codes: 0 measured, 1 an acknowledged update was lost, 2 wrong usage, 5 the
disk or the store failed, 130 interrupted

Examples:
  fiefdom bench --dir /mnt/data
  fiefdom bench --shape warm,tail --callers 512 --seconds 10
  fiefdom bench --shape sustained --seconds 600 --json > sustained.json";

/// Seconds of a shape, unless it is said otherwise.
const SECONDS: f64 = 4.0;

/// The same for `sustained`, whose point is to last.
const SECONDS_SUSTAINED: f64 = 60.0;

/// Longest time of a shape, in seconds.
const SECONDS_MAX: f64 = 86_400.0;

/// How long the disk alone is measured after a shape, in parts of the time of the shape; and at most.
const LIMIT_PART: u32 = 8;
const LIMIT_MAX: Duration = Duration::from_millis(500);

/// Bytes that the commit logs of a shape may take, and the file of the appends.
const LOG_BYTES: u64 = (5 * 64 + 64 + 16) << 20;

/// Bytes that the files of an instance take beside its state, in blocks and a directory.
const INSTANCE_BYTES: u64 = 16 << 10;

#[derive(ClapArgs)]
pub(crate) struct Bench {
    /// Where to measure: a directory on the disk that is meant
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// What to measure (may be given again, or several with commas)
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["warm", "cold", "churn", "recovery", "tail"])]
    shape: Vec<Shape>,
    /// How long each shape lasts, in seconds [default: 4; sustained: 60]
    #[arg(long, value_name = "N", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Callers at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    callers: u32,
    /// Instances of `cold` and `churn`; the other shapes have one for each caller
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    instances: u32,
    /// Size of the state of an instance, as JSON
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    record_bytes: u32,
    /// When an update is acknowledged: on disk, or when the operating system has it
    #[arg(long, value_enum, default_value_t = Level::Disk)]
    durability: Level,
    /// Load this root until killed
    #[arg(long, hide = true, value_name = "ROOT")]
    victim: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Warm,
    Cold,
    Churn,
    Recovery,
    Tail,
    Sustained,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Disk,
    Os,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Churn => "churn",
            Self::Recovery => "recovery",
            Self::Tail => "tail",
            Self::Sustained => "sustained",
        }
    }

    async fn run(self, setting: &Setting, root: &Path) -> Result<Figures, Failure> {
        match self {
            Self::Warm => warm::run(setting, root).await,
            Self::Cold => cold::run(setting, root).await,
            Self::Churn => churn::run(setting, root).await,
            Self::Recovery => recovery::run(setting, root).await,
            Self::Tail => tail::run(setting, root).await,
            Self::Sustained => sustained::run(setting, root).await,
        }
    }
}

impl Level {
    fn name(self) -> &'static str {
        if self == Self::Disk { "disk" } else { "os" }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=SECONDS_MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("a number of seconds from 0.01 to {SECONDS_MAX}")),
    }
}

impl Bench {
    fn setting(&self) -> Setting {
        Setting {
            run_for: Duration::ZERO,
            callers: self.callers as usize,
            instances: self.instances as usize,
            record_bytes: self.record_bytes as usize,
            durability: if self.durability == Level::Os { Durability::Os } else { Durability::Disk },
            stop: CancellationToken::new(),
        }
    }

    fn run_for(&self, shape: Shape) -> Duration {
        let default = if shape == Shape::Sustained { SECONDS_SUSTAINED } else { SECONDS };
        self.seconds.unwrap_or_else(|| Duration::from_secs_f64(default))
    }

    /// Bytes that have to be free. What a shape has made stays until the end: some file systems take
    /// long to make files where many were deleted a moment ago.
    fn bytes(&self) -> u64 {
        let count = |shape: &Shape| match shape {
            Shape::Cold | Shape::Churn => u64::from(self.instances),
            _ => u64::from(self.callers),
        };
        let instances: u64 = self.shape.iter().map(count).sum();
        LOG_BYTES + instances * (INSTANCE_BYTES + 2 * u64::from(self.record_bytes))
    }
}

pub(crate) async fn bench(out: Output, args: Bench) -> Result<u8, Failure> {
    let setting = args.setting();
    if let Some(root) = &args.victim {
        return recovery::be_the_victim(&setting, root).await.map(|()| DONE);
    }
    let most = scratch::most_live();
    if setting.callers > most {
        return Err(Failure::Usage(format!(
            "{} callers keep as many instances live, and the limit of open files allows {most}; raise it with \
             `ulimit -n`, or take fewer callers",
            setting.callers
        )));
    }
    let scratch = scratch::make(&args.dir, args.bytes())?;
    let interrupts = until_interrupted(setting.stop.clone())?;
    let dir = scratch.path().parent().unwrap_or(scratch.path()).to_owned();
    let (machine, disk) = (Machine::look(), FileSystem::of(scratch.path()));
    out.line(format!(
        "{}, {} cores, Linux {}; {} at {}",
        machine.cpu,
        machine.cores,
        machine.kernel,
        disk.kind,
        dir.display()
    ))?;
    let measured = all(out, &args, &setting, scratch.path()).await;
    let path = scratch.path().to_owned();
    let removed = tokio::task::spawn_blocking(move || scratch.close()).await;
    interrupts.abort();
    let measured = measured?;
    let interrupted = setting.stop.is_cancelled();
    print(out, &args, &measured)?;
    out.document(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "at": Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        "machine": machine,
        "directory": dir,
        "file_system": disk,
        "durability": args.durability.name(),
        "callers": args.callers,
        "instances": args.instances,
        "record_bytes": args.record_bytes,
        "interrupted": interrupted,
        "shapes": measured.iter().map(Measured::document).collect::<Vec<Value>>(),
    }))?;
    removed
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(|e| failed("remove what was measured with in", path, e))?;
    Ok(match measured.iter().any(|one| one.figures.lost > 0) {
        true => WORK,
        false if interrupted => INTERRUPTED,
        false => DONE,
    })
}

/// Every shape, and the disk after each; fewer when it is interrupted.
async fn all(out: Output, args: &Bench, setting: &Setting, scratch: &Path) -> Result<Vec<Measured>, Failure> {
    let progress = Progress::new(out, args.shape.len() as u64);
    let mut measured = Vec::new();
    for (number, &shape) in args.shape.iter().enumerate() {
        let setting = Setting { run_for: args.run_for(shape), ..setting.clone() };
        progress.begin(shape, &setting);
        let figures = shape.run(&setting, &scratch.join(format!("{number}-{}", shape.name()))).await?;
        let part = (setting.run_for / LIMIT_PART).min(LIMIT_MAX);
        let one = limit::measure(&setting, scratch, figures.commit_bytes, part).await?;
        let bytes = (figures.commit_bytes as f64 * figures.commits_per_batch) as usize;
        let batch = limit::measure(&setting, scratch, bytes, part).await?;
        if setting.stop.is_cancelled() {
            break;
        }
        measured.push(Measured { shape: shape.name(), figures, one, batch });
    }
    Ok(measured)
}

fn print(out: Output, args: &Bench, measured: &[Measured]) -> Result<(), Failure> {
    let (callers, bytes, durability) = (args.callers, args.record_bytes, args.durability.name());
    out.line(format!("{callers} callers, {bytes} bytes of state, durability {durability}; times in microseconds\n"))?;
    out.table(&HEAD, &measured.iter().map(Measured::row).collect::<Vec<_>>())?;
    measured.iter().filter_map(|one| one.figures.note.as_ref()).try_for_each(|note| out.line(format!("\n{note}")))
}

/// The first signal ends the measurement in good order, the second at once.
fn until_interrupted(stop: CancellationToken) -> Result<tokio::task::JoinHandle<()>, Failure> {
    let caught = |kind| signal(kind).map_err(|e| failed("catch", "a signal", e));
    let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?);
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(INTERRUPTED.into());
            }
            say("interrupted: what was made is removed; once more to leave it");
            stop.cancel();
        }
    }))
}

/// Says what is measured at the moment, on a terminal.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(out: Output, shapes: u64) -> Self {
        Self((!out.json && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner:.cyan} {pos}/{len}  {msg}  {elapsed_precise}");
            let bar = ProgressBar::new(shapes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        }))
    }

    fn begin(&self, shape: Shape, setting: &Setting) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
            bar.set_message(format!("{}: {} callers, {}", shape.name(), setting.callers, short(setting.run_for)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
