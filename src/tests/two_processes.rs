//! Two processes on one root, the second coming in between any two operations of the first.

use std::sync::{Arc, Mutex};

use super::crash::survey;
use super::process::{Process, Step};
use super::world::{Allowed, End, World};
use crate::disk::model::{Disk, Random, Survives};
use crate::options::Durability::Disk as OnDisk;

fn two(disk: &Arc<Disk>, world: &World) -> (Process, Process) {
    let first = Process::open(disk, world).expect("a root");
    let second = Process::open(disk, world).expect("a root");
    (first, second)
}

#[test]
fn what_is_read_at_activation_is_never_older_than_the_lock() {
    let (mut moments, mut between) = (0, 0);
    for at in 0.. {
        let disk = Arc::new(Disk::new());
        let world = World::new(&disk, Vec::new());
        let (mut first, mut second) = two(&disk, &world);
        for step in [Step::Create(0, OnDisk), Step::Append(0, OnDisk), Step::Release(0)] {
            second.step(step).expect("a step");
        }
        let second = Arc::new(Mutex::new(second));
        let before = disk.operations();
        let other = Arc::clone(&second);
        disk.interrupt(before + at, move || {
            let mut second = other.lock().expect("no panic");
            // It may find the instance locked: then it leaves it alone.
            if second.attempt(Step::Update(0, OnDisk)).is_ok() {
                second.step(Step::Append(0, OnDisk)).expect("an instance that is live");
                second.step(Step::Release(0)).expect("an instance that is live");
            }
        });
        let found = first.look(0);
        if !disk.interrupted() {
            break;
        }
        moments += 1;
        let facts = world.facts();
        between += u64::from(facts.len() > 10);
        if let Ok(found) = found {
            let allowed = Allowed::by(&facts, 0, End::Killed);
            allowed.check(found.as_ref()).unwrap_or_else(|wrong| panic!("at operation {at}: {wrong}"));
        }
    }
    crate::tests::shown!("another process between any two of {moments} operations of an activation");
    assert!(moments > 5 && between > 0, "{moments} {between}");
}

#[test]
fn a_deleted_instance_does_not_come_back_from_the_log_of_another_process() {
    let mut random = Random::new(5);
    for seal_first in [true, false] {
        let disk = Arc::new(Disk::new());
        let world = World::new(&disk, Vec::new());
        let (mut first, mut second) = two(&disk, &world);
        for step in [Step::Create(0, OnDisk), Step::Create(1, OnDisk), Step::Append(0, OnDisk), Step::Release(0)] {
            first.step(step).expect("a step");
        }
        for step in [Step::Delete(0), Step::Create(0, OnDisk), Step::Delete(0), Step::Seal, Step::Checkpoint] {
            second.step(step).expect("a step");
        }
        if seal_first {
            for step in [Step::Update(1, OnDisk), Step::Seal, Step::Checkpoint, Step::Update(1, OnDisk)] {
                first.step(step).expect("a step");
            }
        }
        let (facts, image) = (world.facts(), disk.image());
        std::mem::forget((first, second));
        survey(image.after_kill(), &facts, End::Killed, &|| "killed".to_owned());
        for survives in [Survives::Nothing, Survives::Everything, Survives::Some] {
            let cut = image.after_power_cut(survives, &mut random);
            survey(cut, &facts, End::PowerCut, &|| format!("power cut ({survives:?})"));
        }
        let trash = image.files().into_keys().filter(|name| name.contains("/trash/")).count();
        assert_eq!(trash > 0, !seal_first, "the names of the dead stay as long as they are needed");
    }
}
