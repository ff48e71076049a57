//! Another process with the root open, which does what it is told by lines and answers by lines.
//!
//! It is this test binary again. Its disk work is done by one thread, so that a test can count what
//! each of its threads asks of the kernel.
#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use fiefdom::{Durability, Error, NewInstance, Options, Status, Store};

use crate::common::{Counter, TestResult, another_process, id};

/// Commits that `count-and-abort` leaves under way.
pub(crate) const UNDER_WAY: u64 = 16;

/// Every answer begins with it: other lines are of the test harness.
const ANSWER: &str = "> ";

/// A process that is told what to do. It is killed when this is dropped.
pub(crate) struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one. The test file has a test `be_a_worker` that calls [`work`].
    pub(crate) fn start() -> TestResult<Self> {
        let mut child = another_process("be_a_worker")?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdin = child.stdin.take().ok_or("no input")?;
        let stdout = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut worker = Self { child, stdin, stdout };
        assert_eq!(worker.answer()?, "ready");
        Ok(worker)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it what to do, and does not wait.
    pub(crate) fn tell(&mut self, command: &str) -> TestResult {
        self.stdin.write_all(format!("{command}\n").as_bytes())?;
        Ok(())
    }

    /// Its next answer; `None` when it is dead.
    pub(crate) fn answer_if_alive(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            // An answer without its end was cut short by death.
            if self.stdout.read_line(&mut line).ok()? == 0 || !line.ends_with('\n') {
                return None;
            }
            if let Some(answer) = line.trim_end().strip_prefix(ANSWER) {
                return Some(answer.to_owned());
            }
        }
    }

    pub(crate) fn answer(&mut self) -> TestResult<String> {
        Ok(self.answer_if_alive().ok_or("the worker died")?)
    }

    pub(crate) fn ask(&mut self, command: &str) -> TestResult<String> {
        self.tell(command)?;
        self.answer()
    }

    /// [`Worker::ask`] where the answer must begin with `ok`; returns the rest.
    pub(crate) fn must(&mut self, command: &str) -> TestResult<String> {
        let answer = self.ask(command)?;
        let rest = answer.strip_prefix("ok").ok_or_else(|| format!("{command}: {answer}"))?;
        Ok(rest.trim_start().to_owned())
    }

    pub(crate) fn open(&mut self, root: &Path, settings: &str) -> TestResult {
        self.must(&format!("open {} {settings}", root.to_str().ok_or("not UTF-8")?))?;
        // Each of the three threads of the log names itself, a moment after it began.
        while self.threads()?.keys().filter(|name| name.starts_with("fiefdom-")).count() < 3 {
            std::thread::yield_now();
        }
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) -> TestResult {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// `kill -9`; its end comes in its own time.
    pub(crate) fn kill_without_waiting(mut self) -> TestResult {
        self.child.kill()?;
        std::thread::Builder::new().spawn(move || self.child.wait())?;
        Ok(())
    }

    /// Its threads by name. A name that several have is the first's.
    pub(crate) fn threads(&self) -> TestResult<BTreeMap<String, u32>> {
        let mut threads = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let entry = entry?;
            let name = std::fs::read_to_string(entry.path().join("comm"))?.trim_end().to_owned();
            let tid = entry.file_name().to_str().ok_or("not UTF-8")?.parse()?;
            threads.entry(name).or_insert(tid);
        }
        Ok(threads)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An error in a word or two, with what the system said.
pub(crate) fn word(error: &Error) -> String {
    match error {
        Error::Locked { owner, .. } => {
            owner.as_ref().map_or("locked".into(), |o| format!("locked {} {}", o.pid, o.host))
        }
        Error::AlreadyExists { .. } => "exists".into(),
        Error::NotFound { .. } => "not-found".into(),
        Error::NotApplied { reason, .. } => format!("not-applied {}", word(reason)),
        Error::Unknown { reason, .. } => format!("unknown {}", word(reason)),
        Error::Poisoned { reason } => format!("poisoned {}", word(reason)),
        Error::Gone { .. } => "gone".into(),
        Error::Corrupt { .. } => "corrupt".into(),
        Error::Closed => "closed".into(),
        Error::Io { source, .. } => format!("errno {}", source.raw_os_error().unwrap_or(0)),
        other => format!("other {other}"),
    }
}

/// The life of the other process: `be_a_worker` is nothing but this.
pub(crate) fn work() -> TestResult {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(1).thread_name("disk").thread_keep_alive(Duration::from_secs(3600));
    let mut runtime = Some(runtime.build()?);
    let mut store: Option<Store<Counter>> = None;
    // The thread for the disk is there before a test looks for it.
    running(runtime.as_ref())?.block_on(async { tokio::task::spawn_blocking(|| ()).await })?;
    println!("\n{ANSWER}ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["drop-runtime", name] = words[..] {
            // In the middle of a commit: it is handed over, and nobody waits for it any more.
            let instance = running(runtime.as_ref())?.block_on(opened(store.as_ref())?.get(&id(name)))?;
            let given = running(runtime.as_ref())?.block_on(async move {
                tokio::select! {
                    biased;
                    done = instance.commit(count) => done.is_ok(),
                    () = tokio::time::sleep(Duration::from_millis(20)) => false,
                }
            });
            store = None;
            drop(runtime.take());
            println!("{ANSWER}ok {given}");
            continue;
        }
        let outcome = running(runtime.as_ref())?.block_on(perform(&mut store, &words));
        match outcome {
            Ok(answer) => println!("{ANSWER}{}", format!("ok {answer}").trim_end()),
            Err(error) => match error.downcast_ref::<Error>() {
                Some(error) => println!("{ANSWER}{}", word(error)),
                None => println!("{ANSWER}failed {error}"),
            },
        }
    }
    Ok(())
}

fn running(runtime: Option<&tokio::runtime::Runtime>) -> TestResult<&tokio::runtime::Runtime> {
    Ok(runtime.ok_or("the runtime is gone")?)
}

fn opened(store: Option<&Store<Counter>>) -> TestResult<&Store<Counter>> {
    Ok(store.ok_or("not open")?)
}

/// One more, with an event that says who counted.
fn count(tx: &mut fiefdom::Transaction<crate::common::Count>) -> fiefdom::Result<u64> {
    tx.state_mut().value += 1;
    tx.event("counted", &std::process::id())?;
    Ok(tx.state().value)
}

#[allow(clippy::too_many_lines)] // One word after the other.
async fn perform(store: &mut Option<Store<Counter>>, words: &[&str]) -> TestResult<String> {
    match *words {
        ["open", root, ref settings @ ..] => {
            *store = Some(Store::open_with(root, Counter, parse(settings)?).await?);
            Ok(String::new())
        }
        ["create", name] => {
            opened(store.as_ref())?.create(NewInstance::with_id(id(name))).await?;
            Ok(String::new())
        }
        ["get", name] => Ok(opened(store.as_ref())?.get(&id(name)).await?.state().await?.value.to_string()),
        ["count", name] => {
            let done = opened(store.as_ref())?.get(&id(name)).await?.commit(count).await?;
            Ok(done.value.to_string())
        }
        ["count-os", name] => {
            let instance = opened(store.as_ref())?.get(&id(name)).await?;
            let done = instance.commit(|tx| {
                tx.set_durability(Durability::Os);
                count(tx)
            });
            Ok(done.await?.value.to_string())
        }
        ["count-many", name, times] => {
            let instance = opened(store.as_ref())?.get(&id(name)).await?;
            let mut last = 0;
            for _ in 0..times.parse()? {
                last = instance.commit(count).await?.value;
            }
            Ok(last.to_string())
        }
        // So many that are acknowledged, then some that are under way.
        ["count-and-abort", name, times] => {
            let instance = opened(store.as_ref())?.get(&id(name)).await?;
            for _ in 0..times.parse()? {
                instance.commit(count).await?;
            }
            let mut under_way: Vec<_> = (0..UNDER_WAY).map(|_| Box::pin(instance.commit(count))).collect();
            for commit in &mut under_way {
                let _ = futures::poll!(commit);
            }
            std::process::abort();
        }
        // So many instances, each with a commit that is in its files and one that is not.
        ["fill", number] => {
            let (store, number) = (opened(store.as_ref())?, number.parse()?);
            let all = |n: u64| id(&format!("i{n}"));
            futures::future::try_join_all((0..number).map(|n| store.create(NewInstance::with_id(all(n))))).await?;
            for turn in 0..2 {
                let commits = (0..number).map(|n| async move { store.get(&all(n)).await?.commit(count).await });
                futures::future::try_join_all(commits).await?;
                if turn == 0 {
                    store.flush().await?;
                }
            }
            Ok(String::new())
        }
        ["update", name] => {
            let instance = opened(store.as_ref())?.get(&id(name)).await?;
            instance.update(|state| state.value += 1).await?;
            Ok(String::new())
        }
        ["append", name] => {
            let instance = opened(store.as_ref())?.get(&id(name)).await?;
            Ok(instance.append("counted", std::process::id()).await?.to_string())
        }
        ["run", name] => {
            opened(store.as_ref())?.get(&id(name)).await?.transition(Status::Running, None).await?;
            Ok(String::new())
        }
        ["checkpoint", name, step] => {
            let instance = opened(store.as_ref())?.get(&id(name)).await?;
            Ok(instance.checkpoint(fiefdom::Checkpoint::new(step)).await?.to_string())
        }
        ["delete", name] => {
            opened(store.as_ref())?.delete(&id(name)).await?;
            Ok(String::new())
        }
        // Whatever is over goes.
        ["gc"] => {
            let policy = fiefdom::Retention::new().rule(fiefdom::RetentionRule::new());
            Ok(opened(store.as_ref())?.gc(&policy).await?.deleted.len().to_string())
        }
        ["import", file, name] => {
            let file = std::fs::File::open(file)?;
            opened(store.as_ref())?.import(file, fiefdom::ImportOptions::with_id(id(name))).await?;
            Ok(String::new())
        }
        ["flush"] => {
            opened(store.as_ref())?.flush().await?;
            Ok(String::new())
        }
        ["stats"] => {
            let stats = opened(store.as_ref())?.stats().await?;
            Ok(format!("{} {} {}", stats.file_failures, stats.checkpoint_stalled, stats.poisoned))
        }
        // Until so many full segments are replaced by files, or one cannot be.
        ["checkpointed", wanted] => {
            let wanted: u64 = wanted.parse()?;
            let store = opened(store.as_ref())?;
            loop {
                let stats = store.stats().await?;
                if stats.checkpoints >= wanted || stats.checkpoint_stalled {
                    return Ok(format!("{} {}", stats.checkpoints, stats.checkpoint_stalled));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        // The records of all, but for their times, as they are in the files.
        ["picture"] => {
            let listing = opened(store.as_ref())?.view().list(&fiefdom::Filter::default())?;
            let mut picture: Vec<_> = listing
                .records
                .iter()
                .map(|r| format!("{}:{}:{}:{}:{}", r.id, r.revision, r.epoch, r.status, r.state["value"]))
                .collect();
            picture.sort();
            Ok(format!("{} damaged {}", listing.damaged.len(), picture.join(" ")))
        }
        ["shutdown"] => {
            let closed = opened(store.as_ref())?.shutdown().await;
            *store = None;
            closed?;
            Ok(String::new())
        }
        // Without a goodbye: as when the value is just dropped.
        ["forget"] => {
            *store = None;
            // The actors notice that nobody needs them.
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(String::new())
        }
        _ => Err(format!("what is {words:?}?").into()),
    }
}

fn parse(settings: &[&str]) -> TestResult<Options> {
    let mut options = Options::default();
    for setting in settings {
        match setting.split_once('=').ok_or("no value")? {
            ("live", n) => options.live_instances = n.parse()?,
            ("segment", n) => options.log_segment_bytes = n.parse()?,
            ("within_ms", n) => {
                options.materialise_within = Duration::from_millis(n.parse()?);
                // A full segment brings the files up, and so does an old one.
                options.log_segment_age = options.log_segment_age.max(options.materialise_within);
            }
            (other, _) => return Err(format!("what is {other}?").into()),
        }
    }
    Ok(options)
}
