//! The log as a reader in another process finds it: after an orderly end, after a kill, after a power cut.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tallylight_collector::log::{Ack, Batch, Level, Log, Options, Recovered, ack};
use tallylight_proto::beacon::Judged;
use tallylight_proto::datagram::{Number, SourceId};
use tallylight_proto::event::Origin;
use tallylight_proto::ledger::{Counts, FrontCounts, Ledger};
use tallylight_proto::record::{self, Record};
use tallylight_proto::segment::{
    Found, Framing, Gap, HEADER_LEN, Header, HeaderPage, Mark, MarkKind, SECTOR_LEN, Scanner, UNKNOWN_ORDINAL,
};
use tallylight_proto::sources::{Figures, Report, Scope};
use tallylight_proto::{Event, Front, Id, Refusal, Shed, layout};
use tempfile::TempDir;

const SEGMENT: u64 = 1 << 20;

fn options(data: &Path) -> Options {
    Options {
        data: data.to_owned(),
        node: "test-000000".into(),
        segment_size: SEGMENT,
        sync_interval: Duration::from_secs(3600),
        reserve: 0,
        watchdog: Default::default(),
    }
}

fn start(data: &Path) -> (Log, Recovered) {
    Log::start(options(data), |error| panic!("{error}")).expect("a usable folder")
}

fn event(n: u64) -> Event<'static> {
    let text = |text: &'static str| Cow::Borrowed(text);
    Event {
        id: Id { uuid: uuid::Uuid::from_u128(u128::from(n)), made_here: false },
        received_at: 1_795_392_000_000,
        age_ms: 0,
        front: Front::Http1,
        site: text("books"),
        event: text("click"),
        target: text("https://example.org/a/rather/long/target/so/that/records/are/as/long/as/real/ones/are"),
        page: text("https://shop.example/"),
        item: Cow::Owned(format!("item-{n}")),
        placement: text("below-the-fold"),
        visitor: Cow::Owned("v".repeat(usize::try_from(n % 50).expect("small"))),
        user_agent: text("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0"),
        ip: Some([192, 0, 2, 0].into()),
        value: None,
        lost: 0,
        origin: None,
        props: Vec::new(),
    }
}

fn http1(counts: &Counts) -> FrontCounts {
    counts.fronts[Front::Http1.index()]
}

/// Sends these as one batch and waits for the outcome.
fn send(log: &Log, numbers: std::ops::Range<u64>, level: Level) -> Result<(), Shed> {
    let appender = log.appender();
    let mut batch = appender.batch();
    let waiting = fill(&mut batch, numbers, level);
    appender.try_send(batch).expect("room in the channel");
    waiting.blocking_recv().expect("an answer")
}

/// A log as it was in its third segment.
fn cut_in_the_third_segment() -> TempDir {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send_three_segments(&log, data.path());
    let cut = copy(data.path());
    log.finish();
    cut
}

/// Sends events until there are three segments, and says how many those are.
fn send_three_segments(log: &Log, data: &Path) -> u64 {
    let mut sent = 0;
    while segments(data).len() < 3 {
        send(log, sent..sent + 100, Level::Logged).expect("taken");
        sent += 100;
    }
    sent
}

fn fill(batch: &mut Batch, numbers: std::ops::Range<u64>, level: Level) -> Ack {
    let (sender, receiver) = ack();
    let first = batch.len();
    for n in numbers {
        batch.push(&event(n));
    }
    batch.ack_since(first, level, sender);
    receiver
}

/// All that a reader finds in a log.
#[derive(Debug, Default)]
struct Contents {
    events: Vec<u64>,
    /// Sequence numbers of the datagrams of those that came in one.
    sequences: Vec<u64>,
    ordinals: Vec<u64>,
    positions: Vec<u64>,
    ledgers: Vec<Ledger>,
    /// Holes, and whether each is known to be torn.
    gaps: Vec<(Gap, bool)>,
    sealed: Vec<bool>,
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join(layout::LOG)).expect("a log");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().and_then(|name| layout::segment_base(name.to_str()?)).is_some())
        .collect();
    paths.sort();
    paths
}

fn read(data: &Path) -> Contents {
    let mut contents = Contents::default();
    for path in segments(data) {
        let (bytes, page) = load(&path);
        assert!(page.damaged.is_empty(), "{}", path.display());
        contents.sealed.push(page.sealed.is_some());
        let end = page.sealed.or(page.committed).expect("a mark");
        let framing = Framing::new(page.header.salt, page.header.base);
        let start = Mark { length: HEADER_LEN as u64, ordinal: page.header.first_ordinal };
        let mut scanner = Scanner::new(framing, start, end.length, Some(end.ordinal));
        let from = |offset: u64| usize::try_from(offset).expect("small").min(bytes.len());
        let mut read = |offset: u64, buffer: &mut [u8]| {
            let len = buffer.len().min(bytes.len() - from(offset));
            buffer[..len].copy_from_slice(&bytes[from(offset)..from(offset) + len]);
            Ok::<_, std::convert::Infallible>(len)
        };
        while let Ok(Some(found)) = scanner.next(&mut read) {
            match found {
                Found::Gap(gap) => contents.gaps.push((gap, page.holes.cover(gap.from, gap.to))),
                Found::Record(framed) => {
                    contents.ordinals.push(framed.ordinal);
                    contents.positions.push(framed.position);
                    match record::decode(framed.payload).expect("our own record") {
                        Record::Event(event) => {
                            let (_, n) = event.id.uuid.as_u64_pair();
                            contents.events.push(n);
                            contents.sequences.extend(event.origin.map(|origin| origin.number.sequence));
                        }
                        Record::Ledger(ledger) => contents.ledgers.push(ledger),
                    }
                }
            }
        }
    }
    contents
}

fn assert_whole(contents: &Contents, events: u64) {
    assert_eq!(contents.events, (0..events).collect::<Vec<_>>());
    assert_eq!(contents.ordinals, (0..contents.ordinals.len() as u64).collect::<Vec<_>>());
    assert!(contents.positions.is_sorted_by(|a, b| a < b));
    assert_eq!(contents.gaps, []);
    assert!(contents.ledgers.iter().all(|ledger| ledger.counts.is_balanced()), "{:?}", contents.ledgers);
}

/// What a kill would leave: the files as another process sees them now.
fn copy(data: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(to.path().join(layout::LOG)).expect("a folder");
    for entry in std::fs::read_dir(data.join(layout::LOG)).expect("a log") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            // the next segment may get its name meanwhile
            let _ = std::fs::copy(&path, to.path().join(layout::LOG).join(path.file_name().expect("a name")));
        }
    }
    to
}

#[test]
fn an_orderly_end_seals_everything_and_closes_the_ledger() {
    let data = tempfile::tempdir().expect("a folder");
    for life in 0..3_u64 {
        let (log, recovered) = start(data.path());
        assert_eq!((recovered.sealed, recovered.torn, recovered.was_killed), (0, 0, false));
        for n in 0..40 {
            let from = (life * 40 + n) * 250;
            send(&log, from..from + 250, Level::Logged).expect("taken");
        }
        log.finish();
    }
    let contents = read(data.path());
    assert_whole(&contents, 30_000);
    assert!(contents.sealed.len() > 10 && contents.sealed.iter().all(|sealed| *sealed));
    let last = contents.ledgers.last().expect("a ledger");
    assert!(last.closing);
    assert_eq!((http1(&last.counts).received, last.counts.events().logged), (30_000, 30_000));
    let leftovers = std::fs::read_dir(data.path().join(layout::LOG)).expect("a log").count();
    assert_eq!(leftovers, contents.sealed.len() + 1, "segments and the folder of spares");
}

#[test]
fn what_was_logged_survives_a_kill_and_the_log_goes_on_behind_it() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    for n in 0..30 {
        send(&log, n * 100..n * 100 + 100, Level::Logged).expect("taken");
    }
    let killed = copy(data.path());
    log.finish();

    let (log, recovered) = start(killed.path());
    assert!(recovered.was_killed && recovered.sealed >= 1 && recovered.torn == 0, "{recovered:?}");
    assert_eq!((recovered.counts.events().logged, http1(&recovered.counts).received), (3000, 3000));
    send(&log, 3000..3100, Level::Synced).expect("taken");
    log.finish();
    let contents = read(killed.path());
    assert_whole(&contents, 3100);
    assert_eq!(contents.ledgers.last().map(|ledger| ledger.counts.events().logged), Some(3100));
}

#[test]
fn what_was_synced_survives_the_loss_of_everything_behind_it() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send(&log, 0..100, Level::Synced).expect("taken");
    send(&log, 100..200, Level::Logged).expect("taken");
    let cut = copy(data.path());
    log.finish();

    let path = segments(cut.path()).pop().expect("a segment");
    let (mut bytes, page) = load(&path);
    let synced = page.synced.expect("something was synced");
    bytes[usize::try_from(synced.length).expect("small")..].fill(0);
    std::fs::write(&path, &bytes).expect("writable");

    let (log, recovered) = start(cut.path());
    assert_eq!(recovered.torn, page.committed.expect("a mark").ordinal - synced.ordinal);
    assert!(recovered.next_base >= page.header.base + SEGMENT);
    send(&log, 300..301, Level::Logged).expect("taken");
    log.finish();
    let contents = read(cut.path());
    assert_eq!(contents.events, (0..100).chain([300]).collect::<Vec<_>>());
    assert!(contents.positions.is_sorted_by(|a, b| a < b));
    assert!(matches!(contents.gaps[..], [(gap, true)] if gap.records == Some(recovered.torn)), "{:?}", contents.gaps);
}

/// The bytes of a segment and what its header says.
fn load(path: &Path) -> (Vec<u8>, HeaderPage) {
    let bytes = std::fs::read(path).expect("readable");
    let page = HeaderPage::decode(&bytes).expect("a header");
    (bytes, page)
}

/// As if no mark of this kind had ever reached the disk.
fn wipe(bytes: &mut [u8], kind: MarkKind) {
    for slot in 0..2 {
        bytes[Mark::offset(kind, slot)..][..24].fill(0);
    }
}

#[test]
fn the_ledger_goes_on_after_lives_that_left_no_ledger_record() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send(&log, 0..1000, Level::Logged).expect("taken");
    log.finish();
    let mut left = data;
    for _ in 0..3 {
        let before = segments(left.path()).len();
        let (log, recovered) = start(left.path());
        assert_eq!(recovered.counts.events().logged, 1000);
        while segments(left.path()).len() == before {
            std::thread::yield_now();
        }
        let killed = copy(left.path());
        log.finish();
        let path = segments(killed.path()).pop().expect("a segment");
        let (mut bytes, _) = load(&path);
        bytes[HEADER_LEN..].fill(0);
        std::fs::write(&path, bytes).expect("writable");
        left = killed;
    }
    let (log, _) = start(left.path());
    send(&log, 1000..1001, Level::Logged).expect("taken");
    log.finish();
    let ledgers = read(left.path()).ledgers;
    assert!(ledgers.is_sorted_by_key(|ledger| ledger.counts.events().logged), "{ledgers:?}");
    assert_eq!(ledgers.last().map(|ledger| ledger.counts.events().logged), Some(1001));
}

#[test]
fn what_a_power_cut_takes_around_a_change_of_segments_is_torn_not_damaged() {
    let cut = cut_in_the_third_segment();
    let paths = segments(cut.path());
    let (mut left, page) = load(&paths[1]);
    MarkKind::ALL.into_iter().for_each(|kind| wipe(&mut left, kind));
    let tail = page.committed.expect("a mark").length - 20_000;
    left[usize::try_from(tail).expect("small")..].fill(0);
    std::fs::write(&paths[1], left).expect("writable");

    for life in 0..2 {
        let (log, recovered) = start(cut.path());
        assert_eq!(recovered.torn > 0, life == 0);
        log.finish();
        let contents = read(cut.path());
        let missing: u64 = contents.gaps.iter().filter_map(|(gap, _)| gap.records).sum();
        assert!(contents.gaps.iter().all(|(_, is_torn)| *is_torn) && missing > 0, "{:?}", contents.gaps);
        assert_eq!(contents.ordinals.len() as u64 + missing, contents.ordinals.last().expect("records") + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Pages reach the disk in any order: each of those above the synced mark is there or not.
    #[test]
    fn any_subset_of_unsynced_pages_leaves_what_is_whole_and_counts_what_is_not(kept in prop::collection::vec(any::<bool>(), 256)) {
        let data = tempfile::tempdir().expect("a folder");
        let (log, _) = start(data.path());
        send(&log, 0..300, Level::Synced).expect("taken");
        send(&log, 300..1200, Level::Logged).expect("taken");
        let cut = copy(data.path());
        log.finish();

        let path = segments(cut.path()).pop().expect("a segment");
        let (mut bytes, page) = load(&path);
        let synced = usize::try_from(page.synced.expect("something was synced").length).expect("small");
        for (n, page) in bytes.chunks_mut(4096).enumerate().filter(|(n, _)| !kept[*n]) {
            if let Some(unsynced) = page.get_mut(synced.saturating_sub(n * 4096)..) {
                unsynced.fill(0);
            }
        }
        std::fs::write(&path, &bytes).expect("writable");

        let (log, recovered) = start(cut.path());
        log.finish();
        let contents = read(cut.path());
        let committed = page.committed.expect("a mark");
        let in_segment = contents.ordinals.iter().filter(|ordinal| **ordinal < committed.ordinal).count() as u64;
        prop_assert!((0..300).all(|n| contents.events.contains(&n)));
        prop_assert!(contents.gaps.iter().all(|(_, is_torn)| *is_torn), "{:?}", contents.gaps);
        let missing: u64 = contents.gaps.iter().filter_map(|(gap, _)| gap.records).sum();
        prop_assert_eq!(missing, recovered.torn);
        prop_assert_eq!(in_segment + missing, committed.ordinal);
    }
}

#[test]
fn a_spare_is_used_again_and_nothing_of_its_past_comes_back() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    for n in 0..20 {
        send(&log, n * 500..n * 500 + 500, Level::Logged).expect("taken");
    }
    log.finish();
    let mut finished = segments(data.path());
    finished.pop();
    let spare = data.path().join(layout::LOG).join(layout::SPARE);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("a file"));
    let old: Vec<u64> = finished.iter().map(|path| inode(path)).collect();
    for path in &finished {
        #[expect(clippy::disallowed_methods, reason = "the test plays the compactor")]
        std::fs::rename(path, spare.join(path.file_name().expect("a name"))).expect("one folder");
    }

    let (log, _) = start(data.path());
    send(&log, 20_000..20_010, Level::Logged).expect("taken");
    let killed = copy(data.path());
    log.finish();
    assert!(old.contains(&inode(&segments(data.path())[1])), "a spare was taken");
    let before = read(killed.path());
    let (log, recovered) = start(killed.path());
    log.finish();
    assert_eq!(recovered.torn, 0);
    assert_eq!(read(killed.path()).events, before.events);
    assert_eq!(before.events.iter().filter(|n| **n >= 20_000).count(), 10);
}

/// Flips a bit of this byte of a segment.
fn flip(path: &Path, at: impl Fn(&HeaderPage) -> u64) {
    let (mut bytes, page) = load(path);
    bytes[usize::try_from(at(&page)).expect("small")] ^= 1;
    std::fs::write(path, bytes).expect("room");
}

#[test]
fn a_begun_segment_that_has_lost_its_name_gets_it_back() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send(&log, 0..50, Level::Synced).expect("taken");
    let killed = copy(data.path());
    log.finish();
    let named = segments(killed.path()).pop().expect("a segment");
    #[expect(clippy::disallowed_methods, reason = "the test plays the power cut")]
    std::fs::rename(&named, named.with_file_name(layout::new_segment(0))).expect("one folder");
    let (log, recovered) = start(killed.path());
    log.finish();
    assert_eq!((recovered.torn, read(killed.path()).events.len()), (0, 50));
}

#[test]
fn one_of_which_nothing_but_its_place_was_on_disk_gets_its_name_back_before_the_one_behind_it() {
    let cut = cut_in_the_third_segment();
    let paths = segments(cut.path());
    let (_, page) = load(&paths[1]);
    let header = Header { first_ordinal: UNKNOWN_ORDINAL, ..page.header }.encode();
    let mut prepared = vec![0; usize::try_from(SEGMENT).expect("small")];
    [0, SECTOR_LEN].into_iter().for_each(|sector| prepared[sector..sector + SECTOR_LEN].copy_from_slice(&header));
    std::fs::write(&paths[1], prepared).expect("room");
    for path in &paths[1..] {
        let (_, page) = load(path);
        #[expect(clippy::disallowed_methods, reason = "the test plays the power cut")]
        std::fs::rename(path, path.with_file_name(layout::new_segment(page.header.base))).expect("one folder");
    }
    let (log, recovered) = start(cut.path());
    log.finish();
    let contents = read(cut.path());
    let missing: u64 = contents.gaps.iter().filter_map(|(gap, _)| gap.records).sum();
    assert!(contents.gaps.iter().all(|(_, is_torn)| *is_torn), "{:?}", contents.gaps);
    assert_eq!((missing, missing > 0), (recovered.torn, true));
    assert_eq!(contents.ordinals.len() as u64 + missing, contents.ordinals.last().expect("records") + 1);
}

#[test]
fn what_is_damaged_below_the_synced_mark_is_not_called_torn() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send(&log, 0..50, Level::Synced).expect("taken");
    let killed = copy(data.path());
    log.finish();
    flip(&segments(killed.path())[0], |page| page.synced.expect("a mark").length / 2);
    let (log, recovered) = start(killed.path());
    log.finish();
    assert_eq!(recovered.torn, 0, "no power cut took it");
    let gaps = read(killed.path()).gaps;
    assert!(gaps.len() == 1 && !gaps[0].1, "{gaps:?}");
}

#[test]
fn a_killed_log_has_its_ledger_at_its_end_once_it_is_recovered() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send(&log, 0..50, Level::Logged).expect("taken");
    let killed = copy(data.path());
    log.finish();
    let recovering = Options { reserve: u64::MAX / 2, ..options(killed.path()) };
    let (log, _) = Log::start(recovering, |error| panic!("{error}")).expect("no space is needed for it");
    let contents = read(killed.path());
    log.finish();
    let last = contents.ledgers.last().expect("a ledger");
    assert_eq!((http1(&last.counts).logged, last.marks.scope), (50, Scope::All), "the segments before it may go");
}

#[test]
fn ordinals_go_on_behind_the_seal_though_the_last_records_are_damaged() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send(&log, 0..50, Level::Logged).expect("taken");
    log.finish();
    let last = *read(data.path()).ordinals.last().expect("records");
    flip(&segments(data.path())[0], |page| page.sealed.expect("a seal").length - 9);
    let (log, _) = start(data.path());
    send(&log, 50..60, Level::Logged).expect("taken");
    log.finish();
    let (_, page) = load(&segments(data.path())[1]);
    assert_eq!(page.header.first_ordinal, last + 1);
}

#[test]
fn where_the_ledgers_of_the_last_segments_are_damaged_the_one_before_tells_how_it_stands() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    let sent = send_three_segments(&log, data.path());
    // with the disk's answer those before it are sealed
    send(&log, sent..sent + 1, Level::Synced).expect("taken");
    // without the closing one
    let killed = copy(data.path());
    log.finish();
    for path in &segments(killed.path())[1..] {
        flip(path, |_| HEADER_LEN as u64 + 40);
    }
    let (log, recovered) = start(killed.path());
    log.finish();
    assert_eq!(http1(&recovered.counts).logged, sent + 1);
}

#[test]
fn a_datagram_that_finds_no_room_is_shed() {
    let data = tempfile::tempdir().expect("a folder");
    let no_room = Options { reserve: u64::MAX / 2, ..options(data.path()) };
    let (log, _) = Log::start(no_room, |error| panic!("{error}")).expect("a full disk is no failure");
    let appender = log.appender();
    let mut batch = appender.batch();
    push_datagram(&mut batch, 1, 3, 0);
    appender.try_send(batch).expect("room in the channel");
    drop(appender);
    assert_eq!(send(&log, 0..1, Level::Logged), Err(Shed::Disk));
    let udp = log.status().snapshot().counts.fronts[Front::Udp.index()];
    assert_eq!((udp.received, udp.logged, udp.shed[Shed::Disk.index()]), (3, 0, 3));
    log.finish();
}

#[test]
fn a_spare_of_another_size_is_not_used() {
    let data = tempfile::tempdir().expect("a folder");
    let spares = data.path().join(layout::LOG).join(layout::SPARE);
    std::fs::create_dir_all(&spares).expect("a folder");
    for (base, size) in [(0, 2 * SEGMENT), (SEGMENT, 3 * SEGMENT)] {
        std::fs::write(spares.join(layout::segment(base)), vec![7; usize::try_from(size).expect("small")])
            .expect("room");
    }
    let (log, _) = start(data.path());
    send(&log, 0..10, Level::Logged).expect("taken");
    let lengths: Vec<u64> =
        segments(data.path()).iter().map(|path| std::fs::metadata(path).expect("a file").len()).collect();
    log.finish();
    assert_eq!(lengths, [SEGMENT], "as long as the header says");
    assert_eq!(std::fs::read_dir(&spares).expect("a folder").count(), 0, "what cannot be used takes no space");
    assert_eq!(read(data.path()).events.len(), 10);
}

#[test]
fn what_is_answered_together_is_taken_together_or_not_at_all() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    let mut sent = send_three_segments(&log, data.path());
    log.finish();
    // one segment can be had, and no more
    let full = &segments(data.path())[0];
    let spare = data.path().join(layout::LOG).join(layout::SPARE).join(full.file_name().expect("a name"));
    #[expect(clippy::disallowed_methods, reason = "the test plays the compactor")]
    std::fs::rename(full, spare).expect("one folder");
    let before = read(data.path()).events.len();
    let one_more = Options { reserve: u64::MAX / 2, ..options(data.path()) };
    let (log, _) = Log::start(one_more, |error| panic!("{error}")).expect("a full disk is no failure");
    let mut taken = 0;
    let refused = loop {
        match send(&log, sent..sent + 70, Level::Logged) {
            Ok(()) => (taken, sent) = (taken + 70, sent + 70),
            Err(reason) => break reason,
        }
        assert!(taken < 100_000, "one segment has not so much room");
    };
    log.finish();
    assert_eq!(refused, Shed::Disk);
    assert!(taken > 0);
    assert_eq!(read(data.path()).events.len() - before, taken);
}

#[test]
fn without_room_for_a_segment_events_are_shed_and_counted() {
    let data = tempfile::tempdir().expect("a folder");
    let no_room = Options { reserve: u64::MAX / 2, ..options(data.path()) };
    let (log, _) = Log::start(no_room, |error| panic!("{error}")).expect("a full disk is no failure");
    assert_eq!(send(&log, 0..10, Level::Logged), Err(Shed::Disk));
    let status = log.status().snapshot();
    assert!(status.shedding);
    let counts = http1(&status.counts);
    assert_eq!((counts.received, counts.shed[Shed::Disk.index()]), (10, 10));
    log.finish();
}

#[test]
fn a_batch_that_finds_no_room_is_given_up_with_its_counts() {
    let mut batch = Batch::default();
    let mut waiting = fill(&mut batch, 0..7, Level::Logged);
    batch.refuse(Front::Http2, tallylight_proto::Refusal::Site, 2);
    batch.give_up(Shed::Queue);
    assert_eq!(waiting.try_recv(), Ok(Err(Shed::Queue)));
    assert_eq!((batch.len(), batch.is_empty()), (0, false), "the counts travel on");

    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    log.appender().try_send(batch).expect("room in the channel");
    send(&log, 0..1, Level::Logged).expect("taken");
    let counts = log.status().snapshot().counts;
    log.finish();
    let of = |front: Front| counts.fronts[front.index()];
    assert_eq!((of(Front::Http1).received, of(Front::Http2).received), (8, 2));
    assert_eq!((counts.events().shed, counts.events().logged), ([7, 0, 0, 0], 1));
    assert!(counts.is_balanced());
}

const SOURCE: SourceId = SourceId { key: Some(1), source: 7 };

/// A datagram with so many events, one of them refused if asked for.
fn push_datagram(batch: &mut Batch, sequence: u64, events: u64, refused: u64) {
    let number = Number { source: SOURCE, sequence };
    let here = batch.here();
    for place in 0..events {
        let place = u16::try_from(place).expect("few");
        let origin = Some(Origin { number, place, is_last: false });
        batch.push(&Event { origin, front: Front::Udp, ..event(sequence * 1000 + u64::from(place)) });
    }
    let mut judged = Judged { taken: events, ..Judged::default() };
    judged.refused[Refusal::Malformed.index()] = refused;
    batch.datagram(here, Some(number), &judged, None);
}

/// Sends datagrams of three events, and one event to wait for.
fn send_datagrams(log: &Log, sequences: impl IntoIterator<Item = u64>) {
    let appender = log.appender();
    let mut batch = appender.batch();
    sequences.into_iter().for_each(|sequence| push_datagram(&mut batch, sequence, 3, 0));
    let waiting = fill(&mut batch, 0..1, Level::Logged);
    appender.try_send(batch).expect("room in the channel");
    assert_eq!(waiting.blocking_recv(), Ok(Ok(())));
}

fn figures(recovered: &Recovered) -> (Figures, u64) {
    let reports = recovered.sources.reports(0);
    let [Report { figures, pending, .. }] = reports[..] else { panic!("{reports:?}") };
    (figures, pending)
}

#[test]
fn a_datagram_that_came_before_is_dropped_with_all_that_is_in_it_also_after_a_kill() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send_datagrams(&log, [1, 2, 2, 3, 1]);
    let counts = log.status().snapshot().counts;
    assert_eq!((counts.events().received, counts.datagrams.received, counts.datagrams.duplicate), (10, 5, 2));
    let killed = copy(data.path());
    log.finish();

    let (log, recovered) = start(killed.path());
    // copies are of those that a kill makes forget
    assert_eq!(figures(&recovered), (Figures { received: 3, events: 9, ..Figures::default() }, 0));
    send_datagrams(&log, [3, 2, 1, 4]);
    log.finish();
    let contents = read(killed.path());
    assert_eq!(contents.sequences, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    let last = contents.ledgers.last().expect("a ledger");
    assert_eq!((last.counts.datagrams.duplicate, last.counts.fronts[Front::Udp.index()].logged), (3, 12));
    assert!(last.counts.is_balanced());
}

#[test]
fn a_kill_takes_nothing_for_lost_that_came_and_left_no_record() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    let appender = log.appender();
    let mut batch = appender.batch();
    push_datagram(&mut batch, 1, 1, 0);
    push_datagram(&mut batch, 2, 0, 5);
    push_datagram(&mut batch, 4, 2, 1);
    let waiting = fill(&mut batch, 0..1, Level::Logged);
    appender.try_send(batch).expect("room in the channel");
    assert_eq!(waiting.blocking_recv(), Ok(Ok(())));
    let killed = copy(data.path());
    drop(appender);
    log.finish();

    let (log, recovered) = start(killed.path());
    assert_eq!(figures(&recovered), (Figures { received: 3, events: 3, ..Figures::default() }, 1));
    log.finish();
}

#[test]
fn a_segment_whose_full_ledger_is_damaged_does_not_say_how_sources_stand() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send_datagrams(&log, 1..=3);
    send_three_segments(&log, data.path());
    log.finish();
    // its closing one tells of changes only
    flip(segments(data.path()).last().expect("segments"), |_| HEADER_LEN as u64 + 40);
    let (log, recovered) = start(data.path());
    log.finish();
    assert_eq!(figures(&recovered).0.received, 3);
}

#[test]
fn a_datagram_that_a_kill_cut_in_two_did_not_come() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    send_datagrams(&log, [1, 2]);
    let killed = copy(data.path());
    log.finish();
    // the last record of the second datagram: as if the writer had died before it
    let path = segments(killed.path()).remove(0);
    let contents = read(killed.path());
    let cut = contents.positions[contents.positions.len() - 2];
    let mut bytes = std::fs::read(&path).expect("a segment");
    bytes[usize::try_from(cut).expect("small")..].fill(0);
    std::fs::write(&path, bytes).expect("written");

    let (log, recovered) = start(killed.path());
    assert_eq!(figures(&recovered), (Figures { received: 1, events: 5, ..Figures::default() }, 0));
    // its own number shows that the second one is missing
    send_datagrams(&log, [3]);
    assert_eq!(log.status().sources().reports(0)[0].pending, 1);
    log.finish();
}

#[test]
fn datagrams_stand_in_one_segment_each_and_sources_go_on_through_all_of_them() {
    let data = tempfile::tempdir().expect("a folder");
    let (log, _) = start(data.path());
    for from in (1..6000).step_by(100) {
        send_datagrams(&log, (from..from + 100).filter(|sequence| sequence % 10 != 0));
    }
    log.finish();
    for path in segments(data.path()) {
        let alone = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(alone.path().join(layout::LOG)).expect("a folder");
        std::fs::copy(&path, alone.path().join(layout::LOG).join(path.file_name().expect("a name"))).expect("copied");
        let contents = read(alone.path());
        assert!(contents.sequences.chunk_by(|a, b| a == b).all(|datagram| datagram.len() == 3));
        // each begins with a ledger record that needs none before it
        let (log, recovered) = start(alone.path());
        let (figures, pending) = figures(&recovered);
        let next = contents.sequences.last().expect("some") + 1;
        let missing = (next - 1) / 10;
        assert_eq!((figures.received, figures.events), (next - 1 - missing, (next - 1 - missing) * 3));
        assert_eq!(figures.lost + pending, missing);
        log.finish();
    }
    assert!(segments(data.path()).len() > 3);
}
