//! The log's files, looked at without the compactor: counted, copied, and rolled back as a power cut would.

use std::fs;
use std::path::{Path, PathBuf};

use tallylight_proto::layout;
use tallylight_proto::ledger::Ledger;
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::{Found, Framing, HEADER_LEN, HeaderPage, Mark, Scanner};

/// What stands in a log.
#[derive(Debug, Default)]
pub struct Contents {
    /// Records of events.
    pub events: u64,
    /// Places where records should be and none are.
    pub gaps: u64,
    /// Segments that have no end yet.
    pub unsealed: u64,
    /// The last ledger record.
    pub ledger: Option<Ledger>,
}

/// The segments of a log, in log order.
pub fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join(layout::LOG)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| layout::segment_base(path.file_name().unwrap().to_str().unwrap()).is_some();
    let mut segments: Vec<PathBuf> = paths.filter(is_segment).collect();
    segments.sort();
    segments
}

/// Reads a whole log.
pub fn read(data: &Path) -> Contents {
    let mut contents = Contents::default();
    for path in segments(data) {
        let bytes = fs::read(&path).unwrap();
        let page = HeaderPage::decode(&bytes).unwrap();
        contents.unsealed += u64::from(page.sealed.is_none());
        let Some(end) = page.sealed.or(page.committed) else { continue };
        let start = Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal };
        let framing = Framing::new(page.header.salt, page.header.base);
        let mut scanner = Scanner::new(framing, start, end.length, Some(end.ordinal));
        let mut read = |offset: u64, buffer: &mut [u8]| {
            let rest = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok::<_, std::convert::Infallible>(len)
        };
        while let Some(found) = scanner.next(&mut read).unwrap() {
            match found {
                Found::Gap(_) => contents.gaps += 1,
                Found::Record(framed) => match record::decode(framed.payload).unwrap() {
                    Record::Event(_) => contents.events += 1,
                    Record::Ledger(ledger) => contents.ledger = Some(ledger),
                },
            }
        }
    }
    contents
}

/// Copies the beginning of a log, so many segments, as far as it is not there yet, and the node's name.
pub fn copy(data: &Path, to: &Path, count: usize) {
    fs::create_dir_all(to.join(layout::LOG)).unwrap();
    fs::copy(data.join(layout::NODE), to.join(layout::NODE)).unwrap();
    for path in segments(data).into_iter().take(count) {
        let copied = to.join(layout::LOG).join(path.file_name().unwrap());
        if !copied.exists() {
            fs::copy(&path, copied).unwrap();
        }
    }
}

/// How far a power cut takes back the first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Not at all: its last state had reached the disk, by chance.
    Stay,
    /// To what it said when the segment was synced: nothing is committed behind that.
    GoBack,
}

/// What a power cut leaves of a log: nothing above its synced lengths. Gives back how many bytes it took.
pub fn cut_power(data: &Path, marks: Marks) -> u64 {
    let mut taken = 0;
    for path in segments(data) {
        let mut bytes = fs::read(&path).unwrap();
        let page = HeaderPage::decode(&bytes).unwrap();
        if page.sealed.is_some() {
            continue;
        }
        let synced = page.synced.unwrap_or(Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal });
        taken += page.committed.map_or(0, |committed| committed.length - synced.length);
        bytes[usize::try_from(synced.length).unwrap()..].fill(0);
        if marks == Marks::GoBack {
            use tallylight_proto::segment::MarkKind::Committed;
            for slot in 0..2 {
                synced.write(&mut bytes, page.header.salt, Committed, slot);
            }
        }
        fs::write(&path, &bytes).unwrap();
    }
    taken
}
