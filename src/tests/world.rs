//! What a test knows to have happened, and what may be found after a crash.

use std::sync::{Arc, Mutex};

use uuid::Uuid;

use crate::disk::model::Disk;
use crate::options::Durability;
use crate::record::Status;

/// Instances that take part.
pub(super) const INSTANCES: [&str; 2] = ["a", "b"];

/// One state of one instance, in full.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moment {
    pub(super) uid: Uuid,
    pub(super) epoch: u64,
    pub(super) revision: u64,
    pub(super) status: Status,
    /// When its alarm is due, if it has one.
    pub(super) alarm: Option<i64>,
    /// The state: a number that no two commits share.
    pub(super) number: u64,
    /// The data of every event, in order.
    pub(super) events: Vec<u64>,
}

/// Something that happened, in the order in which it did.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    /// A commit was handed to the log. `None` is a deletion.
    Submitted { instance: usize, commit: u64, after: Option<Moment> },
    /// Its caller was told that it is applied, at this level.
    Acknowledged { commit: u64, level: Durability },
    /// Its caller was told that it is not applied.
    Refused { commit: u64 },
    /// A recovery has ended, and this is what was there.
    Found { instance: usize, moment: Option<Moment> },
}

/// The facts, and the disk on whose images their number is put.
#[derive(Clone)]
pub(super) struct World {
    facts: Arc<Mutex<Vec<Fact>>>,
    disk: Arc<Disk>,
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Killed,
    PowerCut,
}

impl World {
    pub(super) fn new(disk: &Arc<Disk>, facts: Vec<Fact>) -> Self {
        disk.note(facts.len());
        Self { facts: Arc::new(Mutex::new(facts)), disk: Arc::clone(disk) }
    }

    pub(super) fn note(&self, fact: Fact) {
        let mut facts = self.facts.lock().expect("no test panics in here");
        facts.push(fact);
        self.disk.note(facts.len());
    }

    pub(super) fn facts(&self) -> Vec<Fact> {
        self.facts.lock().expect("no test panics in here").clone()
    }
}

/// What may be found of an instance after the process ended.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    /// States of which one must be found, oldest first; `None` is absence.
    moments: Vec<Option<Moment>>,
}

impl Allowed {
    pub(super) fn by(facts: &[Fact], instance: usize, end: End) -> Self {
        // Each commit with whether it may be missing.
        let mut chain: Vec<(u64, Option<Moment>, bool)> = vec![(0, None, false)];
        for fact in facts {
            match fact {
                Fact::Submitted { instance: of, commit, after } if *of == instance => {
                    chain.push((*commit, after.clone(), true));
                }
                Fact::Acknowledged { commit, level } => {
                    let safe = end == End::Killed || *level == Durability::Disk;
                    if let Some(known) = chain.iter_mut().find(|(of, ..)| of == commit) {
                        known.2 &= !safe;
                    }
                }
                Fact::Refused { commit } => chain.retain(|(of, ..)| of != commit),
                Fact::Found { instance: of, moment } if *of == instance => chain = vec![(0, moment.clone(), false)],
                Fact::Submitted { .. } | Fact::Found { .. } => {}
            }
        }
        let from = chain.iter().rposition(|(_, _, optional)| !optional).unwrap_or(0);
        Self { moments: chain.split_off(from).into_iter().map(|(_, moment, _)| moment).collect() }
    }

    /// Says what is wrong with what was found, if anything is.
    pub(super) fn check(&self, found: Option<&Moment>) -> Result<(), String> {
        let fits = |allowed: &Option<Moment>| match (allowed, found) {
            (None, None) => true,
            (Some(allowed), Some(found)) => *allowed == *found || interrupted(allowed).is_some_and(|i| i == *found),
            _ => false,
        };
        if self.moments.iter().any(fits) {
            return Ok(());
        }
        Err(format!("found {found:#?}\nallowed, oldest first: {:#?}", self.moments))
    }
}

/// What recovery makes of an instance that was at work.
fn interrupted(moment: &Moment) -> Option<Moment> {
    let (epoch, revision, status) = (moment.epoch + 1, moment.revision + 1, Status::Interrupted);
    moment.status.is_running().then(|| Moment { epoch, revision, status, ..moment.clone() })
}
