//! What is read of the log, gathered into portions: they are taken one by one, perhaps while others are read.

use tallylight_proto::ledger::Ledger;
use tallylight_proto::record::{self, Record, RecordError};

use crate::batch::Batch;
use crate::log::{Item, Lost};

/// Events, and the one other thing that was read behind them.
#[derive(Debug, Default)]
pub struct Portion {
    /// The events.
    pub batch: Batch,
    /// What came behind them: what comes before it is counted before it.
    pub then: Option<Other>,
    /// The ordinal of its first record, if it has any.
    pub first_ordinal: Option<u64>,
    /// How much of the log it is.
    pub bytes: u64,
}

/// What is no event.
#[derive(Debug)]
pub enum Other {
    /// A ledger record.
    Ledger {
        /// Its position.
        position: u64,
        /// What it says.
        ledger: Box<Ledger>,
    },
    /// A whole record that says nothing that we know.
    NotUnderstood {
        /// Its position.
        position: u64,
        /// Why.
        error: RecordError,
    },
    /// Some of the log.
    Lost(Lost),
    /// See [`Item::SetBack`].
    SetBack {
        /// How many records.
        records: u64,
    },
}

impl Portion {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.then.is_none()
    }

    /// Takes what is next, and says whether nothing more has room behind it.
    pub fn take(&mut self, item: Item<'_>) -> bool {
        self.bytes += item.bytes();
        if let Item::Record(framed) = &item {
            self.first_ordinal.get_or_insert(framed.ordinal);
        }
        self.then = match item {
            Item::Record(framed) if record::is_event(framed.payload) => match self.batch.push(&framed) {
                Ok(()) => return self.batch.is_full(),
                Err(error) => Some(Other::NotUnderstood { position: framed.position, error }),
            },
            Item::Record(framed) => Some(match record::decode(framed.payload) {
                Ok(Record::Ledger(ledger)) => Other::Ledger { position: framed.position, ledger: Box::new(ledger) },
                Ok(Record::Event(_)) => unreachable!("events are in batches"),
                Err(error) => Other::NotUnderstood { position: framed.position, error },
            }),
            Item::Lost(lost) => Some(Other::Lost(lost)),
            Item::SetBack { records } => Some(Other::SetBack { records }),
        };
        true
    }
}
