//! What a death leaves: of the process, which loses nothing of the disk, and of the power, which
//! loses what was not made durable, in any way that a disk may. It changes no disk: it makes another.

use std::collections::HashSet;
use std::sync::Arc;

use super::disk::Disk;
use super::image::{Body, Change, Image, Slot, apply};
use super::random::Random;

/// Bytes that reach the disk together or not at all.
const SECTOR: usize = 512;

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    Nothing,
    Everything,
    Some,
}

impl Image {
    /// After the death of the process.
    pub(crate) fn after_kill(&self) -> Disk {
        Disk::mount(self.clone())
    }

    /// After a power cut and another boot.
    pub(crate) fn after_power_cut(&self, survives: Survives, random: &mut Random) -> Disk {
        let mut image = self.clone();
        let percent = match survives {
            Survives::Nothing => 0,
            Survives::Everything => 100,
            Survives::Some => 20 + random.below(60),
        };
        let mut held_back: HashSet<Slot> = HashSet::new();
        for naming in std::mem::take(&mut image.namings) {
            let blocked = naming.slots().into_iter().any(|slot| held_back.contains(slot));
            if blocked || !random.chance(percent) {
                held_back.extend(naming.slots().into_iter().cloned());
            } else {
                image.make_name_durable(&naming);
            }
        }
        for node in image.nodes.values_mut() {
            match &mut Arc::make_mut(node).body {
                Body::Dir { now, durable } => *now = durable.clone(),
                Body::File { now, durable, pending } => {
                    for change in pending.drain(..) {
                        if random.chance(percent) {
                            let torn = survives == Survives::Some && random.chance(50);
                            let kept = if torn { tear(&change, random) } else { vec![change] };
                            for change in kept {
                                apply(Arc::make_mut(durable), &change);
                            }
                        }
                    }
                    *now = Arc::clone(durable);
                }
            }
        }
        image.boot += 1;
        Disk::mount(image)
    }
}

/// Some sectors of a write.
fn tear(change: &Arc<Change>, random: &mut Random) -> Vec<Arc<Change>> {
    let Change::Write(offset, bytes) = &**change else { return vec![Arc::clone(change)] };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let absolute = usize::try_from(*offset).unwrap_or(usize::MAX) + at;
        let end = (at + SECTOR - absolute % SECTOR).min(bytes.len());
        if random.chance(50) {
            kept.push(Arc::new(Change::Write(offset + at as u64, bytes[at..end].to_vec())));
        }
        at = end;
    }
    kept
}
