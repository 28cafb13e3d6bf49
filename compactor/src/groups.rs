//! The aggregate of one hour: its groups and what is measured of each.
//!
//! The rule: **a group's measures depend on the set of its records alone**, not on their order or on how they
//! were split over runs. Counts and exact sums add, times are a minimum and a maximum, visitors are a set.
//!
//! Which groups there are may be limited, since whoever sends events chooses their texts ([`Groups::count_within`]). Then it
//! depends on the order in which keys are first seen, which is that of the log, and on nothing else: a key that has a group
//! keeps it, and one that found no room never finds any, for groups are never removed. So it does not matter either whether
//! records are counted one by one or groups of later records are merged in the order in which they were begun.

use std::hint::black_box;
use std::ops::Range;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tallylight_proto::record::{EventView, Strings, Text, put_str};
use tallylight_proto::time::Millis;

use crate::batch::{Fate, Taken};
use crate::counting_sort::counting_sort;
use crate::pieces::Pieces;
use crate::side_by_side::all;
use crate::texts::{ABSENT, TextList, Texts};
use crate::visitors::{self, Visitors};

/// The columns that always are part of a group's key.
pub const BASE_COLUMNS: [&str; 3] = ["site", "event", "target"];
/// With all of `--by`.
pub const MAX_COLUMNS: usize = 6;
/// The text of columns whose own has no room.
pub const OTHER: &str = "(other)";
/// Of what groups may take, the part that is kept for those of other targets: an eighth.
const KEPT_FOR_OTHER: usize = 8;
/// The first columns, site and event, are given up last.
const TARGET_COLUMN: usize = 2;
/// Visitors of an hour that are seen before they are sorted into their groups: 2 MiB.
const MOST_SEEN: usize = 1 << 18;
/// So many are worth starting threads for.
const MANY_SEEN: usize = 1 << 15;
/// In so many parts, about, they are taken in.
const PARTS: usize = 16;
/// What a group takes besides its text: more, up to 4 KiB, only where it has many visitors.
const GROUP_BYTES: usize = 300;

/// A column that `--by` adds to the key of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// What was recommended.
    Item,
    /// Where it stood.
    Placement,
    /// The page it happened on.
    Page,
}

impl By {
    /// All of them.
    pub const ALL: [By; 3] = [By::Item, By::Placement, By::Page];

    /// The column's name.
    pub const fn name(self) -> &'static str {
        match self {
            By::Item => "item",
            By::Placement => "placement",
            By::Page => "page",
        }
    }

    fn of<'e>(self, event: &EventView<'e>) -> &'e [u8] {
        event.text(match self {
            By::Item => Text::Item,
            By::Placement => Text::Placement,
            By::Page => Text::Page,
        })
    }
}

/// What a group is called: its columns' texts, in order.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    parts: [&'a [u8]; MAX_COLUMNS],
    columns: usize,
}

impl<'a> Key<'a> {
    /// Of the group in which an event belongs.
    pub fn of(event: &EventView<'a>, by: &[By]) -> Self {
        let mut parts: [&[u8]; MAX_COLUMNS] = [b""; MAX_COLUMNS];
        parts[..BASE_COLUMNS.len()]
            .copy_from_slice(&[Text::Site, Text::Event, Text::Target].map(|text| event.text(text)));
        for (part, by) in parts[BASE_COLUMNS.len()..].iter_mut().zip(by) {
            *part = by.of(event);
        }
        Self { parts, columns: BASE_COLUMNS.len() + by.len() }
    }

    /// Of these columns, at most [`MAX_COLUMNS`].
    pub fn new<T: AsRef<[u8]> + ?Sized + 'a>(columns: impl IntoIterator<Item = &'a T>) -> Self {
        let mut key = Self { parts: [b""; MAX_COLUMNS], columns: 0 };
        for (part, text) in key.parts.iter_mut().zip(columns) {
            *part = text.as_ref();
            key.columns += 1;
        }
        key
    }

    /// The same with `(other)` in the columns from this one on.
    fn with_other_from(mut self, column: usize) -> Self {
        self.parts[column..self.columns].fill(OTHER.as_bytes());
        self
    }

    /// About what a group of it takes.
    fn group_bytes(&self) -> usize {
        GROUP_BYTES + self.parts().iter().map(|part| part.len()).sum::<usize>()
    }

    fn parts(&self) -> &[&'a [u8]] {
        &self.parts[..self.columns]
    }

    /// Appends it as one text: its columns as a record has them.
    fn write(&self, out: &mut Vec<u8>) {
        self.parts().iter().for_each(|part| put_str(out, part));
    }

    /// What is written of the key of each event.
    fn written_of<'k>(events: &[Taken<'a>], by: &[By], out: &'k mut Vec<u8>) -> Vec<&'k [u8]>
    where
        'a: 'k,
    {
        if by.is_empty() {
            // it stands in the record
            return events.iter().map(|taken| taken.event.strings_through(Text::Target)).collect();
        }
        out.clear();
        let write = |taken: &Taken<'a>| {
            let begin = out.len();
            Key::of(&taken.event, by).write(out);
            begin..out.len()
        };
        let places: Vec<_> = events.iter().map(write).collect();
        places.into_iter().map(|place| &out[place]).collect()
    }
}

/// What is measured of a group. It begins where a cache line does, and so what each event changes is in one.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
pub struct Measures {
    /// Counted events.
    pub events: i64,
    /// Events by declared crawlers.
    pub bot_events: i64,
    /// Copies of events that were counted elsewhere.
    pub duplicates: i64,
    /// Counted events that arrived over a minute after they happened.
    pub late: i64,
    /// Events that clients gave up, as counted events say.
    pub client_lost: i64,
    /// Who caused counted events.
    pub visitors: Visitors,
    /// The sum of values in millionths, if any counted event had one.
    pub value_sum: Option<i128>,
    /// When the first and the last counted event happened.
    pub times: Option<(Millis, Millis)>,
}

impl Measures {
    /// Counts an event in, its visitor excepted.
    fn count(&mut self, event: &EventView<'_>) {
        let at = event.event_at();
        self.events += 1;
        self.late += i64::from(event.is_late());
        self.client_lost += i64::from(event.lost());
        if let Some(value) = event.value() {
            *self.value_sum.get_or_insert(0) += i128::from(value.0);
        }
        self.times = Some(self.times.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }
}

impl Measures {
    /// Counts in what was measured of other records of the same group.
    pub fn merge(&mut self, other: &Measures) {
        self.events += other.events;
        self.bot_events += other.bot_events;
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.client_lost += other.client_lost;
        self.visitors.merge(&other.visitors);
        if let Some(sum) = other.value_sum {
            *self.value_sum.get_or_insert(0) += sum;
        }
        self.times = match (self.times, other.times) {
            (Some(ours), Some(theirs)) => Some((ours.0.min(theirs.0), ours.1.max(theirs.1))),
            (ours, theirs) => ours.or(theirs),
        };
    }
}

/// One group.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// See [`Key::write`].
    key: &'a [u8],
    /// What is measured.
    pub measures: &'a Measures,
}

impl<'a> Group<'a> {
    /// A column of the key.
    pub fn column(&self, column: usize) -> &'a [u8] {
        self.columns().nth(column).expect("a key has all columns")
    }

    fn columns(&self) -> impl Iterator<Item = &'a [u8]> {
        Strings::new(self.key)
    }
}

/// All groups of an hour.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    keys: Texts,
    /// Of each key, by its number.
    measures: Pieces<Measures>,
    bytes: usize,
    /// Visitors that are not in the measures yet, by their coupons, and the numbers of their groups.
    seen: Vec<(u32, u32)>,
    /// For keys that are looked for.
    scratch: Vec<u8>,
}

impl Groups {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.measures.len()
    }

    /// About how many bytes they take: their texts, and what a group with few visitors takes besides.
    pub fn bytes(&self) -> usize {
        self.bytes + self.seen.len() * size_of::<(u32, u32)>()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.measures.is_empty()
    }

    /// The measures of a group, new if there was none.
    pub fn of(&mut self, key: &Key<'_>) -> &mut Measures {
        let number = self.number_of(key);
        &mut self.measures[number as usize]
    }

    fn number_of(&mut self, key: &Key<'_>) -> u32 {
        self.scratch.clear();
        key.write(&mut self.scratch);
        let number = self.keys.number(&self.scratch);
        if number as usize == self.measures.len() {
            self.measures.push(Measures::default());
            self.bytes += key.group_bytes();
        }
        number
    }

    /// The number of a group where all may take about so many bytes. What has no room counts as another target of its site
    /// and event, and if that has none either, as another event of another site.
    fn number_within(&mut self, key: &Key<'_>, most: usize) -> u32 {
        let of_site = key.with_other_from(TARGET_COLUMN);
        if self.has_room(key, most - most / KEPT_FOR_OTHER) {
            self.number_of(key)
        } else if self.has_room(&of_site, most) {
            self.number_of(&of_site)
        } else {
            self.number_of(&key.with_other_from(0))
        }
    }

    fn has_room(&mut self, key: &Key<'_>, most: usize) -> bool {
        self.bytes + key.group_bytes() <= most || self.has(key)
    }

    fn has(&mut self, key: &Key<'_>) -> bool {
        self.scratch.clear();
        key.write(&mut self.scratch);
        self.keys.find(&self.scratch) != ABSENT
    }

    /// Counts events in, where all groups may take about so many bytes.
    pub fn count_within(&mut self, events: &[Taken<'_>], by: &[By], most: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut numbers = Vec::with_capacity(events.len());
        self.keys.find_all(&Key::written_of(events, by, &mut scratch), &mut numbers);
        self.scratch = scratch;
        // fetched from memory for all of them at a time
        let found = numbers.iter().filter_map(|number| self.measures.get(*number as usize));
        black_box(found.fold(0, |all, measures| all ^ measures.events));
        for (taken, number) in events.iter().zip(numbers) {
            let event = &taken.event;
            let number = if number == ABSENT { self.number_within(&Key::of(event, by), most) } else { number };
            let measures = &mut self.measures[number as usize];
            match taken.fate {
                Fate::Counted => {
                    measures.count(event);
                    self.seen.extend(visitors::coupon(event.text(Text::Visitor)).map(|coupon| (number, coupon)));
                }
                Fate::Bot => measures.bot_events += 1,
                Fate::Duplicate => measures.duplicates += 1,
            }
        }
        if self.seen.len() >= MOST_SEEN {
            self.settle();
        }
    }

    /// Takes the visitors that were seen into the measures, on all processors if they are many.
    fn settle(&mut self) {
        let seen = self.seen.iter().map(|(number, coupon)| (*number as usize, *coupon));
        let (mut coupons, ends) = counting_sort(seen, self.measures.len());
        let (are_many, of_part) = (self.seen.len() >= MANY_SEEN, self.seen.len().div_ceil(PARTS));
        self.seen.clear();
        let (mut rest, mut begin) = (&mut coupons[..], 0);
        let of_groups = self.measures.iter_mut().zip(ends).filter_map(|(measures, end)| {
            let (of_group, behind) = std::mem::take(&mut rest).split_at_mut(end - begin);
            (rest, begin) = (behind, end);
            (!of_group.is_empty()).then_some((&mut measures.visitors, of_group))
        });
        let mut of_groups: Vec<_> = of_groups.collect();
        let is_much = are_many && of_groups.len() > 1;
        let mut rest = &mut of_groups[..];
        // some have many, and those come early
        let parts = std::iter::from_fn(|| {
            let mut taken = 0;
            let is_of_part = |(_, coupons): &&(&mut Visitors, &mut [u32])| {
                let has_room = taken < of_part;
                taken += coupons.len();
                has_room
            };
            let len = rest.iter().take_while(is_of_part).count();
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(len);
            rest = behind;
            (!part.is_empty()).then_some(part)
        });
        let add = |(): &mut (), part: &mut [(&mut Visitors, &mut [u32])]| {
            part.iter_mut().for_each(|(visitors, coupons)| visitors.add_coupons(coupons));
        };
        all(is_much, parts, add);
    }

    /// Counts in groups of later records, in the order in which they were begun.
    pub fn merge_within(&mut self, mut later: Groups, most: usize) {
        later.settle();
        for group in later.all() {
            let number = self.number_within(&Key::new(group.columns()), most);
            self.measures[number as usize].merge(group.measures);
        }
    }

    /// All of them, ordered by their columns, bytewise.
    pub fn sorted(mut self) -> Sorted {
        self.settle();
        let order = self.order();
        let keys = self.keys.into_list().chosen(&order);
        self.measures.arrange(order);
        Sorted { keys, measures: self.measures, bytes: self.bytes }
    }

    /// The numbers of all groups in the order of their columns.
    fn order(&self) -> Vec<u32> {
        /// A group, and its columns from the target on.
        struct Of<'a> {
            leading: u64,
            columns: Strings<'a>,
            number: u32,
        }
        /// The groups of a site and an event, and how many bytes their targets begin with that are those of the first one.
        struct Site<'a> {
            first: &'a [u8],
            alike: usize,
            groups: Vec<Of<'a>>,
        }
        fn target<'a>(columns: &Strings<'a>) -> &'a [u8] {
            columns.clone().next().expect("a key has all columns")
        }
        // few sites have few events each, and of one site's targets the first difference mostly tells
        let mut by_site: HashMap<[&[u8]; TARGET_COLUMN], Site<'_>, RandomState> = HashMap::default();
        for (number, key) in (0..).zip(self.keys.list().iter()) {
            let mut columns = Strings::new(key);
            let site = [(); TARGET_COLUMN].map(|()| columns.next().expect("a key has all columns"));
            let target = target(&columns);
            let new = || Site { first: target, alike: target.len(), groups: Vec::new() };
            let site = by_site.entry(site).or_insert_with(new);
            site.alike = common_len(&site.first[..site.alike], target);
            site.groups.push(Of { leading: 0, columns, number });
        }
        let mut by_site: Vec<_> = by_site.into_iter().collect();
        by_site.sort_unstable_by_key(|(site, _)| *site);
        let mut order = Vec::with_capacity(self.len());
        for (_, Site { alike, mut groups, .. }) in by_site {
            groups.iter_mut().for_each(|of| of.leading = leading(&target(&of.columns)[alike..]));
            groups.sort_unstable_by(|a, b| {
                a.leading.cmp(&b.leading).then_with(|| a.columns.clone().cmp(b.columns.clone()))
            });
            order.extend(groups.into_iter().map(|of| of.number));
        }
        order
    }

    fn all(&self) -> impl Iterator<Item = Group<'_>> {
        self.keys.list().iter().zip(self.measures.iter()).map(|(key, measures)| Group { key, measures })
    }
}

/// The groups of an hour in the order in which they stand in its file, and in memory: each column is one pass over them.
#[derive(Debug)]
pub struct Sorted {
    keys: TextList,
    measures: Pieces<Measures>,
    /// See [`Groups::bytes`].
    bytes: usize,
}

impl Sorted {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.measures.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.measures.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Group<'_>> {
        self.range(0..self.len())
    }

    /// Those at these places.
    pub fn range(&self, places: Range<usize>) -> impl ExactSizeIterator<Item = Group<'_>> {
        places.map(|place| Group { key: self.keys.at(place), measures: &self.measures[place] })
    }

    /// What is measured of those.
    pub fn measures(&self, places: Range<usize>) -> impl ExactSizeIterator<Item = &Measures> {
        places.map(|place| &self.measures[place])
    }

    /// They themselves, to be found again. Which was begun first is forgotten: that matters only to groups that are merged into others.
    pub fn into_groups(self) -> Groups {
        let Self { keys, measures, bytes } = self;
        Groups { keys: keys.into(), measures, bytes, ..Groups::default() }
    }
}

fn common_len(text: &[u8], other: &[u8]) -> usize {
    text.iter().zip(other).take_while(|(ours, theirs)| ours == theirs).count()
}

/// The first bytes of a text, as a number that has their order.
fn leading(text: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = text.len().min(8);
    bytes[..len].copy_from_slice(&text[..len]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog;
    use tallylight_proto::event::Event;
    use tallylight_proto::record::{Fields, encode_event};

    fn text(group: Group<'_>, column: usize) -> String {
        String::from_utf8(group.column(column).to_vec()).unwrap()
    }

    #[test]
    fn measures_take_two_cache_lines() {
        assert_eq!(size_of::<Measures>(), 128);
    }

    #[test]
    fn texts_that_run_together_are_other_groups() {
        let mut groups = Groups::default();
        groups.of(&Key::new(["ab", "c", ""])).events += 1;
        groups.of(&Key::new(["a", "bc", ""])).events += 2;
        groups.of(&Key::new(["ab", "", "c"])).events += 3;
        groups.of(&Key::new(["ab", "c", ""])).events += 10;
        let sorted: Vec<_> =
            groups.sorted().iter().map(|g| (text(g, 0), text(g, 1), text(g, 2), g.measures.events)).collect();
        let expected = [("a", "bc", "", 2), ("ab", "", "c", 3), ("ab", "c", "", 11)];
        assert_eq!(sorted, expected.map(|(a, b, c, n)| (a.to_owned(), b.to_owned(), c.to_owned(), n)));
    }

    #[test]
    fn a_key_is_the_same_whether_it_stands_in_a_record_or_is_written() {
        let long = "é".repeat(100);
        for texts in [["", "", "", "", "", ""], ["s", "click", &long, "p", "i", "here"], [long.as_str(); 6]] {
            let [site, event, target, page, item, placement] = texts.map(Into::into);
            let event = Event { site, event, target, page, item, placement, ..testlog::event(1, 0) };
            let mut payload = Vec::new();
            encode_event(&event, &mut payload);
            let fields = Fields::checked(&payload).unwrap();
            let taken = Taken { position: 0, end: 0, event: EventView::new(&payload, &fields), fate: Fate::Counted };
            let [site, event, target, page, _, placement] = texts;
            let with_others = [site, event, target, placement, page];
            for (by, expected) in [(&[][..], &texts[..3]), (&[By::Placement, By::Page], &with_others)] {
                let (mut written, mut scratch) = (Vec::new(), Vec::new());
                Key::new(expected.iter().copied()).write(&mut written);
                assert_eq!(Key::written_of(&[taken, taken], by, &mut scratch), [&written, &written]);
            }
        }
    }

    /// Counts these records, each a number of a target of three sites, cut into runs here: the groups of all but the first
    /// are merged.
    fn counted(records: &[u32], cuts: &[usize], most: usize) -> Vec<(String, i64)> {
        let key = |n: &u32| [["a", "b", "c"][*n as usize % 3].to_owned(), "click".to_owned(), n.to_string()];
        let ends = cuts.iter().copied().chain([records.len()]);
        let mut all = Groups::default();
        let mut begin = 0;
        for (run, end) in ends.enumerate() {
            let mut later = Groups::default();
            for record in &records[begin..end] {
                let parts = key(record);
                let key = Key::new(parts.iter().map(String::as_str));
                // what is not whole is not limited
                if run == 0 {
                    let number = all.number_within(&key, most);
                    all.measures[number as usize].events += 1;
                } else {
                    later.of(&key).events += 1;
                }
            }
            all.merge_within(later, most);
            begin = end;
        }
        assert!(all.bytes() <= most.saturating_add(Key::new([OTHER; 3]).group_bytes()));
        let name = |group: Group<'_>| [0, 1, 2].map(|column| text(group, column)).join(" ");
        all.sorted().iter().map(|group| (name(group), group.measures.events)).collect()
    }

    #[test]
    fn what_has_no_room_counts_as_other_wherever_the_records_are_cut() {
        // some keys come early and again, some late; each late one once more
        let records: Vec<u32> = (0..60).flat_map(|n| [n, n / 2, 59 - n % 7, (n * 31) % 97]).collect();
        for most in [0, 310, 700, 1_400, 3_000, 5_000, 20_000, usize::MAX] {
            let whole = counted(&records, &[], most);
            assert_eq!(whole.iter().map(|(_, events)| events).sum::<i64>(), records.len() as i64);
            for cut in 0..records.len() {
                assert_eq!(counted(&records, &[cut], most), whole, "{most} bytes, cut at {cut}");
                assert_eq!(counted(&records, &[cut / 3, cut / 2, cut], most), whole, "{most} bytes, cuts up to {cut}");
            }
        }
        let names = |most| counted(&records, &[], most).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(0), ["(other) (other) (other)"]);
        assert!(names(3_000).contains(&"a click (other)".to_owned()) && names(3_000).contains(&"a click 0".to_owned()));
        assert!(!names(usize::MAX).iter().any(|name| name.contains(OTHER)));
    }

    #[test]
    fn visitors_are_in_their_groups_however_many_are_taken_in_together() {
        for seen in [0, 1, 1_000, MANY_SEEN, MANY_SEEN + 1_000] {
            let (mut together, mut one_by_one) = (Groups::default(), Groups::default());
            let key = |n: usize| ["s".to_owned(), "e".to_owned(), n.to_string()];
            for n in 0..100 {
                // every third one has none
                together.of(&Key::new(&key(n)));
                one_by_one.of(&Key::new(&key(n)));
            }
            for n in 0..seen {
                // one has half of all
                let (group, visitor) = (if n % 2 == 0 { 3 } else { n % 100 / 3 * 3 }, format!("{}", n / 3));
                let coupon = visitors::coupon(visitor.as_bytes()).unwrap();
                together.seen.push((u32::try_from(group).unwrap(), coupon));
                one_by_one.of(&Key::new(&key(group))).visitors.add(&visitor);
            }
            let sketches = |groups: Groups| -> Vec<_> {
                groups.sorted().iter().map(|group| group.measures.visitors.to_sketch()).collect()
            };
            assert!(sketches(together) == sketches(one_by_one), "{seen} seen");
        }
    }

    #[test]
    fn groups_are_sorted_by_their_columns_bytewise() {
        let texts =
            ["", "\0", "a", "a\0", "ab", "abcdefgh", "abcdefgh\0", "abcdefghi", "abcdefgi", "b", "é", "\u{ffff}"];
        let mut expected: Vec<[&str; 4]> = Vec::new();
        for (n, site) in texts.iter().enumerate() {
            for (m, target) in texts.iter().enumerate() {
                let (event, item) = (texts[(n + m) % 3], texts[n * m % 5]);
                expected.push([site, event, target, item]);
            }
        }
        let mut groups = Groups::default();
        expected.iter().for_each(|key| groups.of(&Key::new(*key)).events += 1);
        expected.sort_unstable();
        let sorted: Vec<_> =
            groups.sorted().iter().map(|group| [0, 1, 2, 3].map(|column| text(group, column))).collect();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn groups_that_were_sorted_are_counted_in_again() {
        let key = |n: u32| ["s".to_owned(), "e".to_owned(), (n * 7_919 % 10_007).to_string()];
        let count =
            |groups: &mut Groups, numbers: Range<u32>| numbers.for_each(|n| groups.of(&Key::new(&key(n))).events += 1);
        let all =
            |groups: Groups| -> Vec<_> { groups.sorted().iter().map(|g| (text(g, 2), g.measures.events)).collect() };
        for before in [0, 1, 48, 49, 3_000] {
            let (mut sorted, mut straight) = (Groups::default(), Groups::default());
            count(&mut sorted, 0..before);
            let mut sorted = sorted.sorted().into_groups();
            count(&mut sorted, 0..before + 1_000);
            count(&mut straight, 0..before);
            count(&mut straight, 0..before + 1_000);
            assert_eq!((sorted.len(), sorted.bytes()), (straight.len(), straight.bytes()));
            assert!(all(sorted) == all(straight), "{before} before");
        }
    }

    #[test]
    fn many_groups_stay_apart_while_the_table_grows() {
        let mut groups = Groups::default();
        for round in 1..=2 {
            for n in 0..10_000 {
                let text = n.to_string();
                groups.of(&Key::new(["s", "e", &text, "by"])).events += 1;
            }
            assert_eq!(groups.len(), 10_000);
            assert!(groups.clone().sorted().iter().all(|group| group.measures.events == round));
        }
    }
}
