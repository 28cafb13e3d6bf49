use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::run::COPIES_IN_GROUP;
use super::*;
use crate::storage::crash;

const NOW: Millis = 1_790_000_000_000;
const SMALL: Limits = Limits { head_copies: 40, cache_bytes: 4 * page::PAGE_BYTES };

fn id(n: u128) -> Uuid {
    Uuid::from_u128(0x019a_b000_0000_7000_8000_0000_0000_0000 + n)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    storage::list(folder).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn the_first_copy_counts_and_stays_the_first_when_judged_again() {
    let folder = folder();
    let mut index = Index::open(folder.path(), SMALL).unwrap();
    for flushed in [false, true] {
        assert_eq!(index.judge(id(1), 100, NOW).unwrap(), Verdict::First);
        assert_eq!(index.judge(id(1), 200, NOW + 1).unwrap(), Verdict::Duplicate, "flushed: {flushed}");
        assert_eq!(index.judge(id(1), 100, NOW).unwrap(), Verdict::First);
        index.flush(300).unwrap();
    }
    let mut index = Index::open(folder.path(), SMALL).unwrap();
    assert_eq!(index.through(), 300);
    assert_eq!(index.judge(id(1), 200, NOW + 1).unwrap(), Verdict::Duplicate);
    assert_eq!(index.judge(id(2), 300, NOW + 2).unwrap(), Verdict::First);
}

#[test]
fn a_copy_of_seven_days_later_is_a_duplicate_and_a_millisecond_more_is_not() {
    for flushed in [false, true] {
        let folder = folder();
        let mut index = Index::open(folder.path(), SMALL).unwrap();
        let mut judge = |position, received_at| {
            if flushed {
                index.flush(position).unwrap();
            }
            index.judge(id(1), position, received_at).unwrap()
        };
        assert_eq!(judge(1, NOW), Verdict::First);
        assert_eq!(judge(2, NOW + MAX_AGE_MS), Verdict::Duplicate);
        assert_eq!(judge(3, NOW - MAX_AGE_MS), Verdict::Duplicate, "the clock was set back");
        assert_eq!(judge(4, NOW + MAX_AGE_MS + 1), Verdict::First);
        assert_eq!(judge(5, NOW + 2 * MAX_AGE_MS), Verdict::Duplicate, "of the second one");
        // a crash, and all again
        assert_eq!(judge(1, NOW), Verdict::First);
        assert_eq!(judge(2, NOW + MAX_AGE_MS), Verdict::Duplicate);
        assert_eq!(judge(4, NOW + MAX_AGE_MS + 1), Verdict::First);
    }
}

#[test]
fn memory_is_bounded_and_runs_stay_few_whatever_the_ids() {
    let folder = folder();
    let mut index =
        Index::open(folder.path(), Limits { head_copies: 1000, cache_bytes: 10 * page::PAGE_BYTES }).unwrap();
    for n in 0..60_000_u64 {
        // some of now, some of no time at all
        let id = if n % 3 == 0 {
            Uuid::from_u128(u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
        } else {
            id(n.into())
        };
        assert_eq!(index.judge(id, n, NOW).unwrap(), Verdict::First);
        let usage = index.usage();
        assert!(usage.head_copies <= 1000 && usage.cache_bytes <= 10 * page::PAGE_BYTES, "{usage:?}");
        assert!(usage.runs <= 16 && usage.fence_bytes <= 20 * (60 + usage.runs), "{usage:?}");
    }
    let usage = index.usage();
    assert_eq!(usage.run_copies + usage.head_copies as u64, 60_000);
    assert_eq!(usage.cache_bytes, 10 * page::PAGE_BYTES, "the bound was reached");
}

#[test]
fn what_is_eight_days_old_is_dropped() {
    let folder = folder();
    let mut index = Index::open(folder.path(), SMALL).unwrap();
    let mut position = 0;
    for day in 0..30 {
        for n in 0..500 {
            position += 1;
            index.judge(id(day * 1000 + n), position, NOW + i64::try_from(day).unwrap() * DAY_MS).unwrap();
        }
        // what is settled goes up by an hour a commit
        for _ in 0..24 {
            index.flush(position).unwrap();
            index.after_commit().unwrap();
        }
        let held = index.usage().run_copies;
        let wanted = 500 * u64::try_from(day + 1).unwrap().min(9);
        assert!((wanted..=wanted + 2000).contains(&held), "day {day}: {held}");
    }
    let mut again = Index::open(folder.path(), SMALL).unwrap();
    for day in 22..30 {
        assert_eq!(again.judge(id(day * 1000), 99_999, NOW + 29 * DAY_MS).unwrap(), Verdict::Duplicate, "day {day}");
    }
}

#[test]
fn a_clock_a_month_ahead_for_a_moment_drops_nothing() {
    let folder = folder();
    let mut index = Index::open(folder.path(), SMALL).unwrap();
    for (n, position, at) in [(1, 1, NOW), (2, 2, NOW + 30 * DAY_MS), (3, 3, NOW + 1)] {
        assert_eq!(index.judge(id(n), position, at).unwrap(), Verdict::First);
        index.flush(position).unwrap();
        index.after_commit().unwrap();
    }
    assert_eq!(index.judge(id(1), 100, NOW + 2).unwrap(), Verdict::Duplicate);
}

#[test]
fn a_clock_years_ahead_for_a_while_does_not_make_it_forgetful() {
    let folder = folder();
    let mut index = Index::open(folder.path(), SMALL).unwrap();
    let mut position = 0;
    let mut first = |n, at| {
        position += 1;
        assert_eq!(index.judge(id(n), position, at).unwrap(), Verdict::First);
        index.flush(position).unwrap();
        index.after_commit().unwrap();
        // nothing new: log time stands still
        index.flush(position + 1).unwrap();
        index.after_commit().unwrap();
    };
    first(1, NOW + 3000 * DAY_MS);
    first(2, NOW);
    first(3, NOW + 1);
    drop(index);
    let mut index = Index::open(folder.path(), SMALL).unwrap();
    assert_eq!(index.judge(id(2), 100, NOW + 2).unwrap(), Verdict::Duplicate);
    assert_eq!(index.judge(id(3), 101, NOW + 2).unwrap(), Verdict::Duplicate);
}

/// Writes a run, and says how many copies it has.
fn written(folder: &TempDir, number: u64, copies: &[FirstCopy]) -> u64 {
    let groups = copies.chunks(COPIES_IN_GROUP).map(Ok);
    run::write(folder.path(), number, copies.len() > COPIES_IN_GROUP, groups, <[_]>::to_vec).unwrap()
}

#[test]
fn a_large_run_finds_every_id_and_no_other() {
    // more than one page of fences; some ids stand several times, across blocks and groups
    let folder = folder();
    let groups = 300;
    let copies = groups * 2032;
    let id_of = |n: u64| u128::from(n / 200 * 200).max(u128::from(n - n % 2)) * 3;
    let copy = |n: u64| FirstCopy {
        id: if n % 5000 < 300 { u128::from(n - n % 5000) * 3 } else { id_of(n) },
        position: n,
        received_at: NOW,
    };
    assert_eq!(written(&folder, 5, &(0..copies).map(copy).collect::<Vec<_>>()), copies);

    let mut run = Run::open(folder.path(), 5, copies).unwrap();
    assert_eq!(run.memory(), 300 * 20);
    let mut cache = PageCache::new(64 * page::PAGE_BYTES);
    let mut positions = |id: u128| {
        let mut positions = Vec::new();
        let all = run.find(&mut cache, id, |copy| {
            assert_eq!(copy.id, id);
            positions.push(copy.position);
            None::<()>
        });
        assert_eq!(all.unwrap(), None);
        positions
    };
    let mut by_id: HashMap<u128, Vec<u64>> = HashMap::new();
    (0..copies).for_each(|n| by_id.entry(copy(n).id).or_default().push(n));
    assert!(by_id.values().any(|positions| positions.len() >= 300));
    for n in (0..copies).step_by(37).chain([copies - 1]) {
        let id = copy(n).id;
        assert_eq!(positions(id), by_id[&id], "{n}");
        assert!(positions(id + 1).is_empty());
    }
    assert!(positions(u128::MAX).is_empty());

    let mut reader = run.read_all();
    for n in 0..copies {
        assert_eq!(reader.peek().unwrap(), Some(copy(n)));
        reader.skip();
    }
    assert_eq!(reader.peek().unwrap(), None);
}

/// Copies whose fields differ in so many bits.
fn copies_as_far_apart(count: usize) -> impl Strategy<Value = Vec<FirstCopy>> {
    let copies = prop::collection::btree_set(any::<(u128, u64, i64)>(), 1..=count);
    (copies, 0..=128_u32, 0..=64_u32, 0..=64_u32).prop_map(|(copies, id, position, received_at)| {
        let copy = |(a, b, c): (u128, u64, i64)| FirstCopy {
            id: a.checked_shr(128 - id).unwrap_or(0),
            position: b.checked_shr(64 - position).unwrap_or(0),
            received_at: c.checked_shr(64 - received_at).unwrap_or(NOW),
        };
        copies.into_iter().map(copy).collect::<BTreeSet<_>>().into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_in_a_run_is_what_was_put_there(copies in copies_as_far_apart(2 * COPIES_IN_GROUP)) {
        let folder = folder();
        let held = written(&folder, 1, &copies);
        prop_assert_eq!(held, copies.len() as u64);
        let mut run = Run::open(folder.path(), 1, held).unwrap();
        prop_assert_eq!(Some(run.newest), copies.iter().map(|copy| copy.received_at).max());
        let mut reader = run.read_all();
        for copy in &copies {
            prop_assert_eq!(reader.peek().unwrap(), Some(*copy));
            reader.skip();
        }
        prop_assert_eq!(reader.peek().unwrap(), None);
        let mut cache = PageCache::new(64 * page::PAGE_BYTES);
        for copy in copies.iter().step_by(7) {
            prop_assert_eq!(run.find(&mut cache, copy.id, |held| (held == *copy).then_some(())).unwrap(), Some(()));
        }
    }
}

#[test]
fn a_copy_takes_the_bytes_in_which_it_differs_from_those_of_its_group() {
    let bytes_of = |copy: &dyn Fn(u64) -> FirstCopy| {
        let folder = folder();
        let copies = 100 * COPIES_IN_GROUP as u64;
        let mut all: Vec<_> = (0..copies).map(copy).collect();
        all.sort_unstable();
        written(&folder, 1, &all);
        fs::metadata(run::path(folder.path(), 1)).unwrap().len() as f64 / copies as f64
    };
    let random = |n: u64| u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let received_at = |n: u64| NOW + i64::try_from(n / 28).unwrap();
    // of version 7, a hundred million an hour, records of 330 bytes; of version 4; and as bad as can be
    let of_a_time = bytes_of(&|n| FirstCopy {
        id: u128::from(received_at(n).cast_unsigned()) << 80 | random(n) >> 48,
        position: n * 330,
        received_at: received_at(n),
    });
    let of_no_time = bytes_of(&|n| FirstCopy { id: random(n), position: n * 330, received_at: received_at(n) });
    let spread = bytes_of(&|n| FirstCopy {
        id: random(n),
        position: u64::MAX * (n % 2),
        received_at: if n % 3 == 0 { i64::MIN } else { i64::MAX },
    });
    assert!(of_a_time < 18.5 && of_no_time < 24.5 && spread < 35.0, "{of_a_time} {of_no_time} {spread}");
}

#[test]
fn any_flipped_byte_of_a_run_is_an_error_and_never_a_wrong_answer() {
    let folder = folder();
    let copies = 200;
    // far enough apart for two blocks
    let copy = |n: u64| FirstCopy {
        id: id(u128::from(n) << 90).as_u128(),
        position: n << 40,
        received_at: NOW + i64::try_from(n).unwrap() * HOUR_MS,
    };
    written(&folder, 7, &(0..copies).map(copy).collect::<Vec<_>>());
    let path = run::path(folder.path(), 7);
    let whole = fs::read(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();

    let errors = || {
        let Ok(mut run) = Run::open(folder.path(), 7, copies) else { return 1 };
        let mut cache = PageCache::new(1 << 20);
        let mut errors = 0;
        for n in (0..copies).step_by(10) {
            for (asked, expected) in [(copy(n).id, Some(copy(n))), (copy(n).id + 1, None)] {
                match run.find(&mut cache, asked, |held| (held.id == asked).then_some(held)) {
                    Ok(found) => assert_eq!(found, expected),
                    Err(error) => {
                        assert!(matches!(error, IndexError::Corrupt { .. }));
                        errors += 1;
                    }
                }
            }
        }
        errors
    };
    assert_eq!(errors(), 0);
    assert_eq!(whole.len(), 5 * page::PAGE_BYTES);
    for (at, byte) in whole.iter().enumerate() {
        file.write_all_at(&[byte ^ (1 << (at % 8))], at as u64).unwrap();
        assert!(errors() > 0, "flipped at {at}");
        file.write_all_at(&[*byte], at as u64).unwrap();
    }
    assert_eq!(errors(), 0);
}

#[test]
fn a_run_of_another_length_or_format_or_that_says_what_cannot_be_is_damage() {
    let folder = folder();
    let copies = COPIES_IN_GROUP as u64 + 200;
    let copy = |n: u64| FirstCopy { id: id(u128::from(n) << 80).as_u128(), position: n << 30, received_at: NOW };
    written(&folder, 7, &(0..copies).map(copy).collect::<Vec<_>>());
    let path = run::path(folder.path(), 7);
    let whole = fs::read(&path).unwrap();
    // a leaf is looked at when it is asked
    let is_damage = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let asked = Run::open(folder.path(), 7, copies).and_then(|mut run| {
            let mut reader = run.read_all();
            while reader.peek()?.is_some() {
                reader.skip();
            }
            run.find(&mut PageCache::new(1 << 20), copy(0).id, |_| Some(()))
        });
        match asked {
            Ok(found) => found.is_none(),
            Err(error) => matches!(error, IndexError::Corrupt { .. }),
        }
    };
    assert!(!is_damage(&whole));
    for len in (0..whole.len()).step_by(509).chain((0..whole.len()).step_by(page::PAGE_BYTES)) {
        assert!(is_damage(&whole[..len]), "{len}");
    }
    for more in [1, 4095, 4096, 8192] {
        assert!(is_damage(&[&whole[..], &vec![0; more]].concat()), "{more} more");
    }

    // whole pages, with other bytes in them
    let pages = whole.len() / page::PAGE_BYTES;
    let forged = |number: usize, at: usize, bytes: &[u8]| {
        let mut forged = whole.clone();
        let page = forged.as_chunks_mut().0.get_mut(number).unwrap();
        page[at..][..bytes.len()].copy_from_slice(bytes);
        page::seal(page, 7, number as u64);
        forged
    };
    let (footer, fences) = (pages - 1, pages - 2);
    assert!(!is_damage(&forged(footer, 0, b"TLindex3")));
    assert!(is_damage(&forged(footer, 0, b"TLindex2")));
    let leaf_of = |group: usize| page::u32_at(&whole[fences * page::PAGE_BYTES..], group * 20 + 16);
    assert!(!is_damage(&forged(fences, 16, &leaf_of(0).to_le_bytes())));
    for group in 0..2 {
        for leaf in [0, leaf_of(0) + 1, leaf_of(1) - 1, 17, 40, u32::MAX - 1, u32::MAX] {
            assert!(is_damage(&forged(fences, group * 20 + 16, &leaf.to_le_bytes())), "{group}: {leaf}");
        }
        let leaf = leaf_of(group) as usize;
        for widths in [[0, 0, 0], [16, 8, 8], [17, 8, 8], [255, 255, 255]] {
            assert!(is_damage(&forged(leaf, 256 + 3808 + 16, &widths)), "{group}: {widths:?}");
        }
    }
}

#[test]
fn what_is_missing_cut_or_swapped_is_damage() {
    let make = || {
        let folder = folder();
        let mut index = Index::open(folder.path(), SMALL).unwrap();
        for n in 0..3 {
            index.judge(id(n), n.try_into().unwrap(), NOW).unwrap();
            index.flush(n.try_into().unwrap()).unwrap();
        }
        folder
    };
    let is_damage = |folder: &TempDir| matches!(Index::open(folder.path(), SMALL), Err(IndexError::Corrupt { .. }));
    let harmed = |harm: &dyn Fn(&Path)| {
        let folder = make();
        assert!(!is_damage(&folder));
        harm(folder.path());
        folder
    };
    assert!(is_damage(&harmed(&|folder| fs::remove_file(run::path(folder, 1)).unwrap())));
    assert!(is_damage(&harmed(&|folder| fs::write(run::path(folder, 1), "").unwrap())));
    assert!(is_damage(&harmed(&|folder| assert!(fs::copy(run::path(folder, 0), run::path(folder, 1)).is_ok()))));
    assert!(is_damage(&harmed(&|folder| fs::write(folder.join(manifest::NAME), "").unwrap())));

    // without a manifest there is no index, and whoever committed more than that sees it
    let lost = harmed(&|folder| fs::remove_file(folder.join(manifest::NAME)).unwrap());
    let index = Index::open(lost.path(), SMALL).unwrap();
    assert_eq!((index.through(), index.usage().runs), (0, 0));
}

#[test]
fn a_crash_at_any_step_of_a_flush_with_merges_loses_nothing_that_was_flushed() {
    let mut merged = 0;
    for steps in 0.. {
        let folder = folder();
        let mut index = Index::open(folder.path(), SMALL).unwrap();
        let judge = |index: &mut Index, n: u64| index.judge(id(n.into()), n, NOW).unwrap();
        for n in 0..30 {
            assert_eq!(judge(&mut index, n), Verdict::First);
            if n % 10 == 9 {
                index.flush(n + 1).unwrap();
            }
        }
        assert_eq!(index.usage().runs, 3);
        // looked for often enough for a merge to pay
        for n in (0..30).chain(0..30) {
            assert_eq!(index.judge(id(n.into()), n + 1000, NOW).unwrap(), Verdict::Duplicate);
        }
        (30..40).for_each(|n| assert_eq!(judge(&mut index, n), Verdict::First));
        let (flushed, survived) = crash::after(steps, || {
            index.flush(40)?;
            index.after_commit()
        });
        merged += u32::from(index.usage().runs == 1);
        drop(index);

        let mut index = Index::open(folder.path(), SMALL).unwrap();
        assert_eq!(names(folder.path()).len(), 1 + index.usage().runs, "step {steps}: nothing is left over");
        if flushed.is_ok() {
            assert_eq!(index.through(), 40);
        }
        assert!([30, 40].contains(&index.through()));
        for n in 0..index.through() {
            assert_eq!(index.judge(id(n.into()), n + 1000, NOW).unwrap(), Verdict::Duplicate, "step {steps}: {n}");
        }
        for n in 0..40 {
            assert_eq!(judge(&mut index, n), Verdict::First, "step {steps}: {n} again");
            assert_eq!(index.judge(id(n.into()), n + 1000, NOW).unwrap(), Verdict::Duplicate);
        }
        index.flush(40).unwrap();
        if survived {
            assert!(flushed.is_ok() && merged > 0 && steps > 20, "{steps} steps");
            return;
        }
    }
}

#[test]
fn after_a_failed_flush_it_goes_on_where_it_was() {
    for steps in 0.. {
        let folder = folder();
        let mut index = Index::open(folder.path(), SMALL).unwrap();
        let mut flushed = true;
        for n in 0..200_u64 {
            assert_eq!(index.judge(id(n.into()), n, NOW).unwrap(), Verdict::First);
            if n % 10 == 9 {
                let mut commit = || {
                    index.flush(n)?;
                    index.after_commit()
                };
                let now = if n == 99 { crash::after(steps, commit).0 } else { commit() };
                flushed &= now.is_ok();
            }
        }
        index.flush(200).unwrap();
        let mut index = Index::open(folder.path(), SMALL).unwrap();
        for n in 0..200_u64 {
            assert_eq!(index.judge(id(n.into()), n + 1000, NOW).unwrap(), Verdict::Duplicate, "step {steps}: {n}");
        }
        if flushed {
            return;
        }
    }
}

#[test]
fn a_reset_that_a_crash_cut_short_is_seen_and_a_rebuilt_index_answers_as_before() {
    for steps in 0.. {
        let folder = folder();
        let mut index = Index::open(folder.path(), SMALL).unwrap();
        for n in 0..100_u64 {
            index.judge(id(n.into()), n, NOW).unwrap();
        }
        index.flush(100).unwrap();
        let (reset, survived) = crash::after(steps, || {
            let mut index = Index::reset(folder.path(), SMALL)?;
            for n in 0..100_u64 {
                index.insert(id(n.into()), n, NOW)?;
            }
            index.flush(100)
        });
        let mut index = Index::open(folder.path(), SMALL).unwrap();
        assert!(index.through() == 100 || (index.through() == 0 && reset.is_err()));
        if index.through() == 100 {
            for n in 0..100_u64 {
                assert_eq!(index.judge(id(n.into()), n, NOW).unwrap(), Verdict::First);
                assert_eq!(index.judge(id(n.into()), n + 1000, NOW).unwrap(), Verdict::Duplicate);
            }
        }
        if survived {
            return reset.unwrap();
        }
    }
}

/// What the index is to answer, by the plainest means.
#[derive(Clone, Default)]
struct Model(HashMap<u128, Vec<(u64, Millis)>>);

impl Model {
    fn judge(&mut self, id: Uuid, position: u64, received_at: Millis) -> Verdict {
        let held = self.0.entry(id.as_u128()).or_default();
        if held.iter().any(|copy| copy.0 == position) {
            return Verdict::First;
        }
        if held.iter().any(|copy| (copy.1 - received_at).abs() <= MAX_AGE_MS) {
            return Verdict::Duplicate;
        }
        held.push((position, received_at));
        Verdict::First
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// So many records, of ids among so many, so much later.
    Records { count: u8, ids: u8, later: Millis },
    /// A commit.
    Flush,
    /// The process dies at this change to the disk, in a commit, and starts again at the last one. If it gets as far as
    /// what is published, is that?
    Crash { after: u8, published: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let later = prop_oneof![4 => 0..1000_i64, 1 => -DAY_MS / 2..DAY_MS, 1 => Just(MAX_AGE_MS / 2)];
    let records = (1..60_u8, 1..=255_u8, later).prop_map(|(count, ids, later)| Step::Records { count, ids, later });
    let crash = (0..40_u8, any::<bool>()).prop_map(|(after, published)| Step::Crash { after, published });
    prop::collection::vec(prop_oneof![6 => records, 3 => Just(Step::Flush), 1 => crash], 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn it_answers_as_a_map_of_everything_would_through_crashes_and_merges(steps in steps(), seed in any::<u64>()) {
        let folder = folder();
        let mut index = Index::open(folder.path(), SMALL).unwrap();
        let mut model = Model::default();
        let mut log: Vec<(Uuid, Millis)> = Vec::new();
        let (mut committed, mut time, mut newest, mut random) = (0, NOW, NOW, seed);
        for step in steps {
            match step {
                Step::Records { count, ids, later } => {
                    // a clock may go back by hours, and then goes on from there
                    newest = newest.max(time);
                    time = (time + later).max(newest - DAY_MS);
                    for _ in 0..count {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let id = id(u128::from((random >> 33) % u64::from(ids)));
                        let position = log.len() as u64;
                        log.push((id, time));
                        prop_assert_eq!(index.judge(id, position, time).unwrap(), model.judge(id, position, time));
                    }
                }
                Step::Flush => {
                    index.flush(log.len() as u64).unwrap();
                    committed = log.len();
                    index.after_commit().unwrap();
                }
                Step::Crash { after, published } => {
                    crash::after(after.into(), || {
                        if index.flush(log.len() as u64).is_ok() && published {
                            committed = log.len();
                            let _ = index.after_commit();
                        }
                    });
                    drop(index);
                    index = Index::open(folder.path(), SMALL).unwrap();
                    prop_assert!(index.through() >= committed as u64);
                    for (position, (id, time)) in log.iter().enumerate().skip(committed) {
                        let position = position as u64;
                        prop_assert_eq!(index.judge(*id, position, *time).unwrap(), model.judge(*id, position, *time));
                    }
                }
            }
            prop_assert!(index.usage().head_copies <= SMALL.head_copies);
            prop_assert!(index.usage().cache_bytes <= SMALL.cache_bytes);
        }
    }
}
