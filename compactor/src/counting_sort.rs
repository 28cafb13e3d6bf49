//! Sorting by small numbers, of which many things have the same.

/// Things in the order of their numbers, which are below `numbers`, and where those of each number end. Those of one number stay
/// in their order. Takes time and memory for each number as for each thing (Knuth, The Art of Computer Programming 3, 5.2, D).
pub fn counting_sort<T: Copy + Default>(
    things: impl ExactSizeIterator<Item = (usize, T)> + Clone,
    numbers: usize,
) -> (Vec<T>, Vec<usize>) {
    let mut ends = vec![0; numbers + 1];
    things.clone().for_each(|(number, _)| ends[number + 1] += 1);
    (1..ends.len()).for_each(|at| ends[at] += ends[at - 1]);
    let mut sorted = vec![T::default(); things.len()];
    for (number, thing) in things {
        sorted[ends[number]] = thing;
        ends[number] += 1;
    }
    ends.truncate(numbers);
    (sorted, ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_a_stable_sort_makes(numbers in prop::collection::vec(0..9_usize, 0..60)) {
            let things = numbers.iter().copied().zip(0..60_u8);
            let mut expected: Vec<_> = things.clone().collect();
            expected.sort_by_key(|(number, _)| *number);
            let (sorted, ends) = counting_sort(numbers.iter().copied().zip(0..numbers.len()), 9);
            prop_assert!(sorted.iter().copied().eq(expected.iter().map(|(_, thing)| usize::from(*thing))));
            let ends_of = |number| expected.partition_point(|(other, _)| *other <= number);
            prop_assert!(ends.into_iter().eq((0..9).map(ends_of)));
        }
    }
}
