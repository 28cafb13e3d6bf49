//! What every file and folder is called.
//!
//! ```text
//! DATA/node                                   the node's name, made once by the collector
//! DATA/lock                                   held by the collector as long as it runs
//! DATA/log/<base, 20 digits>.seg              a segment; the highest base is the active one
//! DATA/log/<base, 20 digits>.new              one being prepared
//! DATA/log/spare/<any>.seg                    finished ones, to be used again
//! DATA/compactor/                             the compactor's own: lock, settings, id index
//! OUT/events/date=YYYY-MM-DD/hour=HH/NODE-<position, 20 digits>.parquet
//! OUT/hourly/date=YYYY-MM-DD/hour=HH/NODE.parquet
//! OUT/watermark/NODE.json
//! ```

use std::path::{Path, PathBuf};

use crate::time::Hour;

/// The collector's lock, in the data folder.
pub const LOCK: &str = "lock";
/// The node's name, in the data folder.
pub const NODE: &str = "node";
/// The folder of segments, in the data folder.
pub const LOG: &str = "log";
/// Finished segments to be used again, in the log folder.
pub const SPARE: &str = "spare";
/// What the compactor keeps for itself, in the data folder.
pub const COMPACTOR: &str = "compactor";
/// The compacted log, in the output folder.
pub const EVENTS: &str = "events";
/// The hourly aggregates, in the output folder.
pub const HOURLY: &str = "hourly";
/// The commits, in the output folder.
pub const WATERMARK: &str = "watermark";

/// The longest name of a node: a host name label (RFC 1035: 63 octets) and six hex digits.
pub const MAX_NODE_LEN: usize = 72;

/// `<base>.seg`
pub fn segment(base: u64) -> String {
    format!("{base:020}.seg")
}

/// `<base>.new`
pub fn new_segment(base: u64) -> String {
    format!("{base:020}.new")
}

/// The base in the name of a segment, if it is one.
pub fn segment_base(name: &str) -> Option<u64> {
    base(name, ".seg")
}

/// The base in the name of a segment being prepared, if it is one.
pub fn new_segment_base(name: &str) -> Option<u64> {
    base(name, ".new")
}

fn base(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A node's name is part of file names, so only letters, digits, `.`, `_` and `-`, not first a dot, at most
/// [`MAX_NODE_LEN`] of them.
pub fn is_node_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NODE_LEN
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// `date=YYYY-MM-DD/hour=HH`
pub fn hour_folder(hour: Hour) -> PathBuf {
    PathBuf::from(format!("date={}", hour.date())).join(format!("hour={:02}", hour.of_day()))
}

/// The hour whose folder this path ends in.
pub fn hour_of_folder(path: &Path) -> Option<Hour> {
    let hour = path.file_name()?.to_str()?.strip_prefix("hour=")?;
    let date = path.parent()?.file_name()?.to_str()?.strip_prefix("date=")?;
    Hour::from_date_and_hour(date, hour)
}

/// `NODE-<position>.parquet`: a part of an hour's events, named by the position of its first record.
pub fn events_part(node: &str, position: u64) -> String {
    format!("{node}-{position:020}.parquet")
}

/// The position in the name of an events part of this node.
pub fn events_part_position(node: &str, name: &str) -> Option<u64> {
    base(name.strip_prefix(node)?.strip_prefix('-')?, ".parquet")
}

/// `NODE.parquet`: an hour's aggregate.
pub fn hourly_file(node: &str) -> String {
    format!("{node}.parquet")
}

/// `NODE.json`: the commit.
pub fn watermark_file(node: &str) -> String {
    format!("{node}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        assert_eq!(segment_base(&segment(4096)), Some(4096));
        assert_eq!(segment_base(&new_segment(4096)), None);
        assert_eq!(new_segment_base(&new_segment(u64::MAX)), Some(u64::MAX));
        assert_eq!(segment_base("4096.seg"), None);
        assert_eq!(segment_base("99999999999999999999.seg"), None);
        assert_eq!(events_part_position("web-1", &events_part("web-1", 77)), Some(77));
        assert_eq!(events_part_position("web", &events_part("web-1", 77)), None);
        let hour = Hour(495_000);
        assert_eq!(hour_of_folder(&Path::new("out").join(hour_folder(hour))), Some(hour));
    }

    #[test]
    fn a_node_name_cannot_leave_its_folder() {
        for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(73)] {
            assert!(!is_node_name(bad), "{bad}");
        }
        assert!(is_node_name("web-1.example-0a1b2c"));
    }
}
