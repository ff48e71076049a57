//! Every message, to its end.

use super::*;

/// One of each variant. A new one does not compile here until it says what its message ends in.
fn advised(error: &Error) -> &'static str {
    match error {
        Error::InvalidId { .. } => "; use for example \"build-42\"",
        Error::InvalidInput { .. } => "; name it",
        Error::NotFound { .. } => " ls` lists those that exist",
        Error::AlreadyExists { .. } => "; choose another id, or delete it first",
        Error::Gone { .. } => "; bring it back from a backup, unless it was meant to be deleted",
        Error::Locked { .. } => "; wait until it is done, or stop that process",
        Error::KindMismatch { .. } => "; open it with a store of its own kind, or `Untyped`",
        Error::Transition { .. } => "; it can become pending",
        Error::TooLarge { .. } => {
            "; keep large data in files under workspace/ or output/, or raise Options::record_bytes"
        }
        Error::Overloaded { .. } => "; try again when some of it is done, or raise Options::queued_per_store",
        Error::Unserializable { .. } => "; give it a value that JSON has, or another type",
        Error::Corrupt { .. } => ": mend the file by hand, or restore it",
        Error::NewerFormat { .. } => "; use a newer version of it",
        Error::Schema { .. } => ": migrate it, or use the program that wrote it",
        Error::StateFile { .. } => ": mend it by hand, or move it away to begin anew",
        Error::Busy { .. } => "; try again when it is done, or wait longer",
        Error::Io { .. } => "; make room",
        Error::NotApplied { .. } => "; make room; then try again",
        Error::Unknown { .. } => "; make room; then open the store again and look at the instance",
        Error::Poisoned { .. } => "; make room; then open it again",
        Error::Panicked { .. } => ": mend the closure",
        // The words are the caller's own.
        Error::Rejected { .. } => "paid already",
        Error::CrashLoop { .. } => "; look at the log of the program for the cause",
        Error::Crashed { .. } => "; read the instance to see whether it was applied",
        Error::Prepare { .. } => "; mend the cause: it is tried again at the next use",
        Error::Root { .. } => "; set HOME",
        Error::NotAnswered { .. } => "; it stays open, and asking again finds the answer when there is one",
        Error::Remote { .. } => "; try again",
        Error::Closed => "; open it again",
    }
}

fn all() -> Vec<Error> {
    let id = || InstanceId::new("a-1").expect("it is valid");
    let path = || PathBuf::from("/data");
    let full = || Error::io("write", &path(), io::Error::from(io::ErrorKind::StorageFull));
    let reason = || Arc::new(full());
    let text = |text: &str| text.to_owned();
    let told: Arc<dyn std::error::Error + Send + Sync> = Arc::new(io::Error::other("no index"));
    vec![
        Error::InvalidId { id: text("A"), reason: "capital letters are not allowed" },
        Error::InvalidInput { what: "tag", reason: text("its key is empty; name it") },
        Error::NotFound { id: id(), root: path().join("instances") },
        Error::AlreadyExists { id: id(), path: path() },
        Error::Gone { id: id(), path: path() },
        Error::Locked { id: id(), owner: None },
        Error::KindMismatch { id: id(), expected: "job", found: text("batch") },
        Error::Transition { id: id(), from: Status::Failed, to: Status::Running },
        Error::TooLarge { what: "record", bytes: 2, limit: 1 },
        Error::Overloaded { what: "operations waiting in the store", limit: 1 },
        Error::Unserializable { field: text("state.rate"), reason: text("NaN") },
        Error::Corrupt { path: path(), offset: Some(3), reason: text("a checksum") },
        Error::NewerFormat { path: path(), found: 9, supported: 1 },
        Error::Schema { id: id(), kind: "job", version: 2, reason: text("no field `n`") },
        Error::StateFile { path: path(), kind: "settings", version: 2, reason: text("no field `n`") },
        Error::Busy { path: path(), waited: Duration::from_secs(1) },
        full(),
        Error::NotApplied { id: id(), reason: reason() },
        Error::Unknown { id: id(), reason: reason() },
        Error::Poisoned { reason: reason() },
        Error::Panicked { what: text("instance \"a-1\""), message: text("index out of bounds") },
        Error::rejected("the order is paid already"),
        Error::CrashLoop { id: id(), crashes: 5, window: Duration::from_secs(60) },
        Error::Crashed { id: id() },
        Error::Prepare { kind: "job", source: told },
        Error::Root { path: path(), reason: text("HOME is not set; set HOME") },
        Error::NotAnswered { id: id(), key: text("deploy"), why: Unanswered::TimedOut },
        Error::Remote { id: id(), reason: text("it is shutting down; try again") },
        Error::Closed,
    ]
}

#[test]
fn every_message_ends_in_what_to_do_next() {
    let all = all();
    let kinds: std::collections::BTreeSet<_> = all.iter().map(advised).collect();
    assert_eq!(kinds.len(), 29, "a variant is missing from the list, or two end in the same words");
    for error in all {
        let said = error.to_string();
        assert!(said.ends_with(advised(&error)), "{said}");
    }
    for why in [Unanswered::TimedOut, Unanswered::Cancelled, Unanswered::Withdrawn] {
        assert!(why.to_string().contains("ask"), "{why}");
    }
}

#[test]
fn no_message_says_the_same_twice() {
    let again = Error::Overloaded { what: "bytes of commits waiting for the log", limit: 1 };
    let id = InstanceId::new("a-1").expect("it is valid");
    let mut all = all();
    all.push(Error::NotApplied { id, reason: Arc::new(again) });
    all.push(Error::Poisoned { reason: Arc::new(Error::Closed) });
    for error in all {
        let said = error.to_string();
        let mut parts: Vec<&str> = said.split([';', ':', ',']).map(str::trim).collect();
        let count = parts.len();
        parts.sort_unstable();
        parts.dedup();
        assert_eq!(parts.len(), count, "{said}");
    }
}

#[test]
fn a_limit_is_to_be_raised_only_where_an_option_raises_it() {
    let raised = |error: Error| error.to_string().split_once("Options::").map(|(_, option)| option.to_owned());
    let large = |what| raised(Error::TooLarge { what, bytes: 2, limit: 1 });
    let waiting = |what| raised(Error::Overloaded { what, limit: 1 });
    assert_eq!(large("event").as_deref(), Some("event_bytes"));
    assert_eq!(waiting("bytes of commits waiting for the log").as_deref(), Some("queued_bytes"));
    for fixed in ["tag", "number of tags", "prompt", "state file", "item of a batch"] {
        let said = Error::TooLarge { what: fixed, bytes: 2, limit: 1 }.to_string();
        assert!(!said.contains("raise") && said.contains("; "), "{said}");
    }
    for fixed in ["open input requests of one instance", "items of a batch handed out at once"] {
        let said = Error::Overloaded { what: fixed, limit: 1 }.to_string();
        assert!(!said.contains("raise") && !said.contains("try again"), "{said}");
    }
}

#[test]
fn an_instance_in_use_as_another_type_is_not_said_to_be_of_another_kind() {
    let id = InstanceId::new("a-1").expect("it is valid");
    let said = Error::KindMismatch { id, expected: "job", found: "job".to_owned() }.to_string();
    assert!(said.contains("in use in this process as another type; ") && !said.contains("of kind"), "{said}");
}

#[test]
fn a_life_that_is_over_is_told_apart_from_one_that_can_go_on() {
    let from = |from| Error::Transition { id: InstanceId::generate(), from, to: Status::Running }.to_string();
    assert!(from(Status::Succeeded).ends_with("its life is over: make a new instance"));
    assert!(from(Status::Cancelled).ends_with("it can become pending"));
}

#[test]
fn a_command_in_a_message_is_about_the_root_that_was_asked() {
    let said = |root: &str| {
        let id = InstanceId::new("a-1").expect("it is valid");
        Error::NotFound { id, root: Path::new(root).join("instances") }.to_string()
    };
    assert!(said("/data").contains("`fiefdom --root /data ls`"), "{}", said("/data"));
    let quoted = r"`fiefdom --root '/my data'\''s' ls`";
    assert!(said("/my data's").contains(quoted), "{}", said("/my data's"));
}
