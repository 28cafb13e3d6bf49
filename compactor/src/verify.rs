//! `verify`: is the log as it was written?
//!
//! The rule: everything that has a checksum is checked, and what does not hold is named by its position. The ledger in
//! the log is checked as well.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use tallylight_proto::layout;
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::Framed;
use tallylight_service::Bar;
use tallylight_service::bar::aside;

use crate::inspect::LookError;
use crate::ledger_check::LedgerCheck;
use crate::log::{Item, Lost, Purpose, Reader};

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Events.
    pub events: u64,
    /// Ledger records.
    pub ledgers: u64,
    /// Damaged places, and ledger records that do not add up.
    pub damaged_places: u64,
    /// Records lost to damage.
    pub damaged: u64,
    /// Records lost to power cuts.
    pub torn: u64,
}

/// Reads the whole log and prints what does not hold, and a summary.
pub fn verify(data: &Path, mut out: impl Write) -> Result<Findings, LookError> {
    let mut reader = Reader::new(data, Purpose::Look, None);
    reader.look()?;
    let bar = Bar::start("verifying", reader.bytes_behind()?);
    let mut findings = Findings::default();
    let mut ledger = LedgerCheck::default();
    reader.read(|item| {
        bar.add(item.bytes());
        match item {
            Item::SetBack { .. } => ledger = LedgerCheck::default(),
            Item::Lost(lost) => {
                ledger.lost(lost.records);
                findings.lost(lost);
                aside(|| print_lost(&mut out, lost))?;
            }
            Item::Record(framed) => match record::decode(framed.payload) {
                Ok(Record::Event(event)) => {
                    findings.events += 1;
                    ledger.event(event.front);
                }
                Ok(Record::Ledger(entry)) => {
                    findings.ledgers += 1;
                    if let Some(mismatch) = ledger.check(&entry.counts) {
                        findings.damaged_places += 1;
                        let text = mismatch.text();
                        let Framed { position, ordinal, .. } = framed;
                        aside(|| writeln!(out, "damaged ledger position {position} ordinal {ordinal}: {text}"))?;
                    }
                }
                Err(error) => {
                    findings.damaged_places += 1;
                    findings.damaged += 1;
                    ledger.lost(1);
                    let Framed { position, ordinal, .. } = framed;
                    aside(|| writeln!(out, "damaged position {position} ordinal {ordinal}: {error}"))?;
                }
            },
        }
        Ok::<_, LookError>(ControlFlow::Continue(()))
    })?;
    drop(bar);
    let Findings { events, ledgers, damaged_places, damaged, torn } = findings;
    writeln!(
        out,
        "{events} events, {ledgers} ledger records, {damaged} records damaged in {damaged_places} places, {torn} torn"
    )?;
    out.flush()?;
    Ok(findings)
}

impl Findings {
    fn lost(&mut self, lost: Lost) {
        if lost.cause.is_damage() {
            self.damaged_places += 1;
            self.damaged += lost.records;
        } else {
            self.torn += lost.records;
        }
    }
}

fn print_lost(out: &mut impl Write, lost: Lost) -> io::Result<()> {
    let Lost { base, position, end, records, cause } = lost;
    let word = if cause.is_damage() { "damaged" } else { "torn" };
    writeln!(out, "{word} {} position {position} to {end} records {records}: {}", layout::segment(base), cause.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::{self, START, TestLog, event};
    use tallylight_proto::Front;
    use tallylight_proto::segment::HEADER_LEN;

    #[test]
    fn every_flipped_bit_is_found() {
        let folder = testlog::folder();
        let mut log = TestLog::new(folder.path(), 1 << 20);
        (0..3).for_each(|n| log.events([&event(n, 0)]));
        log.seal();
        let whole = std::fs::read(log.path()).unwrap();
        assert_eq!(verify(folder.path(), io::sink()).unwrap().damaged_places, 0);
        // all bits of the records, and one of each byte of the header, of which proto tests them all
        let records = HEADER_LEN * 8..usize::try_from(log.length()).unwrap() * 8;
        for bit in (0..HEADER_LEN).map(|byte| byte * 8 + byte % 8).chain(records) {
            log.patch(bit as u64 / 8, &[whole[bit / 8] ^ 1 << (bit % 8)]);
            let findings = verify(folder.path(), io::sink()).unwrap();
            assert!(findings.damaged_places > 0, "bit {bit}");
            assert_eq!(findings.events + findings.ledgers + findings.damaged, 4, "bit {bit}");
            log.patch(bit as u64 / 8, &whole[bit / 8..=bit / 8]);
        }
    }

    #[test]
    fn segments_that_are_gone_and_a_ledger_that_does_not_add_up_are_damage() {
        let folder = testlog::folder();
        let mut log = TestLog::new(folder.path(), 1 << 20);
        log.event(&event(0, 0));
        log.next_segment(START);
        log.events([&event(1, 0), &event(2, 0)]);
        let gone = log.path();
        log.next_segment(START);
        log.counts.front(Front::Http1).logged += 1;
        log.counts.front(Front::Http1).received += 1;
        log.ledger(START);
        log.commit();
        let mut text = Vec::new();
        let findings = verify(folder.path(), &mut text).unwrap();
        assert_eq!((findings.damaged_places, findings.damaged), (1, 0), "{}", String::from_utf8_lossy(&text));
        std::fs::remove_file(gone).unwrap();
        let findings = verify(folder.path(), &mut text).unwrap();
        assert_eq!((findings.damaged_places, findings.damaged), (2, 3), "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn what_was_torn_is_told_and_is_no_damage() {
        let folder = testlog::folder();
        let mut log = TestLog::new(folder.path(), 1 << 20);
        log.events([&event(0, 0), &event(1, 0), &event(2, 0)]);
        log.commit_only();
        log.patch(log.places[1].0 + 17, &[0xff]);
        log.patch(log.places[2].0 + 17, &[0xff]);
        let mut text = Vec::new();
        let findings = verify(folder.path(), &mut text).unwrap();
        assert_eq!((findings.events, findings.damaged_places, findings.torn), (1, 0, 2));
        let said = format!("torn 00000000000000000000.seg position {} to", log.places[1].0);
        assert!(String::from_utf8(text).unwrap().starts_with(&said));
    }
}
