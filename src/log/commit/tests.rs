use super::*;

fn head(id: &InstanceId) -> Head<'_> {
    Head {
        id,
        uid: Uuid::nil(),
        epoch: 1,
        first: 2,
        revision: 2,
        at: DateTime::UNIX_EPOCH,
        last_event_seq: 3,
        deleted: false,
    }
}

fn id() -> InstanceId {
    InstanceId::new("a").expect("an id")
}

fn line(body: Body, events: &[EventLine]) -> LineDraft {
    LineDraft::of(&head(&id()), body, events).expect("encode")
}

fn read(line: &LineDraft) -> Line {
    decode(line.bytes().strip_suffix(b"\n").expect("a newline")).expect("decode")
}

#[test]
fn two_lines_without_a_newline_between_them_are_both_read() {
    let mark = encode_mark(7, std::iter::once((&id(), 1))).expect("encode");
    let mut merged = [&mark, line(Body::nothing(), &[]).bytes()].concat();
    merged.pop();
    let at = merged.iter().position(|b| *b == b'\n').expect("a newline");
    merged[at] = b'J';
    let [mark, line] = decode_merged(&merged).expect("both");
    assert_eq!((mark.batch.map(|b| b.durable), line.commit.map(|c| c.revision)), (Some(7), Some(2)));
    merged[at + 20] ^= 1;
    assert!(decode_merged(&merged).is_none());
}

#[test]
fn a_mark_says_whose_the_lines_are_and_how_many_commits_each_holds() {
    let ids = ["a", "b", "c"].map(|id| InstanceId::new(id).expect("an id"));
    for counts in [[1, 1, 1], [1, 3, 2]] {
        let mark = encode_mark(7, ids.iter().zip(counts)).expect("encode");
        assert_eq!(mark.windows(6).any(|at| at == b"counts"), counts != [1, 1, 1]);
        let mark = decode(mark.strip_suffix(b"\n").expect("a newline")).expect("decode").batch.expect("a mark");
        assert!(mark.lines().eq(ids.iter().cloned().zip(counts.map(|count| count as u64))));
    }
}

#[test]
fn a_commit_reads_back_to_the_letter() {
    let event = EventLine { seq: 3, text: r#"{"seq":3,"n":123456789012345678901234567890}"#.into() };
    let read = read(&line(Body::encoded(br#"{"x":1e400}"#), &[event.clone(), event]));
    assert_eq!(read.record.map(|r| r.get().to_owned()).as_deref(), Some(r#"{"x":1e400}"#));
    assert_eq!(read.events[1].get(), r#"{"seq":3,"n":123456789012345678901234567890}"#);
    assert_eq!(read.commit.map(|c| c.revision), Some(2));
}

#[test]
fn what_identifies_commits_is_written_as_its_fields_say() {
    let (id, at) = (id(), "2026-01-02T03:04:05.678901Z".parse().expect("a time"));
    let deleted = Head { at, deleted: true, uid: Uuid::now_v7(), epoch: u64::MAX, ..head(&id) };
    for head in [head(&id), deleted, Head { first: 0, ..head(&id) }] {
        let (mut written, Head { id, uid, epoch, first, revision, at, last_event_seq, deleted }) = (Vec::new(), head);
        head.write(&mut written).expect("JSON");
        let (id, first) = (id.clone(), (first != revision).then_some(first));
        let meta = CommitMeta { id, uid, epoch, first, revision, at, last_event_seq, deleted };
        assert_eq!(String::from_utf8(written).expect("text"), serde_json::to_string(&meta).expect("JSON"));
        assert_eq!(meta.count(), if first.is_some() { 3 } else { 1 });
    }
}

#[test]
fn a_line_is_whole_however_long_its_front_is() {
    for len in [1, 100, 128] {
        let id = InstanceId::new(&"i".repeat(len)).expect("an id");
        for number in [0, u64::MAX >> 3] {
            let head = Head { first: number, revision: number, epoch: number, last_event_seq: number, ..head(&id) };
            let line = LineDraft::of(&head, Body::encoded(b"{}"), &[]).expect("encode");
            let read = read(&line);
            assert_eq!(read.commit.map(|c| (c.id, c.revision)), Some((id.clone(), number)));
            assert_eq!(read.record.map(|r| r.get().to_owned()).as_deref(), Some("{}"));
        }
    }
}

#[test]
fn a_line_that_begins_behind_its_end_is_damage() {
    let id = id();
    let line = LineDraft::of(&Head { first: 3, ..head(&id) }, Body::nothing(), &[]).expect("encode");
    assert!(decode(line.bytes().strip_suffix(b"\n").expect("a newline")).is_err());
}

#[test]
fn a_state_reads_back_also_when_it_is_null() {
    for text in ["null", "1e400", r#"{"a":[null]}"#] {
        let state: Box<RawValue> = serde_json::from_str(text).expect("JSON");
        let body = Body::state(&state).expect("encode");
        assert_eq!(body.json_len, text.len());
        let read = read(&line(body, &[]));
        assert_eq!(read.state.as_deref().map(RawValue::get), Some(text));
        assert!(read.record.is_none());
    }
}

#[test]
fn any_flipped_bit_is_noticed() {
    let line = line(Body::nothing(), &[]);
    let line = line.bytes().strip_suffix(b"\n").expect("a newline");
    for at in 0..line.len() {
        let mut broken = line.to_vec();
        broken[at] ^= 1;
        // A digit of the checksum may change its case and mean the same; no other change may.
        assert!(decode(&broken).is_err() || broken.eq_ignore_ascii_case(line), "byte {at}");
    }
}
