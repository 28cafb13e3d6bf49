//! What a reader does while segments come and go.

use std::ops::ControlFlow;

use tallylight_host::disk;
use tallylight_proto::segment::{HEADER_LEN, Header, Mark, MarkKind, SECTOR_LEN, UNKNOWN_ORDINAL};

use super::*;
use crate::storage::crash;
use crate::testlog::{self, START, TestLog, event};

/// Everything there is: how many records, and what is lost.
fn read(reader: &mut Reader) -> Result<(usize, Vec<Lost>), LogError> {
    let (mut records, mut lost) = (0, Vec::new());
    reader.look()?;
    reader.read(|item| {
        match item {
            Item::Record(_) => records += 1,
            Item::Lost(gone) => lost.push(gone),
            Item::SetBack { .. } => panic!("no power cut here"),
        }
        Ok::<_, LogError>(ControlFlow::Continue(()))
    })?;
    Ok((records, lost))
}

#[test]
fn a_segment_that_gets_another_use_while_it_is_looked_at_is_no_damage() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 4 << 20);
    (0..8000).for_each(|n| log.events([&event(n, 0)]));
    let first = log.path();
    log.next_segment(START);
    log.commit();
    let twin = testlog::folder();
    let other = TestLog::with_salt(twin.path(), 4 << 20, 99);
    let recycled = std::fs::read(other.path()).unwrap();

    let mut reader = Reader::new(folder.path(), Purpose::Look, None);
    reader.look().unwrap();
    let (mut records, mut lost) = (0, 0);
    reader
        .read(|item| {
            records += usize::from(matches!(item, Item::Record(_)));
            lost += usize::from(matches!(item, Item::Lost(_)));
            if records == 1 {
                // the file stays the same one, as it does when the collector uses it again
                std::fs::write(&first, &recycled).unwrap();
            }
            Ok::<_, LogError>(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(lost, 0);
    assert!((2..8000).contains(&records), "what was in memory, and the next segment: {records}");
}

#[test]
fn a_bad_copy_in_the_header_is_told_and_costs_nothing() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    log.patch(16, &[0xff]);
    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    let (records, lost) = read(&mut reader).unwrap();
    assert_eq!((records, lost.len()), (2, 1));
    assert_eq!((lost[0].cause, lost[0].records, lost[0].position), (Cause::HeaderPart, 0, 0));
    log.event(&event(2, 0));
    log.commit();
    assert_eq!(read(&mut reader).unwrap(), (1, vec![]), "told once");
}

#[test]
fn a_segment_of_which_nothing_was_read_may_be_made_again() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.next_segment(START);
    // prepared only: no record is committed
    let nothing = Mark { length: HEADER_LEN as u64, ordinal: 2 };
    log.write_mark(MarkKind::Committed, nothing);
    log.write_mark(MarkKind::Synced, nothing);
    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    assert_eq!(read(&mut reader).unwrap(), (2, vec![]));
    let place = reader.place().unwrap();
    assert_eq!(place.0.position, log.base() + HEADER_LEN as u64);

    let begun = log.path();
    std::fs::remove_file(&begun).unwrap();
    let from = |place| Reader::new(folder.path(), Purpose::Cover, Some(place));
    assert_eq!(read(&mut from(place)).unwrap(), (0, vec![]), "a collector that starts makes it again");
    let twin = testlog::folder();
    let mut other = TestLog::with_salt(twin.path(), 1 << 20, 99);
    other.event(&event(1, 0));
    other.next_segment(START);
    std::fs::copy(other.path(), &begun).unwrap();
    assert_eq!(read(&mut from(place)).unwrap(), (1, vec![]));
}

#[test]
fn an_unreadable_segment_is_counted_by_its_neighbours() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.next_segment(START);
    (2..7).for_each(|n| log.events([&event(n, 0)]));
    let bad = (log.path(), log.base());
    log.next_segment(START);
    log.event(&event(8, 0));
    log.commit();
    std::fs::write(&bad.0, b"something else").unwrap();
    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    let (records, lost) = read(&mut reader).unwrap();
    assert_eq!(records, 4);
    assert_eq!(lost.iter().map(|lost| (lost.base, lost.records)).collect::<Vec<_>>(), [(bad.1, 6)]);
    assert!(matches!(lost[0].cause, Cause::Header(_)));
}

#[test]
fn a_segment_that_is_gone_is_counted_by_its_neighbours_if_it_had_one_record_only() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.next_segment(START);
    let gone = log.path();
    log.next_segment(START);
    log.commit();
    std::fs::remove_file(gone).unwrap();
    let (records, lost) = read(&mut Reader::new(folder.path(), Purpose::Cover, None)).unwrap();
    assert_eq!(records, 3);
    let lost: Vec<_> = lost.iter().map(|lost| (lost.base, lost.records, lost.cause)).collect();
    assert_eq!(lost, [(log.base(), 1, Cause::Segments)]);
}

#[test]
fn a_sealed_segment_is_read_up_to_its_seal_though_other_marks_are_older() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    let older = log.mark();
    log.events([&event(2, 0), &event(3, 0)]);
    log.next_segment(START);
    log.commit();
    let first = log.segment_path(0);
    // as recovery leaves it that was killed when it had sealed what it found behind the marks
    let bytes = std::fs::read(&first).unwrap();
    let twin = testlog::folder();
    let other = TestLog::new(twin.path(), 1 << 20);
    std::fs::write(other.path(), bytes).unwrap();
    [MarkKind::Committed, MarkKind::Synced].into_iter().for_each(|kind| other.write_mark(kind, older));
    std::fs::copy(other.path(), first).unwrap();
    assert_eq!(read(&mut Reader::new(folder.path(), Purpose::Cover, None)).unwrap(), (5, vec![]));
}

#[test]
fn a_segment_is_left_for_one_that_is_on_disk_only() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    let (done, _) = crash::after(0, || read(&mut reader));
    assert_eq!(done.unwrap(), (2, vec![]), "nothing has to be synced");
    log.begin_next(START);
    log.unsync();
    // the sync of the next one fails, or that of its name
    for steps in 0..2 {
        let (done, survived) = crash::after(steps, || read(&mut reader));
        assert!(done.is_err() && !survived, "{done:?}");
        assert!(reader.place().unwrap().0.position <= log.base());
    }
    let (done, survived) = crash::after(4, || read(&mut reader));
    assert!(survived && done.unwrap() == (1, vec![]));
    // what the collector has synced need not be
    log.begin_next(START);
    log.commit();
    assert!(crash::after(0, || read(&mut reader)).0.is_err(), "its name");
    let (done, survived) = crash::after(2, || read(&mut reader));
    assert!(survived && done.unwrap() == (1, vec![]));
}

#[test]
fn what_a_segment_has_lost_is_told_once_while_the_next_one_is_waited_for() {
    let folder = testlog::folder();
    let _collector = crate::lock::Lock::take(&folder.path().join("lock")).unwrap();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.seal();
    // all of this one was torn, and took not a byte
    log.begin_next(START);
    let lost = Mark { length: HEADER_LEN as u64, ordinal: log.ordinal() };
    MarkKind::ALL.iter().for_each(|kind| log.write_mark(*kind, lost));
    log.begin_next(START);
    log.unsync();
    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    let (records, told) = read(&mut reader).unwrap();
    assert_eq!((records, told.len()), (2, 1), "{told:?}");
    assert_eq!(read(&mut reader).unwrap(), (0, vec![]));
    log.commit();
    assert_eq!(read(&mut reader).unwrap(), (1, vec![]));
}

#[test]
fn where_a_header_has_lost_its_first_ordinal_the_record_behind_it_has_it() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    // a power cut takes these, and of the next segment all but its record
    log.events([&event(2, 0), &event(3, 0)]);
    log.begin_next(START);
    let first = log.ordinal() - 1;
    log.write_header(UNKNOWN_ORDINAL);
    MarkKind::ALL.iter().for_each(|kind| log.clear_mark(*kind));
    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    let (records, lost) = read(&mut reader).unwrap();
    let lost: Vec<_> = lost.iter().map(|lost| (lost.base, lost.records, lost.cause)).collect();
    assert_eq!((records, lost), (2, vec![(0, 2, Cause::Torn)]));
    // as the collector recovers it
    log.write_header(first);
    log.commit();
    assert_eq!(read(&mut reader).unwrap(), (1, vec![]));
}

#[test]
fn who_looks_on_does_not_call_lost_what_the_collector_has_yet_to_write() {
    let folder = testlog::folder();
    let collector = crate::lock::Lock::take(&folder.path().join("lock")).unwrap();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.commit();
    log.event(&event(2, 0));
    log.begin_next(START);
    let look = || read(&mut Reader::new(folder.path(), Purpose::Look, None)).unwrap();
    assert_eq!(look(), (2, vec![]));
    drop(collector);
    let (records, lost) = look();
    assert_eq!((records, lost.len()), (3, 1), "{lost:?}");
}

#[test]
fn what_recovery_called_torn_before_it_was_cut_short_is_torn() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    let whole = log.length();
    log.events([&event(2, 0), &event(3, 0)]);
    log.commit();
    log.patch(whole, &vec![0; usize::try_from(log.length() - whole).unwrap()]);
    log.write_holes(&[(whole, log.length())]);
    // a power cut has left nothing of the next one
    log.begin_next(START);
    log.write_header(UNKNOWN_ORDINAL);
    log.patch(HEADER_LEN as u64, &vec![0; usize::try_from(log.length()).unwrap() - HEADER_LEN]);
    MarkKind::ALL.iter().for_each(|kind| log.clear_mark(*kind));
    let (records, lost) = read(&mut Reader::new(folder.path(), Purpose::Cover, None)).unwrap();
    let lost: Vec<_> = lost.iter().map(|lost| (lost.position, lost.records, lost.cause)).collect();
    assert_eq!((records, lost), (2, vec![(whole, 2, Cause::Torn)]));
}

#[test]
fn the_log_ends_before_a_segment_that_has_lost_its_name() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    log.next_segment(START);
    let (lost, without) = (log.path(), folder.path().join(layout::LOG).join(layout::new_segment(log.base())));
    log.next_segment(START);
    log.commit();
    disk::rename(&lost, &without).unwrap();
    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    assert_eq!(read(&mut reader).unwrap(), (2, vec![]));
    // the collector gives it back
    disk::rename(&without, &lost).unwrap();
    assert_eq!(read(&mut reader).unwrap(), (2, vec![]));
}

#[test]
fn a_hole_with_nothing_behind_it_is_looked_at_again() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.event(&event(1, 0));
    let whole = log.mark();
    log.event(&event(2, 0));
    let end = log.mark();
    log.commit_only();
    let [from, to] = [whole, end].map(|mark| usize::try_from(mark.length).unwrap());
    let record = std::fs::read(log.path()).unwrap()[from..to].to_vec();
    log.patch(whole.length, &vec![0; to - from]);
    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    assert_eq!(read(&mut reader).unwrap(), (2, vec![]), "a ledger and an event; the other one is not lost yet");
    assert_eq!(reader.place().unwrap().0.position, log.base() + whole.length);
    log.patch(whole.length, &record);
    assert_eq!(read(&mut reader).unwrap(), (1, vec![]));
}

#[test]
fn what_the_end_of_an_unsealed_segment_has_lost_is_counted_by_its_marks() {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 1 << 20);
    log.events([&event(1, 0), &event(2, 0)]);
    let whole = log.mark();
    log.events([&event(3, 0), &event(4, 0)]);
    let end = log.mark();
    log.commit_only();
    // a power cut took the last two records, and of the next segment all but that it was prepared
    log.patch(whole.length, &vec![0; usize::try_from(end.length - whole.length).unwrap()]);
    log.begin_next(START);
    log.commit();
    let page = SegmentFile::open(&folder.path().join(layout::LOG), log.base()).unwrap().page().unwrap().unwrap();
    let prepared = Header { first_ordinal: UNKNOWN_ORDINAL, ..page.header }.encode();
    let mut file = vec![0; 1 << 20];
    for at in [0, SECTOR_LEN] {
        file[at..at + SECTOR_LEN].copy_from_slice(&prepared);
    }
    std::fs::write(log.path(), file).unwrap();

    let mut reader = Reader::new(folder.path(), Purpose::Cover, None);
    let (records, lost) = read(&mut reader).unwrap();
    assert_eq!((records, lost.len()), (3, 1), "a ledger and two events: {lost:?}");
    assert_eq!((lost[0].cause, lost[0].records), (Cause::Torn, 2));
    assert_eq!(reader.place().unwrap().0.ordinal, Some(end.ordinal), "as the collector will go on");
}
