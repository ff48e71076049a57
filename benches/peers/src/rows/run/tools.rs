//! Running a list of commands with each of the tools, as a child process.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fiefdom::jobs::{Batch, BatchItem, CommandInput, CommandJob, Runner};
use fiefdom::{Durability, InstanceId, Options, Store};
use serde_json::json;

use crate::harness::{self, Outcome, Setting};

/// The unit of the times in `/proc/<pid>/stat`: every Linux says a hundred.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Commands for `sh`, and the file that lists them, one per line.
pub struct Commands {
    lines: Vec<String>,
    file: PathBuf,
}

/// What a list of commands took.
pub struct Spent {
    jobs: usize,
    took: Duration,
    processor_seconds: f64,
}

impl Commands {
    fn write(setting: &Setting, lines: Vec<String>) -> Outcome<Self> {
        let file = setting.fresh_dir("commands-")?.join("commands");
        std::fs::write(&file, lines.join("\n") + "\n")?;
        Ok(Self { lines, file })
    }

    /// Every `nth` of them.
    pub fn part(&self, nth: usize) -> Self {
        Self { lines: self.lines.iter().step_by(nth).cloned().collect(), file: self.file.clone() }
    }
}

/// Nothing but what a job costs whatever it does.
pub fn trues(setting: &Setting) -> Outcome<Commands> {
    let jobs = if setting.quick { 200 } else { 2000 };
    Commands::write(setting, vec!["true".to_owned(); jobs])
}

/// Commands that read a text of two megabytes: each of the same bytes in every run.
pub fn real(setting: &Setting) -> Outcome<Commands> {
    let text = setting.dir.join("text");
    if !text.exists() {
        let mut file = std::io::BufWriter::new(File::create(&text)?);
        let mut random: u64 = 1;
        for number in 0..40_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            writeln!(file, "{:016x} line {number} {}", random, ["red", "green", "blue"][(random >> 60) as usize % 3])?;
        }
        file.into_inner()?.sync_all()?;
    }
    let text = text.display();
    let commands = [
        format!("grep -c green {text}"),
        format!("head -n 5000 {text} | sort | tail -n 1"),
        format!("sha256sum {text}"),
        format!("wc -w {text}"),
        format!("head -c 300000 {text} | gzip -6 | wc -c"),
    ];
    let jobs = if setting.quick { 20 } else { 200 };
    Commands::write(setting, commands.into_iter().cycle().take(jobs).collect())
}

impl Spent {
    /// Jobs per second.
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        self.jobs as f64 / self.took.as_secs_f64()
    }

    /// User and system time of all processes, in milliseconds per job.
    #[allow(clippy::cast_precision_loss)]
    pub fn processor_ms(&self) -> f64 {
        self.processor_seconds * 1e3 / self.jobs as f64
    }
}

/// What `work` takes, the processor time of the children that end in it included.
fn spent(jobs: usize, work: impl FnOnce() -> Outcome<()>) -> Outcome<Option<Spent>> {
    let before = processor_seconds_of_children()?;
    let begun = Instant::now();
    work()?;
    let took = begun.elapsed();
    Ok(Some(Spent { jobs, took, processor_seconds: processor_seconds_of_children()? - before }))
}

/// Of those that were waited for, with theirs: the fields 16 and 17 of `/proc/self/stat`.
fn processor_seconds_of_children() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, behind_name) = stat.rsplit_once(')').ok_or("cannot understand /proc/self/stat")?;
    let fields = behind_name.split_ascii_whitespace().skip(13).take(2).map(str::parse::<f64>);
    Ok(fields.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

fn succeed(command: &mut Command) -> Outcome<()> {
    let done = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr)).into())
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}

/// The program of this project, as it is released: `FIEFDOM_BIN`, else where `cargo build --release`
/// puts it.
pub fn fiefdom(setting: &Setting, commands: &Commands) -> Outcome<Option<Spent>> {
    let program = std::env::var_os("FIEFDOM_BIN")
        .unwrap_or_else(|| OsString::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/fiefdom")));
    if !Path::new(&program).is_file() {
        return Err(format!("{} is missing: build it with cargo build --release", program.display()).into());
    }
    let root = setting.fresh_dir("fiefdom-")?;
    let mut run = Command::new(program);
    run.arg("--root").arg(root).args(["run", "-j", "2"]).arg(&commands.file);
    spent(commands.lines.len(), || succeed(&mut run))
}

/// The same by the library, with commits that are acknowledged when the operating system has them.
pub fn fiefdom_os(setting: &Setting, commands: &Commands) -> Outcome<Option<Spent>> {
    let (root, file) = (setting.fresh_dir("fiefdom-os-")?, &commands.file);
    let args = ["run-os", &root.display().to_string(), &file.display().to_string()];
    spent(commands.lines.len(), || harness::child(&args).map(drop))
}

/// The step `run-os` of this program: a root, and the file of the commands.
pub fn child(root: &str, file: &str) -> Outcome<()> {
    let lines = std::fs::read_to_string(file)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut options = Options::default();
        options.durability = Durability::Os;
        let store = Store::open_with(root, CommandJob, options).await?;
        let id = Batch::new_id();
        let job = |(number, line): (usize, &str)| {
            Ok(BatchItem::new(InstanceId::new(&format!("{id}-{}", number + 1))?, json!(CommandInput::new(line))))
        };
        let jobs = lines.lines().enumerate().map(job).collect::<fiefdom::Result<Vec<_>>>()?;
        let batch = Batch::create(&store, jobs).await?;
        let summary = Runner::new(store.clone()).concurrency(2).run(&batch, |_| {}).await?;
        store.shutdown().await?;
        if summary.all_succeeded() { Ok(()) } else { Err("a job failed".into()) }
    })
}

/// GNU parallel, with what it has to keep output and outcome of each job.
pub fn parallel(setting: &Setting, commands: &Commands) -> Outcome<Option<Spent>> {
    if !is_installed("parallel") {
        return Ok(None);
    }
    let dir = setting.fresh_dir("parallel-")?;
    let mut parallel = Command::new("parallel");
    // A directory for each job: with the default name all `true` would share one.
    parallel.args(["--will-cite", "-j", "2", "--results"]).arg(dir.join("results/{#}/"));
    parallel.arg("--joblog").arg(dir.join("log")).arg("-a").arg(&commands.file).arg("{}");
    spent(commands.lines.len(), || succeed(&mut parallel))
}

/// `xargs`, which keeps nothing.
pub fn xargs_sh(_: &Setting, commands: &Commands) -> Outcome<Option<Spent>> {
    xargs(commands, &["-d", "\n", "-P", "2", "-n", "1", "sh", "-c"])
}

/// The program `true` itself; that it is given its name once more does not matter to it.
pub fn xargs_bare(_: &Setting, commands: &Commands) -> Outcome<Option<Spent>> {
    xargs(commands, &["-P", "2", "-n", "1", "true"])
}

fn xargs(commands: &Commands, args: &[&str]) -> Outcome<Option<Spent>> {
    let mut xargs = Command::new("xargs");
    xargs.args(args).stdin(File::open(&commands.file)?);
    spent(commands.lines.len(), || succeed(&mut xargs))
}

/// What the processes alone cost: no files, no pipes, a group for each.
pub fn threads(commands: &Commands) -> Outcome<Option<Spent>> {
    let next = AtomicUsize::new(0);
    let work = || -> std::io::Result<()> {
        while let Some(line) = commands.lines.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
            shell.status()?;
        }
        Ok(())
    };
    spent(commands.lines.len(), || {
        std::thread::scope(|scope| {
            let both = [scope.spawn(work), scope.spawn(work)];
            both.into_iter().try_for_each(|one| one.join().map_err(|_| "a thread panicked")?.map_err(Into::into))
        })
    })
}

/// Ends a daemon, whatever happens.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the two programs of pueue are: `PUEUE_DIR`, else where `just bench` installs them, else
/// somewhere on the search path.
fn pueue_dir() -> Option<PathBuf> {
    let named = std::env::var_os("PUEUE_DIR").map(PathBuf::from);
    named.or_else(|| {
        let beside = std::env::current_exe().ok()?.with_file_name("tools").join("bin");
        beside.join("pueue").is_file().then_some(beside)
    })
}

/// pueue, with a daemon of its own.
pub fn pueue(setting: &Setting, commands: &Commands) -> Outcome<Option<Spent>> {
    let programs = pueue_dir().unwrap_or_default();
    let (client, daemon) = (programs.join("pueue"), programs.join("pueued"));
    if !is_installed(&client.to_string_lossy()) {
        return Ok(None);
    }
    let dir = setting.fresh_dir("pueue-")?;
    let config = dir.join("pueue.yml");
    let text = format!(
        "client: {{}}\ndaemon: {{}}\nshared:\n  pueue_directory: {0}\n  runtime_directory: {0}\n  use_unix_socket: true\n",
        dir.display()
    );
    std::fs::write(&config, text)?;
    let client = |args: &[&str]| {
        let mut client = Command::new(&client);
        client.arg("-c").arg(&config).args(args);
        succeed(&mut client)
    };
    spent(commands.lines.len(), || {
        let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut daemon = Daemon(quiet(Command::new(&daemon).arg("-c").arg(&config))?);
        let begun = Instant::now();
        while let Err(error) = client(&["parallel", "2"]) {
            if begun.elapsed() > PATIENCE {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for line in &commands.lines {
            client(&["add", "--", line])?;
        }
        client(&["wait"])?;
        client(&["shutdown"])?;
        daemon.0.wait()?;
        Ok(())
    })
}
