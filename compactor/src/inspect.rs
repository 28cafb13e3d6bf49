//! `inspect`: records of the log as JSON lines.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Value, json};
use tallylight_proto::json::EventJson;
use tallylight_proto::ledger::{FrontCounts, Ledger};
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::Framed;
use tallylight_proto::sources::{Bounds, Figures, Mark, Marks, Scope};
use tallylight_proto::time::rfc3339;
use tallylight_proto::{Counts, DatagramRefusal, Front, Refusal, Shed};
use tallylight_service::Bar;
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
    // lines on the same terminal show it better, and of a part of the log nobody knows how much it is
    let is_whole = wanted.from.is_none() && wanted.limit.is_none();
    let bar = match is_whole && !io::stdout().is_terminal() {
        true => Bar::start("inspecting", reader.bytes_behind()?),
        false => Bar::default(),
    };
    reader.read(|item| {
        bar.add(item.bytes());
        let printed = match item {
            Item::Record(framed) if framed.position >= from => print_record(&framed, wanted, &mut out)?,
            Item::Record(_) | Item::SetBack { .. } => false,
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
            write_json(out, &Line { position, ordinal, event: EventJson(&event) })?;
        }
        Ok(Record::Ledger(ledger)) if wanted.ledger => {
            write_json(out, &ledger_json(framed, &ledger))?;
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

fn write_json(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    Ok(line.serialize(&mut serde_json::Serializer::with_formatter(out, Harmless))?)
}

/// JSON as short as it gets, in which strings have no character that a terminal might act on or that turns text around:
/// what strangers sent is to be looked at.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_active) {
            let (plain, from) = rest.split_at(at);
            let mut units = [0; 2];
            let active = from.chars().next().expect("it was found there");
            writer.write_all(plain.as_bytes())?;
            for unit in active.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &from[active.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// DEL and the C1 controls (those below U+0020 are escaped in any JSON), ends of lines and paragraphs, marks of direction.
fn is_active(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn ledger_json(framed: &Framed<'_>, ledger: &Ledger) -> Value {
    let Counts { fronts, datagrams } = &ledger.counts;
    json!({
        "position": framed.position,
        "ordinal": framed.ordinal,
        "ledger": {
            "at": rfc3339(ledger.at), "life": rfc3339(ledger.life), "closing": ledger.closing,
            "fronts": labelled(Front::ALL.map(Front::label), fronts.map(|front| front_json(&front))),
            "datagrams": {
                "received": datagrams.received, "lost": datagrams.lost, "recovered": datagrams.recovered,
                "duplicate": datagrams.duplicate, "kernel_dropped": datagrams.kernel_dropped,
                "refused": labelled(DatagramRefusal::ALL.map(DatagramRefusal::label), datagrams.refused),
            },
            "marks": marks_json(&ledger.marks),
        },
    })
}

fn front_json(counts: &FrontCounts) -> Value {
    json!({
        "received": counts.received, "logged": counts.logged,
        "shed": labelled(Shed::ALL.map(Shed::label), counts.shed),
        "refused": labelled(Refusal::ALL.map(Refusal::label), counts.refused),
    })
}

fn marks_json(marks: &Marks) -> Value {
    let Marks { scope, forgotten, untracked, marks } = marks;
    json!({
        "scope": match scope { Scope::Changes => "changes", Scope::All => "all" },
        "forgotten": merged(json!({"sources": forgotten.0}), figures_json(&forgotten.1)),
        "untracked": untracked,
        "sources": marks.iter().map(|mark| mark_json(mark, *scope)).collect::<Vec<_>>(),
    })
}

fn mark_json(mark: &Mark, scope: Scope) -> Value {
    let Bounds { first, floor, aged, next } = mark.bounds;
    let numbers = match scope {
        Scope::Changes => "came_without_record",
        Scope::All => "missing_words",
    };
    let window = json!({
        "key": mark.id.key, "source": format!("{:016x}", mark.id.source), "gone": mark.is_gone,
        "first": first, "floor": floor, "aged": aged, "next": next,
        "ahead": mark.ahead.map(|ahead| json!({"number": ahead.number, "came": ahead.came})),
        numbers: mark.numbers,
    });
    merged(window, figures_json(&mark.figures))
}

/// The counts of one source.
pub(crate) fn figures_json(figures: &Figures) -> Value {
    let Figures { received, events, lost, recovered, duplicate, stale } = figures;
    json!({
        "received": received, "events": events, "lost": lost, "recovered": recovered, "duplicate": duplicate,
        "stale": stale,
    })
}

/// Two objects as one.
pub(crate) fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

/// An object of these names and values.
pub(crate) fn labelled<V: Into<Value>>(
    labels: impl IntoIterator<Item = &'static str>,
    values: impl IntoIterator<Item = V>,
) -> Value {
    let pairs = labels.into_iter().zip(values).map(|(label, value)| (label.to_owned(), value.into()));
    Value::Object(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_might_act_on_is_escaped_and_reads_back() {
        let text = "a\u{1b}[31m\r\n\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}é📚\u{200f}";
        let mut printed = Vec::new();
        write_json(&mut printed, &text).unwrap();
        let printed = String::from_utf8(printed).unwrap();
        let (plain, others) = (printed.replace("é📚", ""), printed.contains("é📚"));
        assert!(others && plain.chars().all(|c| c.is_ascii_graphic()), "{printed:?}");
        assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), text);
    }
}
