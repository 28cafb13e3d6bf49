//! Segments: a file of any bytes, and one that was written and then harmed.
//!
//! The first byte says which: 0 the rest is the file; else records are written of what follows (a length each, 0 ends
//! them), and the rest harms the file, six bytes a time: what is done, where 2, from where 2, how much.

use std::convert::Infallible;

use tallylight_proto::segment::{
    Found, Framing, Gap, HEADER_LEN, HOLES_LEN, HOLES_OFFSET, Header, HeaderPage, Holes, Mark, MarkKind, SECTOR_LEN,
    Scanner, framed_len,
};

use crate::sample::NOW;

const BASE: u64 = 1 << 20;
const SALT: u64 = 0x5a17_5a17_5a17_5a17;
const FIRST_ORDINAL: u64 = 10;
const MOST_RECORDS: usize = 40;

/// Bytes of a segment → its records. Nothing is handed out that was not written there, nothing twice; what is missing is
/// counted; and it ends.
pub fn segment(bytes: &[u8]) {
    match bytes {
        [0, file @ ..] => any(file),
        [_, rest @ ..] => harmed(rest),
        [] => {}
    }
}

/// As far as a reader gets with a file that may be anything.
fn any(file: &[u8]) {
    let framing = match HeaderPage::decode(file) {
        Ok(page) => {
            let again = HeaderPage::decode(&file[..HEADER_LEN]).expect("the rest is not looked at");
            assert_eq!(again, page);
            Framing::new(page.header.salt, BASE)
        }
        Err(_) => Framing::new(SALT, BASE),
    };
    let mut last = None;
    scan(framing, file, file.len() as u64, None, |position, ordinal, _| {
        assert!(last.is_none_or(|(at, number)| at < position && number < ordinal));
        last = Some((position, ordinal));
    });
}

fn harmed(mut rest: &[u8]) {
    let payloads = take_payloads(&mut rest);
    let (mut file, end) = write(&payloads);
    let written = file.clone();
    for harm in rest.as_chunks::<6>().0.iter().take(16) {
        do_harm(&mut file, *harm);
    }
    check_header(&file, &written, end);

    let framing = Framing::new(SALT, BASE);
    let mut found = 0;
    let mut next = FIRST_ORDINAL;
    let mut check = |position: u64, ordinal: u64, payload: &[u8]| {
        assert!(ordinal >= next, "{ordinal} comes after {next}");
        next = ordinal + 1;
        found += 1;
        let of = usize::try_from(ordinal - FIRST_ORDINAL).expect("few");
        assert_eq!(payloads.get(of).map(|payload| &payload[..]), Some(payload), "{ordinal}");
        let before: usize = payloads[..of].iter().map(|payload| framed_len(payload.len())).sum();
        assert_eq!(position, BASE + (HEADER_LEN + before) as u64, "{ordinal}");
    };
    // as of a sealed one, whose end is known, and as of one that a power cut left
    let missing = scan(framing, &file, end.length, Some(end.ordinal), &mut check);
    assert_eq!(found + missing, payloads.len() as u64);
    let whole = found;
    (found, next) = (0, FIRST_ORDINAL);
    let mut check_again = |_, ordinal, _: &[u8]| {
        assert!(ordinal >= next, "{ordinal} comes after {next}");
        next = ordinal + 1;
        found += 1;
    };
    scan(framing, &file, end.length + 4096, None, &mut check_again);
    assert_eq!(found, whole, "the same without a known end");
}

fn take_payloads(rest: &mut &[u8]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while let Some((len, after)) = rest.split_first().filter(|_| payloads.len() < MOST_RECORDS) {
        *rest = after;
        let len = usize::from(*len) * if *len > 250 { 40 } else { 1 };
        if len == 0 {
            break;
        }
        let fill = payloads.len() % 251 + 1;
        payloads.push((0..len).map(|at| u8::try_from((at * 7 + fill) % 256).unwrap_or_default()).collect());
    }
    payloads
}

/// A whole sealed segment.
fn write(payloads: &[Vec<u8>]) -> (Vec<u8>, Mark) {
    let framing = Framing::new(SALT, BASE);
    let mut file = vec![0; HEADER_LEN];
    let mut mark = Mark { length: HEADER_LEN as u64, ordinal: FIRST_ORDINAL };
    for payload in payloads {
        let mut framed = vec![0xff; framed_len(payload.len())];
        framing.write(&mut framed, mark.length, mark.ordinal, payload);
        file.extend_from_slice(&framed);
        mark = Mark { length: file.len() as u64, ordinal: mark.ordinal + 1 };
    }
    let header = header();
    for at in [0, SECTOR_LEN] {
        file[at..at + SECTOR_LEN].copy_from_slice(&header.encode());
    }
    for (kind, slot) in MarkKind::ALL.into_iter().flat_map(|kind| [(kind, 0), (kind, 1)]) {
        mark.write(&mut file, SALT, kind, slot);
    }
    let mut holes = Holes::default();
    holes.push(HEADER_LEN as u64, mark.length);
    file[HOLES_OFFSET..HOLES_OFFSET + HOLES_LEN].copy_from_slice(&holes.encode(SALT));
    (file, mark)
}

fn header() -> Header {
    Header {
        node: "web-1-0a1b2c".into(),
        base: BASE,
        capacity: 1 << 20,
        salt: SALT,
        first_ordinal: FIRST_ORDINAL,
        reserve: 0,
        created_at: NOW,
    }
}

/// Bits flip, pages are lost or come from elsewhere, the file is cut.
fn do_harm(file: &mut Vec<u8>, [what, at0, at1, from0, from1, much]: [u8; 6]) {
    if file.is_empty() {
        return;
    }
    let place = |high, low| (usize::from(high) << 8 | usize::from(low)) % file.len();
    let (at, from) = (place(at0, at1), place(from0, from1));
    let len = (usize::from(much) + 1) * if what > 127 { 16 } else { 1 };
    let len = len.min(file.len() - at.max(from));
    match what % 5 {
        0 => file[at] ^= 1 << (much % 8),
        1 => file[at..at + len].fill(0),
        2 => file.copy_within(from..from + len, at),
        3 => file[at..at + len].fill(0xff),
        _ => file.truncate(at),
    }
}

/// What is still believed of the header page is what was written.
fn check_header(file: &[u8], written: &[u8], end: Mark) {
    let Ok(page) = HeaderPage::decode(file) else { return };
    assert_eq!(page.header, header());
    for mark in [page.committed, page.synced, page.sealed].into_iter().flatten() {
        assert_eq!(mark, end);
    }
    let is_harmed = file[..HEADER_LEN] != written[..HEADER_LEN];
    assert!(is_harmed || page.damaged.is_empty(), "{page:?}");
    assert!(page.holes == Holes::default() || page.holes.cover(HEADER_LEN as u64, end.length));
}

/// Goes through all records, and says how many are missing.
fn scan(
    framing: Framing,
    file: &[u8],
    end: u64,
    end_ordinal: Option<u64>,
    mut record: impl FnMut(u64, u64, &[u8]),
) -> u64 {
    let from = Mark { length: HEADER_LEN as u64, ordinal: FIRST_ORDINAL };
    let mut scanner = Scanner::new(framing, from, end.max(from.length), end_ordinal);
    let (mut missing, mut behind) = (0, from.length);
    // no two holes stand side by side, and a record has 24 bytes at least
    for _ in 0..=file.len() / 12 + 2 {
        let read = |offset: u64, buffer: &mut [u8]| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
            let len = buffer.len().min(file.len() - from);
            buffer[..len].copy_from_slice(&file[from..from + len]);
            Ok::<_, Infallible>(len)
        };
        match scanner.next(read) {
            Ok(Some(Found::Record(found))) => {
                assert_eq!(found.position - BASE, behind, "it begins where the last thing ended");
                behind = found.end - BASE;
                record(found.position, found.ordinal, found.payload);
            }
            Ok(Some(Found::Gap(Gap { from, to, records }))) => {
                assert!(from <= to && from >= behind, "{from} to {to} behind {behind}");
                behind = to;
                missing += records.unwrap_or(0);
            }
            Ok(None) => return missing,
        }
    }
    panic!("it does not end");
}
