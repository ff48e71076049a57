//! The command line: one instance at a time, and what is said to wrong input.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};

use cli::{Fief, Started, bare, paste, until};
use fiefdom::{NewInstance, Store, Untyped};
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn an_instance_is_made_changed_shown_and_removed() {
    let fief = Fief::new();
    let made = fief.ok([
        "create",
        "a",
        "--name",
        "größe",
        "--tag",
        "k=v=w",
        "--kind",
        "thing",
        "--state",
        r#"{"n":1,"o":{"x":1}}"#,
    ]);
    assert_eq!(made, "a\n");
    let record = fief.record("a");
    assert_eq!(
        (&record["status"], &record["kind"], &record["name"]),
        (&json!("pending"), &json!("thing"), &json!("größe"))
    );
    assert_eq!((&record["tags"], &record["state"]), (&json!({"k": "v=w"}), &json!({"n": 1, "o": {"x": 1}})));

    let patch = r#"{"n":null,"o":{"y":[1]},"z":2.5}"#;
    let out = fief.ok(["update", "a", "--merge", patch, "--status", "running", "--reason", "it began"]);
    assert_eq!(out, "a revision 1 running\n");
    let record = fief.record("a");
    assert_eq!(record["state"], json!({"o": {"x": 1, "y": [1]}, "z": 2.5}));
    assert_eq!((&record["status"], &record["status_reason"]), (&json!("running"), &json!("it began")));
    assert_eq!(fief.ok(["update", "a", "--status", "waiting"]), "a revision 2 waiting\n");
    assert_eq!(
        fief.record("a")["state"],
        json!({"o": {"x": 1, "y": [1]}, "z": 2.5}),
        "a status alone leaves the state"
    );

    assert_eq!(fief.ok(["append", "a", "step.done", r#"{"step":1}"#]), "1\n");
    assert_eq!(fief.ok(["append", "a", "step.none"]), "2\n");
    let shown = fief.ok(["show", "a"]);
    for word in
        ["größe", "waiting", "k=v=w", "revision   4", "2 events", fief.instance("a").to_str().unwrap(), "\"z\": 2.5"]
    {
        assert!(shown.contains(word), "no {word:?} in {shown}");
    }
    let events = fief.ok(["events", "a"]);
    assert_eq!(events.lines().count(), 2, "{events}");
    assert!(events.contains("step.done  {\"step\":1}\n") && events.ends_with("step.none\n"), "{events}");
    let last = fief.ok(["events", "a", "--from", "2"]);
    assert!(last.lines().count() == 1 && last.trim_start().starts_with("2 "), "{last}");
    assert_eq!(fief.ok(["events", "a", "--from", "3"]), "");
    assert_eq!(fief.ok(["logs", "a"]), "", "it printed nothing");

    fief.ok(["create", "b"]);
    assert_eq!(fief.ok(["rm", "a", "b"]), "removed a\nremoved b\n");
    assert!(!fief.instance("a").exists() && !fief.instance("b").exists());
    assert_eq!(fief.ok(["ls"]), "");
    fief.run(["show", "a"]).failed(3, &["\"a\"", " ls`"]);
}

#[test]
fn with_json_each_command_prints_one_document() {
    let fief = Fief::new();
    let made = fief.json(["create", "a", "--tag", "k=v", "--state", r#"{"n":1}"#]);
    assert_eq!((&made["instance_id"], &made["state"]), (&json!("a"), &json!({"n": 1})));
    let generated = fief.json(["create"]);
    let id = generated["instance_id"].as_str().expect("an id");
    assert!(fief.instance(id).is_dir());
    let updated = fief.json(["update", "a", "--merge", "[1]"]);
    assert_eq!((&updated["state"], &updated["revision"]), (&json!([1]), &json!(1)));
    assert_eq!(updated, fief.record("a"), "what is printed is what is on disk");
    assert_eq!(fief.json(["append", "a", "x", "[null]"]), json!({"seq": 1}));
    assert_eq!(fief.json(["show", "a"]), fief.record("a"));
    let list = fief.json(["ls"]);
    assert_eq!(list["instances"], json!([fief.record(id), fief.record("a")]));
    assert_eq!(list["damaged"], json!([]));
    let event = fief.json(["events", "a"]);
    assert_eq!((&event["seq"], &event["type"], &event["data"]), (&json!(1), &json!("x"), &json!([null])));
    assert_eq!(fief.json(["rm", "a"]), json!({"removed": ["a"]}));

    let mut some = fief.command(["--json", "rm", "a", id]);
    some.stdin(Stdio::null());
    let ran = Started::new(some).end();
    assert_eq!((ran.code, ran.json_lines()), (Some(3), vec![json!({"removed": [id]})]), "{ran:?}");
    assert!(ran.err.contains("\"a\""), "{ran:?}");
}

#[test]
fn a_listing_is_newest_first_and_can_be_filtered() {
    let fief = Fief::new();
    for (id, tag, kind) in [("c", "t=1", "x"), ("a", "t=2", "y"), ("b", "t=1", "y")] {
        fief.ok(["create", id, "--tag", tag, "--kind", kind, "--tag", "all=yes"]);
    }
    fief.ok(["update", "a", "--status", "running"]);
    fief.ok(["update", "c", "--status", "failed", "--reason", "no luck"]);
    let ids = |args: &[&str]| {
        let list = fief.json(std::iter::once("ls").chain(args.iter().copied()));
        let ids =
            list["instances"].as_array().expect("a list").iter().map(|r| r["instance_id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids(&[]), ["b", "a", "c"]);
    assert_eq!(ids(&["--limit", "2"]), ["b", "a"]);
    assert_eq!(ids(&["--status", "running"]), ["a"]);
    assert_eq!(ids(&["--status", "running", "--status", "failed"]), ["a", "c"]);
    assert_eq!(ids(&["--tag", "t=1"]), ["b", "c"]);
    assert_eq!(ids(&["--tag", "t=1", "--tag", "all=yes", "--kind", "y"]), ["b"]);
    assert_eq!(ids(&["--tag", "t=1", "--limit", "1"]), ["b"], "the limit counts what matches");
    assert_eq!(ids(&["--tag", "t=3"]), [""; 0]);
    let table = fief.ok(["ls"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[3].starts_with("c ") && lines[3].contains("no luck"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours in a pipe: {table:?}");
}

#[test]
fn no_text_of_an_instance_controls_the_terminal() {
    let fief = Fief::new();
    let text = "x\u{1b}[31my\nz";
    fief.ok(["create", "a", "--name", text, "--kind", text, "--tag", &format!("k={text}")]);
    fief.ok(["update", "a", "--merge", &json!({ "t": text }).to_string(), "--status", "failed", "--reason", text]);
    fief.ok(["append", "a", "e", &json!(text).to_string()]);
    for args in [&["ls"][..], &["show", "a"], &["events", "a"]] {
        let out = fief.ok(args);
        assert!(!out.contains('\u{1b}') && !out.contains("\nz"), "{out:?}");
    }
    assert_eq!(fief.json(["show", "a"])["name"], text, "what is stored is untouched");
}

#[test]
fn following_shows_what_another_process_appends() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    fief.ok(["append", "a", "before"]);
    let mut text = Started::new(fief.command(["events", "-f", "a"]));
    let mut lines = Started::new(fief.command(["--json", "events", "a", "-f", "--from", "2"]));
    text.prints("before\n");
    fief.ok(["append", "a", "after", r#"{"n":1}"#]);
    text.prints("after  {\"n\":1}\n");
    lines.prints("\"after\"");
    fief.ok(["append", "a", "last"]);
    text.prints("last\n");
    lines.prints("\"last\"");
    // What is started in the background of a shell ignores it, and so does what that starts.
    let ignored = std::fs::read_to_string("/proc/self/status").expect("a status");
    let ignored = ignored.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a set of signals");
    let is_ignored = u64::from_str_radix(ignored, 16).expect("a number") & 1 << (Signal::INT.as_raw() - 1) != 0;
    let signal = if is_ignored { Signal::TERM } else { Signal::INT };
    for mut follower in [text, lines] {
        follower.signal(signal);
        let status = follower.status();
        // A shell shows both as 130, or 143.
        assert!(status.code() == Some(128 + signal.as_raw()) || status.signal() == Some(signal.as_raw()), "{status:?}");
        if follower.seen.starts_with('{') {
            let seqs: Vec<Value> =
                follower.seen.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].clone()).collect();
            assert_eq!(seqs, [2, 3]);
        } else {
            assert_eq!(follower.seen.lines().count(), 3, "{}", follower.seen);
        }
    }
}

#[test]
fn many_events_are_all_shown_in_order() {
    let fief = Fief::new();
    // More than the view reads at a time.
    append_many(&fief, 3000, 200);
    let ran = fief.run(["--json", "events", "a"]);
    let seqs: Vec<u64> = ran.json_lines().iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=3000).collect::<Vec<_>>());
    assert_eq!(fief.run(["--json", "events", "a", "--from", "2999"]).json_lines().len(), 2);
}

fn append_many(fief: &Fief, events: usize, bytes: usize) {
    let text = "x".repeat(bytes);
    block_on(async {
        let store = Store::open(&fief.root, Untyped).await.expect("a store");
        let a = store.create(NewInstance::with_id("a".parse().expect("an id"))).await.expect("made");
        a.commit(move |tx| (0..events).try_for_each(|_| tx.event("x", &text).map(drop))).await.expect("committed");
        store.shutdown().await.expect("shut down");
    });
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(work)
}

#[test]
fn the_root_is_the_flag_else_the_variable_else_below_home() {
    let fief = Fief::new();
    let run = |root: Option<&str>, variable: Option<&str>, home: Option<&str>, id: &str| {
        let mut command = bare();
        command.args(root.map(|name| format!("--root={}", fief.beside(name).display())));
        command.envs(variable.map(|name| ("FIEFDOM_DATA_DIR", fief.beside(name))));
        command.envs(home.map(|name| ("HOME", fief.beside(name))));
        Started::new({
            command.args(["create", id]);
            command
        })
        .end()
    };
    assert_eq!(run(Some("flag"), Some("variable"), Some("home"), "a").code, Some(0));
    assert!(fief.beside("flag/instances/a/instance.json").is_file());
    assert_eq!(run(None, Some("variable"), Some("home"), "b").code, Some(0));
    assert!(fief.beside("variable/instances/b/instance.json").is_file() && !fief.beside("home").exists());
    assert_eq!(run(None, None, Some("home"), "c").code, Some(0));
    assert!(fief.beside("home/.fiefdom/instances/c/instance.json").is_file());
    run(None, None, None, "d").failed(5, &["FIEFDOM_DATA_DIR", "HOME"]);
    let mut empty = bare();
    empty.args(["--root", "", "ls"]);
    Started::new(empty).end().failed(2, &["--root"]);
}

fn piped(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
}

fn ended(mut child: Child) -> Output {
    until("the end", || child.try_wait().expect("waited"));
    child.wait_with_output().expect("an output")
}

#[test]
fn an_output_that_is_closed_early_ends_the_command_in_silence() {
    let fief = Fief::new();
    // More than a pipe holds, so that the writing meets the closed end.
    append_many(&fief, 1000, 400);
    for args in [&["events", "a"][..], &["--json", "events", "a"], &["show", "a"], &["ls"], &["--help"]] {
        let mut child = piped(fief.command(args));
        drop(child.stdout.take());
        let output = ended(child);
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args:?}");
    }
    // One that waits for more ends at the next thing that it has to say.
    let mut child = piped(fief.command(["events", "-f", "a", "--from", "1001"]));
    drop(child.stdout.take());
    fief.ok(["append", "a", "more"]);
    let output = ended(child);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn messages_that_nobody_reads_change_nothing() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    let mut child = piped(fief.command(["-vv", "rm", "nobody", "a"]));
    drop(child.stderr.take());
    let output = ended(child);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(3), "removed a\n"));
}

#[test]
fn wrong_arguments_are_refused_before_the_root_is_made() {
    let fief = Fief::new();
    let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
    let long = "x".repeat(129);
    let cases: &[(&[&str], &[&str])] = &[
        (&["create", "Upper"], &["\"Upper\"", "a-z", "build-42"]),
        (&["create", "../x"], &["\"../x\"", "build-42"]),
        (&["create", ""], &["it is empty"]),
        (&["create", "con.txt"], &["Windows"]),
        (&["create", &long], &["128"]),
        (&["show", "a/b"], &["\"a/b\""]),
        (&["rm", "ok", "not ok"], &["\"not ok\""]),
        (&["rm"], &["<ID>"]),
        (&["create", "a", "--tag", "novalue"], &["novalue", "KEY=VALUE"]),
        (&["create", "a", "--tag", "=v"], &["KEY=VALUE"]),
        (&["create", "a", "--tag", "k=1", "--tag", "k=2"], &["\"k\"", "twice"]),
        (&["ls", "--tag", "k=1", "--tag", "k=2"], &["\"k\"", "twice"]),
        (&["create", "a", "--state", "{"], &["--state", "invalid JSON"]),
        (&["create", "a", "--state", &deep], &["--state", "invalid JSON", "recursion"]),
        (&["update", "a", "--merge", &deep], &["--merge", "invalid JSON", "recursion"]),
        (&["update", "a"], &["--merge", "--status"]),
        (&["update", "a", "--status", "done"], &["done", "succeeded"]),
        (&["update", "a", "--merge", "{}", "--reason", "x"], &["--status"]),
        (&["append", "a", "x", "{"], &["invalid JSON"]),
        (&["append", "a", "x", &deep], &["recursion"]),
        (&["ls", "--status", "nothing"], &["nothing"]),
        (&["ls", "--limit", "-1"], &["-1"]),
        (&["events", "a", "--from", "x"], &["--from"]),
        (&["frobnicate"], &["frobnicate"]),
        (&[], &["Usage"]),
    ];
    for (args, words) in cases {
        fief.run(*args).failed(2, words);
        assert!(!fief.root.exists(), "{args:?}");
    }
}

#[test]
fn what_does_not_exist_is_not_found_and_not_made() {
    let fief = Fief::new();
    let commands: &[&[&str]] = &[
        &["show", "a"],
        &["events", "a"],
        &["events", "-f", "a"],
        &["logs", "a"],
        &["logs", "-f", "a"],
        &["update", "a", "--status", "running"],
        &["append", "a", "x"],
        &["rm", "a"],
        &["resume", "a"],
    ];
    for args in commands {
        fief.run(*args).failed(3, &["\"a\"", fief.root.to_str().unwrap(), " ls`"]);
        assert!(!fief.root.exists(), "{args:?}");
    }
    assert_eq!(fief.ok(["ls"]), "");
    assert!(!fief.root.exists());
    // The same in a root that exists.
    fief.ok(["create", "b"]);
    let before = fief.tree();
    for args in commands {
        let ran = fief.run(*args);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert_eq!(fief.tree(), before, "{args:?}");
    }
}

#[test]
fn the_command_that_lists_what_exists_can_be_pasted() {
    let fief = Fief::new();
    fief.ok(["create", "there"]);
    let ran = fief.run(["show", "elsewhere"]);
    let command = ran.err.split('`').nth(1).expect("a command");
    assert!(paste(command).out.contains("there"), "{command}");
}

#[test]
fn a_refused_change_leaves_everything_as_it_was() {
    let fief = Fief::new();
    fief.ok(["create", "a", "--state", r#"{"n":1}"#]);
    fief.ok(["update", "a", "--status", "succeeded"]);
    let before = fief.tree();
    fief.run(["create", "a", "--state", "{}"])
        .failed(2, &["\"a\"", "exists already", fief.instance("a").to_str().unwrap()]);
    fief.run(["update", "a", "--merge", r#"{"n":2}"#, "--status", "running"])
        .failed(2, &["\"a\"", "succeeded", "running"]);
    fief.run(["create", "b", "--tag", &format!("k={}", "x".repeat(300))]).failed(2, &["tag", "256"]);
    fief.run(["append", "a", ""]).failed(2, &["event"]);
    fief.run(["resume", "a"]).failed(2, &["\"a\"", "batch"]);
    assert_eq!(fief.tree(), before);
}

#[test]
fn a_record_cannot_outgrow_its_limit() {
    let fief = Fief::new();
    block_on(async {
        let store = Store::open(&fief.root, Untyped).await.expect("a store");
        let new = NewInstance::with_id("a".parse().expect("an id")).input(json!({ "a": "x".repeat(2_000_000) }));
        store.create(new).await.expect("made");
        store.shutdown().await.expect("shut down");
    });
    let merge = |name: &str| fief.run(["update", "a", "--merge", &json!({ name: "y".repeat(60_000) }).to_string()]);
    assert_eq!(merge("b").code, Some(0), "there is room for one more");
    let before = fief.tree();
    merge("c").failed(2, &["record", "too large", "2097152"]);
    assert_eq!(fief.tree(), before);
    assert_eq!(fief.json(["show", "a"])["revision"], 1);
}

#[test]
fn a_root_that_cannot_be_one_is_a_store_error() {
    let fief = Fief::new();
    std::fs::write(&fief.root, "precious").expect("written");
    let jobs = fief.write("jobs", "true\n");
    for args in [&["create", "a"][..], &["ls"], &["show", "a"], &["update", "a", "--merge", "{}"], &["run", &jobs]] {
        fief.run(args).failed(5, &[fief.root.to_str().unwrap(), "it is a file", "directory"]);
    }
    assert_eq!(std::fs::read(&fief.root).expect("bytes"), b"precious");
    for args in [&["create", "a"][..], &["run", &jobs]] {
        let mut command = bare();
        command.args(["--root", "/proc/fiefdom"]).args(args);
        Started::new(command).end().failed(5, &["/proc/fiefdom"]);
    }
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    let path = fief.root.join(".fiefdom/format.json");
    let text = std::fs::read_to_string(&path).expect("a format");
    let newer = text.replace("\"format\": 1", "\"format\": 7");
    assert_ne!(newer, text);
    std::fs::write(&path, newer).expect("written");
    let before = fief.tree();
    let jobs = fief.write("jobs", "true\n");
    let commands: &[&[&str]] = &[
        &["ls"],
        &["show", "a"],
        &["events", "a"],
        &["logs", "a"],
        &["create", "b"],
        &["update", "a", "--merge", "{}"],
        &["append", "a", "x"],
        &["rm", "a"],
        &["run", &jobs],
        &["resume", "a"],
    ];
    for args in commands {
        fief.run(*args).failed(5, &["format.json", "7", "newer version"]);
        assert_eq!(fief.tree(), before, "{args:?}");
    }
}

#[test]
fn a_damaged_record_is_reported_and_kept_and_the_others_work() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    fief.ok(["create", "b"]);
    let path = fief.instance("a").join("instance.json");
    let text = std::fs::read_to_string(&path).expect("a record");
    let deep = format!("\"state\": {}1{}", "[".repeat(1000), "]".repeat(1000));
    for damaged in [text.replace("\"state\": {}", &deep), "{".to_owned(), String::new()] {
        assert_ne!(damaged, text);
        std::fs::write(&path, &damaged).expect("written");
        let words = [path.to_str().unwrap(), "damaged", "mend"];
        fief.run(["show", "a"]).failed(5, &words);
        fief.run(["update", "a", "--merge", "{}"]).failed(5, &words);
        fief.run(["create", "a"]).failed(2, &["exists already"]);
        let ran = fief.run(["--json", "ls"]);
        let list = ran.json_lines().remove(0);
        assert_eq!((ran.code, &list["damaged"][0]["instance_id"]), (Some(1), &json!("a")), "{ran:?}");
        assert_eq!(list["instances"], json!([fief.record("b")]));
        assert!(words.iter().all(|word| ran.err.contains(word)), "{ran:?}");
        assert_eq!(std::fs::read_to_string(&path).expect("a record"), damaged, "its bytes are kept");
    }
    fief.ok(["update", "b", "--merge", "{}"]);
}

#[test]
fn a_log_that_cannot_be_read_is_named() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    let log = fief.instance("a").join("logs/stdout.log");
    std::fs::create_dir_all(&log).expect("a directory where a file should be");
    fief.run(["logs", "a"]).failed(5, &[log.to_str().unwrap()]);
}
