//! Why a beacon is refused, in words for whoever sent it.
//!
//! A [`Detail`] says what is wrong, a [`Reject`] also where, and every detail belongs to exactly one
//! [`Refusal`]: what the ledger counts and what the sender reads cannot disagree.

use std::fmt;

use crate::event::{MAX_EVENT_BYTES, Micros};
use crate::reason::Refusal;

use super::MAX_EVENTS;

/// A refusal: its [`fmt::Display`] is the one line that the sender sees.
#[derive(Debug, thiserror::Error)]
#[error("{place}{detail}")]
pub struct Reject {
    /// Which part of the beacon it is about.
    pub place: Place,
    /// What is wrong with it.
    pub detail: Detail,
}

impl Reject {
    /// The word that the ledger counts it under.
    pub fn reason(&self) -> Refusal {
        self.detail.reason()
    }
}

impl From<Detail> for Reject {
    fn from(detail: Detail) -> Self {
        Self { place: Place::Whole, detail }
    }
}

/// Which part of a beacon. Numbers begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All of it.
    Whole,
    /// An entry of a JSON array.
    Entry(usize),
    /// A line of a body of lines, blank ones counted.
    Line(usize),
}

impl fmt::Display for Place {
    /// The beginning of a message about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Entry(number) => write!(f, "entry {number}: "),
            Self::Line(number) => write!(f, "line {number}: "),
        }
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Detail {
    /// `id` has a text that is no UUID.
    #[error("id is not a UUID")]
    Id,
    /// `value` or `age` is no decimal number.
    #[error("{key} is not a decimal number")]
    Number {
        /// Which of the two.
        key: &'static str,
    },
    /// `value` is too great to be kept exactly.
    #[error("value is beyond {}", Micros::MAX)]
    Range,
    /// `lost` is no whole number of 32 bits.
    #[error("lost is not a whole number from 0 to {}", u32::MAX)]
    Lost,
    /// A key that takes one text has an object or an array.
    #[error("{key} is an object or an array, not a string or a number")]
    NotPlain {
        /// Which key.
        key: &'static str,
    },
    /// Not JSON, where only JSON can stand.
    #[error("not JSON: {error}")]
    Json {
        /// What the parser says, with line and column.
        error: serde_json::Error,
    },
    /// JSON, but no object.
    #[error("not a JSON object")]
    NotAnObject,
    /// JSON that is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// A line that is neither of the two kinds.
    #[error("neither a JSON object nor a query string with `=`")]
    NotALine,
    /// `[]`
    #[error("no events in the array")]
    NoEvents,
    /// More events than a body may have.
    #[error("{events} events in one body, more than {MAX_EVENTS}")]
    TooMany {
        /// How many it has.
        events: usize,
    },
    /// One event that would not fit into a record.
    #[error("the event is larger than {} KiB", MAX_EVENT_BYTES / 1024)]
    TooLarge,
    /// More than the log takes of one body: each event repeats what the headers say. Only the door knows.
    #[error("the events of this body are too large together")]
    TooMuch,
    /// `multipart/…`
    #[error("multipart bodies are not taken")]
    Multipart,
    /// The event's site is not among those that this collector takes. Only the door knows.
    #[error("site is not one of those listed")]
    Site,
}

impl Detail {
    /// The word that the ledger counts it under.
    pub fn reason(&self) -> Refusal {
        match self {
            Self::TooMany { .. } | Self::TooLarge | Self::TooMuch => Refusal::TooLarge,
            Self::Multipart => Refusal::Type,
            Self::Site => Refusal::Site,
            Self::Id
            | Self::Number { .. }
            | Self::Range
            | Self::Lost
            | Self::NotPlain { .. }
            | Self::Json { .. }
            | Self::NotAnObject
            | Self::NotUtf8
            | Self::NotALine
            | Self::NoEvents => Refusal::Malformed,
        }
    }
}
