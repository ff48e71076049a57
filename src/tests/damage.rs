//! A flipped byte anywhere in a log that was on disk: nobody goes on from an older state in silence.

use std::sync::Arc;

use super::process::{Process, Step};
use super::world::{Allowed, End, INSTANCES, World};
use crate::disk::model::Disk;
use crate::error::Error;
use crate::options::Durability::Disk as OnDisk;

#[test]
fn a_flipped_byte_in_the_log_is_never_a_torn_tail() {
    let disk = Arc::new(Disk::new());
    let world = World::new(&disk, Vec::new());
    let mut process = Process::open(&disk, &world).expect("a root");
    for step in [
        Step::Create(0, OnDisk),
        Step::Create(1, OnDisk),
        Step::Update(0, OnDisk),
        Step::Append(1, OnDisk),
        Step::Append(0, OnDisk),
        Step::Burst(OnDisk),
    ] {
        process.step(step).expect("a step");
    }
    // What follows the damage states how much of the log was on disk.
    let known = world.facts();
    process.step(Step::Burst(OnDisk)).expect("a step");
    let image = disk.image();
    std::mem::forget(process);
    let (name, bytes) =
        image.files().into_iter().find(|(name, _)| name.contains("journal-")).expect("a segment of the log");
    let end = bytes.windows(9).rposition(|at| at == b"{\"batch\":").expect("a batch") - 9;
    let (mut blocked, mut whole) = (0, 0);
    // Every second byte: each field of each line is hit.
    for at in (0..end).step_by(2) {
        let disk = Arc::new(image.after_kill());
        disk.flip(&name, at);
        let world = World::new(&disk, world.facts());
        let mut process = Process::open_without_looking(&disk, &world)
            .unwrap_or_else(|error| panic!("byte {at}: the store cannot be opened: {error}"));
        for instance in 0..INSTANCES.len() {
            match process.look(instance) {
                Ok(found) => {
                    // The last batch may be taken for a torn tail, what was before it may not.
                    let allowed = Allowed::by(&known, instance, End::Killed);
                    let later = Allowed::by(&world.facts(), instance, End::Killed);
                    let fits = allowed.check(found.as_ref()).or_else(|_| later.check(found.as_ref()));
                    fits.unwrap_or_else(|wrong| panic!("byte {at} of {name}: {wrong}"));
                    whole += 1;
                }
                Err(Error::Corrupt { .. }) => blocked += 1,
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
    }
    crate::tests::shown!(
        "{} flipped bytes in the log: {whole} instances whole, {blocked} taken out of use, 0 gone back",
        end / 2
    );
    assert!(blocked > 0 && whole > 0, "{blocked} {whole}");
}
