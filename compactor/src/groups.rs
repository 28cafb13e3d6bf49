//! The aggregate of one hour: its groups and what is measured of each.
//!
//! The rule: **a group's measures depend on the set of its records alone**, not on their order or on how they
//! were split over runs. Counts and exact sums add, times are a minimum and a maximum, visitors are a set.

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
                self.bytes += GROUP_BYTES + key.parts().iter().map(|part| part.len()).sum::<usize>();
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

    /// Counts in groups, with so many columns, of other records.
    pub fn merge(&mut self, other: &Groups, columns: usize) {
        for group in &other.groups {
            self.of(&Key::new((0..columns).map(|column| group.column(column)))).merge(&group.measures);
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
