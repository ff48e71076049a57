//! A crash at every operation of a run: what was acknowledged is there, and nothing is half done.

use std::sync::Arc;

use super::process::{Process, STEPS, Step, TOGETHER};
use uuid::Uuid;

use super::world::{Allowed, End, Fact, INSTANCES, Moment, World};
use crate::disk::model::{Disk, Image, Random, Survives};
use crate::disk::root::Root;
use crate::options::Durability;
use crate::record::RawRecord;

/// Ways in which a power cut at one moment is tried.
const SURVIVORS: [Survives; 4] = [Survives::Nothing, Survives::Everything, Survives::Some, Survives::Some];

/// How a run of a sequence went: every moment at which it could have ended.
struct Run {
    images: Vec<Image>,
    facts: Vec<Fact>,
}

/// Runs steps on a new disk; a process that dies is followed by another.
fn run(steps: &[Step]) -> Run {
    let mut disk = Arc::new(Disk::new());
    let mut facts = Vec::new();
    let mut images = Vec::new();
    for life in steps.split(|step| *step == Step::Die) {
        let world = World::new(&disk, facts);
        disk.record();
        let mut process = Process::open(&disk, &world).expect("a root on a disk without a fault");
        for step in life {
            process.step(*step).expect("a disk without a fault");
        }
        facts = world.facts();
        images.extend(disk.images());
        // The process is killed: nothing of it may tidy up.
        let left = disk.image();
        std::mem::forget(process);
        disk = Arc::new(left.after_kill());
    }
    Run { images, facts }
}

/// Opens what a crash left, and compares it with what may be there. Returns what is there.
pub(super) fn survey(disk: Disk, facts: &[Fact], end: End, story: &dyn Fn() -> String) -> Vec<Option<Moment>> {
    let disk = Arc::new(disk);
    let world = World::new(&disk, facts.to_vec());
    Process::open(&disk, &world).unwrap_or_else(|e| panic!("{}\n{e}: {e:?}", story()));
    let all = world.facts();
    let mut moments = Vec::new();
    for fact in &all[all.len() - INSTANCES.len()..] {
        let Fact::Found { instance, moment } = fact else { panic!("not a finding: {fact:?}") };
        let allowed = Allowed::by(facts, *instance, end);
        if let Err(wrong) = allowed.check(moment.as_ref()) {
            panic!("{}\ninstance {}: {wrong}", story(), INSTANCES[*instance]);
        }
        moments.push(moment.clone());
    }
    moments
}

/// Every crash point of a run, each with a kill and with several power cuts. Returns their number.
fn crash_everywhere(steps: &[Step], random: &mut Random, deeper: u64) -> u64 {
    crash_at(steps, 0, random, 100, deeper)
}

/// How many of the crash points that another run has as well are taken, in percent: what is lost in a
/// power cut differs.
const SHARED: u64 = 10;

/// Some of the crash points of a run, in percent. Those before `own` are in other runs as well. `deeper`
/// is the part, in percent, in whose recovery there is another crash.
pub(super) fn crash_at(steps: &[Step], own: usize, random: &mut Random, percent: u64, deeper: u64) -> u64 {
    let run = run(steps);
    let mut points = 0;
    for (at, image) in run.images.iter().enumerate() {
        let seen = look_as_a_reader(image);
        if !random.chance(if at < own { SHARED } else { percent }) {
            continue;
        }
        let facts = &run.facts[..image.note];
        let story = |end: &str| format!("{steps:?}, {end} at point {at} of {}", run.images.len());
        survey(image.after_kill(), facts, End::Killed, &|| story("killed"));
        points += 1;
        if random.chance(deeper) {
            let story = || story("killed, and a power cut in the recovery");
            points += crash_in_recovery(image.after_kill(), facts, random, &story);
        }
        for survives in SURVIVORS {
            let cut = image.after_power_cut(survives, random);
            if random.chance(deeper) {
                let again = cut.image().after_kill();
                points += crash_in_recovery(again, facts, random, &|| story("power cut, and again in the recovery"));
            }
            let found = survey(cut, facts, End::PowerCut, &|| story(&format!("power cut ({survives:?})")));
            points += 1;
            if !steps.contains(&Step::Die) {
                for (seen, found) in seen.iter().zip(&found) {
                    assert!(
                        !is_ahead(seen.as_ref(), found.as_ref()),
                        "{}: a reader saw {seen:?}, then there is {found:?}",
                        story("cut")
                    );
                }
            }
        }
    }
    points
}

/// What a reader that takes no lock finds at this moment: whole records.
fn look_as_a_reader(image: &Image) -> Vec<Option<(Uuid, u64)>> {
    let files = image.files();
    let look = |instance: &&str| {
        let bytes = files.get(&format!("/root/instances/{instance}/instance.json"))?;
        let record = RawRecord::parse(bytes);
        let record = record.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes)));
        Some((record.uid, record.revision))
    };
    INSTANCES.iter().map(look).collect()
}

/// Whether a reader saw what a power cut then took back.
fn is_ahead(seen: Option<&(Uuid, u64)>, found: Option<&Moment>) -> bool {
    match (seen, found) {
        (Some((uid, revision)), Some(found)) => *uid == found.uid && *revision > found.revision,
        _ => false,
    }
}

/// Another power cut, or a kill, in the recovery from the first.
fn crash_in_recovery(disk: Disk, facts: &[Fact], random: &mut Random, story: &dyn Fn() -> String) -> u64 {
    let disk = Arc::new(disk);
    disk.record();
    Process::open(&disk, &World::new(&disk, facts.to_vec())).unwrap_or_else(|e| panic!("{}\n{e}: {e:?}", story()));
    let images = disk.images();
    let image = &images[usize::try_from(random.below(images.len() as u64)).expect("small")];
    survey(image.after_kill(), facts, End::PowerCut, story);
    survey(image.after_power_cut(Survives::Some, random), facts, End::PowerCut, story);
    2
}

#[test]
fn one_instance_through_everything() {
    use Durability::{Disk, Os};
    let mut random = Random::new(1);
    let steps = [
        Step::Create(0, Disk),
        Step::Update(0, Disk),
        Step::Append(0, Os),
        Step::Materialise,
        Step::Append(0, Disk),
        Step::Run(0),
        Step::Seal,
        Step::Checkpoint,
        Step::Update(0, Disk),
        Step::Release(0),
        Step::Delete(0),
    ];
    let points = crash_everywhere(&steps, &mut random, 20);
    crate::tests::shown!("{points} crash points");
}

#[test]
fn an_instance_that_is_at_work_while_segments_go() {
    use Durability::{Disk, Os};

    // Each segment goes when the next one says everything anew; that with the events does not, and the
    // last one does not.
    let steps = [
        Step::Create(0, Disk),
        Step::Create(1, Disk),
        Step::Seal,
        Step::Update(0, Os),
        Step::Checkpoint,
        Step::Materialise,
        Step::Seal,
        Step::Append(0, Os),
        Step::Run(0),
        Step::Checkpoint,
        Step::Seal,
        Step::Update(0, Disk),
        Step::Checkpoint,
        Step::Seal,
        Step::Run(0),
        Step::Alarm(0, Os),
        Step::Checkpoint,
        Step::Seal,
        Step::Checkpoint,
        Step::Update(0, Disk),
    ];
    crash_everywhere(&steps, &mut Random::new(7), 2);
}

#[test]
fn a_deletion_that_is_checkpointed() {
    use Durability::Disk;
    let mut random = Random::new(4);
    let steps = [
        Step::Create(0, Disk),
        Step::Seal,
        Step::Delete(0),
        Step::Seal,
        Step::Checkpoint,
        Step::Create(0, Disk),
        Step::Materialise,
    ];
    let points = crash_everywhere(&steps, &mut random, 20);
    crate::tests::shown!("{points} crash points");
}

#[test]
fn an_alarm_that_is_set_replaced_and_cleared() {
    use Durability::{Disk, Os};
    let mut random = Random::new(9);
    let steps = [
        Step::Create(0, Disk),
        Step::Alarm(0, Disk),
        Step::Seal,
        Step::Checkpoint,
        Step::Update(0, Disk),
        Step::Materialise,
        Step::Alarm(0, Os),
        Step::Materialise,
        Step::ClearAlarm(0, Os),
        Step::Alarm(0, Disk),
        Step::Release(0),
        Step::Seal,
        Step::Checkpoint,
        Step::ClearAlarm(0, Disk),
        Step::Alarm(0, Disk),
        Step::Delete(0),
        Step::Seal,
        Step::Checkpoint,
    ];
    let points = crash_everywhere(&steps, &mut random, 20);
    crate::tests::shown!("{points} crash points");
}

/// Files follow commits that nobody had flushed: recovery flushes the log first.
#[test]
fn commits_at_level_os_that_a_dead_process_left_are_on_disk_before_the_files_follow() {
    use Durability::{Disk, Os};
    let steps = [
        Step::Create(0, Os),
        Step::Alarm(0, Os),
        Step::Die,
        Step::Alarm(0, Disk),
        Step::Alarm(0, Disk),
        Step::Append(0, Os),
        Step::Append(0, Os),
        Step::Seal,
        Step::Create(1, Disk),
        Step::Alarm(0, Os),
        Step::Update(0, Os),
        Step::Run(1),
        Step::Append(0, Disk),
    ];
    let points: u64 = (0..3).map(|seed| crash_everywhere(&steps, &mut Random::new(seed), 50)).sum();
    crate::tests::shown!("{points} crash points");
}

#[test]
fn an_alarm_set_by_a_process_that_dies_is_in_the_index_after_recovery() {
    use Durability::{Disk, Os};
    for level in [Disk, Os] {
        let steps = [Step::Create(0, Disk), Step::Release(0), Step::Die, Step::Alarm(0, level), Step::Die];
        let points = crash_everywhere(&steps, &mut Random::new(10), 50);
        crate::tests::shown!("{points} crash points");
    }
}

/// Recovery flushes the log before files follow it: otherwise a power cut in it leaves the events of
/// a commit of which the log, and so everybody, knows nothing any more.
#[test]
fn a_commit_at_level_os_that_is_alone_in_its_log() {
    let steps = [Step::Create(0, Durability::Disk), Step::Die, Step::Append(0, Durability::Os), Step::Die];
    let points = crash_everywhere(&steps, &mut Random::new(8), 50);
    crate::tests::shown!("{points} crash points");
}

/// The record of what was at work is nowhere but in its file, and the new one takes its place: its
/// bytes must be on disk before.
#[test]
fn instances_that_are_recovered_together_lose_nothing_in_a_power_cut() {
    use Durability::{Disk, Os};
    TOGETHER.set(Some(true));
    let steps = [
        Step::Create(0, Disk),
        Step::Create(1, Disk),
        Step::Run(0),
        Step::Append(1, Disk),
        Step::Seal,
        Step::Checkpoint,
        Step::Append(1, Os),
        Step::Alarm(1, Disk),
        Step::Die,
    ];
    let points = crash_everywhere(&steps, &mut Random::new(11), 100);
    crate::tests::shown!("{points} crash points");
}

/// How often what a power cut takes is drawn anew at one moment of a recovery.
const CUTS: usize = 10;

/// Recovers a disk, cuts the power at every moment of that, and says what a reader finds then that takes
/// no lock and recovers nothing: it is not to find a record that is ahead of its events. Returns the
/// moments.
fn cut_the_recovery(disk: Disk, random: &mut Random) -> Vec<Image> {
    let disk = Arc::new(disk);
    disk.record();
    Process::open(&disk, &World::new(&disk, Vec::new())).expect("a recovery without a fault");
    let images = disk.images();
    for (at, image) in images.iter().enumerate() {
        for _ in 0..CUTS {
            let files = image.after_power_cut(Survives::Some, random).image().files();
            for instance in INSTANCES {
                let Some(bytes) = files.get(&format!("/root/instances/{instance}/instance.json")) else { continue };
                let known = RawRecord::parse(bytes).expect("a whole record").last_event_seq;
                let log = files.get(&format!("/root/instances/{instance}/events/events.jsonl"));
                let there = log.map_or(0, |log| log.split(|byte| *byte == b'\n').count() as u64 - 1);
                assert!(known <= there, "point {at} of {}: {there} of {known} events", images.len());
            }
        }
    }
    images
}

/// Where instances are recovered one by one, the name of a new directory is flushed before a record that
/// knows of what is in it: by the recovery that makes it, and by one that finds it half made.
#[test]
fn no_record_is_ahead_of_its_events_after_a_power_cut_in_a_recovery() {
    TOGETHER.set(Some(false));
    let mut random = Random::new(13);
    let steps = [Step::Create(0, Durability::Disk), Step::Append(0, Durability::Disk)];
    let left = run(&steps).images.pop().expect("a run");
    let moments = cut_the_recovery(left.after_kill(), &mut random);
    let again = moments.iter().map(|moment| cut_the_recovery(moment.after_kill(), &mut random).len());
    crate::tests::shown!("{} moments", again.sum::<usize>());
}

/// One flush of the file system makes the files durable of all that were let go.
#[test]
fn instances_that_were_let_go_lose_nothing_when_their_log_goes_at_once() {
    use Durability::{Disk, Os};
    TOGETHER.set(Some(true));
    let steps = [
        Step::Create(0, Disk),
        Step::Create(1, Disk),
        Step::Append(0, Disk),
        Step::Update(1, Os),
        Step::Append(1, Disk),
        Step::Release(0),
        Step::Release(1),
        Step::Seal,
        Step::Checkpoint,
        Step::Append(0, Disk),
    ];
    let points = crash_everywhere(&steps, &mut Random::new(12), 20);
    crate::tests::shown!("{points} crash points");
}

#[test]
fn a_root_several_new_directories_deep_survives_a_power_cut() {
    let disk = Disk::new();
    let below = "new/and/deeper/root";
    drop(Root::open_or_create(&disk.path().join(below), false).expect("a root"));
    let after = disk.image().after_power_cut(Survives::Nothing, &mut Random::new(6));
    let root = Root::open_existing(&after.path().join(below)).expect("it can be read");
    assert!(root.is_some(), "the way to the root is lost");
}

/// Among how many threads the sequences are shared: it is the longest test.
const THREADS: usize = 4;

#[test]
fn every_sequence_of_two_steps() {
    // Most points are those of what sequences begin with alike.
    let begin = [Step::Create(0, Durability::Disk), Step::Update(0, Durability::Disk)];
    let alike = run(&begin).images.len();
    let sequences_from = |first: Step, random: &mut Random| -> u64 {
        let [create, update] = begin;
        let so_far = run(&[create, update, first]).images.len();
        let all = STEPS.into_iter().enumerate().map(|(nth, second)| {
            let own = if nth == 0 { alike } else { so_far };
            crash_at(&[create, update, first, second], own, random, 100, 2)
        });
        all.sum()
    };
    let points: u64 = std::thread::scope(|scope| {
        let parts = STEPS.chunks(STEPS.len().div_ceil(THREADS)).zip(2..);
        let threads: Vec<_> = parts
            .map(|(firsts, seed)| {
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    firsts.iter().map(|first| sequences_from(*first, &mut random)).sum::<u64>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that does not panic")).sum()
    });
    let points = points + crash_everywhere(&begin, &mut Random::new(1), 2);
    crate::tests::shown!("{points} crash points");
}
