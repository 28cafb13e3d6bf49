//! Every whole record of a segment, whatever happened to the file.
//!
//! The scanner does no I/O: it asks for bytes by offset and is given as many as there are. Where no whole
//! record stands it looks at every 8th byte behind for the next one, and says by ordinals how many the hole had.

use std::ops::Range;

use super::frame::{Check, FRAME_LEN, Framing, MAX_PAYLOAD, MIN_FRAMED, framed_len};
use super::header::UNKNOWN_ORDINAL;
use super::mark::Mark;

/// Bytes asked for at a time: enough that the call costs little beside the checksums, and few enough that they are still in the
/// processor's own cache when they are looked at.
const BLOCK_LEN: usize = 64 * 1024;
/// The window holds the longest record and a block behind it.
const WINDOW_LEN: usize = BLOCK_LEN + FRAME_LEN + MAX_PAYLOAD;
/// How much of a file is asked for ahead of what is read: some ms of reading, so that a disk is waited for once in a while and not at
/// each block.
const AHEAD_LEN: u64 = 4 << 20;

/// Walks over the records of one segment.
pub struct Scanner {
    framing: Framing,
    window: Vec<u8>,
    /// Offset in the file of the window's first byte.
    window_at: u64,
    /// How much of the window is read.
    filled: usize,
    /// Where the next record is looked for, and the ordinal that it should have.
    next: Mark,
    /// Offset at which nothing more is looked for, and the ordinal that stands there if it is known.
    end: u64,
    end_ordinal: Option<u64>,
    /// Where the hole began that the scanner is in.
    gap: Option<u64>,
}

/// What the scanner found next.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole record.
    Record(Framed<'a>),
    /// Bytes that are no record where there should be some, or records that are missing.
    Gap(Gap),
}

/// A whole record in its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Framed<'a> {
    /// Its position in the log.
    pub position: u64,
    /// The position behind it.
    pub end: u64,
    /// Its number in the log.
    pub ordinal: u64,
    /// Its bytes, see [`crate::record`].
    pub payload: &'a [u8],
}

/// A hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Offset in the file of its first byte.
    pub from: u64,
    /// Offset behind it.
    pub to: u64,
    /// How many records it had; unknown at the end of a segment without an end mark.
    pub records: Option<u64>,
}

/// What of a segment's file is to be fetched from disk when so many bytes are read from an offset: where a stretch of it is begun,
/// the next one. Segments are read by the page, and then the kernel fetches nothing ahead by itself.
pub fn ahead_of(offset: u64, len: usize) -> Option<Range<u64>> {
    let next = (offset / AHEAD_LEN + 1) * AHEAD_LEN;
    (offset % AHEAD_LEN < len as u64).then(|| next..next + AHEAD_LEN)
}

impl Scanner {
    /// Scans from a place between two records up to the offset `end`; `end_ordinal` is that of the record which
    /// would stand there, if it is known. Where that of the first is [`UNKNOWN_ORDINAL`], any is believed.
    pub fn new(framing: Framing, from: Mark, end: u64, end_ordinal: Option<u64>) -> Self {
        Self { framing, window: Vec::new(), window_at: from.length, filled: 0, next: from, end, end_ordinal, gap: None }
    }

    /// The place behind the last thing found.
    pub fn next_mark(&self) -> Mark {
        Mark { length: self.gap.unwrap_or(self.next.length), ordinal: self.next.ordinal }
    }

    /// The next record or hole, or nothing at the end. `read` fills the buffer from an offset in the file and
    /// says how many bytes there were; fewer than asked for means that the file ends there.
    pub fn next<E>(
        &mut self,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, E>,
    ) -> Result<Option<Found<'_>>, E> {
        loop {
            let offset = self.next.length;
            if offset >= self.end {
                return Ok(self.finish().map(Found::Gap));
            }
            let at = usize::try_from(offset - self.window_at).expect("the window is in memory");
            let bytes = self.window.get(at..self.filled).unwrap_or_default();
            let in_gap = self.gap.map(|from| (offset - from) / MIN_FRAMED as u64);
            let next_ordinal = self.next.ordinal;
            // Outside a hole any ordinal is believed. Inside, only what the hole can have held: cheap to test,
            // and it keeps hostile payloads from costing a checksum every 8 bytes.
            let plausible = |ordinal: u64| {
                next_ordinal == UNKNOWN_ORDINAL
                    || in_gap
                        .is_none_or(|held| ordinal.checked_sub(next_ordinal).is_some_and(|skipped| skipped <= held))
            };
            match self.framing.check(bytes, offset, self.end - offset, plausible) {
                Check::NeedsMore => self.fill(at, &mut read)?,
                Check::Bad => {
                    self.gap.get_or_insert(offset);
                    self.next.length = (offset + 8).min(self.end);
                }
                Check::Whole { ordinal, payload_len } => {
                    if self.gap.is_some() || ordinal > next_ordinal {
                        let from = self.gap.take().unwrap_or(offset);
                        self.next.ordinal = ordinal;
                        return Ok(Some(Found::Gap(Gap {
                            from,
                            to: offset,
                            records: ordinal.checked_sub(next_ordinal),
                        })));
                    }
                    let end = offset + framed_len(payload_len) as u64;
                    self.next = Mark { length: end, ordinal: ordinal.saturating_add(1) };
                    return Ok(Some(Found::Record(Framed {
                        position: self.framing.position(offset),
                        end: self.framing.position(end),
                        ordinal,
                        payload: &self.window[at + FRAME_LEN..at + FRAME_LEN + payload_len],
                    })));
                }
            }
        }
    }

    /// The hole at the end, once.
    fn finish(&mut self) -> Option<Gap> {
        let missing = self.end_ordinal.take().and_then(|end| end.checked_sub(self.next.ordinal));
        let from = self.gap.take();
        if from.is_none() && missing.is_none_or(|records| records == 0) {
            return None;
        }
        self.next.ordinal += missing.unwrap_or(0);
        Some(Gap { from: from.unwrap_or(self.end), to: self.end, records: missing })
    }

    /// Reads a block behind what is left of the window from `at` on, or finds out that the file ends before.
    fn fill<E>(&mut self, at: usize, read: &mut impl FnMut(u64, &mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        self.window.resize(WINDOW_LEN, 0);
        // always to the same bytes of memory
        self.window.copy_within(at.min(self.filled)..self.filled, 0);
        self.filled = self.filled.saturating_sub(at);
        self.window_at += at as u64;
        let from = self.window_at + self.filled as u64;
        let want = usize::try_from((BLOCK_LEN as u64).min(self.end - from)).expect("no more than a block");
        let got = read(from, &mut self.window[self.filled..self.filled + want])?;
        self.filled += got;
        if got < want {
            self.end = from + got as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::HEADER_LEN;
    use std::convert::Infallible;

    const BASE: u64 = 1 << 20;
    const START: Mark = Mark { length: HEADER_LEN as u64, ordinal: 10 };

    /// A segment's bytes with records of these payloads, and the mark behind them.
    fn segment(salt: u64, payloads: &[Vec<u8>]) -> (Vec<u8>, Mark) {
        let framing = Framing::new(salt, BASE);
        let mut bytes = vec![0; HEADER_LEN];
        let mut mark = START;
        for payload in payloads {
            let mut framed = vec![0xff; framed_len(payload.len())];
            framing.write(&mut framed, mark.length, mark.ordinal, payload);
            assert!(framed[FRAME_LEN + payload.len()..].iter().all(|byte| *byte == 0), "padding is zeros");
            bytes.extend_from_slice(&framed);
            mark = Mark { length: bytes.len() as u64, ordinal: mark.ordinal + 1 };
        }
        (bytes, mark)
    }

    fn payloads(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|n| vec![u8::try_from(n % 251).expect("below 251") + 1; 1 + n * 7 % 40]).collect()
    }

    fn read_from(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<usize, Infallible> + '_ {
        |offset, buffer| {
            let from = usize::try_from(offset).expect("small").min(bytes.len());
            let len = buffer.len().min(bytes.len() - from);
            buffer[..len].copy_from_slice(&bytes[from..from + len]);
            Ok(len)
        }
    }

    #[test]
    fn each_stretch_is_fetched_once_while_the_one_before_it_is_read() {
        let blocks = (HEADER_LEN as u64..).step_by(BLOCK_LEN);
        let fetched: Vec<_> = blocks
            .take_while(|offset| *offset < 3 * AHEAD_LEN)
            .filter_map(|offset| Some((offset, ahead_of(offset, BLOCK_LEN)?)))
            .collect();
        let expected = [0, 1, 2].map(|n| {
            let (begin, next) = (n * AHEAD_LEN + HEADER_LEN as u64, (n + 1) * AHEAD_LEN);
            (begin, next..next + AHEAD_LEN)
        });
        assert_eq!(fetched, expected);
    }

    /// Ordinals of the records found, and the holes.
    fn scan(salt: u64, bytes: &[u8], end: u64, end_ordinal: Option<u64>) -> (Vec<u64>, Vec<Gap>) {
        let mut scanner = Scanner::new(Framing::new(salt, BASE), START, end, end_ordinal);
        let (mut records, mut gaps) = (Vec::new(), Vec::new());
        while let Ok(Some(found)) = scanner.next(read_from(bytes)) {
            match found {
                Found::Record(record) => records.push(record.ordinal),
                Found::Gap(gap) => gaps.push(gap),
            }
        }
        (records, gaps)
    }

    #[test]
    fn records_that_are_missing_without_a_hole_are_told() {
        let (mut bytes, mark) = segment(1, &payloads(2));
        let later = mark.ordinal + 3;
        let mut framed = vec![0; framed_len(1)];
        Framing::new(1, BASE).write(&mut framed, mark.length, later, b"x");
        bytes.extend_from_slice(&framed);
        let (records, gaps) = scan(1, &bytes, bytes.len() as u64, Some(later + 1));
        assert_eq!(records, [10, 11, later]);
        assert_eq!(gaps, [Gap { from: mark.length, to: mark.length, records: Some(3) }]);
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let payloads = payloads(100);
        let (bytes, end) = segment(1, &payloads);
        let mut scanner = Scanner::new(Framing::new(1, BASE), START, end.length, Some(end.ordinal));
        let mut expected_at = BASE + START.length;
        for (n, payload) in payloads.iter().enumerate() {
            let Ok(Some(Found::Record(record))) = scanner.next(read_from(&bytes)) else { panic!("record {n}") };
            assert_eq!((record.position, record.ordinal, record.payload), (expected_at, 10 + n as u64, &payload[..]));
            expected_at = record.end;
        }
        assert_eq!(scanner.next(read_from(&bytes)), Ok(None));
        assert_eq!(scanner.next_mark(), end);
    }

    #[test]
    fn a_segment_cut_at_any_byte_gives_all_whole_records_before_the_cut() {
        let (bytes, end) = segment(1, &payloads(60));
        let ends: Vec<usize> = {
            let mut at = HEADER_LEN;
            payloads(60)
                .iter()
                .map(|payload| {
                    at += framed_len(payload.len());
                    at
                })
                .collect()
        };
        for cut in HEADER_LEN..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
            let (records, gaps) = scan(1, &bytes[..cut], end.length, Some(end.ordinal));
            assert_eq!(records, (10..10 + whole).collect::<Vec<_>>(), "cut at {cut}");
            assert_eq!(gaps.iter().filter_map(|gap| gap.records).sum::<u64>(), 60 - whole, "cut at {cut}");
        }
    }

    #[test]
    fn every_flipped_bit_costs_its_record_and_no_other() {
        let (bytes, end) = segment(1, &payloads(25));
        for bit in HEADER_LEN * 8..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (records, gaps) = scan(1, &flipped, end.length, Some(end.ordinal));
            assert_eq!(records.len(), 24, "bit {bit}");
            assert_eq!(gaps.iter().map(|gap| gap.records).collect::<Vec<_>>(), [Some(1)], "bit {bit}");
            assert!(gaps[0].from <= bit as u64 / 8 && (bit as u64 / 8) < gaps[0].to, "bit {bit}: {gaps:?}");
        }
    }

    #[test]
    fn what_an_earlier_use_of_the_file_left_never_comes_back() {
        let (old, _) = segment(1, &vec![vec![7; 32]; 80]);
        let (new, _) = segment(2, &vec![vec![8; 32]; 40]);
        for cut in HEADER_LEN..=new.len() {
            let mut recycled = old.clone();
            recycled[..cut].copy_from_slice(&new[..cut]);
            let whole = (cut - HEADER_LEN) / framed_len(32);
            let (records, _) = scan(2, &recycled, old.len() as u64, None);
            assert_eq!(records, (10..10 + whole as u64).collect::<Vec<_>>(), "cut at {cut}");
        }
    }

    #[test]
    fn a_record_is_one_in_its_place_only() {
        let (bytes, end) = segment(1, &vec![vec![7; 32]; 3]);
        let mut moved = bytes.clone();
        moved.copy_within(HEADER_LEN..HEADER_LEN + framed_len(32), HEADER_LEN + framed_len(32));
        let (records, gaps) = scan(1, &moved, end.length, Some(end.ordinal));
        assert_eq!((records, gaps.len()), (vec![10, 12], 1));
        // nor is it one of another segment, should that have the same salt
        let mut scanner = Scanner::new(Framing::new(1, 2 * BASE), START, end.length, Some(end.ordinal));
        let found = scanner.next(read_from(&bytes));
        assert_eq!(found, Ok(Some(Found::Gap(Gap { from: START.length, to: end.length, records: Some(3) }))));
    }

    #[test]
    fn a_visitor_cannot_write_a_record_into_a_record() {
        let forged = {
            let mut forged = vec![0; framed_len(40)];
            Framing::new(0, BASE).write(&mut forged, START.length + FRAME_LEN as u64, 11, &[9; 40]);
            forged
        };
        let (mut bytes, end) = segment(1, &[forged, vec![1; 8], vec![2; 8]]);
        bytes[HEADER_LEN] ^= 1;
        let (records, gaps) = scan(1, &bytes, end.length, Some(end.ordinal));
        assert_eq!((records, gaps.len()), (vec![11, 12], 1));
    }

    #[test]
    fn records_behind_a_hole_of_pages_are_kept_and_the_hole_is_counted() {
        let payloads = vec![vec![3; 100]; 300];
        let (mut bytes, end) = segment(1, &payloads);
        bytes[8192..16384].fill(0);
        let (records, gaps) = scan(1, &bytes, end.length + 100_000, None);
        let lost = gaps[0].records.expect("records stand behind it");
        assert_eq!(records.len() as u64 + lost, 300);
        assert_eq!(lost, (16384 - gaps[0].from).div_ceil(framed_len(100) as u64));
        assert_eq!(gaps.len(), 1, "the file's end is no hole: {gaps:?}");
    }

    #[test]
    fn records_longer_than_a_block_and_across_blocks_are_read() {
        let payloads: Vec<_> = (0..20).map(|n| vec![n; MAX_PAYLOAD - usize::from(n) * 9]).collect();
        let (bytes, end) = segment(1, &payloads);
        let (records, gaps) = scan(1, &bytes, end.length, Some(end.ordinal));
        assert_eq!((records.len(), gaps.len()), (20, 0));
    }

    #[test]
    fn without_a_first_ordinal_records_behind_a_hole_are_found_all_the_same() {
        let (mut bytes, end) = segment(1, &vec![vec![3; 100]; 100]);
        bytes[HEADER_LEN..HEADER_LEN + 4096].fill(0);
        let from = Mark { ordinal: UNKNOWN_ORDINAL, ..START };
        let mut scanner = Scanner::new(Framing::new(1, BASE), from, end.length, None);
        let Ok(Some(Found::Gap(gap))) = scanner.next(read_from(&bytes)) else { panic!("a hole") };
        assert_eq!((gap.from, gap.records), (START.length, None));
        let Ok(Some(Found::Record(record))) = scanner.next(read_from(&bytes)) else { panic!("a record") };
        assert_eq!(record.ordinal, 10 + 4096_u64.div_ceil(framed_len(100) as u64));
    }

    #[test]
    fn a_lost_tail_is_counted_by_the_mark() {
        let (bytes, end) = segment(1, &payloads(10));
        let (records, gaps) = scan(1, &bytes, end.length + 80, Some(end.ordinal + 2));
        assert_eq!(records.len(), 10);
        assert_eq!(gaps, [Gap { from: end.length, to: end.length, records: Some(2) }]);
    }
}
