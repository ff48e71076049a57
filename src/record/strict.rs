//! What JSON cannot hold, found before anything is written.
//!
//! `serde_json` writes NaN and infinity as `null`, and its errors do not say where. [`check`] walks a
//! value through a serializer that writes nothing, keeps the path, and refuses: NaN and infinity,
//! map keys that are not strings, text that is not UTF-8 (serde reports it for paths), integers of
//! more than 64 bits, and nesting deeper than [`MAX_DEPTH`].

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};

use serde::ser::{self, Serialize, Serializer};

use super::json::MAX_DEPTH;
use crate::error::{Error, Result};

/// Checks that `value` survives a round trip through JSON. `root` names it in the error.
pub(crate) fn check<T: Serialize + ?Sized>(root: &'static str, value: &T) -> Result<()> {
    let path = RefCell::new(Vec::new());
    match value.serialize(Walk { path: &path }) {
        Ok(()) => Ok(()),
        Err(Refused(reason)) => Err(Error::Unserializable { field: render(root, &path.borrow()), reason }),
    }
}

/// Steps of a path that are shown at its beginning, and as many at its end.
const SHOWN_STEPS: usize = 4;

/// Characters of a key that are shown.
const SHOWN_CHARS: usize = 64;

enum Step {
    Field(&'static str),
    Key(String),
    Index(usize),
}

/// Of a long path the beginning and the end: a message is for people.
fn render(root: &str, path: &[Step]) -> String {
    let mut text = root.to_owned();
    let shown = |nth: usize| nth < SHOWN_STEPS || nth + SHOWN_STEPS >= path.len();
    for (nth, step) in path.iter().enumerate().filter(|(nth, _)| shown(*nth)) {
        if nth > 0 && !shown(nth - 1) {
            text.push('…');
        }
        // Writing to a String cannot fail.
        let _ = match step {
            Step::Field(name) => write!(text, ".{name}"),
            Step::Key(key) => match key.char_indices().nth(SHOWN_CHARS) {
                Some((end, _)) => write!(text, "[{:?}…]", &key[..end]),
                None => write!(text, "[{key:?}]"),
            },
            Step::Index(index) => write!(text, "[{index}]"),
        };
    }
    text
}

#[derive(Debug)]
struct Refused(String);

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// The path is left as it stands when something is refused: it then names the place.
#[derive(Clone, Copy)]
struct Walk<'a> {
    path: &'a RefCell<Vec<Step>>,
}

impl<'a> Walk<'a> {
    fn inside<T: Serialize + ?Sized>(self, step: Step, value: &T) -> Result<(), Refused> {
        self.path.borrow_mut().push(step);
        value.serialize(self)?;
        self.path.borrow_mut().pop();
        Ok(())
    }

    fn open(self) -> Result<Compound<'a>, Refused> {
        if self.path.borrow().len() >= MAX_DEPTH {
            return Err(Refused(format!("it is nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Compound { walk: self, index: 0, key: None, variant: false })
    }

    /// A variant with content is a map of one key, so it counts as a level.
    fn open_variant(self, variant: &'static str) -> Result<Compound<'a>, Refused> {
        self.path.borrow_mut().push(Step::Field(variant));
        Ok(Compound { variant: true, ..self.open()? })
    }
}

macro_rules! accept {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, _: $type) -> Result<(), Refused> { Ok(()) })*
    };
}

impl<'a> Serializer for Walk<'a> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Compound<'a>;
    type SerializeTuple = Compound<'a>;
    type SerializeTupleStruct = Compound<'a>;
    type SerializeTupleVariant = Compound<'a>;
    type SerializeMap = Compound<'a>;
    type SerializeStruct = Compound<'a>;
    type SerializeStructVariant = Compound<'a>;

    accept!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_char: char,
        serialize_str: &str, serialize_bytes: &[u8], serialize_unit_struct: &'static str
    );

    fn serialize_i128(self, value: i128) -> Result<(), Refused> {
        i64::try_from(value).map(drop).or_else(|_| self.serialize_u128(u128::try_from(value).unwrap_or(u128::MAX)))
    }

    fn serialize_u128(self, value: u128) -> Result<(), Refused> {
        u64::try_from(value)
            .map(drop)
            .map_err(|_| Refused("an integer of more than 64 bits does not survive JSON; store it as text".into()))
    }

    fn serialize_f32(self, value: f32) -> Result<(), Refused> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Refused> {
        if value.is_finite() {
            Ok(())
        } else {
            Err(Refused(format!("JSON cannot hold {value}; use an Option or text")))
        }
    }

    fn serialize_none(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.open()?;
        self.inside(Step::Field(variant), value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'a>, Refused> {
        self.open()
    }

    fn serialize_tuple(self, _: usize) -> Result<Compound<'a>, Refused> {
        self.open()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Compound<'a>, Refused> {
        self.open()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'a>, Refused> {
        self.open_variant(variant)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'a>, Refused> {
        self.open()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Compound<'a>, Refused> {
        self.open()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'a>, Refused> {
        self.open_variant(variant)
    }
}

struct Compound<'a> {
    walk: Walk<'a>,
    index: usize,
    key: Option<String>,
    variant: bool,
}

impl Compound<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        let index = self.index;
        self.index += 1;
        self.walk.inside(Step::Index(index), value)
    }

    fn close(self) {
        if self.variant {
            self.walk.path.borrow_mut().pop();
        }
    }
}

macro_rules! items {
    ($($trait:ident.$method:ident),*) => {
        $(impl ser::$trait for Compound<'_> {
            type Ok = ();
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
                self.item(value)
            }

            fn end(self) -> Result<(), Refused> {
                self.close();
                Ok(())
            }
        })*
    };
}

items!(
    SerializeSeq.serialize_element,
    SerializeTuple.serialize_element,
    SerializeTupleStruct.serialize_field,
    SerializeTupleVariant.serialize_field
);

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Compound<'_> {
            type Ok = ();
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refused> {
                self.walk.inside(Step::Field(name), value)
            }

            fn end(self) -> Result<(), Refused> {
                self.close();
                Ok(())
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Compound<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        // serde_json itself knows which keys it can write (strings, integers, booleans, unit
        // variants); it is asked rather than imitated. Floats are let through by some versions, and
        // do not compare after a round trip.
        let refused = || Refused("a map key must be text, an integer or a unit variant".into());
        let text = serde_json::to_string(&OneKey(key)).map_err(|_| refused())?;
        let mut map: std::collections::BTreeMap<String, ()> = serde_json::from_str(&text).map_err(|_| refused())?;
        self.key = map.pop_first().map(|(key, ())| key);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        let key = self.key.take().unwrap_or_default();
        self.walk.inside(Step::Key(key), value)
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

/// A map of one key and a null, to let `serde_json` judge the key.
struct OneKey<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> Serialize for OneKey<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use ser::SerializeMap as _;
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.0, &())?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::PathBuf;

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

    #[test]
    fn every_kind_of_variant_is_walked() {
        assert!(
            check("state", &vec![Shape::Unit, Shape::One(1.0), Shape::Two(1.0, 2.0), Shape::Named { side: 1.0 }])
                .is_ok()
        );
        assert_eq!(field_of(&Shape::One(f64::NAN)).0, "state.One");
        assert_eq!(field_of(&Shape::Two(0.0, f64::NAN)).0, "state.Two[1]");
        assert_eq!(field_of(&Shape::Named { side: f64::NAN }).0, "state.Named.side");
    }
}
