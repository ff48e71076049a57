//! What the test files share.
#![allow(dead_code, missing_docs)]

pub(crate) mod disks;

use std::time::{Duration, Instant};

use fiefdom::{BoxError, Instance, InstanceId, NewInstance, Options};
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

/// Looks every few milliseconds whether something has come true, for ten seconds at most.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
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
    let first_came = told.recv_timeout(Duration::from_secs(20));
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
