//! What a process can do.

use crate::options::Durability;

/// One thing that a process does. The numbers are instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tests) enum Step {
    Create(usize, Durability),
    Update(usize, Durability),
    /// Two commits in one line.
    Append(usize, Durability),
    /// Three lines of each live instance in one batch, of two commits each.
    Burst(Durability),
    /// A commit, and a line of three that is handed to the log while the first is being written.
    Pipeline(usize),
    Run(usize),
    Alarm(usize, Durability),
    ClearAlarm(usize, Durability),
    Delete(usize),
    Materialise,
    Seal,
    Checkpoint,
    Release(usize),
    /// The process dies and another goes on.
    Die,
}

pub(in crate::tests) const STEPS: [Step; 24] = {
    use Durability::{Disk, Os};
    [
        Step::Create(0, Disk),
        Step::Create(0, Os),
        Step::Create(1, Disk),
        Step::Update(0, Disk),
        Step::Update(0, Os),
        Step::Update(1, Disk),
        Step::Append(0, Disk),
        Step::Append(0, Os),
        Step::Append(1, Os),
        Step::Burst(Disk),
        Step::Burst(Os),
        Step::Pipeline(0),
        Step::Run(0),
        Step::Run(1),
        Step::Alarm(0, Disk),
        Step::Alarm(0, Os),
        Step::ClearAlarm(0, Os),
        Step::Delete(0),
        Step::Materialise,
        Step::Seal,
        Step::Checkpoint,
        Step::Release(0),
        Step::Release(1),
        Step::Die,
    ]
};
