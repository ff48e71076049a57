//! A disk with room for so many bytes: every size from nothing to enough.

use std::sync::Arc;

use super::crash::survey;
use super::process::{Process, Step};
use super::world::{End, World};
use crate::disk::model::{Disk, Random, Survives};
use crate::options::Durability::{Disk as OnDisk, Os};

/// Difference between two sizes, in bytes; a campaign sets `FIEFDOM_TEST_FULL_STEP` to 1.
const STEP: usize = 97;

const STEPS: [Step; 14] = [
    Step::Create(0, OnDisk),
    Step::Append(0, OnDisk),
    Step::Create(1, Os),
    Step::Burst(OnDisk),
    Step::Materialise,
    Step::Update(0, OnDisk),
    Step::Append(1, Os),
    Step::Materialise,
    Step::Burst(OnDisk),
    Step::Seal,
    Step::Append(0, OnDisk),
    Step::Checkpoint,
    Step::Materialise,
    Step::Burst(OnDisk),
];

#[test]
fn a_full_disk_of_every_size() {
    let by = std::env::var("FIEFDOM_TEST_FULL_STEP").map_or(STEP, |n| n.parse().expect("a number"));
    let mut random = Random::new(7);
    let (mut sizes, mut deleted, mut size) = (0, 0, 0);
    loop {
        let story = || format!("a disk with room for {size} bytes");
        let disk = Arc::new(Disk::new());
        disk.limit(Some(size));
        let world = World::new(&disk, Vec::new());
        let opened = Process::open(&disk, &world);
        if let Err(error) = &opened {
            assert_eq!(error.io_kind(), Some(std::io::ErrorKind::StorageFull), "{}: {error}", story());
        }
        let mut failures = u64::from(opened.is_err());
        if let Ok(mut process) = opened {
            failures += STEPS.iter().filter(|step| process.step(**step).is_err()).count() as u64;
            assert!(!process.is_poisoned(), "{}: no flush has failed", story());
            survey(disk.image().after_kill(), &world.facts(), End::Killed, &story);
            // A deletion needs no room, and makes some.
            if process.is_live(0) {
                process.step(Step::Delete(0)).unwrap_or_else(|e| panic!("{}: {e}", story()));
                deleted += 1;
            }
            disk.limit(None);
            for step in [Step::Create(1, OnDisk), Step::Update(1, OnDisk), Step::Create(0, OnDisk), Step::Materialise] {
                process.step(step).unwrap_or_else(|e| panic!("{}: {step:?} with room again: {e}", story()));
            }
            let (facts, image) = (world.facts(), disk.image());
            std::mem::forget(process);
            survey(image.after_kill(), &facts, End::Killed, &story);
            survey(image.after_power_cut(Survives::Some, &mut random), &facts, End::PowerCut, &story);
        }
        sizes += 1;
        if failures == 0 && disk.used() < size {
            break;
        }
        size += by;
    }
    crate::tests::shown!("{sizes} sizes of a disk up to {size} bytes, {deleted} deletions on a full one, 0 losses");
    assert!(sizes > 10 && deleted > 10, "{sizes} {deleted}");
}
