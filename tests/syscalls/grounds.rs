//! Roots in a known condition, made once and copied for each run, and what there is to do on them.

use crate::QUIET;
use crate::common::{TestResult, copy_tree};
use crate::worker::Worker;

/// What there is to do while a kill or an error strikes.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) ground: Ground,
    pub(crate) settings: &'static str,
    /// Done undisturbed; the root is opened before, except where the opening is what is disturbed.
    pub(crate) before: &'static [&'static str],
    pub(crate) during: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ground {
    /// No root.
    Nothing,
    /// `a` and `b` at rest, with two commits each.
    Rest,
    /// The same, and a dead writer's log with more.
    Dead,
}

pub(crate) const DEAD: [&str; 7] =
    ["count a", "run a", "count b", "append b", "create n", "create gone", "delete gone"];

/// Makes the grounds once.
pub(crate) struct Grounds {
    rest: tempfile::TempDir,
    dead: tempfile::TempDir,
}

impl Grounds {
    pub(crate) fn new() -> TestResult<Self> {
        let (rest, dead) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let mut worker = Worker::start()?;
        worker.open(rest.path(), QUIET)?;
        for command in ["create a", "count a", "count a", "create b", "count b", "count b", "shutdown"] {
            worker.must(command)?;
        }
        copy_tree(rest.path(), dead.path())?;
        worker.open(dead.path(), QUIET)?;
        for command in DEAD {
            worker.must(command)?;
        }
        worker.kill()?;
        Ok(Self { rest, dead })
    }

    /// A place of its own for one run, and a worker that is about to begin.
    pub(crate) fn ready(&self, operation: &Operation) -> TestResult<(tempfile::TempDir, Worker)> {
        let root = tempfile::tempdir()?;
        match operation.ground {
            Ground::Nothing => {}
            Ground::Rest => copy_tree(self.rest.path(), root.path())?,
            Ground::Dead => copy_tree(self.dead.path(), root.path())?,
        }
        let mut worker = Worker::start()?;
        if operation.during != ["open"] {
            worker.open(&place(operation, &root), operation.settings)?;
        }
        for command in operation.before {
            worker.must(command)?;
        }
        Ok((root, worker))
    }
}

/// A root that does not exist is made with its parents.
pub(crate) fn place(operation: &Operation, root: &tempfile::TempDir) -> std::path::PathBuf {
    match operation.ground {
        Ground::Nothing => root.path().join("deep/root"),
        _ => root.path().to_owned(),
    }
}
