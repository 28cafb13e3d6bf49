//! The aggregate of one hour: its groups and what is measured of each.
//!
//! The rule: **a group's measures depend on the set of its records alone**, not on their order or on how they
//! were split over runs. Counts and exact sums add, times are a minimum and a maximum, visitors are a set.
//!
//! Which groups there are may be limited, since whoever sends events chooses their texts ([`Groups::of_within`]). Then it
//! depends on the order in which keys are first seen, which is that of the log, and on nothing else: a key that has a group
//! keeps it, and one that found no room never finds any, for groups are never removed. So it does not matter either whether
//! records are counted one by one or groups of later records are merged in the order in which they were begun.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use tallylight_proto::Event;
use tallylight_proto::time::Millis;

use crate::visitors::Visitors;

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

    fn of<'e>(self, event: &'e Event<'_>) -> &'e str {
        match self {
            By::Item => &event.item,
            By::Placement => &event.placement,
            By::Page => &event.page,
        }
    }
}

/// What a group is called: its columns' texts, in order.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    parts: [&'a str; MAX_COLUMNS],
    columns: usize,
}

impl<'a> Key<'a> {
    /// Of the group in which an event belongs.
    pub fn of(event: &'a Event<'_>, by: &[By]) -> Self {
        let mut parts = [""; MAX_COLUMNS];
        parts[..BASE_COLUMNS.len()].copy_from_slice(&[&event.site, &event.event, &event.target]);
        for (part, by) in parts[BASE_COLUMNS.len()..].iter_mut().zip(by) {
            *part = by.of(event);
        }
        Self { parts, columns: BASE_COLUMNS.len() + by.len() }
    }

    /// Of these columns, at most [`MAX_COLUMNS`].
    pub fn new(columns: impl IntoIterator<Item = &'a str>) -> Self {
        let mut key = Self { parts: [""; MAX_COLUMNS], columns: 0 };
        for (part, text) in key.parts.iter_mut().zip(columns) {
            *part = text;
            key.columns += 1;
        }
        key
    }

    /// The same with `(other)` in the columns from this one on.
    fn with_other_from(mut self, column: usize) -> Self {
        self.parts[column..self.columns].fill(OTHER);
        self
    }

    /// About what a group of it takes.
    fn group_bytes(&self) -> usize {
        GROUP_BYTES + self.parts().iter().map(|part| part.len()).sum::<usize>()
    }

    fn parts(&self) -> &[&'a str] {
        &self.parts[..self.columns]
    }
}

/// What is measured of a group.
#[derive(Clone, Debug, Default)]
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
    /// Counts an event in.
    pub fn count(&mut self, event: &Event<'_>) {
        let at = event.event_at();
        self.events += 1;
        self.late += i64::from(event.is_late());
        self.client_lost += i64::from(event.lost);
        self.visitors.add(&event.visitor);
        if let Some(value) = event.value {
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
#[derive(Clone, Debug)]
pub struct Group {
    /// The columns' texts, one behind the other.
    text: Box<str>,
    /// Where each of them ends.
    ends: [u32; MAX_COLUMNS],
    /// What is measured.
    pub measures: Measures,
}

impl Group {
    /// A column of the key.
    pub fn column(&self, column: usize) -> &str {
        let from = column.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[from as usize..self.ends[column] as usize]
    }

    fn new(key: &Key<'_>) -> Self {
        let mut ends = [0; MAX_COLUMNS];
        let mut end = 0;
        for (slot, part) in ends.iter_mut().zip(key.parts) {
            end += u32::try_from(part.len()).expect("a record is at most 256 KiB");
            *slot = end;
        }
        Self { text: key.parts().concat().into(), ends, measures: Measures::default() }
    }

    fn is(&self, key: &Key<'_>) -> bool {
        key.parts().iter().enumerate().all(|(column, part)| self.column(column) == *part)
    }
}

/// All groups of an hour.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Places in `groups`.
    table: HashTable<u32>,
    hasher: RandomState,
    groups: Vec<Group>,
    bytes: usize,
}

impl Groups {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// About how many bytes they take: their texts, and what a group with few visitors takes besides.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The measures of a group, new if there was none.
    pub fn of(&mut self, key: &Key<'_>) -> &mut Measures {
        let hash = hash(&self.hasher, key.parts().iter().copied());
        let groups = &mut self.groups;
        let place = match self.table.find(hash, |place| groups[*place as usize].is(key)) {
            Some(place) => *place,
            None => {
                let place = u32::try_from(groups.len()).expect("memory ends before four billion groups");
                groups.push(Group::new(key));
                self.bytes += key.group_bytes();
                let columns = key.columns;
                let hasher = &self.hasher;
                let of_group = |place: &u32| {
                    let group = &groups[*place as usize];
                    hash_of(hasher, group, columns)
                };
                self.table.insert_unique(hash, place, of_group);
                place
            }
        };
        &mut self.groups[place as usize].measures
    }

    /// The same where all groups may take about so many bytes. What has no room counts as another target of its site and
    /// event, and if that has none either, as another event of another site.
    pub fn of_within(&mut self, key: &Key<'_>, most: usize) -> &mut Measures {
        let of_site = key.with_other_from(TARGET_COLUMN);
        if self.has_room(key, most - most / KEPT_FOR_OTHER) {
            self.of(key)
        } else if self.has_room(&of_site, most) {
            self.of(&of_site)
        } else {
            self.of(&key.with_other_from(0))
        }
    }

    fn has_room(&self, key: &Key<'_>, most: usize) -> bool {
        self.bytes + key.group_bytes() <= most || self.has(key)
    }

    fn has(&self, key: &Key<'_>) -> bool {
        let hash = hash(&self.hasher, key.parts().iter().copied());
        self.table.find(hash, |place| self.groups[*place as usize].is(key)).is_some()
    }

    /// Counts in groups, with so many columns, of later records, in the order in which they were begun.
    pub fn merge_within(&mut self, later: &Groups, columns: usize, most: usize) {
        for group in &later.groups {
            let key = Key::new((0..columns).map(|column| group.column(column)));
            self.of_within(&key, most).merge(&group.measures);
        }
    }

    /// All of them, ordered by their columns, bytewise.
    pub fn sorted(&self, columns: usize) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.groups.iter().collect();
        groups.sort_unstable_by(|a, b| {
            (0..columns)
                .map(|column| a.column(column).cmp(b.column(column)))
                .find(|order| order.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        groups
    }
}

fn hash_of(hasher: &RandomState, group: &Group, columns: usize) -> u64 {
    hash(hasher, (0..columns).map(|column| group.column(column)))
}

fn hash<'a>(hasher: &RandomState, parts: impl Iterator<Item = &'a str>) -> u64 {
    let mut hasher = hasher.build_hasher();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write_usize(part.len());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_run_together_are_other_groups() {
        let mut groups = Groups::default();
        groups.of(&Key::new(["ab", "c", ""])).events += 1;
        groups.of(&Key::new(["a", "bc", ""])).events += 2;
        groups.of(&Key::new(["ab", "", "c"])).events += 3;
        groups.of(&Key::new(["ab", "c", ""])).events += 10;
        let sorted: Vec<_> = groups
            .sorted(3)
            .iter()
            .map(|g| (g.column(0), g.column(1), g.column(2), g.measures.events))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(a, b, c, n)| (a.to_owned(), b.to_owned(), c.to_owned(), n))
            .collect();
        let expected = [("a", "bc", "", 2), ("ab", "", "c", 3), ("ab", "c", "", 11)];
        assert_eq!(sorted, expected.map(|(a, b, c, n)| (a.to_owned(), b.to_owned(), c.to_owned(), n)));
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
                let measures = if run == 0 { all.of_within(&key, most) } else { later.of(&key) };
                measures.events += 1;
            }
            all.merge_within(&later, 3, most);
            begin = end;
        }
        assert!(all.bytes() <= most.saturating_add(Key::new([OTHER; 3]).group_bytes()));
        let name = |group: &Group| format!("{} {} {}", group.column(0), group.column(1), group.column(2));
        all.sorted(3).iter().map(|group| (name(group), group.measures.events)).collect()
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
    fn many_groups_stay_apart_while_the_table_grows() {
        let mut groups = Groups::default();
        for round in 1..=2 {
            for n in 0..10_000 {
                let text = n.to_string();
                groups.of(&Key::new(["s", "e", &text, "by"])).events += 1;
            }
            assert_eq!(groups.len(), 10_000);
            assert!(groups.sorted(4).iter().all(|group| group.measures.events == round));
        }
    }
}
