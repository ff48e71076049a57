//! Who has which item: in memory, shared by all handles on one batch in this process.
//!
//! Another process cannot have any: the batch is kept live, and locked, while somebody here has a
//! handle or an item. So an open item that nobody here holds has lost its worker.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Semaphore;
use uuid::Uuid;

use super::items::Line;
use super::state::{Lookahead, Open, Place, Retry};
use crate::error::{Error, Result};
use crate::instance::KeepAwake;

/// Operations of one batch under way at once; more wait. Below what an instance takes by default.
const AT_ONCE: usize = 64;

type Key = (Uuid, Uuid);

/// Every batch that has a handle in this process, by its writer and its uid.
static SHARED: Mutex<Vec<(Key, Weak<Shared>)>> = Mutex::new(Vec::new());

/// What the handles on one batch share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Items that a living worker has, each with the number of its ticket.
    held: Mutex<HashMap<u64, u64>>,
    tickets: AtomicU64,
    ahead: Mutex<Ahead>,
    /// One reads ahead at a time.
    pub(super) reading: tokio::sync::Mutex<()>,
    pub(super) slots: Semaphore,
    pub(super) awake: Mutex<Option<KeepAwake>>,
}

/// What was read of the items that come next.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Counts the readings.
    pub(super) generation: u64,
    pub(super) lines: VecDeque<Line>,
    /// Failures, by their events: the first ones from the event `from` on.
    pub(super) failures: VecDeque<(u64, Open)>,
    pub(super) from: u64,
}

/// Why a commit took no item.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum NotNow {
    #[error("there is none")]
    Nothing,
    /// With the number of readings that there had been: if there are more by now, nothing is to be
    /// done.
    #[error("more has to be read first")]
    ReadFirst(Missing, u64),
}

/// What has to be read before an item can be taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Missing {
    /// The items from here on.
    Items(Place),
    /// The failures of this part of the event log.
    Failures(Retry),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn of(writer: Uuid, uid: Uuid) -> Arc<Self> {
        let mut all = locked(&SHARED);
        all.retain(|(_, shared)| shared.strong_count() > 0);
        if let Some(shared) = all.iter().find(|(key, _)| *key == (writer, uid)).and_then(|(_, shared)| shared.upgrade())
        {
            return shared;
        }
        let shared = Arc::new(Self {
            held: Mutex::default(),
            tickets: AtomicU64::new(0),
            ahead: Mutex::default(),
            reading: tokio::sync::Mutex::new(()),
            slots: Semaphore::new(AT_ONCE),
            awake: Mutex::new(None),
        });
        all.push(((writer, uid), Arc::downgrade(&shared)));
        shared
    }

    pub(super) fn is_held(&self, index: u64) -> bool {
        locked(&self.held).contains_key(&index)
    }

    pub(super) fn ahead(&self) -> MutexGuard<'_, Ahead> {
        locked(&self.ahead)
    }

    pub(super) fn keep_awake(&self, awake: KeepAwake) {
        let before = locked(&self.awake).replace(awake);
        drop(before);
    }

    /// Gives an open item to whoever asked.
    pub(super) fn hold(self: &Arc<Self>, open: Open) -> Ticket {
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        locked(&self.held).insert(open.place.index, number);
        Ticket { shared: Arc::clone(self), open, number }
    }
}

/// The right to mark one item. When it is dropped the item is nobody's.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) shared: Arc<Shared>,
    pub(super) open: Open,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut held = locked(&self.shared.held);
        // A commit that was not applied leaves a ticket for an item that another got by now.
        if held.get(&self.open.place.index) == Some(&self.number) {
            held.remove(&self.open.place.index);
        }
    }
}

/// What a commit sees of the items that come next.
pub(super) struct Looking<'a> {
    shared: &'a Shared,
    /// The line of the item that was taken, if it was read ahead.
    pub(super) line: Option<Line>,
}

impl<'a> Looking<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, line: None }
    }
}

impl Lookahead for Looking<'_> {
    fn behind(&mut self, place: Place) -> Result<u64> {
        let mut ahead = self.shared.ahead();
        // Lines are let go here and not when they are taken: a commit that takes one may fail.
        while ahead.lines.front().is_some_and(|line| line.place.index < place.index) {
            ahead.lines.pop_front();
        }
        match ahead.lines.front() {
            Some(line) if line.place == place => {
                self.line = Some(line.clone());
                Ok(line.end())
            }
            _ => Err(Error::rejected(NotNow::ReadFirst(Missing::Items(place), ahead.generation))),
        }
    }

    fn failure(&mut self, retry: Retry) -> Result<(u64, Open)> {
        let mut ahead = self.shared.ahead();
        while let Some((seq, _)) = ahead.failures.front().copied().filter(|(seq, _)| *seq < retry.from) {
            ahead.failures.pop_front();
            ahead.from = seq + 1;
        }
        match ahead.failures.front() {
            Some(failure) if ahead.from <= retry.from => Ok(*failure),
            _ => Err(Error::rejected(NotNow::ReadFirst(Missing::Failures(retry), ahead.generation))),
        }
    }
}

/// One item that was handed out. Mark it; when it is dropped without a mark, because its worker
/// gave up, panicked or was aborted, the item is interrupted, and is the next to be handed out.
///
/// ```
/// # use fiefdom::{Store, Untyped, jobs::Batch};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = Store::open(dir.path(), Untyped).await?;
/// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
/// let claim = batch.next().await?.expect("there are two");
/// assert_eq!((claim.index(), claim.attempt(), claim.item().as_str()), (0, 1, "alpha"));
///
/// drop(claim); // without a mark: it comes again, before the others
/// let claim = batch.next().await?.expect("there are two");
/// assert_eq!((claim.index(), claim.attempt()), (0, 2));
/// # drop(claim);
/// # drop(batch);
/// # store.shutdown().await }
/// ```
#[derive(Debug)]
#[must_use = "an item that is dropped without a mark is handed out again"]
pub struct Claim<T> {
    pub(super) item: T,
    pub(super) ticket: Ticket,
}

impl<T> Claim<T> {
    /// The item.
    pub fn item(&self) -> &T {
        &self.item
    }

    /// Its number: 0, 1, 2, … in the order in which the items were given.
    pub fn index(&self) -> u64 {
        self.ticket.open.place.index
    }

    /// How often it was handed out, this time included.
    pub fn attempt(&self) -> u32 {
        self.ticket.open.attempt
    }
}
