//! A failure of every operation of a run, once and for ever: each has a stated outcome, and nothing
//! that was acknowledged is lost.

use std::sync::Arc;

use rustix::io::Errno;

use super::crash::survey;
use super::process::{Process, Step, TOGETHER};
use super::world::{End, Fact, World};
use crate::disk::model::{Disk, Fault, Image, Kind, Random, Survives};
use crate::options::Durability::{Disk as OnDisk, Os};

/// Something of everything that a store does.
const STEPS: [Step; 25] = [
    Step::Create(0, OnDisk),
    Step::Update(0, OnDisk),
    Step::Append(0, Os),
    Step::Materialise,
    Step::Append(0, OnDisk),
    Step::Create(1, Os),
    Step::Burst(OnDisk),
    Step::Pipeline(0),
    Step::Run(0),
    Step::Materialise,
    Step::Seal,
    Step::Checkpoint,
    Step::Checkpoint,
    Step::Append(0, OnDisk),
    Step::Burst(Os),
    Step::Release(1),
    Step::Append(1, OnDisk),
    Step::Materialise,
    Step::Seal,
    Step::Release(1),
    Step::Checkpoint,
    Step::Update(1, OnDisk),
    Step::Delete(1),
    Step::Create(1, OnDisk),
    Step::Release(0),
];

/// How the runs of one sort of failure went.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    refused: u64,
    poisoned: u64,
    survived: u64,
}

/// Runs the steps again and again, with the first, the second, the third … such operation failing.
fn fail_everywhere(errno: Errno, for_ever: bool, which: fn(Kind, &str) -> bool) -> Tally {
    let mut tally = Tally::default();
    let mut random = Random::new(3);
    for after in 0.. {
        let story = || format!("{errno:?} at operation {after}, for ever: {for_ever}");
        let disk = Arc::new(Disk::new());
        disk.fail(Some(Fault { after, for_ever, errno, which }));
        let world = World::new(&disk, Vec::new());
        let Some(mut process) = open(&disk, &world) else {
            tally.refused += 1;
            continue;
        };
        let mut failures = 0;
        for step in STEPS {
            let before = disk.fired();
            failures += u64::from(process.step(step).is_err());
            // What was refused must not be there, whatever comes now.
            if disk.fired() > before && disk.fired() <= 3 {
                let story = || format!("{}, killed after {step:?}", story());
                survey(disk.image().after_kill(), &world.facts(), End::Killed, &story);
            }
        }
        let fired = disk.fired();
        disk.fail(None);
        assert_eq!(disk.flushed_again(), None, "{}: a flush was tried again", story());
        tally.runs += 1;
        if process.is_poisoned() {
            tally.poisoned += 1;
            let refused =
                process.step(Step::Create(0, OnDisk)).is_err() | process.step(Step::Update(0, OnDisk)).is_err();
            assert!(refused, "{}: a poisoned log took a commit", story());
        } else {
            // The cause is mended: everything works, and what was pending catches up.
            for step in [Step::Create(0, OnDisk), Step::Append(0, OnDisk), Step::Update(1, OnDisk)] {
                process.step(step).unwrap_or_else(|e| panic!("{}: {step:?} after that: {e}", story()));
            }
            // A file whose flush has failed is left alone until a checkpoint makes it anew.
            let _ = process.step(Step::Materialise);
            process.step(Step::Seal).unwrap_or_else(|e| panic!("{}: a new segment: {e}", story()));
            process.step(Step::Checkpoint).expect("a step that says nothing");
            process.step(Step::Checkpoint).expect("a step that says nothing");
            process.step(Step::Materialise).unwrap_or_else(|e| panic!("{}: the files: {e}", story()));
            assert_eq!(process.stats().segments_waiting, 0, "{}: the log is not emptied", story());
            tally.survived += 1;
        }
        let (facts, image) = (world.facts(), disk.image());
        std::mem::forget(process);
        survey(image.after_kill(), &facts, End::Killed, &story);
        for survives in [Survives::Nothing, Survives::Everything, Survives::Some] {
            survey(image.after_power_cut(survives, &mut random), &facts, End::PowerCut, &story);
        }
        if fired == 0 {
            assert_eq!(failures, 0, "a run without a fault");
            break;
        }
    }
    tally
}

/// Opens the root; a failure must be a stated one, and leave a root that can be opened.
fn open(disk: &Arc<Disk>, world: &World) -> Option<Process> {
    match Process::open(disk, world) {
        Ok(process) => Some(process),
        Err(error) => {
            assert!(error.io_kind().is_some(), "opening: {error}");
            assert!(disk.fired() > 0, "opening failed by itself: {error}");
            disk.fail(None);
            drop(Process::open(disk, world).expect("a root that can be opened once the cause is mended"));
            None
        }
    }
}

fn show(what: &str, tally: &Tally) {
    crate::tests::shown!("{what}: {tally:?}");
    assert!(tally.survived > 0, "nothing happened");
}

fn is_change(kind: Kind, _: &str) -> bool {
    matches!(kind, Kind::Create | Kind::MakeDir | Kind::Write | Kind::SetLen | Kind::Rename | Kind::Unlink)
}

fn is_flush(kind: Kind, _: &str) -> bool {
    matches!(kind, Kind::SyncFile | Kind::SyncDir | Kind::SyncAll)
}

fn is_log(name: &str) -> bool {
    name.starts_with("journal-")
}

#[test]
fn a_change_that_fails_once_is_an_outcome() {
    show("a change fails once (EIO)", &fail_everywhere(Errno::IO, false, is_change));
}

#[test]
fn changes_that_fail_for_ever_are_outcomes() {
    show("changes fail for ever (ENOSPC)", &fail_everywhere(Errno::NOSPC, true, is_change));
}

#[test]
fn a_flush_that_fails_once_is_never_tried_again() {
    show("a flush fails once (EIO)", &fail_everywhere(Errno::IO, false, is_flush));
}

#[test]
fn flushes_that_fail_for_ever_are_outcomes() {
    show("flushes fail for ever (EIO)", &fail_everywhere(Errno::IO, true, is_flush));
}

#[test]
fn reads_that_fail_once_are_outcomes() {
    let reads = |kind: Kind, _: &str| matches!(kind, Kind::Read | Kind::List | Kind::Open);
    show("a read fails once (EIO)", &fail_everywhere(Errno::IO, false, reads));
    show("an opening fails once (EMFILE)", &fail_everywhere(Errno::MFILE, false, |kind, _| kind == Kind::Open));
}

#[test]
fn a_failed_write_of_the_log_is_not_applied_and_the_next_works() {
    let writes = |kind: Kind, name: &str| kind == Kind::Write && is_log(name);
    let tally = fail_everywhere(Errno::NOSPC, false, writes);
    assert_eq!(tally.poisoned, 0, "a write that fails poisons nothing: {tally:?}");
    show("a write of the log fails once (ENOSPC)", &tally);
}

#[test]
fn a_failed_flush_of_the_log_poisons() {
    let flushes = |kind: Kind, name: &str| kind == Kind::SyncFile && is_log(name);
    let tally = fail_everywhere(Errno::NOSPC, false, flushes);
    assert!(tally.poisoned > 3, "{tally:?}");
    show("a flush of the log fails once (ENOSPC)", &tally);
}

/// The kernel tells of a failure once: the next flush of the directory says yes to names that are lost.
#[test]
fn a_name_whose_flush_has_failed_is_never_said_to_be_on_disk() {
    for fails in [Step::Create(1, OnDisk), Step::Delete(1)] {
        let disk = Arc::new(Disk::new());
        let world = World::new(&disk, Vec::new());
        let mut process = Process::open(&disk, &world).expect("a root");
        if fails == Step::Delete(1) {
            process.step(Step::Create(1, OnDisk)).expect("a disk without a fault");
        }
        process.step(Step::Create(0, Os)).expect("a disk without a fault");
        let which = |kind, name: &str| kind == Kind::SyncDir && name == "instances";
        disk.fail(Some(Fault { after: 0, for_ever: false, errno: Errno::IO, which }));
        process.step(fails).expect_err("a failed flush");
        assert_eq!(disk.fired(), 1);
        disk.fail(None);
        // Refused at once, or by the log.
        let _ = process.step(Step::Update(0, OnDisk));
        assert!(process.is_poisoned(), "after {fails:?}: a commit of an instance whose name may be lost");
        let facts = world.facts();
        let cut = disk.image().after_power_cut(Survives::Nothing, &mut Random::new(15));
        std::mem::forget(process);
        survey(cut, &facts, End::PowerCut, &|| format!("after {fails:?} had failed"));
    }
}

/// What a process left that died with one instance at work and another whose events are in the log.
fn remains() -> (Image, Vec<Fact>) {
    let disk = Arc::new(Disk::new());
    let world = World::new(&disk, Vec::new());
    let mut process = Process::open(&disk, &world).expect("a root on a disk without a fault");
    for step in [
        Step::Create(0, OnDisk),
        Step::Create(1, OnDisk),
        Step::Append(1, OnDisk),
        Step::Run(0),
        Step::Seal,
        Step::Checkpoint,
        Step::Burst(OnDisk),
        Step::Alarm(1, OnDisk),
        Step::Materialise,
        Step::Append(1, OnDisk),
    ] {
        process.step(step).expect("a disk without a fault");
    }
    let image = disk.image();
    std::mem::forget(process);
    (image, world.facts())
}

/// Fails each operation of a recovery in turn, and recovers again. Returns how many failed it.
fn fail_in_recovery(errno: Errno, for_ever: bool, which: fn(Kind, &str) -> bool) -> u64 {
    let (image, facts) = remains();
    let mut random = Random::new(12);
    let mut refused = 0;
    for after in 0.. {
        let story = || format!("{errno:?} at operation {after} of a recovery, for ever: {for_ever}");
        let disk = Arc::new(image.after_kill());
        disk.fail(Some(Fault { after, for_ever, errno, which }));
        let opened = Process::open_without_looking(&disk, &World::new(&disk, facts.clone()));
        if let Err(error) = &opened {
            assert!(error.io_kind().is_some(), "{}: {error}", story());
            refused += 1;
        }
        let fired = disk.fired();
        disk.fail(None);
        assert_eq!(disk.flushed_again(), None, "{}: a flush was tried again", story());
        let left = disk.image();
        std::mem::forget(opened);
        survey(left.after_kill(), &facts, End::Killed, &story);
        for survives in [Survives::Nothing, Survives::Everything, Survives::Some] {
            survey(left.after_power_cut(survives, &mut random), &facts, End::PowerCut, &story);
        }
        if fired == 0 {
            return refused;
        }
    }
    unreachable!("some operation is the last")
}

#[test]
fn a_failure_in_a_recovery_is_an_outcome() {
    for together in [true, false] {
        TOGETHER.set(Some(together));
        for for_ever in [false, true] {
            let changes = fail_in_recovery(Errno::NOSPC, for_ever, is_change);
            let flushes = fail_in_recovery(Errno::IO, for_ever, is_flush);
            assert!(changes > 0 && flushes > 0, "{changes} {flushes}");
        }
    }
}

/// What could not be written may be of any file: none is flushed again, all are made anew.
#[test]
fn instances_that_were_let_go_are_made_anew_when_the_flush_of_all_has_failed() {
    TOGETHER.set(Some(true));
    let disk = Arc::new(Disk::new());
    let world = World::new(&disk, Vec::new());
    let mut process = Process::open(&disk, &world).expect("a root");
    let both = [Step::Create(0, OnDisk), Step::Append(0, OnDisk), Step::Create(1, OnDisk), Step::Release(0)];
    for step in both.into_iter().chain([Step::Seal, Step::Append(1, OnDisk), Step::Release(1), Step::Seal]) {
        process.step(step).expect("a disk without a fault");
    }
    let which = |kind, _: &str| kind == Kind::SyncAll;
    disk.fail(Some(Fault { after: 0, for_ever: false, errno: Errno::IO, which }));
    process.step(Step::Checkpoint).expect("a step that says nothing");
    assert_eq!((disk.fired(), process.stats().segments_waiting), (1, 0));
    assert_eq!(disk.flushed_again(), None, "a flush was tried again");
    disk.fail(None);
    let facts = world.facts();
    let cut = disk.image().after_power_cut(Survives::Nothing, &mut Random::new(14));
    std::mem::forget(process);
    survey(cut, &facts, End::PowerCut, &|| "after a flush that failed".into());
}

#[test]
fn instances_are_recovered_one_by_one_where_the_disk_is_not_flushed_as_a_whole() {
    const OVERLAY: u64 = 0x794C_7630;
    TOGETHER.set(Some(true));
    let (image, facts) = remains();
    for (magic, asked) in [(OVERLAY, false), (0xEF53, true)] {
        let disk = Arc::new(image.after_kill());
        disk.pretend(magic);
        let which = |kind, _: &str| kind == Kind::SyncAll;
        disk.fail(Some(Fault { after: 0, for_ever: true, errno: Errno::IO, which }));
        let process = Process::open_without_looking(&disk, &World::new(&disk, facts.clone()));
        drop(process.expect("a recovery, file by file"));
        assert_eq!(disk.fired() > 0, asked);
        disk.fail(None);
        let cut = disk.image().after_power_cut(Survives::Nothing, &mut Random::new(13));
        survey(cut, &facts, End::PowerCut, &|| format!("{magic:x}"));
    }
}
