//! redb behind the actors of [`super::actor`].

use std::path::Path;

use redb::{Durability, TableDefinition};

use super::actor::{Database, Job, LastStates, Write};
use crate::harness::Outcome;

const INSTANCES: TableDefinition<u64, &[u8]> = TableDefinition::new("instances");
const EVENTS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("events");

pub struct Redb {
    database: redb::Database,
    durability: Durability,
    last: LastStates,
}

impl Redb {
    /// `durable`: each commit is on disk. Otherwise it is in the memory of the process alone, until a
    /// commit that is on disk: redb has no level between the two.
    pub fn create(dir: &Path, durable: bool) -> Outcome<Self> {
        let database = redb::Database::create(dir.join("state.redb"))?;
        let durability = if durable { Durability::Immediate } else { Durability::None };
        Ok(Self { database, durability, last: LastStates::default() })
    }
}

impl Database for Redb {
    fn commit(&mut self, jobs: &[Job]) -> Outcome<()> {
        self.last.note(jobs);
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        {
            let mut instances = transaction.open_table(INSTANCES)?;
            let mut events = transaction.open_table(EVENTS)?;
            for (at, job) in jobs.iter().enumerate() {
                match &job.write {
                    Write::State(json) if self.last.is_last(at, job) => {
                        instances.insert(job.instance as u64, json.as_slice())?;
                    }
                    Write::State(_) => {}
                    Write::Event(seq, line) => {
                        events.insert((job.instance as u64, *seq), line.as_slice())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}
