//! A process on a model disk that does one thing after another.

mod life;
mod steps;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use life::{Doc, Life, doc, moment, new_record};
pub(super) use steps::{STEPS, Step};

use super::world::{Fact, INSTANCES, Moment, World};
use crate::actors::transaction::{Sealed, Stamp, Transaction};
use crate::disk::alarms::AlarmIndex;
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::disk::model::Disk;
use crate::disk::root::Root;
use crate::error::{Error, Result};
use crate::log::activate::Birth;
use crate::log::events::{EventReader, Lines};
use crate::log::lane::Lane;
use crate::log::stepper::Stepper;
use crate::log::{activate, recover, trash};
use crate::options::{Durability, Options};
use crate::record::{InstanceId, Record, Status};

pub(super) struct Process {
    root: Arc<Root>,
    stepper: Stepper,
    options: Options,
    lives: HashMap<usize, Life>,
    /// Deleted in the log, and not moved to the trash yet.
    deleted: HashMap<usize, Arc<Lane>>,
    world: World,
    next: u64,
}

/// Everything is small: segments fill, logs rotate, within a few commits.
pub(super) fn options() -> Options {
    Options {
        log_segment_bytes: 3 << 10,
        event_segment_bytes: 200,
        materialise_within: Duration::ZERO,
        ..Options::default()
    }
}

thread_local! {
    /// Whether instances are recovered together, as many are. Where a test does not say, those of every
    /// second disk are.
    pub(super) static TOGETHER: Cell<Option<bool>> = const { Cell::new(None) };
}

pub(super) fn id(instance: usize) -> InstanceId {
    InstanceId::new(INSTANCES[instance]).expect("a valid id")
}

/// Every file of an event log goes on where the one before it ends: a reader finds an event by the
/// names of the files, and would miss one in a file whose name comes before that of another.
fn check_files(instance: &Dir) -> Result<()> {
    let Some(dir) = instance.open_dir(layout::EVENTS)? else { return Ok(()) };
    let mut full: Vec<u64> = dir.names()?.iter().filter_map(|name| layout::parse_event_segment(name)).collect();
    full.sort_unstable();
    let names = full.iter().map(|first| layout::event_segment(*first)).chain([layout::EVENT_LOG.to_owned()]);
    let mut next = 1;
    for name in names {
        let Some(file) = dir.open_file(&name)? else { continue };
        let mut lines = Lines::new(&file, 0);
        while let Some(line) = lines.next()? {
            if line.seq() != Some(next) {
                return Err(Error::rejected(format!("{name}: {:?} stands where {next} is expected", line.seq())));
            }
            next += 1;
        }
    }
    Ok(())
}

impl Process {
    /// Opens the root, and notes what it finds.
    pub(super) fn open(disk: &Disk, world: &World) -> Result<Self> {
        let mut process = Self::open_without_looking(disk, world)?;
        for instance in 0..INSTANCES.len() {
            process.check_index(instance)?;
            let moment = process.look(instance)?;
            process.world.note(Fact::Found { instance, moment });
        }
        Ok(process)
    }

    /// Opens the root as a store does: recovers, then becomes a writer.
    pub(super) fn open_without_looking(disk: &Disk, world: &World) -> Result<Self> {
        let root = Arc::new(Root::open_or_create(&disk.path().join("root"), false)?);
        recover::TESTED_MANY.set(TOGETHER.get().unwrap_or(disk.nth().is_multiple_of(2)).then_some(1));
        recover::recover(&root, None)?;
        let stepper = Stepper::start(Arc::clone(&root), options())?;
        let next = world.facts().len() as u64 + 1;
        Ok(Self {
            root,
            stepper,
            options: options(),
            lives: HashMap::new(),
            deleted: HashMap::new(),
            world: world.clone(),
            next,
        })
    }

    /// Does one step. An error is an outcome; it must be one of those that are allowed.
    pub(super) fn step(&mut self, step: Step) -> Result<()> {
        let done = self.attempt(step);
        if let Err(error) = &done {
            assert!(is_stated(error), "{step:?}: {error}: {error:?}");
        }
        done
    }

    /// Does one step, whatever its outcome.
    pub(super) fn attempt(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Create(instance, level) => self.create(instance, level),
            Step::Update(instance, level) => self.one(instance, level, 1, 0, true),
            Step::Append(instance, level) => self.one(instance, level, 2, 1, false),
            Step::Burst(level) => {
                for _ in 0..3 {
                    for instance in 0..INSTANCES.len() {
                        if self.lives.contains_key(&instance) {
                            self.submit(instance, level, 2, 1, true, None)?;
                        }
                    }
                }
                self.stepper.commit();
                Ok(())
            }
            Step::Pipeline(instance) => {
                if self.wake(instance)? {
                    self.submit(instance, Durability::Disk, 1, 1, true, None)?;
                    let first = self.stepper.take();
                    self.submit(instance, Durability::Disk, 3, 1, true, None)?;
                    let second = self.stepper.take();
                    for batch in [first, second].into_iter().flatten() {
                        self.stepper.write(batch);
                    }
                }
                Ok(())
            }
            Step::Run(instance) => {
                if !self.wake(instance)? {
                    return Ok(());
                }
                let status = self.lives[&instance].current.status;
                let next = if status.is_running() { Status::Waiting } else { Status::Running };
                self.submit(instance, Durability::Disk, 2, 0, true, Some(next))?;
                self.stepper.commit();
                Ok(())
            }
            Step::Alarm(instance, level) => self.set_alarm(instance, level, true),
            Step::ClearAlarm(instance, level) => self.set_alarm(instance, level, false),
            Step::Delete(instance) => self.delete(instance),
            Step::Materialise => self.stepper.materialise(),
            Step::Seal => self.stepper.seal(),
            Step::Checkpoint => {
                self.stepper.checkpoint();
                Ok(())
            }
            Step::Release(instance) => match self.lives.get(&instance) {
                Some(life) => {
                    life.lane.release()?;
                    self.lives.remove(&instance);
                    Ok(())
                }
                None => Ok(()),
            },
            Step::Die => unreachable!("whoever drives the process lets it die"),
        }
    }

    fn one(&mut self, instance: usize, level: Durability, commits: usize, events: usize, touch: bool) -> Result<()> {
        if self.wake(instance)? {
            self.submit(instance, level, commits, events, touch, None)?;
            self.stepper.commit();
        }
        Ok(())
    }

    fn stamp(&self, epoch: u64) -> Stamp {
        Stamp { epoch, writer: self.stepper.log.writer_id(), record_bytes: 1 << 20, event_bytes: 1 << 20 }
    }

    /// Makes an instance live; `false` when there is none.
    fn wake(&mut self, instance: usize) -> Result<bool> {
        if self.lives.contains_key(&instance) {
            return Ok(true);
        }
        self.bury(instance)?;
        let opened = activate::open(&self.root, &self.stepper.log, &self.options, &id(instance));
        let activated = match opened {
            Err(Error::NotFound { .. }) => return Ok(false),
            other => other?,
        };
        let record: Record<Doc> =
            activated.record.expect("an existing instance").typed().map_err(|e| Error::rejected(e.to_string()))?;
        let events = self.read_events(instance, record.last_event_seq)?;
        let stamp = self.stamp(record.epoch + 1);
        self.lives.insert(instance, Life::new(activated.lane, record, stamp, events));
        Ok(true)
    }

    fn read_events(&self, instance: usize, last: u64) -> Result<Vec<u64>> {
        let dir = self.root.instances.open_dir(id(instance).as_str())?;
        let dir = dir.ok_or_else(|| Error::rejected("the directory went away"))?;
        check_files(&dir)?;
        let mut events = Vec::new();
        let mut reader = EventReader::new(1);
        while reader.next_seq() <= last {
            let some = reader.read(&dir)?;
            if some.is_empty() {
                break;
            }
            for event in some {
                if event.seq != events.len() as u64 + 1 {
                    return Err(Error::rejected(format!("event {} out of order", event.seq)));
                }
                events.push(event.data_as()?);
            }
        }
        if events.len() as u64 != last {
            return Err(Error::rejected(format!("{} events, and the record knows of {last}", events.len())));
        }
        Ok(events)
    }

    /// What there is of an instance.
    pub(super) fn look(&mut self, instance: usize) -> Result<Option<Moment>> {
        if !self.wake(instance)? {
            return Ok(None);
        }
        let life = &self.lives[&instance];
        let moment = moment(&life.current, &life.events);
        life.lane.release()?;
        self.lives.remove(&instance);
        Ok(Some(moment))
    }

    fn create(&mut self, instance: usize, level: Durability) -> Result<()> {
        if self.lives.contains_key(&instance) {
            return Ok(());
        }
        self.bury(instance)?;
        let uid = Uuid::new_v4();
        let birth = Birth { id: id(instance), uid, at: chrono::Utc::now() };
        let mut made = activate::create(&self.root, &self.stepper.log, &self.options, &[birth]);
        let activated = match made.remove(0) {
            Err(Error::AlreadyExists { .. }) => return Ok(()),
            other => other?,
        };
        let lane = Arc::clone(&activated.lane);
        let life = Life::new(activated.lane, new_record(instance, uid), self.stamp(1), Vec::new());
        self.lives.insert(instance, life);
        let outcome = self.create_in(instance, level);
        if let Err(error) = &outcome {
            self.lives.remove(&instance);
            if !matches!(error, Error::Unknown { .. }) {
                lane.abandon()?;
            }
        }
        outcome
    }

    fn create_in(&mut self, instance: usize, level: Durability) -> Result<()> {
        let number = self.number();
        let life = self.lives.get_mut(&instance).expect("just made");
        let mut record = Record::clone(&life.current);
        record.state = Arc::new(doc(number));
        let sealed = Transaction::new(&record).seal_creation(life.stamp)?;
        let outcome = life.submit(&self.stepper, &self.world, instance, number, sealed, level, Vec::new())?;
        self.stepper.commit();
        outcome.lock().expect("told").take().unwrap_or(Err(Error::Closed))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// So many commits with so many events each, which share a line: the first touches the state, the
    /// last the status.
    fn submit(
        &mut self,
        instance: usize,
        level: Durability,
        commits: usize,
        events: usize,
        touch: bool,
        status: Option<Status>,
    ) -> Result<()> {
        let number = self.number();
        let life = self.lives.get_mut(&instance).expect("a live instance");
        life.follow_generation();
        let (mut all, mut sealed) = (life.events.clone(), None::<Sealed<Doc>>);
        for nth in 0..commits {
            let earlier = sealed.as_ref();
            let mut transaction = Transaction::new(earlier.map_or(&life.current, |earlier| &earlier.record));
            if touch && nth == 0 {
                *transaction.state_mut() = doc(number);
            }
            if let Some(status) = status.filter(|_| nth + 1 == commits) {
                transaction.set_status(status, None)?;
            }
            for event in (nth * events..(nth + 1) * events).map(|event| number * 10 + event as u64) {
                transaction.event("tried", &event)?;
                all.push(event);
            }
            let next = transaction.seal(life.stamp, earlier)?;
            match &mut sealed {
                Some(sealed) => sealed.join(next),
                None => sealed = Some(next),
            }
        }
        let sealed = sealed.expect("at least one commit");
        life.submit(&self.stepper, &self.world, instance, number, sealed, level, all).map(drop)
    }

    /// Sets an alarm, or takes it back. No two are due at the same time.
    fn set_alarm(&mut self, instance: usize, level: Durability, set: bool) -> Result<()> {
        if !self.wake(instance)? {
            return Ok(());
        }
        let number = self.number();
        let life = self.lives.get_mut(&instance).expect("just woken");
        life.follow_generation();
        let mut transaction = Transaction::new(&life.current);
        if set {
            let hours = i64::try_from(number).expect("small");
            transaction.set_alarm(chrono::Utc::now() + chrono::TimeDelta::hours(hours), "now")?;
        } else {
            transaction.clear_alarm();
        }
        let (sealed, events) = (transaction.seal(life.stamp, None)?, life.events.clone());
        life.submit(&self.stepper, &self.world, instance, number, sealed, level, events)?;
        self.stepper.commit();
        Ok(())
    }

    /// After a recovery the index has every alarm that a record has: otherwise it would never come.
    fn check_index(&self, instance: usize) -> Result<()> {
        let Some(dir) = self.root.instances.open_dir(id(instance).as_str())? else { return Ok(()) };
        let Some(bytes) = activate::read_bytes(&dir, &self.options)? else { return Ok(()) };
        match activate::parse(&dir, &id(instance), &bytes)?.alarm_entry() {
            Some(alarm) if !AlarmIndex::has(&self.root.internal, &alarm)? => {
                Err(Error::rejected(format!("an alarm is lost: {alarm:?}")))
            }
            _ => Ok(()),
        }
    }

    fn delete(&mut self, instance: usize) -> Result<()> {
        if !self.wake(instance)? {
            return Ok(());
        }
        let number = self.number();
        let life = self.lives.get_mut(&instance).expect("just woken");
        life.follow_generation();
        let sealed = Transaction::new(&life.current).seal_deletion(life.stamp)?;
        let outcome =
            life.submit(&self.stepper, &self.world, instance, number, sealed, Durability::Disk, Vec::new())?;
        self.stepper.commit();
        outcome.lock().expect("told").take().unwrap_or(Err(Error::Closed))?;
        let life = self.lives.remove(&instance).expect("just deleted");
        self.deleted.insert(instance, Arc::clone(&life.lane));
        let name = life.lane.discard()?;
        self.deleted.remove(&instance);
        if let Some(name) = name {
            trash::clear(&self.root, Some(self.stepper.log.writer_id()), &name)?;
        }
        Ok(())
    }

    /// What the registry does until it works: a deletion that stands in the log is finished.
    fn bury(&mut self, instance: usize) -> Result<()> {
        if let Some(lane) = self.deleted.get(&instance) {
            lane.release()?;
            self.deleted.remove(&instance);
        }
        Ok(())
    }

    pub(super) fn is_live(&self, instance: usize) -> bool {
        self.lives.contains_key(&instance)
    }

    /// What the log says of itself.
    pub(super) fn is_poisoned(&self) -> bool {
        self.stepper.log.stats().poisoned
    }

    pub(super) fn stats(&self) -> crate::log::LogStats {
        self.stepper.log.stats()
    }
}

/// Whether a fault may have this outcome.
fn is_stated(error: &Error) -> bool {
    matches!(
        error,
        Error::NotApplied { .. } | Error::Unknown { .. } | Error::Poisoned { .. } | Error::Io { .. } | Error::Closed
    )
}
