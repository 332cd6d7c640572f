//! Field types that refuse a wrong value while it is read, so the error knows the field's path.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::types::job::Deadline;
use crate::types::time::parse_span;
use crate::types::{NanoUsd, Wall};

/// The longest name, in bytes: an index key in every store.
const NAME_BYTES_MAX: usize = 256;

/// Implements `Deserialize` for a type made from a text by `$read: fn(&str) -> Option<Self>`.
macro_rules! from_text {
    ($type:ty, $expecting:literal, $read:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Read;
                impl Visitor<'_> for Read {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: Error>(self, text: &str) -> Result<$type, E> {
                        let read: fn(&str) -> Option<$type> = $read;
                        read(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_any(Read)
            }
        }
    };
}

/// An id or a name: short, and printable on one line.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);
from_text!(Name, "a text of 1 to 256 bytes without control characters", |text| {
    is_name(text).then(|| Name(text.to_owned()))
});

/// Whether `text` can be an id.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

/// A point in time or a span.
#[derive(Debug)]
pub(super) struct When(pub(super) Deadline);
from_text!(
    When,
    "a time with an offset such as \"2026-11-21T18:00:00Z\" or a span above zero such as \"10m\"",
    |text| {
        let at = text.parse::<jiff::Timestamp>().ok().map(|at| Deadline::At(at.into()));
        let within = || parse_span(text).ok().filter(|span| !span.is_zero()).map(Deadline::Within);
        at.or_else(within).map(When)
    }
);

/// A point in time.
#[derive(Debug)]
pub(super) struct At(pub(super) Wall);
from_text!(At, "a time with an offset such as \"2026-11-21T18:00:00Z\"", |text| {
    text.parse::<jiff::Timestamp>().ok().map(|at| At(at.into()))
});

/// Dollars, at least zero.
#[derive(Debug)]
pub(super) struct Dollars(pub(super) NanoUsd);
from_text!(Dollars, "dollars of at least zero as a decimal text such as \"0.02\"", |text| {
    NanoUsd::parse_cap(text).ok().map(Dollars)
});

/// A whole number in a range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<const MIN: u32, const MAX: u32>;
        impl<const MIN: u32, const MAX: u32> Visitor<'_> for Read<MIN, MAX> {
            type Value = Count<MIN, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number between {MIN} and {MAX}")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                let fits = u32::try_from(number).ok().filter(|n| (MIN..=MAX).contains(n));
                fits.map(Count).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Read::<MIN, MAX>)
    }
}

/// A number from 0 to `MAX`, both included.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpTo<const MAX: u32>(pub(super) f64);

impl<'de, const MAX: u32> Deserialize<'de> for UpTo<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<const MAX: u32>;
        impl<const MAX: u32> Visitor<'_> for Read<MAX> {
            type Value = UpTo<MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number between 0 and {MAX}")
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                let fits = (0.0..=f64::from(MAX)).contains(&number);
                if fits { Ok(UpTo(number)) } else { Err(E::invalid_value(Unexpected::Float(number), &self)) }
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                match u32::try_from(number) {
                    Ok(small) if small <= MAX => Ok(UpTo(f64::from(small))),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Read::<MAX>)
    }
}

/// One text or a list of them.
#[derive(Debug, Default)]
pub(super) struct Texts(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// An object of free content.
#[derive(Debug)]
pub(super) struct Object(pub(super) serde_json::Value);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Map::deserialize(deserializer).map(|map| Self(serde_json::Value::Object(map)))
    }
}
