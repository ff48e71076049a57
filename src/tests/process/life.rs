//! One activation in a process: what the actor of an instance keeps, and the commits that it hands over.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::id;
use crate::actors::transaction::{Sealed, Stamp};
use crate::error::{Error, Result};
use crate::log::commit::{Caller, Commit};
use crate::log::lane::Lane;
use crate::log::stepper::Stepper;
use crate::options::Durability;
use crate::record::{Record, Status};
use crate::tests::world::{Fact, Moment, World};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Doc {
    pub(super) number: u64,
    padding: String,
}

pub(super) struct Life {
    pub(super) lane: Arc<Lane>,
    pub(super) current: Arc<Record<Doc>>,
    published: Arc<Mutex<Arc<Record<Doc>>>>,
    generation: u64,
    pub(super) stamp: Stamp,
    pub(super) events: Vec<u64>,
    /// The events of the last commit that was applied.
    published_events: Arc<Mutex<Vec<u64>>>,
}

impl Life {
    pub(super) fn new(lane: Arc<Lane>, record: Record<Doc>, stamp: Stamp, events: Vec<u64>) -> Self {
        let current = Arc::new(record);
        let published = Arc::new(Mutex::new(Arc::clone(&current)));
        let published_events = Arc::new(Mutex::new(events.clone()));
        let generation = lane.generation();
        Self { lane, current, published, generation, stamp, events, published_events }
    }

    /// As the actor does: goes back to the last durable record when a commit was not applied.
    pub(super) fn follow_generation(&mut self) {
        if self.lane.generation() != self.generation {
            self.generation = self.lane.generation();
            self.current = Arc::clone(&self.published.lock().expect("no panic"));
            self.events = self.published_events.lock().expect("no panic").clone();
        }
    }

    #[expect(clippy::too_many_arguments, reason = "it is for the process alone")]
    pub(super) fn submit(
        &mut self,
        stepper: &Stepper,
        world: &World,
        instance: usize,
        number: u64,
        sealed: Sealed<Doc>,
        level: Durability,
        events: Vec<u64>,
    ) -> Result<Arc<Mutex<Option<Result<()>>>>> {
        let record = Arc::clone(&sealed.record);
        let deleted = sealed.deleted;
        let after = (!deleted).then(|| moment(&record, &events));
        world.note(Fact::Submitted { instance, commit: number, after });
        let outcome = Arc::new(Mutex::new(None));
        let caller = {
            let (outcome, world, record) = (Arc::clone(&outcome), world.clone(), Arc::clone(&record));
            let (published, published_events, events) =
                (Arc::clone(&self.published), Arc::clone(&self.published_events), events.clone());
            Box::new(Told(move |told: Result<()>| {
                match &told {
                    Ok(()) => {
                        *published.lock().expect("no panic") = record;
                        *published_events.lock().expect("no panic") = events;
                        world.note(Fact::Acknowledged { commit: number, level });
                    }
                    Err(Error::NotApplied { .. }) => world.note(Fact::Refused { commit: number }),
                    Err(Error::Unknown { .. }) => {}
                    Err(other) => panic!("an outcome that is not stated: {other}"),
                }
                *outcome.lock().expect("no panic") = Some(told);
            }))
        };
        let commit = Commit {
            lane: Arc::clone(&self.lane),
            generation: self.generation,
            running: sealed.record.status.is_running() && !deleted,
            first: sealed.first,
            revision: record.revision,
            at: record.updated_at,
            last_event_seq: record.last_event_seq,
            deleted,
            has_record: sealed.has_record(),
            record: sealed.record,
            line: 0..0,
            events: sealed.events,
            durability: level,
            caller,
        };
        if !stepper.log.submit(commit, sealed.body) {
            outcome.lock().expect("no panic").take().expect("it was told")?;
        }
        self.current = record;
        self.events = events;
        Ok(outcome)
    }
}

/// A caller that is a closure.
struct Told<F>(F);

impl<F: FnOnce(Result<()>) + Send> Caller for Told<F> {
    fn told(self: Box<Self>, outcome: Result<()>) {
        (self.0)(outcome);
    }
}

pub(super) fn moment(record: &Record<Doc>, events: &[u64]) -> Moment {
    Moment {
        uid: record.uid,
        epoch: record.epoch,
        revision: record.revision,
        status: record.status,
        alarm: record.alarm.as_ref().map(|alarm| alarm.at.timestamp_millis()),
        number: record.state.number,
        events: events.to_vec(),
    }
}

pub(super) fn doc(number: u64) -> Doc {
    Doc { number, padding: "x".repeat(40) }
}

pub(super) fn new_record(instance: usize, uid: Uuid) -> Record<Doc> {
    let at = chrono::Utc::now();
    Record {
        id: id(instance),
        uid,
        kind: "doc".into(),
        name: None,
        status: Status::Pending,
        status_reason: None,
        created_at: at,
        updated_at: at,
        started_at: None,
        ended_at: None,
        revision: 0,
        epoch: 0,
        writer: Uuid::nil(),
        attempt: 0,
        tags: std::collections::BTreeMap::new(),
        pinned: false,
        last_event_seq: 0,
        alarm: None,
        schema_version: 1,
        state: Arc::new(doc(0)),
        work: Arc::default(),
        unknown: std::collections::BTreeMap::new(),
        whole: None,
    }
}
