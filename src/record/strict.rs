//! JSON that survives its own reading: what it cannot hold is found before anything is written.
//!
//! `serde_json` writes NaN and infinity as `null`, and its errors do not say where. [`write`] keeps the
//! path to what it writes, and refuses: NaN and infinity, map keys that are not text, text that is not
//! UTF-8 (serde reports it for paths), integers of more than 64 bits, and nesting deeper than
//! [`MAX_DEPTH`]. What it writes is what [`json::write_line`] does, to the letter: numbers, keys and
//! what needs an escape are left to `serde_json`.

use std::fmt::{self, Display, Write as _};
use std::ops::Range;

use serde::ser::{self, Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

use super::json::{self, MAX_DEPTH};
use crate::error::{Error, Result};

/// Adds `value` to `out` as compact JSON on one line, if it survives a round trip. `root` names it in
/// the error; what stands in `out` after an error is of no use.
pub(crate) fn write<T: Serialize + ?Sized>(root: &'static str, value: &T, out: &mut Vec<u8>) -> Result<()> {
    let mut writer = Writer { out, path: Vec::new() };
    value.serialize(&mut writer).map_err(|Refused(reason)| Error::Unserializable { field: writer.place(root), reason })
}

/// [`write`] to a text of its own.
pub(crate) fn text<T: Serialize + ?Sized>(root: &'static str, value: &T) -> Result<Box<RawValue>> {
    let mut text = Vec::new();
    write(root, value, &mut text)?;
    let checked = String::from_utf8(text).map_err(serde_json::Error::custom).and_then(RawValue::from_string);
    checked.map_err(|e| json::unserializable(root, &e))
}

/// Checks that `value` survives a round trip through JSON.
pub(crate) fn check<T: Serialize + ?Sized>(root: &'static str, value: &T) -> Result<()> {
    write(root, value, &mut Vec::new())
}

/// Steps of a path that are shown at its beginning, and as many at its end.
const SHOWN_STEPS: usize = 4;

/// Characters of a key that are shown.
const SHOWN_CHARS: usize = 64;

/// What the names of the types begin with that `serde_json` writes in a way of its own.
const PRIVATE: &str = "$serde_json::private::";

enum Step {
    Field(&'static str),
    /// Where the key stands in what is written, as JSON.
    Key(Range<usize>),
    Index(usize),
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

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// The path is left as it stands when something is refused: it then names the place.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    path: Vec<Step>,
}

impl Writer<'_> {
    /// Where it stands, for people: of a long path the beginning and the end.
    fn place(&self, root: &str) -> String {
        let mut text = root.to_owned();
        let shown = |nth: usize| nth < SHOWN_STEPS || nth + SHOWN_STEPS >= self.path.len();
        for (nth, step) in self.path.iter().enumerate().filter(|(nth, _)| shown(*nth)) {
            if nth > 0 && !shown(nth - 1) {
                text.push('…');
            }
            // Writing to a String cannot fail.
            let _ = match step {
                Step::Field(name) => write!(text, ".{name}"),
                Step::Key(written) => {
                    let key: String = serde_json::from_slice(&self.out[written.clone()]).unwrap_or_default();
                    match key.char_indices().nth(SHOWN_CHARS) {
                        Some((end, _)) => write!(text, "[{:?}…]", &key[..end]),
                        None => write!(text, "[{key:?}]"),
                    }
                }
                Step::Index(index) => write!(text, "[{index}]"),
            };
        }
        text
    }

    fn leaf<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        Ok(json::write_line(value, self.out)?)
    }

    fn inside<T: Serialize + ?Sized>(&mut self, step: Step, value: &T) -> Result<(), Refused> {
        self.path.push(step);
        value.serialize(&mut *self)?;
        self.path.pop();
        Ok(())
    }

    /// Text without anything to escape, which most is, is copied as it is.
    fn text(&mut self, text: &str) -> Result<(), Refused> {
        // All bytes are looked at, without an early end: several in one instruction.
        let escaped = |byte| u8::from(byte < b' ' || byte == b'"' || byte == b'\\');
        if text.bytes().fold(0, |found, byte| found | escaped(byte)) > 0 {
            return self.leaf(text);
        }
        self.out.reserve(text.len() + 2);
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
        Ok(())
    }
}

impl<'w, 'a> Writer<'a> {
    fn open(&'w mut self, begin: &[u8], end: &'static [u8]) -> Result<Compound<'w, 'a>, Refused> {
        if self.path.len() >= MAX_DEPTH {
            return Err(Refused(format!("it is nested deeper than {MAX_DEPTH} levels")));
        }
        self.out.extend_from_slice(begin);
        Ok(Compound { writer: self, items: 0, key: 0..0, end, variant: false, private: None })
    }

    /// A variant with content is a map of one key, so it counts as a level.
    fn open_variant(
        &'w mut self,
        variant: &'static str,
        begin: &[u8],
        end: &'static [u8],
    ) -> Result<Compound<'w, 'a>, Refused> {
        self.out.push(b'{');
        self.text(variant)?;
        self.out.push(b':');
        self.path.push(Step::Field(variant));
        Ok(Compound { variant: true, ..self.open(begin, end)? })
    }
}

macro_rules! leaves {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<(), Refused> { self.leaf(&value) })*
    };
}

impl<'w, 'a> Serializer for &'w mut Writer<'a> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Compound<'w, 'a>;
    type SerializeTuple = Compound<'w, 'a>;
    type SerializeTupleStruct = Compound<'w, 'a>;
    type SerializeTupleVariant = Compound<'w, 'a>;
    type SerializeMap = Compound<'w, 'a>;
    type SerializeStruct = Compound<'w, 'a>;
    type SerializeStructVariant = Compound<'w, 'a>;

    leaves!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_char: char,
        serialize_bytes: &[u8]
    );

    fn serialize_str(self, value: &str) -> Result<(), Refused> {
        self.text(value)
    }

    fn serialize_i128(self, value: i128) -> Result<(), Refused> {
        match i64::try_from(value) {
            Ok(value) => self.leaf(&value),
            Err(_) => self.serialize_u128(u128::try_from(value).unwrap_or(u128::MAX)),
        }
    }

    fn serialize_u128(self, value: u128) -> Result<(), Refused> {
        match u64::try_from(value) {
            Ok(value) => self.leaf(&value),
            Err(_) => Err(Refused("an integer of more than 64 bits does not survive JSON; store it as text".into())),
        }
    }

    fn serialize_f32(self, value: f32) -> Result<(), Refused> {
        finite(value.into())?;
        self.leaf(&value)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Refused> {
        finite(value)?;
        self.leaf(&value)
    }

    fn serialize_none(self) -> Result<(), Refused> {
        self.leaf(&())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        self.leaf(&())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refused> {
        self.leaf(&())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Refused> {
        self.text(variant)
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
        let mut map = self.open(b"{", b"}")?;
        ser::SerializeStruct::serialize_field(&mut map, variant, value)?;
        ser::SerializeStruct::end(map)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'w, 'a>, Refused> {
        self.open(b"[", b"]")
    }

    fn serialize_tuple(self, _: usize) -> Result<Compound<'w, 'a>, Refused> {
        self.open(b"[", b"]")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Compound<'w, 'a>, Refused> {
        self.open(b"[", b"]")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'w, 'a>, Refused> {
        self.open_variant(variant, b"[", b"]}")
    }

    /// The brace is written with the first key.
    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'w, 'a>, Refused> {
        self.open(b"", b"}")
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Compound<'w, 'a>, Refused> {
        if name.starts_with(PRIVATE) {
            return Ok(Compound { private: Some(name), ..self.open(b"", b"")? });
        }
        self.open(b"{", b"}")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'w, 'a>, Refused> {
        self.open_variant(variant, b"{", b"}}")
    }
}

fn finite(value: f64) -> Result<(), Refused> {
    if value.is_finite() { Ok(()) } else { Err(Refused(format!("JSON cannot hold {value}; use an Option or text"))) }
}

/// A list, a map or a struct that has been begun.
struct Compound<'w, 'a> {
    writer: &'w mut Writer<'a>,
    items: usize,
    /// Where the last key of a map stands.
    key: Range<usize>,
    end: &'static [u8],
    variant: bool,
    private: Option<&'static str>,
}

impl Compound<'_, '_> {
    fn comma(&mut self) {
        if self.items > 0 {
            self.writer.out.push(b',');
        }
        self.items += 1;
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        let index = self.items;
        self.comma();
        self.writer.inside(Step::Index(index), value)
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refused> {
        if let Some(of) = self.private {
            return self.writer.leaf(&Private { of, name, value });
        }
        self.comma();
        self.writer.text(name)?;
        self.writer.out.push(b':');
        self.writer.inside(Step::Field(name), value)
    }

    fn close(self) {
        self.writer.out.extend_from_slice(self.end);
        if self.variant {
            self.writer.path.pop();
        }
    }
}

macro_rules! compound {
    ($($trait:ident.$method:ident($($name:ident: $type:ty)?) = $own:ident),*) => {
        $(impl ser::$trait for Compound<'_, '_> {
            type Ok = ();
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, $($name: $type,)? value: &T) -> Result<(), Refused> {
                self.$own($($name,)? value)
            }

            fn end(self) -> Result<(), Refused> {
                self.close();
                Ok(())
            }
        })*
    };
}

compound!(
    SerializeSeq.serialize_element() = item,
    SerializeTuple.serialize_element() = item,
    SerializeTupleStruct.serialize_field() = item,
    SerializeTupleVariant.serialize_field() = item,
    SerializeStruct.serialize_field(name: &'static str) = field,
    SerializeStructVariant.serialize_field(name: &'static str) = field
);

impl ser::SerializeMap for Compound<'_, '_> {
    type Ok = ();
    type Error = Refused;

    /// `serde_json` knows which keys it can write (text, numbers, booleans, unit variants): it is asked
    /// rather than imitated.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        let refused = || Refused("a map key must be text, an integer or a unit variant".into());
        let out = &mut *self.writer.out;
        let begin = out.len();
        json::write_line(&OneKey(key), out).map_err(|_| refused())?;
        // `{"key":null}` stands there: its brace is that of the map, or becomes a comma.
        let (text, braced) = (out.len().checked_sub(b"null}".len()), out.get(begin) == Some(&b'{'));
        let end = text.filter(|end| braced && *end > begin + 1 && out.ends_with(b":null}")).ok_or_else(refused)?;
        out.truncate(end);
        if self.items > 0 {
            out[begin] = b',';
        }
        self.items += 1;
        self.key = begin + 1..end - 1;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.writer.inside(Step::Key(self.key.clone()), value)
    }

    fn end(self) -> Result<(), Refused> {
        if self.items == 0 {
            self.writer.out.push(b'{');
        }
        self.close();
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

/// A value in the form in which `serde_json` knows its own types.
struct Private<'a, T: ?Sized> {
    of: &'static str,
    name: &'static str,
    value: &'a T,
}

impl<T: Serialize + ?Sized> Serialize for Private<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use ser::SerializeStruct as _;
        let mut private = serializer.serialize_struct(self.of, 1)?;
        private.serialize_field(self.name, self.value)?;
        private.end()
    }
}

#[cfg(test)]
mod tests;
