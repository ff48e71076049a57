//! Input requests: what an instance asks of people, and their answers.
//!
//! ```text
//! request_input ──commit: event input.requested, open request in the record──> file ──> waiter
//! answer        ──commit: event input.answered, number of it in the record───> file ──> waiter
//! ```
//!
//! The events are the truth. The record has every open request whole, so that an activation finds
//! it without reading the log and whoever answers can check the answer; of an answered one it has
//! the numbers of the two events. `events/input-requests/<key>.json` follows both commits.
//!
//! A waiter is a future that looks at the published record whenever it changes. Nothing durable
//! depends on it: it can be dropped, its process can die, and who asks again under the same key
//! finds the question or its answer.

mod file;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::actors::instance::{Core, Live};
use crate::actors::transaction::Transaction;
use crate::blocking;
use crate::error::{Error, Result, Unanswered};
use crate::instance::{InstanceRef, check_file_name};
use crate::kind::Instance;
use crate::options::Durability;
use crate::record::work::{AnsweredEvent, AskedEvent, Question, Request, Requests, check_document, limit};
use crate::record::{InputRequest, InstanceId, Record, Status};
use crate::schema;

/// Longest key, in bytes.
const KEY_BYTES: usize = 128;
/// Longest prompt, in bytes.
const PROMPT_BYTES: usize = 4 << 10;
/// Largest schema and largest answer, in bytes of compact JSON.
const SCHEMA_BYTES: usize = 32 << 10;
const ANSWER_BYTES: usize = 64 << 10;
/// Most open requests of an instance, and most of them with those that are answered.
const OPEN: usize = 64;
const KEPT: usize = 256;

/// Most characters of a prompt that become the reason of a status.
const REASON_CHARS: usize = 100;

/// What is asked.
struct Asking {
    key: String,
    prompt: String,
    schema: Value,
}

/// How a wait ended.
enum Ended {
    Answered(Value),
    Unanswered(Unanswered),
    /// The activation is over, and the instance may have another.
    Lost,
}

impl<I: Instance> InstanceRef<I> {
    /// Asks people for something, and waits for the answer, which fits `schema` (a JSON schema; `true`
    /// for anything). It is answered by [`InstanceRef::answer`] or `fiefdom answer ID KEY JSON`.
    ///
    /// The question is on disk before anybody waits: as an event `input.requested`, in the record,
    /// and as `events/input-requests/<key>.json`. **Asked again** with the same key, also after a
    /// restart, it waits on for the same question, or returns the answer that came meanwhile at once.
    /// So a job that is begun again asks what it asked before and goes on.
    ///
    /// A `running` instance is `waiting` while somebody waits for an answer to it, and `running`
    /// again when nobody does; in other statuses the status is left alone. One whose process dies
    /// stays `waiting`. While it waits, the instance is kept awake.
    ///
    /// `key` is a plain file name of 1 to 128 bytes, `prompt` has 1 byte to 4 KiB, `schema` 32 KiB at
    /// most, an answer 64 KiB; at most 64 questions are open in an instance, and 256 kept with those
    /// that are answered ([`InstanceRef::withdraw_input`] makes room). A schema cannot refer to
    /// another: nothing is ever fetched.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # use serde_json::json;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let instance = store.create(NewInstance::new()).await?;
    /// # let (schema, now) = (json!({ "enum": ["yes", "no"] }), std::time::Duration::ZERO);
    /// # let asked = instance.request_input_within("deploy", "The tests pass. Deploy?", schema, now).await;
    /// # assert!(asked.is_err());
    /// # instance.answer("deploy", json!("yes")).await?;
    /// let answer = instance
    ///     .request_input("deploy", "The tests pass. Deploy?", json!({ "enum": ["yes", "no"] }))
    ///     .await?;
    /// if answer == "yes" {
    ///     // …
    /// }
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotAnswered`] when the work is cancelled ([`InstanceRef::cancel`]; the question stays
    /// open) or the question is withdrawn. [`Error::InvalidInput`] for a key, prompt or schema that
    /// cannot be, and for a key that stands for another question; [`Error::TooLarge`] and
    /// [`Error::Overloaded`] beyond the limits; [`Error::Transition`] when the life of the instance
    /// is over. And those of [`InstanceRef::update`].
    ///
    /// When the future is dropped the question stays (unless it was dropped before it was asked), and
    /// so does the status `waiting`.
    pub async fn request_input(&self, key: &str, prompt: &str, schema: Value) -> Result<Value> {
        self.ask(key, prompt, schema, None).await
    }

    /// [`InstanceRef::request_input`], waiting for `timeout` at most. The time bounds the wait, not
    /// the question: that stays open, and asking again finds the answer when there is one.
    ///
    /// With a `timeout` of zero it asks, and returns what answer there is:
    ///
    /// ```
    /// use std::time::Duration;
    /// use fiefdom::{Error, NewInstance, Store, Untyped};
    /// use serde_json::json;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = Store::open(dir.path(), Untyped).await?;
    /// let release = store.create(NewInstance::new()).await?;
    /// let schema = json!({ "enum": ["yes", "no"] });
    /// let now = Duration::ZERO;
    /// let asked = release.request_input_within("deploy", "Deploy?", schema.clone(), now).await;
    /// assert!(matches!(asked, Err(Error::NotAnswered { .. })));
    ///
    /// // Somebody answers: days later, in another process.
    /// release.answer("deploy", json!("yes")).await?;
    /// assert_eq!(release.request_input("deploy", "Deploy?", schema).await?, "yes");
    /// # store.shutdown().await }
    /// ```
    ///
    /// When the future is dropped: as [`InstanceRef::request_input`].
    /// # Errors
    ///
    /// [`Error::NotAnswered`] also when the time is up, and those of [`InstanceRef::request_input`].
    pub async fn request_input_within(
        &self,
        key: &str,
        prompt: &str,
        schema: Value,
        timeout: Duration,
    ) -> Result<Value> {
        // Farther in the future than a clock can tell is no limit.
        self.ask(key, prompt, schema, Instant::now().checked_add(timeout)).await
    }

    /// Answers a question that is open, durably, and wakes whoever waits for it in this process.
    /// Returns the `seq` of the event `input.answered`. Of several answers the first counts.
    ///
    /// It changes no status: an instance that nobody is at work on stays `waiting` until somebody
    /// asks again, and gets the answer.
    ///
    /// ```
    /// use std::time::Duration;
    /// use fiefdom::Error;
    /// use serde_json::json;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let schema = json!({ "enum": ["yes", "no"] });
    /// # let asked = build.request_input_within("deploy", "Deploy?", schema, Duration::ZERO).await;
    /// # assert!(asked.is_err());
    /// // … somebody waits in `request_input("deploy", "Deploy?", schema)`
    /// let unfit = build.answer("deploy", json!("perhaps")).await;
    /// assert!(matches!(unfit, Err(Error::InvalidInput { .. })));
    /// build.answer("deploy", json!("yes")).await?;
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when nothing open has that key (the message names those that are), or
    /// when the answer does not fit the schema (the message says where); [`Error::TooLarge`]; and
    /// those of [`InstanceRef::update`]. The question is open then as it was.
    ///
    /// When the future is dropped the question may be answered or not.
    pub async fn answer(&self, key: &str, answer: Value) -> Result<u64> {
        let fitting = Fitting::check(&*self.record().await?, key, answer).await?;
        let (seq, whole) = self.commit(move |tx| fitting.apply(tx)).await?.value;
        self.follow_request(key, Some(whole)).await;
        Ok(seq)
    }

    /// Takes a question back, open or answered, with its file; its events stay. Whoever waits for it
    /// gets [`Error::NotAnswered`]. Says whether there was one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use serde_json::json;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # let asked = build.request_input_within("deploy", "Deploy?", json!(true), Duration::ZERO).await;
    /// # assert!(asked.is_err());
    /// assert!(build.withdraw_input("deploy").await?); // the question, and its answer if there is one
    /// assert!(!build.withdraw_input("deploy").await?);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef::update`].
    ///
    /// When the future is dropped the question may be taken back or not.
    pub async fn withdraw_input(&self, key: &str) -> Result<bool> {
        if !self.record().await?.work.requests.contains_key(key) {
            return Ok(false);
        }
        let owned = key.to_owned();
        let withdrawn = self.commit(move |tx| {
            tx.set_durability(Durability::Disk);
            let Some(request) = tx.work_mut().requests.remove(&owned) else { return Ok(false) };
            tx.event("input.withdrawn", &json!({ "key": owned, "asked": request.asked }))?;
            Ok(true)
        });
        let withdrawn = withdrawn.await?.value;
        self.follow_request(key, None).await;
        Ok(withdrawn)
    }

    /// The questions that are open, in the order in which they were asked. Files of them that are
    /// missing or behind are written anew.
    ///
    /// ```
    /// use std::time::Duration;
    /// use serde_json::json;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # let asked = build.request_input_within("deploy", "Deploy?", json!(true), Duration::ZERO).await;
    /// # assert!(asked.is_err());
    /// for question in build.input_requests().await? {
    ///     println!("{}: {}", question.key, question.prompt);
    ///     build.answer(&question.key, json!("yes")).await?;
    /// }
    /// assert!(build.input_requests().await?.is_empty());
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef::record`].
    pub async fn input_requests(&self) -> Result<Vec<InputRequest>> {
        let open = self.record().await?.input_requests();
        for request in &open {
            self.follow_request(&request.key, None).await;
        }
        Ok(open)
    }

    async fn ask(&self, key: &str, prompt: &str, schema: Value, deadline: Option<Instant>) -> Result<Value> {
        check_file_name("key of an input request", key, KEY_BYTES)?;
        limit("prompt", prompt.len(), PROMPT_BYTES)?;
        if prompt.trim().is_empty() {
            return Err(Error::InvalidInput { what: "prompt", reason: "it is empty; say what is asked".into() });
        }
        check_document("schema", &schema, SCHEMA_BYTES)?;
        let schema = blocking::run(move || schema::check(&schema).map(|()| schema)).await?;
        let asking = Arc::new(Asking { key: key.to_owned(), prompt: prompt.to_owned(), schema });
        let mut asked = None;
        loop {
            let (live, permit) = self.admitted().await?;
            // The permit keeps the registry from closing it in between, unless it shuts down.
            let _hold = live.core.admission.hold().ok_or(Error::Closed)?;
            drop(permit);
            let waiter = Waiter::enter(&live.core);
            match self.wait(&live, &asking, &mut asked, deadline).await? {
                Ended::Lost => {}
                Ended::Answered(answer) => return self.go_on(&waiter).await.map(|()| answer),
                Ended::Unanswered(why) => {
                    self.go_on(&waiter).await?;
                    return Err(Error::NotAnswered { id: self.id().clone(), key: key.to_owned(), why });
                }
            }
        }
    }

    /// Asks, unless it is asked already, and waits in one activation.
    async fn wait(
        &self,
        live: &Live<I>,
        asking: &Arc<Asking>,
        asked: &mut Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Ended> {
        let core = &live.core;
        let time_is_up = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let (mut time_is_up, mut cancelled) = (pin!(time_is_up), pin!(core.cancel.cancelled()));
        loop {
            let mut changed = pin!(core.admission.changed.notified());
            // From here on nothing that is published is missed.
            changed.as_mut().enable();
            if !core.admission.is_open() {
                return Ok(Ended::Lost);
            }
            let request = core.published().work.requests.get(&asking.key).cloned();
            match (request, *asked) {
                (Some(request), seq) if seq.is_none_or(|seq| seq == request.asked) => {
                    if let Some(answer) = self.answer_to(asking, &request).await? {
                        return Ok(Ended::Answered(answer));
                    }
                    if asked.is_none() {
                        *asked = self.put(core, asking).await?;
                        continue;
                    }
                }
                (_, Some(_)) => return Ok(Ended::Unanswered(Unanswered::Withdrawn)),
                _ if core.cancel.is_cancelled() => return Ok(Ended::Unanswered(Unanswered::Cancelled)),
                _ => {
                    *asked = self.put(core, asking).await?;
                    continue;
                }
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = &mut cancelled => return Ok(Ended::Unanswered(Unanswered::Cancelled)),
                () = &mut time_is_up => return Ok(Ended::Unanswered(Unanswered::TimedOut)),
            }
        }
    }

    /// Commits the question, unless it is there, and that the instance waits. Returns the `seq` of the
    /// question; none when another one came in between, which is to be looked at.
    async fn put(&self, core: &Core<I::State>, asking: &Arc<Asking>) -> Result<Option<u64>> {
        let published = core.published();
        let known = published.work.requests.get(&asking.key).map(|request| request.asked);
        if known.is_some() && !published.status.is_final() && published.status != Status::Running {
            self.follow_request(&asking.key, None).await;
            return Ok(known);
        }
        let question = Arc::clone(asking);
        let put = self.commit(move |tx| {
            tx.set_durability(Durability::Disk);
            let found = tx.record().work.requests.get(&question.key).map(|request| request.asked);
            if found != known {
                return Ok(None);
            }
            let status = tx.record().status;
            if status.is_final() {
                // The lifecycle says no.
                tx.set_status(Status::Waiting, None)?;
            }
            let seq = match found {
                Some(seq) => seq,
                None => add(tx, &question)?,
            };
            if matches!(status, Status::Running | Status::Waiting) {
                tx.set_status(Status::Waiting, Some(&reason(&question)))?;
            }
            Ok(Some(seq))
        });
        let seq = put.await?.value;
        self.follow_request(&asking.key, None).await;
        Ok(seq)
    }

    /// The answer to a request, when there is one; an error when the key stands for something else.
    async fn answer_to(&self, asking: &Arc<Asking>, request: &Request) -> Result<Option<Value>> {
        if let Some(question) = &request.open {
            // In memory: nothing is to be read.
            check_same(asking, request.asked, &question.prompt, &question.schema)?;
            return Ok(None);
        }
        let (live, permit) = self.admitted().await?;
        let (core, key, request) = (Arc::clone(&live.core), asking.key.clone(), request.clone());
        let found = blocking::run(move || {
            core.lane.materialise()?;
            let found = file::load(&core.lane.dir, &key, &request);
            drop(permit);
            found
        })
        .await?;
        check_same(asking, found.asked_seq, &found.prompt, &found.schema)?;
        Ok(found.answer)
    }

    /// The instance is at work again, unless somebody else waits for an answer to it.
    async fn go_on(&self, waiter: &Waiter<I::State>) -> Result<()> {
        if waiter.0.published().status != Status::Waiting {
            return Ok(());
        }
        let core = Arc::clone(&waiter.0);
        self.commit(move |tx| {
            // One is the caller.
            if tx.record().status == Status::Waiting && core.waiters.load(Ordering::Acquire) <= 1 {
                tx.set_status(Status::Running, None)?;
            }
            Ok(())
        })
        .await
        .map(drop)
    }

    /// See [`follow`].
    async fn follow_request(&self, key: &str, known: Option<InputRequest>) {
        match self.admitted().await {
            Ok((live, permit)) => follow(Arc::clone(&live.core), permit, key, known).await,
            Err(error) => {
                tracing::warn!(id = %self.id(), key, %error, "the file of an input request is behind its event");
            }
        }
    }
}

/// An answer that fits the question that is open.
pub(crate) struct Fitting {
    open: InputRequest,
    answer: Value,
}

impl Fitting {
    /// Checks an answer. That the question is open still is looked at once more by the commit.
    pub(crate) async fn check<S>(record: &Record<S>, key: &str, answer: Value) -> Result<Self> {
        check_document("answer", &answer, ANSWER_BYTES)?;
        let open = record.input_requests().into_iter().find(|open| open.key == key);
        let open = open.ok_or_else(|| not_open(&record.id, &record.work.requests, key))?;
        blocking::run(move || schema::validate(&open.schema, &answer).map(|()| Self { open, answer })).await
    }

    /// Answers, and returns the `seq` of the event and what the file shall hold.
    pub(crate) fn apply<S: Clone + serde::Serialize>(self, tx: &mut Transaction<S>) -> Result<(u64, InputRequest)> {
        let Self { open, answer } = self;
        let (key, asked) = (open.key.clone(), open.asked_seq);
        tx.set_durability(Durability::Disk);
        let requests = &tx.record().work.requests;
        // Another answer may have come while this one was checked, or another question.
        if !requests.get(&key).is_some_and(|request| request.asked == asked && request.open.is_some()) {
            return Err(not_open(&tx.record().id, requests, &key));
        }
        let seq = tx.event("input.answered", &AnsweredEvent { key: key.clone(), asked, answer: answer.clone() })?;
        if let Some(request) = tx.work_mut().requests.get_mut(&key) {
            (request.open, request.answered) = (None, Some(seq));
        }
        if tx.record().status == Status::Waiting {
            tx.set_status(Status::Waiting, Some(&format!("{key} is answered")))?;
        }
        Ok((seq, InputRequest { answer: Some(answer), answer_seq: Some(seq), answered_at: Some(tx.at()), ..open }))
    }
}

/// Brings the file of a request up to the record; `known` is what it shall hold, unless something came
/// meanwhile. `held` keeps the activation until the disk is done. What the file follows is durable, so
/// a failure is no more than a file that is behind until somebody looks at the request again.
pub(crate) async fn follow<S: Send + Sync + 'static>(
    core: Arc<Core<S>>,
    held: impl Send + 'static,
    key: &str,
    known: Option<InputRequest>,
) {
    let (id, owned) = (core.lane.id.clone(), key.to_owned());
    let followed = blocking::run(move || {
        // One at a time, and each looks at the record: the file never goes back.
        let _following = core.following.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = file::follow(&core, &owned, known);
        drop(held);
        followed
    });
    if let Err(error) = followed.await {
        tracing::warn!(%id, key, %error, "the file of an input request is behind its event");
    }
}

/// Counts a call that waits.
struct Waiter<S>(Arc<Core<S>>);

impl<S> Waiter<S> {
    fn enter(core: &Arc<Core<S>>) -> Self {
        core.waiters.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(core))
    }
}

impl<S> Drop for Waiter<S> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Adds a question to the record, with its event.
fn add<S: Clone + serde::Serialize>(tx: &mut Transaction<S>, asking: &Asking) -> Result<u64> {
    let requests = &tx.record().work.requests;
    if requests.values().filter(|request| request.open.is_some()).count() >= OPEN {
        return Err(Error::Overloaded { what: "open input requests of one instance", limit: OPEN as u64 });
    }
    if requests.len() >= KEPT {
        return Err(Error::Overloaded {
            what: "input requests kept by one instance, open and answered",
            limit: KEPT as u64,
        });
    }
    let Asking { key, prompt, schema } = asking;
    let event = AskedEvent { key: key.clone(), prompt: prompt.clone(), schema: schema.clone() };
    let asked = tx.event("input.requested", &event)?;
    let open = Some(Question { at: tx.at(), prompt: event.prompt, schema: event.schema });
    tx.work_mut().requests.insert(key.clone(), Request { asked, open, answered: None, unknown: BTreeMap::new() });
    Ok(asked)
}

/// Why an instance waits, for people: the first line of what it asks.
fn reason(asking: &Asking) -> String {
    let line = asking.prompt.trim().lines().next().unwrap_or_default();
    let more = if line.chars().nth(REASON_CHARS).is_some() { "…" } else { "" };
    format!("asks {}: {}{more}", asking.key, line.chars().take(REASON_CHARS).collect::<String>())
}

fn check_same(asking: &Asking, seq: u64, prompt: &str, schema: &Value) -> Result<()> {
    if asking.prompt == prompt && asking.schema == *schema {
        return Ok(());
    }
    let reason = format!(
        "{:?} stands for another question, with another prompt or schema (event {seq}); ask under another key, or withdraw that one first",
        asking.key
    );
    Err(Error::InvalidInput { what: "input request", reason })
}

fn not_open(id: &InstanceId, requests: &Requests, key: &str) -> Error {
    let reason = if let Some(Request { answered: Some(seq), .. }) = requests.get(key) {
        format!(
            "{key:?} of instance {id:?} is answered already (event {seq}), and the first answer counts; ask under another key for another"
        )
    } else {
        let open: Vec<String> =
            requests.iter().filter(|(_, r)| r.open.is_some()).map(|(k, _)| format!("{k:?}")).collect();
        let open = if open.is_empty() { "nothing".into() } else { open.join(", ") };
        format!("instance {id:?} asks nothing under {key:?}; answer what is open at present: {open}")
    };
    Error::InvalidInput { what: "input request", reason }
}
