//! How often the actor of an instance crashed of late. What follows from that is the registry's to
//! say.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::record::InstanceId;

/// In which time crashes count.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Most instances that are remembered: crashes are rare, and this only bounds memory.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Crashes {
    of: HashMap<InstanceId, VecDeque<Instant>>,
}

impl Crashes {
    pub(super) fn note(&mut self, id: &InstanceId) {
        if self.of.len() >= REMEMBERED {
            self.of.retain(|_, times| times.back().is_some_and(|last| last.elapsed() < WINDOW));
        }
        if self.of.len() < REMEMBERED {
            self.of.entry(id.clone()).or_default().push_back(Instant::now());
        }
    }

    /// Crashes within the window.
    pub(super) fn recent(&mut self, id: &InstanceId) -> usize {
        let Some(times) = self.of.get_mut(id) else { return 0 };
        while times.front().is_some_and(|first| first.elapsed() >= WINDOW) {
            times.pop_front();
        }
        let count = times.len();
        if count == 0 {
            self.of.remove(id);
        }
        count
    }
}
