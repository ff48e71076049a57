use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use proptest::prelude::*;
use serde::Serialize;

use super::*;

#[derive(Serialize)]
struct Sample<T> {
    list: Vec<BTreeMap<String, T>>,
}

fn field_of<T: Serialize>(value: &T) -> (String, String) {
    match check("state", value) {
        Err(Error::Unserializable { field, reason }) => (field, reason),
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[test]
fn nan_is_refused_and_its_field_named() {
    let sample = |v: f64| Sample { list: vec![BTreeMap::new(), BTreeMap::from([("x".to_owned(), v)])] };
    assert!(check("state", &sample(1.5)).is_ok());
    let (field, reason) = field_of(&sample(f64::NAN));
    assert_eq!(field, "state.list[1][\"x\"]");
    assert!(reason.contains("NaN"), "{reason}");
    assert_eq!(field_of(&sample(f64::INFINITY)).0, field);
}

#[test]
fn a_path_that_is_not_utf8_is_refused_and_named() {
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(b"/tmp/\xff"));
    let (field, reason) = field_of(&Sample { list: vec![BTreeMap::from([("p".to_owned(), path)])] });
    assert_eq!(field, "state.list[0][\"p\"]");
    assert!(reason.contains("UTF-8"), "{reason}");
}

#[test]
fn keys_that_are_not_text_are_refused() {
    assert!(check("state", &BTreeMap::from([(1_u8, 1)])).is_ok());
    let (field, _) = field_of(&BTreeMap::from([(vec![1_u8], 1)]));
    assert_eq!(field, "state");
}

#[test]
fn big_integers_and_deep_nesting_are_refused() {
    assert!(check("state", &u64::MAX).is_ok() && check("state", &i128::from(i64::MIN)).is_ok());
    assert!(field_of(&u128::MAX).1.contains("64 bits"));
    assert!(field_of(&i128::MIN).1.contains("64 bits"));
    let nested = |n| (0..n).fold(serde_json::Value::Null, |inner, _| serde_json::Value::Array(vec![inner]));
    assert!(check("state", &nested(MAX_DEPTH)).is_ok());
    assert!(field_of(&nested(MAX_DEPTH + 1)).1.contains("nested"));
    let (field, _) = field_of(&nested(1_000));
    assert!(field.len() < 100 && field.contains('…'), "a message is for people: {field}");
    let (field, _) = field_of(&BTreeMap::from([("k".repeat(10_000), f64::NAN)]));
    assert!(field.len() < 100 && field.contains('…'), "{field}");
}

#[test]
fn what_passes_reads_back_at_the_deepest_level() {
    let nested = (0..MAX_DEPTH).fold(serde_json::Value::Null, |inner, _| serde_json::Value::Array(vec![inner]));
    let wrapped = serde_json::json!({ "record": { "state": nested } }).to_string();
    assert!(super::super::json::check(wrapped.as_bytes()).is_ok());
}

#[derive(Serialize)]
enum Shape {
    Unit,
    One(f64),
    Two(f64, f64),
    Named { side: f64 },
}

fn written<T: Serialize>(value: &T) -> String {
    let mut out = Vec::new();
    write("state", value, &mut out).expect("JSON can hold it");
    String::from_utf8(out).expect("text")
}

#[test]
fn json_of_several_lines_is_written_on_one() {
    let raw: Box<RawValue> = serde_json::from_str("{\r\n\t\"a \\\" \\\\\" : [ 1.0e1 , \"\\n \" ]\n}").expect("JSON");
    assert_eq!(written(&vec![&raw, &raw]), "[{\"a \\\" \\\\\":[1.0e1,\"\\n \"]},{\"a \\\" \\\\\":[1.0e1,\"\\n \"]}]");
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_filter("JSON can hold it", |v| v.is_finite()).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        "[a-zé\"\\\\\n\u{7f}\u{1f}]{0,80}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

#[derive(Serialize)]
struct Everything<'a> {
    value: &'a serde_json::Value,
    raw: Box<RawValue>,
    #[serde(rename = "a \"name\"")]
    renamed: Option<char>,
    none: Option<()>,
    by_number: BTreeMap<i16, f32>,
    by_text: BTreeMap<&'a str, (u8, Shape)>,
    shapes: Vec<Shape>,
    pair: Pair,
    unit: (),
    wide: (i128, u128),
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Pair(i8, Box<str>);

proptest! {
    #[test]
    fn it_writes_what_serde_json_writes(
        value in any_json(),
        character in any::<char>(),
        text in any::<String>(),
        by_number in prop::collection::btree_map(any::<i16>(), -1e9_f32..1e9, 0..4),
    ) {
        let everything = Everything {
            value: &value,
            raw: serde_json::value::to_raw_value(&value).expect("JSON"),
            renamed: Some(character),
            none: None,
            by_number,
            by_text: BTreeMap::from([(&*text, (7, Shape::Unit)), ("b", (8, Shape::Two(0.5, -0.0)))]),
            shapes: vec![Shape::Unit, Shape::One(1e300), Shape::Two(1.0, 2.5e-7), Shape::Named { side: 3.0 }],
            pair: Pair(-1, text.clone().into()),
            unit: (),
            wide: (i128::from(i64::MIN), u128::from(u64::MAX)),
            more: BTreeMap::from([("more".to_owned(), value.clone())]),
        };
        prop_assert_eq!(written(&everything), serde_json::to_string(&everything).expect("JSON"));
    }
}

#[test]
fn every_kind_of_variant_is_walked() {
    assert!(
        check("state", &vec![Shape::Unit, Shape::One(1.0), Shape::Two(1.0, 2.0), Shape::Named { side: 1.0 }]).is_ok()
    );
    assert_eq!(field_of(&Shape::One(f64::NAN)).0, "state.One");
    assert_eq!(field_of(&Shape::Two(0.0, f64::NAN)).0, "state.Two[1]");
    assert_eq!(field_of(&Shape::Named { side: f64::NAN }).0, "state.Named.side");
}
