//! One flush for everybody who waits: of a log to which each of them adds a line, and of the
//! directory with their names.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::raw::Appended;
use crate::harness::Outcome;

#[derive(Default)]
struct Turn {
    /// Who waits for the flush that begins next.
    waiting: usize,
    /// The flush that begins next.
    next: u64,
    /// How many have ended.
    ended: u64,
    stopped: bool,
}

pub struct Flusher {
    turn: Mutex<Turn>,
    changed: Condvar,
}

impl Flusher {
    /// For at most so many who wait at once.
    pub fn start(dir: &Path, most: usize) -> Outcome<Arc<Self>> {
        let names = File::open(dir)?;
        let mut log = Appended::create(dir, most, true)?;
        let flusher = Arc::new(Self { turn: Mutex::default(), changed: Condvar::new() });
        let own = Arc::clone(&flusher);
        std::thread::spawn(move || {
            while let Some(lines) = own.begin() {
                names.sync_all().expect("a flush of the directory");
                log.append_lines(lines).expect("an append to the log");
                own.turn.lock().expect("no panic").ended += 1;
                own.changed.notify_all();
            }
        });
        Ok(flusher)
    }

    fn begin(&self) -> Option<usize> {
        let mut turn = self.turn.lock().expect("no panic");
        while turn.waiting == 0 && !turn.stopped {
            turn = self.changed.wait(turn).expect("no panic");
        }
        turn.next += 1;
        let waiting = std::mem::take(&mut turn.waiting);
        (waiting > 0).then_some(waiting)
    }

    /// Returns when a flush that began after this call has ended.
    pub fn wait_for_next(&self) -> Outcome<()> {
        let mut turn = self.turn.lock().map_err(|_| "a flush failed")?;
        let mine = turn.next + 1;
        turn.waiting += 1;
        self.changed.notify_all();
        while turn.ended < mine {
            turn = self.changed.wait(turn).map_err(|_| "a flush failed")?;
        }
        Ok(())
    }

    pub fn stop(&self) {
        self.turn.lock().expect("no panic").stopped = true;
        self.changed.notify_all();
    }
}
