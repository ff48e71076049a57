//! Processes that are killed while they ask and answer.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fiefdom::{NewInstance, Status, Store, Unanswered, Untyped};
use serde_json::json;

use crate::common::{self, TestResult, another_process, id};
use crate::{in_file, status, why};

/// Kills at random moments; a longer campaign sets `FIEFDOM_TEST_INPUT_KILLS`.
const KILLS: u64 = 25;

fn start(name: &str, root: &Path) -> TestResult<std::process::Child> {
    let mut command = another_process(name)?;
    command.env("FIEFDOM_TEST_ROOT", root);
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

#[tokio::test]
async fn a_question_whose_process_was_killed_is_found_open_and_waits_on() -> TestResult {
    let root = tempfile::tempdir()?;
    let mut child = start("killed::be_an_asker", root.path())?;
    let said = BufReader::new(child.stdout.take().ok_or("no output")?);
    assert!(said.lines().map_while(Result::ok).any(|line| line == "asked 1"), "it ended before");
    child.kill()?;
    child.wait()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = store.get(&id("a")).await?;
    assert_eq!(status(&instance).await?, Status::Waiting);
    let open = instance.input_requests().await?.into_iter().find(|open| open.key == "k1");
    let open = open.ok_or("the question is gone")?;
    let (asker, schema) = (instance.clone(), open.schema.clone());
    let waiting = tokio::spawn(async move { asker.request_input("k1", "Number 1?", schema).await });
    instance.answer("k1", json!(7)).await?;
    assert_eq!(waiting.await??, 7);
    Ok(store.shutdown().await?)
}

/// The process that is killed. It asks 1, 2, 3, …, and answers all but the first itself; a line that
/// it prints is an acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn be_an_asker() -> TestResult {
    let store = Store::open(std::env::var("FIEFDOM_TEST_ROOT")?, Untyped).await?;
    let instance = store.get_or_create(NewInstance::with_id(id("a"))).await?.instance().clone();
    instance.transition(Status::Running, None).await?;
    // The test harness has begun a line.
    println!();
    for n in 1_u64.. {
        let (asker, key) = (instance.clone(), format!("k{n}"));
        let waiting = tokio::spawn(async move {
            let schema = json!({ "type": "integer" });
            asker.request_input(&format!("k{n}"), &format!("Number {n}?"), schema).await
        });
        // It may have been asked and answered by an earlier life.
        while !waiting.is_finished() && !instance.input_requests().await?.iter().any(|open| open.key == key) {
            tokio::task::yield_now().await;
        }
        if !waiting.is_finished() {
            println!("asked {n}");
            if n == 1 {
                continue;
            }
            instance.answer(&key, json!(n * 10)).await?;
            println!("answered {n}");
        }
        assert_eq!(waiting.await??, n * 10);
        println!("got {n}");
        if n > 20 {
            instance.withdraw_input(&format!("k{}", n - 10)).await?;
            println!("withdrawn {}", n - 10);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_kill_at_a_random_moment_loses_no_question_and_no_answer() -> TestResult {
    let kills: u64 = std::env::var("FIEFDOM_TEST_INPUT_KILLS").map_or(Ok(KILLS), |text| text.parse())?;
    let (mut questions, mut answers) = (0, 0);
    for nth in 0..kills {
        let root = tempfile::tempdir()?;
        let mut child = start("killed::be_an_asker", root.path())?;
        let said = child.stdout.take().ok_or("no output")?;
        let said = common::lines_of_a_life(child, said, "asked 1", Duration::from_micros((nth * 7_919) % 60_000))?;
        let store = Store::open(root.path(), Untyped).await?;
        let withdrawn = |n: u64| said.contains(&format!("withdrawn {n}")) || said.contains(&format!("got {}", n + 10));
        for line in &said {
            let Some((what, n)) = line.split_once(' ') else { continue };
            let (Ok(n), "asked" | "answered" | "got") = (n.parse::<u64>(), what) else { continue };
            if withdrawn(n) {
                continue;
            }
            let instance = store.get(&id("a")).await?;
            let (key, prompt) = (format!("k{n}"), format!("Number {n}?"));
            let before = instance.record().await?.last_event_seq;
            let again = instance.request_input_within(&key, &prompt, json!({"type": "integer"}), Duration::ZERO).await;
            assert_eq!(instance.record().await?.last_event_seq, before, "{line}: it had to be asked again");
            match again {
                Ok(answer) => assert_eq!(answer, n * 10),
                Err(error) => {
                    assert_eq!(why(Err(error)), Some(Unanswered::TimedOut));
                    assert_eq!(what, "asked", "the answer is lost: {line}");
                }
            }
            assert!(in_file(root.path(), "a", &key).is_some_and(|file| file["key"] == key), "{line}: no file");
            questions += u64::from(what == "asked");
            answers += u64::from(what == "answered");
        }
        store.shutdown().await?;
    }
    assert!(questions > 0 && answers > 0, "no life was long enough");
    common::shown!("{kills} kills, {questions} questions and {answers} answers, none lost");
    Ok(())
}
