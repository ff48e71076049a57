//! SQLite behind the actors of [`super::actor`].

use std::path::Path;

use rusqlite::{Connection, params};

use super::actor::{Database, Job, LastStates, Write};
use crate::harness::Outcome;

/// When a transaction is committed.
#[derive(Clone, Copy)]
pub enum Synchronous {
    /// When it is on disk.
    Full,
    /// When the operating system has it: it survives `kill -9`, not a power cut.
    Normal,
}

pub struct Sqlite {
    connection: Connection,
    last: LastStates,
}

impl Sqlite {
    /// A new database with rows for `count` instances.
    pub fn create(dir: &Path, synchronous: Synchronous, count: usize) -> Outcome<Self> {
        let connection = Connection::open(dir.join("state.db"))?;
        // The checkpoint comes as rarely as that of our log: after 64 MiB of 4 KiB pages.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA wal_autocheckpoint = 16384;
             PRAGMA cache_size = -65536;
             PRAGMA mmap_size = 268435456;
             PRAGMA temp_store = MEMORY;",
        )?;
        let level = match synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        connection.execute_batch(&format!(
            "PRAGMA synchronous = {level};
             CREATE TABLE instances (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state BLOB NOT NULL);
             CREATE TABLE events (instance INTEGER NOT NULL, seq INTEGER NOT NULL, line BLOB NOT NULL,
                                  PRIMARY KEY (instance, seq)) WITHOUT ROWID;
             BEGIN;"
        ))?;
        for row in 0..count {
            connection.execute(
                "INSERT INTO instances VALUES (?1, ?2, '{}')",
                params![row as i64, format!("instance-{row}")],
            )?;
        }
        connection.execute_batch("COMMIT")?;
        Ok(Self { connection, last: LastStates::default() })
    }
}

impl Database for Sqlite {
    fn commit(&mut self, jobs: &[Job]) -> Outcome<()> {
        self.last.note(jobs);
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        {
            let mut update = self.connection.prepare_cached("UPDATE instances SET state = ?2 WHERE row = ?1")?;
            let mut insert = self.connection.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3)")?;
            for (at, job) in jobs.iter().enumerate() {
                match &job.write {
                    Write::State(json) if self.last.is_last(at, job) => {
                        update.execute(params![job.instance as i64, json])?;
                    }
                    Write::State(_) => {}
                    Write::Event(seq, line) => {
                        insert.execute(params![job.instance as i64, *seq as i64, line])?;
                    }
                }
            }
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}
