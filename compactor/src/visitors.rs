//! How many different visitors a group had: an Apache DataSketches HLL_8 sketch with lg_k 12.
//!
//! The rule: **a sketch's bytes depend on nothing but the set of visitors**; not on their order, on how they were
//! batched and merged, or on how often the sketch was written and read in between.
//!
//! A visitor becomes a *coupon*: MurmurHash3 x64-128, seed 9001, of its UTF-8 bytes, cut to a slot of 26 bits and a
//! value of 6. Up to [`MAX_COUPONS`] different coupons are kept as they are, sorted, and counted exactly; beyond, only
//! the highest value in each of 4096 registers is. Coupons and registers are functions of the set, and so is which of
//! the two it is. The third thing that a DataSketches image may hold, an estimate kept along the way (HIP), is not: it
//! remembers the order. So a sketch of registers is always marked *out of order*, and every reader then estimates from
//! the registers alone.
//!
//! An image as DataSketches reads it, little-endian, its coupons sorted:
//!
//! | bytes | up to 7 coupons | more coupons | registers |
//! | --- | --- | --- | --- |
//! | 0..4 | 2, 1, 7, lg_k | 3, 1, 7, lg_k | 10, 1, 7, lg_k |
//! | 4 | 3 | log2 of the table that a reader makes | 0 |
//! | 5 flags | 8 compact, + 4 if empty | 8 compact | 16 out of order |
//! | 6 | how many | 0 | 0 |
//! | 7 | 8: a list of HLL_8 | 9: a set | 10: registers |
//! | then | coupons, 4 bytes each | how many, 4 bytes; coupons | 0.0 (no HIP), sums, zeros; 4096 registers |

use std::hash::{Hash, Hasher};

use datasketches::hash::value::raw_bytes;
use datasketches::hll::{Coupon, HllSketch, HllType};
use thiserror::Error;

/// log2 of the number of registers: a standard error of 1.6 %.
pub const LG_K: u8 = 12;
const REGISTERS: usize = 1 << LG_K;

/// As many coupons are kept as such; one more, and DataSketches turns to registers.
pub const MAX_COUPONS: usize = 384;

/// Why bytes are no sketch of ours.
#[derive(Debug, Error)]
pub enum SketchError {
    /// They are no sketch at all.
    #[error("not a DataSketches HLL sketch")]
    Unreadable {
        /// What the library says.
        source: datasketches::error::Error,
    },
    /// Another size or width: it cannot be merged without loss.
    #[error("the sketch is {hll_type:?} with lg_k {lg_k}, not Hll8 with lg_k 12")]
    OtherKind {
        /// Its log2 of the number of registers.
        lg_k: u8,
        /// Its register width.
        hll_type: HllType,
    },
    /// A value that no hash has.
    #[error("the sketch has a coupon or register out of range")]
    Impossible,
}

/// A set of visitors, told apart exactly while there are few, estimated when there are many.
#[derive(Clone, Debug)]
pub struct Visitors(Held);

/// Most groups have a handful, which stands where the group does.
#[derive(Clone, Debug)]
enum Held {
    Few(Few),
    /// Sorted, each once, at most [`MAX_COUPONS`].
    Coupons(Vec<u32>),
    /// The greatest value of each register's coupons.
    Registers(Box<Registers>),
}

/// Coupons, sorted, each once.
#[derive(Clone, Copy, Debug, Default)]
struct Few {
    len: u8,
    coupons: [u32; Few::MOST],
}

impl Few {
    /// What has room in a group's two cache lines.
    const MOST: usize = 6;

    fn get(&self) -> &[u32] {
        &self.coupons[..usize::from(self.len)]
    }

    /// Whether it has room for this one, which then is in it.
    fn add(&mut self, coupon: u32) -> bool {
        let Err(at) = self.get().binary_search(&coupon) else { return true };
        let len = usize::from(self.len);
        if len == Self::MOST {
            return false;
        }
        self.coupons.copy_within(at..len, at + 1);
        self.coupons[at] = coupon;
        self.len += 1;
        true
    }
}

type Registers = [u8; REGISTERS];

impl Default for Visitors {
    fn default() -> Self {
        Self::new()
    }
}

impl Visitors {
    /// Nobody yet.
    pub const fn new() -> Self {
        Self(Held::Few(Few { len: 0, coupons: [0; Few::MOST] }))
    }

    /// Counts a visitor in. The empty one is none.
    pub fn add(&mut self, visitor: &str) {
        if let Some(coupon) = coupon(visitor.as_bytes()) {
            self.add_coupons(&mut [coupon]);
        }
    }

    /// Counts in visitors by their coupons, which are put in order.
    pub fn add_coupons(&mut self, coupons: &mut [u32]) {
        match &mut self.0 {
            Held::Few(few) => {
                if let Some(first) = coupons.iter().position(|coupon| !few.add(*coupon)) {
                    self.0 = Held::Coupons(few.get().to_vec());
                    self.add_coupons(&mut coupons[first..]);
                }
            }
            Held::Coupons(ours) => {
                coupons.sort_unstable();
                ours.extend_from_slice(coupons);
                // two runs that are in order
                ours.sort();
                ours.dedup();
                if ours.len() > MAX_COUPONS {
                    self.0 = Held::Registers(registers(ours));
                }
            }
            Held::Registers(registers) => coupons.iter().for_each(|coupon| raise(registers, *coupon)),
        }
    }

    /// Counts in all visitors of another set.
    pub fn merge(&mut self, other: &Visitors) {
        let Held::Registers(theirs) = &other.0 else {
            return self.add_coupons(&mut other.coupons().to_vec());
        };
        if let Held::Registers(ours) = &mut self.0 {
            ours.iter_mut().zip(theirs.iter()).for_each(|(ours, theirs)| *ours = (*ours).max(*theirs));
        } else {
            let mut all = theirs.clone();
            self.coupons().iter().for_each(|coupon| raise(&mut all, *coupon));
            self.0 = Held::Registers(all);
        }
    }

    /// All there are, as long as they are kept.
    fn coupons(&self) -> &[u32] {
        match &self.0 {
            Held::Few(few) => few.get(),
            Held::Coupons(coupons) => coupons,
            Held::Registers(_) => &[],
        }
    }

    /// How many they are, as any DataSketches reader computes it from [`Self::to_sketch`].
    #[expect(clippy::cast_possible_truncation, reason = "an estimate of lg_k 12 is far below 2^63")]
    pub fn estimate(&self) -> i64 {
        match &self.0 {
            Held::Registers(_) => {
                let sketch = HllSketch::deserialize(&self.to_sketch()).expect("an image of ours is readable");
                sketch.estimate().round() as i64
            }
            // the correction for coupons that coincide stays below a thousandth at 384
            _ => i64::try_from(self.coupons().len()).expect("at most 384 coupons"),
        }
    }

    /// Whether nobody was counted.
    pub fn is_empty(&self) -> bool {
        !matches!(&self.0, Held::Registers(_)) && self.coupons().is_empty()
    }

    /// The image of the set: 8 bytes for nobody, 12 for one visitor, at most 1548 for coupons, 4136 for registers.
    pub fn to_sketch(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.sketch_len());
        self.write_sketch(&mut bytes);
        bytes
    }

    /// How long that is.
    pub fn sketch_len(&self) -> usize {
        match (&self.0, self.coupons().len()) {
            (Held::Registers(_), _) => REGISTERS_AT + REGISTERS,
            (_, few @ ..=MAX_LIST) => 8 + 4 * few,
            (_, many) => 12 + 4 * many,
        }
    }

    /// Appends the same.
    pub fn write_sketch(&self, bytes: &mut Vec<u8>) {
        match &self.0 {
            Held::Registers(registers) => write_registers(registers, bytes),
            _ => write_coupons(self.coupons(), bytes),
        }
    }

    /// Reads an image, ours or anybody's of this kind, in any order.
    pub fn from_sketch(bytes: &[u8]) -> Result<Self, SketchError> {
        if let Some(few) = Self::from_our_coupons(bytes) {
            return Ok(few);
        }
        let sketch = HllSketch::deserialize(bytes).map_err(|source| SketchError::Unreadable { source })?;
        if sketch.lg_config_k() != LG_K || sketch.target_type() != HllType::Hll8 {
            return Err(SketchError::OtherKind { lg_k: sketch.lg_config_k(), hll_type: sketch.target_type() });
        }
        // the library writes what it read in one form only
        let bytes = sketch.serialize();
        let coupons = match bytes[7] & MODE {
            LIST => &bytes[8..],
            SET => &bytes[12..],
            _ => {
                let registers: Registers = bytes[REGISTERS_AT..].try_into().map_err(|_| SketchError::Impossible)?;
                let is_possible = !sketch.is_empty() && registers.iter().all(|value| *value <= MAX_VALUE);
                return is_possible.then(|| Self(Held::Registers(Box::new(registers)))).ok_or(SketchError::Impossible);
            }
        };
        let (coupons, _) = coupons.as_chunks();
        let mut coupons: Vec<u32> = coupons.iter().map(|coupon| u32::from_le_bytes(*coupon)).collect();
        if !coupons.iter().all(is_coupon) {
            return Err(SketchError::Impossible);
        }
        let mut visitors = Self::new();
        visitors.add_coupons(&mut coupons);
        Ok(visitors)
    }

    /// Reads coupons as they are written here, which is most of what is read, without the library's table of them. `None`: it is
    /// something else.
    fn from_our_coupons(bytes: &[u8]) -> Option<Self> {
        let coupons = match bytes.get(7)? & MODE {
            LIST => bytes.get(8..)?,
            SET => bytes.get(12..)?,
            _ => return None,
        };
        let coupons: Vec<u32> = coupons.as_chunks().0.iter().map(|coupon| u32::from_le_bytes(*coupon)).collect();
        let are_coupons = coupons.len() <= MAX_COUPONS && coupons.iter().all(is_coupon);
        if !are_coupons || !coupons.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let mut few = Few::default();
        let visitors = match coupons.iter().all(|coupon| few.add(*coupon)) {
            true => Self(Held::Few(few)),
            false => Self(Held::Coupons(coupons)),
        };
        (visitors.to_sketch() == bytes).then_some(visitors)
    }
}

/// Whether a hash may have become this.
fn is_coupon(coupon: &u32) -> bool {
    (1..=u32::from(MAX_VALUE)).contains(&(coupon >> SLOT_BITS))
}

/// The bits of byte 7 that tell list, set and registers apart.
const MODE: u8 = 3;
const LIST: u8 = 0;
const SET: u8 = 1;
const ARRAY: u8 = 2;
/// Bits 2 and 3 of byte 7: one byte a register.
const HLL_8: u8 = 2 << 2;
const FAMILY: u8 = 7;
const VERSION: u8 = 1;
const COMPACT: u8 = 8;
const OUT_OF_ORDER: u8 = 16;
const EMPTY: u8 = 4;
/// A list is full with 8 and then a set.
const MAX_LIST: usize = 7;
/// Where the registers begin in an image of them.
const REGISTERS_AT: usize = 40;
/// The bits of a coupon below its value.
const SLOT_BITS: u32 = 26;
/// Leading zeros of 64 hashed bits, at most 62, and one.
const MAX_VALUE: u8 = 63;

/// What the library makes of a visitor, as a number; the empty one is none.
pub fn coupon(visitor: &[u8]) -> Option<u32> {
    // a coupon shows its number to nobody but a hasher
    struct Number(u32);
    impl Hasher for Number {
        fn write(&mut self, _: &[u8]) {
            unreachable!("a coupon is one u32")
        }
        fn write_u32(&mut self, number: u32) {
            self.0 = number;
        }
        fn finish(&self) -> u64 {
            self.0.into()
        }
    }
    if visitor.is_empty() {
        return None;
    }
    let mut number = Number(0);
    Coupon::from_value(raw_bytes::from_slice(visitor)).hash(&mut number);
    Some(number.0)
}

/// Appends the image of sorted coupons.
fn write_coupons(coupons: &[u32], bytes: &mut Vec<u8>) {
    let count = u32::try_from(coupons.len()).expect("at most 384 coupons");
    if coupons.len() <= MAX_LIST {
        let flags = if coupons.is_empty() { COMPACT | EMPTY } else { COMPACT };
        bytes.extend([2, VERSION, FAMILY, LG_K, 3, flags, count.to_le_bytes()[0], LIST | HLL_8]);
    } else {
        // the smallest table that is at most three quarters full
        let lg_table = (5..LG_K - 3).find(|lg| 4 * coupons.len() <= 3 << lg).unwrap_or(LG_K - 3);
        bytes.extend([3, VERSION, FAMILY, LG_K, lg_table, COMPACT, 0, SET | HLL_8]);
        bytes.extend(count.to_le_bytes());
    }
    bytes.extend(coupons.iter().flat_map(|coupon| coupon.to_le_bytes()));
}

/// Appends the image of registers.
fn write_registers(registers: &Registers, bytes: &mut Vec<u8>) {
    // sums of 2^-value, apart for small and large ones: so none of their bits is lost, in whatever order they are added up
    let mut sums = [0.0; 2];
    for value in registers {
        sums[usize::from(*value >= 32)] += f64::from_bits((1023 - u64::from(*value)) << 52);
    }
    let zeros = registers.iter().filter(|value| **value == 0).count();
    bytes.extend([10, VERSION, FAMILY, LG_K, 0, OUT_OF_ORDER, 0, ARRAY | HLL_8]);
    bytes.extend([0.0, sums[0], sums[1]].into_iter().flat_map(f64::to_le_bytes));
    bytes.extend([u32::try_from(zeros).expect("at most 4096 registers"), 0].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend(registers);
}

/// Registers of these coupons.
fn registers(coupons: &[u32]) -> Box<Registers> {
    let mut registers = Box::new([0; REGISTERS]);
    coupons.iter().for_each(|coupon| raise(&mut registers, *coupon));
    registers
}

fn raise(registers: &mut Registers, coupon: u32) {
    let register = &mut registers[coupon as usize % REGISTERS];
    *register = (*register).max((coupon >> SLOT_BITS).to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(range: std::ops::Range<u32>) -> impl DoubleEndedIterator<Item = String> {
        range.map(|n| format!("visitor-{n}"))
    }

    fn visitors(names: impl IntoIterator<Item = String>) -> Visitors {
        let mut visitors = Visitors::new();
        names.into_iter().for_each(|name| visitors.add(&name));
        visitors
    }

    /// As the library alone would have it.
    fn by_library(names: impl IntoIterator<Item = String>) -> HllSketch {
        let mut sketch = HllSketch::new(LG_K, HllType::Hll8).unwrap();
        names.into_iter().for_each(|name| sketch.update(raw_bytes::from_string(name)));
        sketch
    }

    fn coupons_of(image: &[u8]) -> Vec<u32> {
        let coupons = if image[7] & MODE == LIST { &image[8..] } else { &image[12..] };
        coupons.as_chunks().0.iter().map(|coupon| u32::from_le_bytes(*coupon)).collect()
    }

    const SIZES: [u32; 16] = [0, 1, 2, 7, 8, 9, 24, 25, 100, 200, 383, 384, 385, 400, 10_000, 100_000];

    #[test]
    fn a_coupon_is_the_one_that_the_library_writes() {
        for name in names(0..1000).chain(["é".into(), "\0".into(), "x".repeat(300)]) {
            assert_eq!([coupon(name.as_bytes()).unwrap()], *coupons_of(&by_library([name]).serialize()));
        }
    }

    #[test]
    fn coupons_are_written_as_the_library_does_but_sorted() {
        for size in 0..=u32::try_from(MAX_COUPONS).unwrap() {
            let (ours, theirs) = (visitors(names(0..size)).to_sketch(), by_library(names(0..size)).serialize());
            let head = if size < 8 { 8 } else { 12 };
            assert_eq!(ours[..head], theirs[..head], "{size}");
            let mut coupons = coupons_of(&theirs);
            coupons.sort_unstable();
            assert_eq!(coupons_of(&ours), coupons, "{size}");
        }
    }

    #[test]
    fn registers_are_those_of_the_library_without_its_history() {
        for size in [385, 10_000] {
            let mut theirs = by_library(names(0..size)).serialize();
            theirs[5] |= 16;
            theirs[8..16].fill(0);
            assert_eq!(visitors(names(0..size)).to_sketch(), theirs);
        }
    }

    #[test]
    fn bytes_depend_on_the_set_alone() {
        for size in SIZES {
            let straight = visitors(names(0..size));
            let bytes = straight.to_sketch();
            assert_eq!(visitors(names(0..size).rev().chain(names(0..size / 3))).to_sketch(), bytes, "{size} reversed");

            for parts in [2, 7, 1000] {
                let mut shares = vec![Visitors::new(); parts];
                for (n, name) in names(0..size).enumerate() {
                    shares[n % parts].add(&name);
                    shares[n / 7 % parts].add(&name);
                }
                let mut merged = Visitors::new();
                for share in shares {
                    merged.merge(&Visitors::from_sketch(&share.to_sketch()).unwrap());
                }
                assert_eq!(merged.to_sketch(), bytes, "{size} in {parts}");
            }

            assert_eq!(straight.sketch_len(), bytes.len());
            let mut amended = Visitors::from_sketch(&bytes).unwrap();
            assert_eq!(amended.to_sketch(), bytes, "{size} read back");
            names(0..size).for_each(|name| amended.add(&name));
            assert_eq!(amended.to_sketch(), bytes, "{size} added again");
            assert_eq!(amended.estimate(), straight.estimate());
        }
    }

    #[test]
    fn the_estimate_is_what_a_reader_of_the_bytes_computes() {
        for size in (0..1000).chain(SIZES) {
            let ours = visitors(names(0..size));
            let theirs = HllSketch::deserialize(&ours.to_sketch()).unwrap();
            assert_eq!(ours.estimate() as f64, theirs.estimate().round(), "{size}");
            assert_eq!(theirs.estimate().to_bits(), theirs.composite_estimate().to_bits(), "{size}");
            assert_eq!(ours.is_empty(), size == 0);
        }
    }

    #[test]
    fn a_sketch_made_elsewhere_becomes_ours() {
        for size in SIZES {
            let foreign = by_library(names(0..size)).serialize();
            let ours = Visitors::from_sketch(&foreign).unwrap();
            let bytes = ours.to_sketch();
            assert_eq!(bytes, visitors(names(0..size)).to_sketch(), "{size}");
            let again = Visitors::from_our_coupons(&bytes).map(|again| again.to_sketch());
            assert_eq!(again, (size <= 384).then_some(bytes), "{size}: read without the library");
        }
    }

    #[test]
    fn the_empty_visitor_is_nobody() {
        let mut nobody = Visitors::new();
        nobody.add("");
        assert!(nobody.is_empty());
        assert_eq!(nobody.to_sketch(), [2, 1, 7, 12, 3, 12, 0, 8]);
    }

    #[test]
    fn the_error_is_that_of_4096_registers() {
        let sets = 40;
        let size = 20_000;
        let mut squares = 0.0;
        for set in 0..sets {
            let estimate = visitors(names(set * size..(set + 1) * size)).estimate();
            let error = estimate as f64 / f64::from(size) - 1.0;
            assert!(error.abs() < 0.065, "set {set}: {error}");
            squares += error * error;
        }
        let rms = (squares / f64::from(sets)).sqrt();
        assert!(rms < 0.02, "{rms}");
    }

    #[test]
    fn what_is_no_sketch_of_ours_is_refused() {
        let image = |lg_k, hll_type| HllSketch::new(lg_k, hll_type).unwrap().serialize();
        assert!(matches!(
            Visitors::from_sketch(&image(11, HllType::Hll8)),
            Err(SketchError::OtherKind { lg_k: 11, .. })
        ));
        assert!(matches!(Visitors::from_sketch(&image(12, HllType::Hll4)), Err(SketchError::OtherKind { .. })));
        let mut dense = visitors(names(0..500)).to_sketch();
        dense[REGISTERS_AT + 3] = 64;
        assert!(matches!(Visitors::from_sketch(&dense), Err(SketchError::Impossible)));
        dense[REGISTERS_AT..].fill(0);
        dense[32..36].copy_from_slice(&4096_u32.to_le_bytes());
        assert!(matches!(Visitors::from_sketch(&dense), Err(SketchError::Impossible)), "registers of nobody");
        for size in [0, 1, 9, 500] {
            let whole = visitors(names(0..size)).to_sketch();
            for cut in 0..whole.len() {
                assert!(matches!(Visitors::from_sketch(&whole[..cut]), Err(SketchError::Unreadable { .. })), "{cut}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn merging_is_the_union(a in prop::collection::vec(0..900_u32, 0..700), b in prop::collection::vec(0..900_u32, 0..700)) {
            let name = |n: &u32| format!("visitor-{n}");
            let (left, right) = (visitors(a.iter().map(name)), visitors(b.iter().map(name)));
            let all = visitors(a.iter().chain(&b).map(name));
            let (mut one, mut other) = (left.clone(), right.clone());
            one.merge(&right);
            other.merge(&left);
            prop_assert_eq!(one.to_sketch(), all.to_sketch());
            prop_assert_eq!(other.to_sketch(), all.to_sketch());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), size in 0..600_u32, at in 0..5000_usize, flip in 1..=255_u8) {
            let _ = Visitors::from_sketch(&bytes);
            let mut image = visitors(names(0..size)).to_sketch();
            let at = at % image.len();
            image[at] ^= flip;
            if let Ok(read) = Visitors::from_sketch(&image) {
                prop_assert!(read.estimate() >= 0);
                let bytes = read.to_sketch();
                prop_assert_eq!(Visitors::from_sketch(&bytes).unwrap().to_sketch(), bytes);
            }
        }
    }
}
