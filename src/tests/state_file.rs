//! A file outside of a store, at every power cut: the old content or the new, and the new when it was
//! acknowledged.

use std::sync::{Arc, Mutex};

use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::disk::model::{Disk, Random, Survives};
use crate::disk::state_file::{self, Turn};

const NAME: &str = "preferences.json";

#[test]
fn a_power_cut_at_any_point_of_an_update_leaves_one_whole_content() {
    let contents: Vec<Vec<u8>> = (1..=4_u8).map(|n| vec![b'0' + n; 700 * usize::from(n)]).collect();
    let disk = Disk::new();
    disk.record();
    for (nth, content) in contents.iter().enumerate() {
        let dir = Dir::open(disk.path()).expect("open");
        let turn = Turn::try_take(dir, NAME).expect("a lock").expect("nobody has it");
        turn.replace(content).expect("a disk without a fault");
        disk.note(nth + 1);
    }
    let mut random = Random::new(5);
    let mut points = 0;
    for image in disk.images() {
        for survives in [Survives::Nothing, Survives::Everything, Survives::Some, Survives::Some, Survives::Some] {
            let after = image.after_power_cut(survives, &mut random);
            let dir = Dir::open(after.path()).expect("open");
            let found = state_file::read(&dir, NAME, 1 << 20).expect("it can be read");
            let acknowledged = image.note.checked_sub(1).map(|nth| &contents[nth]);
            let under_way = contents.get(image.note);
            assert!(
                found.as_ref() == acknowledged || found.as_ref() == under_way,
                "{} updates were acknowledged, and there are {:?} bytes",
                image.note,
                found.map(|bytes| bytes.len())
            );
            points += 1;
        }
    }
    assert!(points > 100, "there were only {points}");
    super::shown!("{points} power cuts");
}

/// Somebody removes the lock file, and another process takes a new one, between any two steps of ours.
#[test]
fn a_lock_file_that_is_removed_while_it_is_taken_does_not_make_two_owners() {
    for at in 1.. {
        let disk = Disk::new();
        let open = || Dir::open(disk.path()).expect("open");
        drop(Turn::try_take(open(), NAME).expect("a lock file"));
        let (mine, others) = (open(), open());
        let other = Arc::new(Mutex::new(None));
        let taken = Arc::clone(&other);
        disk.interrupt(disk.operations() + at, move || {
            others.remove_file(&layout::lock_beside(NAME)).expect("removed");
            *taken.lock().expect("no panic") = Turn::try_take(others, NAME).expect("a lock");
        });
        let mine = Turn::try_take(mine, NAME).expect("no fault");
        if !disk.interrupted() {
            assert!(at > 2, "it was interrupted at every step");
            return;
        }
        assert!(other.lock().expect("no panic").is_some(), "the other has it, at step {at}");
        assert!(mine.is_none(), "both have it, at step {at}");
    }
}
