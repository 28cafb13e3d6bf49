//! `inspect`: records of the log as JSON lines.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use serde_json::json;
use tallylight_proto::json::EventJson;
use tallylight_proto::ledger::Ledger;
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::Framed;
use tallylight_proto::time::rfc3339;
use tallylight_proto::{Front, Refusal, Shed};
use thiserror::Error;

use crate::log::{Item, LogError, Purpose, Reader};
use crate::settings::Inspect;

/// Why the log could not be looked at.
#[derive(Debug, Error)]
pub enum LookError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Standard output.
    #[error("cannot print")]
    Print {
        /// What the system said.
        #[from]
        source: io::Error,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    position: u64,
    ordinal: u64,
    #[serde(flatten)]
    event: EventJson<'a>,
}

/// Prints records, in log order. What is lost is told on the program's own log. That nobody reads on is no error.
pub fn inspect(data: &Path, wanted: &Inspect, out: impl Write) -> Result<(), LookError> {
    match print(data, wanted, out) {
        Err(LookError::Print { source }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

fn print(data: &Path, wanted: &Inspect, mut out: impl Write) -> Result<(), LookError> {
    // positions between records are taken as well, so the segment is read from its beginning
    let from = wanted.from.unwrap_or(0);
    let mut reader = Reader::new(data, Purpose::Look, None);
    reader.look()?;
    reader.skip_to(from);
    let mut left = wanted.limit.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
    reader.read(|item| {
        let printed = match item {
            Item::Record(framed) if framed.position >= from => print_record(&framed, wanted, &mut out)?,
            Item::Record(_) | Item::SetBack => false,
            Item::Lost(lost) => {
                let (position, end) = (lost.position, lost.end);
                tracing::warn!(position, end, records = lost.records, "not there: {}", lost.cause.text());
                false
            }
        };
        left -= u64::from(printed);
        Ok::<_, LookError>(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(out.flush()?)
}

fn print_record(framed: &Framed<'_>, wanted: &Inspect, out: &mut impl Write) -> Result<bool, LookError> {
    let (position, ordinal) = (framed.position, framed.ordinal);
    match record::decode(framed.payload) {
        Ok(Record::Event(event)) => {
            serde_json::to_writer(&mut *out, &Line { position, ordinal, event: EventJson(&event) })
                .map_err(io::Error::from)?;
        }
        Ok(Record::Ledger(ledger)) if wanted.ledger => {
            serde_json::to_writer(&mut *out, &ledger_json(framed, &ledger)).map_err(io::Error::from)?;
        }
        Ok(Record::Ledger(_)) => return Ok(false),
        Err(error) => {
            tracing::warn!(position, %error, "a record cannot be understood");
            return Ok(false);
        }
    }
    out.write_all(b"\n")?;
    Ok(true)
}

fn ledger_json(framed: &Framed<'_>, ledger: &Ledger) -> serde_json::Value {
    let counts = &ledger.counts;
    let received: serde_json::Map<_, _> =
        Front::ALL.iter().map(|front| (front.label().to_owned(), counts.received[front.index()].into())).collect();
    let shed: serde_json::Map<_, _> =
        Shed::ALL.iter().map(|shed| (shed.label().to_owned(), counts.shed[shed.index()].into())).collect();
    let refused: serde_json::Map<_, _> = Refusal::ALL
        .iter()
        .map(|refusal| (refusal.label().to_owned(), counts.refused[refusal.index()].into()))
        .collect();
    json!({
        "position": framed.position,
        "ordinal": framed.ordinal,
        "ledger": {
            "at": rfc3339(ledger.at), "life": rfc3339(ledger.life), "closing": ledger.closing,
            "received": received, "logged": counts.logged, "shed": shed, "refused": refused,
        },
    })
}
