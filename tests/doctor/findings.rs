//! What is found, and what a person alone can mend.

use fiefdom::{Severity, Store, Untyped};

use crate::cli::{self, Fief};
use crate::common::TestResult;
use crate::{copy_to, doctor, findings, healthy, only_finding, remains, set_mode};

#[tokio::test]
async fn a_healthy_store_has_no_finding_and_is_not_touched() -> TestResult {
    let fief = healthy().await?;
    assert!(fief.instance("a/events").read_dir()?.count() > 3, "some event files are full");
    let before = fief.tree();
    let ran = doctor(&fief, &[]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.out.starts_with("2 instances (0 live)") && ran.out.contains(": 0 damaged, 0 notes"), "{ran:?}");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(0));
    assert!(fief.tree() == before, "nothing changes");
    Ok(())
}

#[tokio::test]
async fn what_has_no_second_copy_is_found_and_left_in_place() -> TestResult {
    type Damage = (&'static str, fn(&mut Vec<u8>), &'static str);
    let full = "instances/a/events/events-000000000001.jsonl";
    let record = "instances/a/instance.json";
    let cases: [Damage; 9] = [
        (record, |bytes| bytes.clear(), "EOF"),
        (record, |bytes| bytes.truncate(100), "EOF"),
        (record, |bytes| bytes[0] ^= 1, "expected"),
        (record, |bytes| replace(bytes, "\"revision\": 30", "\"revision\": \"30\""), "revision"),
        (record, |bytes| replace(bytes, "\"pending\"", "\"sleeping\""), "status"),
        (record, |bytes| replace(bytes, "\"instance_id\": \"a\"", "\"instance_id\": \"z\""), "lies in the directory"),
        (record, |bytes| replace(bytes, "\"format\": 1", "\"format\": 9"), "newer"),
        (full, |bytes| bytes[1] ^= 1, "event 1 cannot be read"),
        (full, |bytes| drop(bytes.drain(..=end_of_line(bytes))), "event 2 stands where 1 is expected"),
    ];
    let whole = healthy().await?;
    for (file, break_it, says) in cases {
        let fief = Fief::new();
        copy_to(&whole.root, &fief.root)?;
        let path = fief.root.join(file);
        let mut bytes = std::fs::read(&path)?;
        let before = bytes.clone();
        break_it(&mut bytes);
        assert_ne!(bytes, before, "{file}: {says}: the damage is there");
        std::fs::write(&path, &bytes)?;
        let (severity, place, _, reason) = only_finding(&fief);
        assert_eq!((severity, place.as_str()), (Severity::Damage, file), "{reason}");
        assert!(reason.contains(says), "no {says:?} in {reason:?}");
        let tree = fief.tree();
        assert_eq!(doctor(&fief, &[]).code, Some(1), "{says}");
        assert_eq!(doctor(&fief, &["--repair"]).code, Some(1), "{says}");
        assert!(fief.tree() == tree, "{says}: nothing changes");
    }
    Ok(())
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    *bytes = String::from_utf8_lossy(bytes).replace(from, to).into_bytes();
}

fn end_of_line(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| b == b'\n').expect("a line")
}

#[tokio::test]
async fn a_missing_event_file_is_damage_that_is_not_repaired() -> TestResult {
    let fief = healthy().await?;
    std::fs::remove_dir_all(fief.instance("a/events"))?;
    let (severity, _, _, reason) = only_finding(&fief);
    assert_eq!(severity, Severity::Damage);
    assert!(reason.contains("ends at event 0, and the record knows of 30"), "{reason}");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_mode_that_is_too_open_is_a_note() -> TestResult {
    let fief = healthy().await?;
    set_mode(&fief.instance("a/instance.json"), 0o644)?;
    let (severity, path, _, reason) = only_finding(&fief);
    assert_eq!((severity, path.as_str()), (Severity::Note, "instances/a/instance.json"));
    assert!(reason.contains("0644"), "{reason}");
    assert_eq!(doctor(&fief, &[]).code, Some(0));
    Ok(())
}

#[test]
fn the_items_of_a_batch_are_checked() -> TestResult {
    let fief = Fief::new();
    let jobs = fief.write("jobs", "true\ntrue\ntrue\n");
    assert_eq!(fief.run(["run", "--batch", "nightly", &jobs]).code, Some(0));
    assert_eq!(findings(&fief), []);
    let path = fief.instance("nightly/workspace/items.jsonl");
    let whole = std::fs::read_to_string(&path)?;
    for (text, says) in [
        (whole.replacen("\"id\"", "\"di\"", 1), "line 1 is no job"),
        (whole.split_inclusive('\n').take(2).collect(), "2 whole lines"),
        (whole.trim_end().to_owned(), "2 whole lines"),
    ] {
        std::fs::write(&path, text)?;
        let (severity, _, _, reason) = only_finding(&fief);
        assert!(severity == Severity::Damage && reason.contains(says), "{reason}");
    }
    std::fs::remove_file(&path)?;
    assert!(only_finding(&fief).3.contains("it is missing"));
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_strange_file_in_the_directory_of_a_dead_writer_stops_nobody() -> TestResult {
    let fief = remains().await?;
    let writer = std::fs::read_dir(fief.root.join(".fiefdom/writers"))?.next().ok_or("no writer")??.path();
    std::fs::write(writer.join("strange"), "somebody's")?;
    for _ in 0..2 {
        Store::open(&fief.root, Untyped).await?.shutdown().await?;
    }
    assert!(cli::holds(&fief.root, b"somebody's"), "no byte is deleted that is not ours");
    Ok(())
}

#[tokio::test]
async fn a_writer_s_directory_that_cannot_be_removed_is_damage() -> TestResult {
    let fief = healthy().await?;
    let writer = fief.root.join(".fiefdom/writers/018f4b6e-0000-7000-8000-000000000001");
    std::fs::create_dir(&writer)?;
    assert_eq!(only_finding(&fief).0, Severity::Note, "an empty one is removed by the next opening");
    std::fs::write(writer.join("strange"), "somebody's")?;
    let (severity, _, _, reason) = only_finding(&fief);
    assert!(severity == Severity::Damage && reason.contains("strange files"), "{reason}");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(1));
    assert!(writer.join("strange").exists());
    Ok(())
}

#[tokio::test]
async fn a_blocked_instance_is_told_and_left_to_a_person() -> TestResult {
    let fief = healthy().await?;
    let path = fief.root.join(".fiefdom/quarantine/a.blocked.json");
    std::fs::write(&path, r#"{"instance_id":"a","reason":"its last commits cannot be read"}"#)?;
    let (severity, _, _, reason) = only_finding(&fief);
    assert!(severity == Severity::Damage && reason.contains("its last commits cannot be read"), "{reason}");
    assert_eq!(doctor(&fief, &["--repair"]).code, Some(1));
    assert!(path.exists());
    Ok(())
}
