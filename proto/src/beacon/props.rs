//! Properties: the keys of a beacon that have no meaning of their own, each once, in the order it came.
//!
//! A body of 1 MiB may have a hundred thousand of them: looking one up must not become slow.

use std::borrow::Cow;
use std::collections::HashMap;

/// Up to this many are looked up one after the other, which for few is faster than hashing.
const FEW: usize = 16;

/// The properties of one event while it is read.
#[derive(Default)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Props<'a> {
    /// `None` where the last word about a key was that it has no value.
    list: Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>,
    /// Where in the list each key stands; empty while there are few.
    places: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Props<'a> {
    /// Sets one; of a key that comes again the last text stands, in the place of the first.
    pub(super) fn set(&mut self, key: Cow<'a, str>, text: Option<Cow<'a, str>>) {
        if let Some(place) = self.find(&key) {
            self.list[place].1 = text;
            return;
        }
        if self.list.len() == FEW {
            self.places.extend(self.list.iter().enumerate().map(|(place, (key, _))| (key.clone(), place)));
        }
        if self.list.len() >= FEW {
            self.places.insert(key.clone(), self.list.len());
        }
        self.list.push((key, text));
    }

    /// Adds those of `defaults` that are missing here.
    pub(super) fn add_missing(&mut self, defaults: &'a Props<'_>) {
        for (key, text) in &defaults.list {
            let is_set = self.find(key).is_some_and(|place| self.list[place].1.is_some());
            if let (false, Some(text)) = (is_set, text) {
                self.set(Cow::Borrowed(key), Some(Cow::Borrowed(text)));
            }
        }
    }

    /// Those that have a value.
    pub(super) fn into_list(self) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
        self.list.into_iter().filter_map(|(key, text)| Some((key, text?))).collect()
    }

    fn find(&self, key: &str) -> Option<usize> {
        if self.list.len() <= FEW {
            self.list.iter().position(|(other, _)| other == key)
        } else {
            self.places.get(key).copied()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_default_fills_what_is_missing_or_null_and_nothing_else() {
        let mut defaults = Props::default();
        for key in ["a", "b", "c"] {
            defaults.set(key.into(), Some("default".into()));
        }
        let mut props = Props::default();
        props.set("a".into(), Some("".into()));
        props.set("b".into(), None);
        props.add_missing(&defaults);
        let expected = [("a", ""), ("b", "default"), ("c", "default")].map(|(key, text)| (key.into(), text.into()));
        assert_eq!(props.into_list(), expected);
    }

    proptest! {
        #[test]
        fn many_behave_like_few(sets in proptest::collection::vec((0_u8..60, proptest::option::of(0_u8..9)), 0..200)) {
            let mut props = Props::default();
            let mut model: Vec<(String, Option<String>)> = Vec::new();
            for (key, text) in &sets {
                let (key, text) = (key.to_string(), text.map(|text| text.to_string()));
                props.set(key.clone().into(), text.clone().map(Cow::from));
                match model.iter_mut().find(|(other, _)| *other == key) {
                    Some(slot) => slot.1 = text,
                    None => model.push((key, text)),
                }
            }
            let expected: Vec<_> = model.into_iter().filter_map(|(key, text)| Some((key.into(), text?.into()))).collect();
            prop_assert_eq!(props.into_list(), expected);
        }
    }
}
