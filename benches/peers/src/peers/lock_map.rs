//! What is written by hand again and again: a lock per id, JSON to a temporary file, rename.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dashmap::DashMap;

use super::document::Document;
use crate::harness::Outcome;

pub struct LockMap {
    locks: DashMap<String, Arc<Mutex<Document>>>,
    dir: PathBuf,
    fsync: bool,
}

impl LockMap {
    /// `fsync`: of the file before it is renamed, and of its directory after.
    pub fn new(dir: &Path, fsync: bool) -> Self {
        Self { locks: DashMap::new(), dir: dir.to_owned(), fsync }
    }

    pub fn create(&self, id: &str) -> Outcome<()> {
        let state = self.locks.entry(id.to_owned()).or_insert_with(|| Arc::new(Mutex::new(Document::new()))).clone();
        let state = state.lock().expect("no panic");
        std::fs::create_dir(self.dir.join(id))?;
        self.write(id, &state)?;
        if self.fsync {
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }

    pub fn update(&self, id: &str) -> Outcome<()> {
        let state = Arc::clone(self.locks.get(id).ok_or("no such instance")?.value());
        let mut state = state.lock().expect("no panic");
        state.count += 1;
        self.write(id, &state)
    }

    fn write(&self, id: &str, state: &Document) -> Outcome<()> {
        let dir = self.dir.join(id);
        let mut file = tempfile::NamedTempFile::new_in(&dir)?;
        file.write_all(&serde_json::to_vec(state)?)?;
        if self.fsync {
            file.as_file().sync_all()?;
        }
        file.persist(dir.join("state.json"))?;
        if self.fsync {
            File::open(&dir)?.sync_all()?;
        }
        Ok(())
    }
}
