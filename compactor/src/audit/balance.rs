//! Sums, and whether they add up.
//!
//! The rule: a sum says all its terms. Where something may have got lost that nobody could count, it has *room* for so
//! much, names what, and shows how much of it was needed; beyond that it does not add up.

use serde_json::{Map, Value, json};

/// One number of a sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// What it counts, in lower case with underscores.
    pub name: &'static str,
    /// How many.
    pub value: u64,
    /// It is taken off.
    pub is_minus: bool,
}

/// `whole = part + part − part`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// What the others add up to.
    pub whole: Term,
    /// Those.
    pub parts: Vec<Term>,
    /// What stands on the left and not on the right, as far as there is room for it; and the other way round.
    pub difference: i128,
    /// Whether there is room for that.
    pub adds_up: bool,
}

/// How much a sum may be out, and what for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// So much may be missing on the right.
    pub more: u64,
    /// So much may be missing on the left.
    pub less: u64,
}

/// Numbers that are added.
pub fn plus(name: &'static str, value: u64) -> Term {
    Term { name, value, is_minus: false }
}

/// Numbers that are taken off.
pub fn minus(name: &'static str, value: u64) -> Term {
    Term { name, value, is_minus: true }
}

impl Sum {
    /// A sum that must be exact.
    pub fn exact(whole: Term, parts: impl IntoIterator<Item = Term>) -> Self {
        Self::within(whole, parts, Room::default())
    }

    /// A sum with room.
    pub fn within(whole: Term, parts: impl IntoIterator<Item = Term>, room: Room) -> Self {
        let parts: Vec<Term> = parts.into_iter().collect();
        let signed = |term: &Term| if term.is_minus { -i128::from(term.value) } else { i128::from(term.value) };
        let difference = signed(&whole) - parts.iter().map(signed).sum::<i128>();
        let adds_up = -i128::from(room.less) <= difference && difference <= i128::from(room.more);
        Self { whole, parts, difference, adds_up }
    }

    fn terms(&self) -> impl Iterator<Item = &Term> {
        [&self.whole].into_iter().chain(&self.parts)
    }
}

/// A line: sums about one thing, or something else that is found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// What it is about.
    pub label: String,
    /// The sums.
    pub sums: Vec<Sum>,
    /// What else there is to say.
    pub note: String,
    /// Something beside the sums is wrong.
    pub is_wrong: bool,
    /// It only tells, and there is nothing to add up.
    pub is_fact: bool,
    /// It is not for people, who have seen enough of its kind.
    pub is_hidden: bool,
}

impl Line {
    /// One sum.
    pub fn of(label: impl Into<String>, sum: Sum) -> Self {
        Self { label: label.into(), sums: vec![sum], ..Self::default() }
    }

    /// With what is to be said of it.
    pub fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Something that is so, and right.
    pub fn fact(label: impl Into<String>, note: impl Into<String>) -> Self {
        Self { label: label.into(), note: note.into(), is_fact: true, ..Self::default() }
    }

    /// Something that must not be so.
    pub fn wrong(label: impl Into<String>, note: impl Into<String>) -> Self {
        Self { label: label.into(), note: note.into(), is_wrong: true, ..Self::default() }
    }

    /// Whether all is as it must be.
    pub fn adds_up(&self) -> bool {
        !self.is_wrong && self.sums.iter().all(|sum| sum.adds_up)
    }
}

/// Lines that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name for programs.
    pub name: &'static str,
    /// Its heading for people.
    pub title: String,
    /// What it says.
    pub lines: Vec<Line>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The node that the log is of.
    pub node: String,
    /// In the order of the data.
    pub sections: Vec<Section>,
}

impl Report {
    /// Whether everything adds up.
    pub fn adds_up(&self) -> bool {
        self.sections.iter().flat_map(|section| &section.lines).all(Line::adds_up)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let sections = self.sections.iter().map(|section| {
            let lines: Vec<Value> = section.lines.iter().map(line_json).collect();
            (section.name.to_owned(), Value::Array(lines))
        });
        let mut report = json!({"node": self.node, "adds_up": self.adds_up()});
        if let Value::Object(report) = &mut report {
            report.extend(sections);
        }
        report
    }
}

fn line_json(line: &Line) -> Value {
    let sum = |sum: &Sum| -> Value {
        Value::Object(sum.terms().map(|term| (term.name.to_owned(), term.value.into())).collect::<Map<_, _>>())
    };
    let sums: Vec<Value> = line.sums.iter().map(sum).collect();
    json!({"line": line.label, "sums": sums, "note": line.note, "adds_up": line.adds_up()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_out_by_no_more_than_its_room() {
        let of = |whole, room| Sum::within(plus("a", whole), [plus("b", 10), minus("c", 3)], room);
        assert!(of(7, Room::default()).adds_up && !of(8, Room::default()).adds_up);
        let room = Room { more: 2, less: 1 };
        assert_eq!([5, 6, 9, 10].map(|whole| of(whole, room).adds_up), [false, true, true, false]);
        assert_eq!(of(9, room).difference, 2);
        assert!(!Sum::exact(plus("a", 0), [plus("b", u64::MAX), plus("c", 1)]).adds_up, "nothing wraps around");
    }
}
