//! What a good engineer would build on a database instead: a ractor actor per instance that holds
//! the state in memory, and one thread that commits everything that is queued as one transaction.
//!
//! The actor applies a change, encodes it, hands it to the committer and goes on to its next message,
//! as ours does; the caller is answered when the transaction is committed. What ours has and this has
//! not: a bound on anything, a state that goes back when a commit fails, ownership across processes,
//! a record beside the state, and files.

use std::sync::{Arc, Condvar, Mutex};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::document::Document;
use crate::harness::Outcome;

/// What the committer is handed.
pub struct Job {
    pub instance: usize,
    pub write: Write,
    reply: oneshot::Sender<()>,
}

pub enum Write {
    /// The state as JSON, in the place of what was there.
    State(Vec<u8>),
    /// One more event: its number in the instance, and its line.
    Event(u64, Vec<u8>),
}

/// A database.
pub trait Database: Send + 'static {
    /// All jobs in one transaction, as durable as it was opened for. Of several states of one instance
    /// only the last needs to be written.
    fn commit(&mut self, jobs: &[Job]) -> Outcome<()>;
}

/// Which job of a batch is the last that writes the state of its instance: nobody sees the others,
/// so they need not be written.
#[derive(Default)]
pub struct LastStates(Vec<usize>);

impl LastStates {
    pub fn note(&mut self, jobs: &[Job]) {
        let states = jobs.iter().enumerate().filter(|(_, job)| matches!(job.write, Write::State(_)));
        for (at, job) in states {
            if job.instance >= self.0.len() {
                self.0.resize(job.instance + 1, 0);
            }
            self.0[job.instance] = at;
        }
    }

    pub fn is_last(&self, at: usize, job: &Job) -> bool {
        self.0[job.instance] == at
    }
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<(Vec<Job>, bool)>,
    filled: Condvar,
}

/// The thread that commits.
pub struct Committer {
    queue: Arc<Queue>,
    thread: std::thread::JoinHandle<()>,
}

impl Committer {
    pub fn start(mut database: impl Database) -> Self {
        let queue = Arc::new(Queue::default());
        let thread = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let mut jobs = Vec::new();
                while queue.take(&mut jobs) {
                    database.commit(&jobs).expect("a transaction was committed");
                    for job in jobs.drain(..) {
                        let _ = job.reply.send(());
                    }
                }
            }
        });
        Self { queue, thread }
    }

    /// Actors for `count` instances.
    pub async fn actors(&self, count: usize) -> Outcome<Arc<Vec<Handle>>> {
        let mut actors = Vec::new();
        for instance in 0..count {
            let actor = InstanceActor { instance, queue: Arc::clone(&self.queue) };
            actors.push(Handle(Actor::spawn(None, actor, ()).await?.0));
        }
        Ok(Arc::new(actors))
    }

    /// Ends the thread, and closes the database.
    pub fn stop(self) {
        self.queue.waiting.lock().expect("no panic").1 = true;
        self.queue.filled.notify_one();
        self.thread.join().expect("the committer did not panic");
    }
}

impl Queue {
    fn push(&self, job: Job) {
        let mut waiting = self.waiting.lock().expect("no panic");
        waiting.0.push(job);
        // The committer sleeps only when there was nothing.
        if waiting.0.len() == 1 {
            self.filled.notify_one();
        }
    }

    /// Everything that is queued, once there is something; false when it has ended.
    fn take(&self, jobs: &mut Vec<Job>) -> bool {
        let mut waiting = self.waiting.lock().expect("no panic");
        while waiting.0.is_empty() && !waiting.1 {
            waiting = self.filled.wait(waiting).expect("no panic");
        }
        std::mem::swap(jobs, &mut waiting.0);
        !jobs.is_empty()
    }
}

type Change = Box<dyn FnOnce(&mut Document) + Send>;

enum Message {
    Update(Change, oneshot::Sender<()>),
    Append(Document, oneshot::Sender<()>),
}

/// A handle on an instance.
#[derive(Clone)]
pub struct Handle(ActorRef<Message>);

impl Handle {
    pub async fn update(&self, change: impl FnOnce(&mut Document) + Send + 'static) {
        let (reply, answer) = oneshot::channel();
        self.0.cast(Message::Update(Box::new(change), reply)).expect("the actor lives");
        answer.await.expect("the committer lives");
    }

    pub async fn append(&self, data: Document) {
        let (reply, answer) = oneshot::channel();
        self.0.cast(Message::Append(data, reply)).expect("the actor lives");
        answer.await.expect("the committer lives");
    }

    pub fn stop(&self) {
        self.0.stop(None);
    }
}

struct InstanceActor {
    instance: usize,
    queue: Arc<Queue>,
}

/// An event as it is stored.
#[derive(serde::Serialize)]
struct Line {
    at: chrono::DateTime<chrono::Utc>,
    #[serde(rename = "type")]
    kind: &'static str,
    data: Document,
}

impl Actor for InstanceActor {
    type Msg = Message;
    type State = (Document, u64);
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(Document, u64), ActorProcessingErr> {
        Ok((Document::new(), 0))
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        (document, seq): &mut (Document, u64),
    ) -> Result<(), ActorProcessingErr> {
        let (write, reply) = match message {
            Message::Update(change, reply) => {
                change(document);
                (Write::State(serde_json::to_vec(document)?), reply)
            }
            Message::Append(data, reply) => {
                *seq += 1;
                let line = Line { at: chrono::Utc::now(), kind: "line", data };
                (Write::Event(*seq, serde_json::to_vec(&line)?), reply)
            }
        };
        self.queue.push(Job { instance: self.instance, write, reply });
        Ok(())
    }
}
