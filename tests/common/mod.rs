//! What the test files share.
#![allow(dead_code, missing_docs)]

pub(crate) mod disks;

use std::path::Path;
use std::time::{Duration, Instant};

use fiefdom::{BoxError, Instance, InstanceId, NewInstance, Options, Status, Store};
use serde::{Deserialize, Serialize};

/// Says what a test has shown, past the capture of its output: the figures belong in the log of CI.
#[allow(unused_macros)]
macro_rules! shown {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "shown: {}", format_args!($($what)*));
    }};
}
#[allow(unused_imports)]
pub(crate) use shown;

pub(crate) type TestResult<T = ()> = Result<T, BoxError>;

/// How long something that must happen may take: far longer than it does, also where much else runs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A kind with a number in it, for tests.
pub(crate) struct Counter;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub value: u64,
    pub nested: Vec<Vec<u64>>,
}

impl Instance for Counter {
    const KIND: &'static str = "counter";
    type State = Count;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Count, BoxError> {
        Ok(Count { value: 0, nested: vec![vec![1]] })
    }
}

pub(crate) fn id(text: &str) -> InstanceId {
    InstanceId::new(text).expect("a valid id")
}

pub(crate) fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    change(&mut options);
    options
}

/// The files follow the log after the end of the test, so that a death loses what is not in the log.
pub(crate) fn lagging() -> Options {
    const LATER: Duration = Duration::from_secs(3600);
    options(|o| (o.materialise_within, o.log_segment_age) = (LATER, LATER))
}

/// Copies what is in a directory to another, which is empty. It may be in use: when a name goes away
/// meanwhile (a file that is renamed into its place, a directory in the trash), it begins anew.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> TestResult {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).output()?;
        if copied.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&copied.stderr);
        if !said.contains("No such file") || Instant::now() > deadline {
            return Err(format!("{}: {said}", from.display()).into());
        }
        std::fs::remove_dir_all(to)?;
        std::fs::create_dir(to)?;
    }
}

/// A sequence that looks random (xorshift64*, Vigna 2016).
pub(crate) struct Random(u64);

impl Random {
    /// Another one at each start; its seed is printed, so that a failure can be told from another.
    pub(crate) fn seeded() -> TestResult<Self> {
        let seed = u64::from(std::process::id()) ^ u64::try_from(chrono::Utc::now().timestamp_micros())?;
        println!("seed {seed}");
        Ok(Self::new(seed))
    }

    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// This test program again, as another process that runs one of its ignored tests.
pub(crate) fn another_process(test: &str) -> TestResult<std::process::Command> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    Ok(command)
}

/// A process that dies with two instances, of which one is at work: the test file has an ignored test
/// that is nothing but [`die_at_work`], and this is its name.
pub(crate) fn death_at_work(test: &str, root: &Path) -> TestResult {
    let ended = another_process(test)?.env("FIEFDOM_TEST_ROOT", root).output()?;
    if ended.status.success() { Err(format!("it was to abort: {ended:?}").into()) } else { Ok(()) }
}

pub(crate) async fn die_at_work() -> TestResult {
    let store = Store::open(std::env::var("FIEFDOM_TEST_ROOT")?, Counter).await?;
    store.create(NewInstance::with_id(id("rests"))).await?;
    store.create(NewInstance::with_id(id("works"))).await?.transition(Status::Running, None).await?;
    std::process::abort()
}

/// Looks every few milliseconds whether something has come true.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a process says until it is killed, `then` after it has said `first`.
pub(crate) fn lines_of_a_life(
    mut child: std::process::Child,
    said: impl std::io::Read + Send + 'static,
    first: &'static str,
    then: Duration,
) -> TestResult<Vec<String>> {
    use std::io::{BufRead as _, BufReader};
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(said).lines().map_while(Result::ok);
        let noted = lines.inspect(|line| {
            if line == first {
                let _ = tell.send(());
            }
        });
        noted.collect::<Vec<_>>()
    });
    let first_came = told.recv_timeout(PATIENCE);
    // Not a wait for something: the length of a life.
    std::thread::sleep(then);
    let ended = child.try_wait()?;
    child.kill()?;
    child.wait()?;
    let lines = reader.join().map_err(|_| "the reader panicked")?;
    first_came.map_err(|_| format!("it never said {first:?}: {lines:?}"))?;
    if let Some(status) = ended {
        return Err(format!("it ended by itself, {status}: {lines:?}").into());
    }
    Ok(lines)
}
