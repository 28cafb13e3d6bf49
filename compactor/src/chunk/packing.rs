//! How Parquet packs whole numbers (its `Encodings.md`).

use tallylight_proto::varint;

/// Repeated so often, a value is written once with a count.
const SHORTEST_RUN: usize = 8;
/// Values of a block of deltas, which has one smallest delta, and of each of its parts, which has one width.
const BLOCK: usize = 128;
const MINIBLOCK: usize = 32;

/// Appends values of so many bits as runs of equal ones and packs of others (RLE/bit-packing hybrid).
pub fn hybrid(values: &[u32], width: u32, out: &mut Vec<u8>) {
    // from where on values are not written yet
    let mut from = 0;
    let mut at = 0;
    while at < values.len() {
        let run = values[at..].iter().take_while(|value| **value == values[at]).count();
        // a pack has a multiple of eight values, so a run gives it what it lacks
        let lacking = (at - from).next_multiple_of(8) - (at - from);
        if run >= lacking + SHORTEST_RUN {
            pack(&values[from..at + lacking], width, out);
            varint::put(out, ((run - lacking) as u64) << 1);
            out.extend_from_slice(&values[at].to_le_bytes()[..width.div_ceil(8) as usize]);
            from = at + run;
        }
        at += run;
    }
    pack(&values[from..], width, out);
}

/// The bits that numbers up to this one take.
pub fn width(largest: u32) -> u32 {
    u32::BITS - largest.leading_zeros()
}

fn pack(values: &[u32], width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let eights = values.len().div_ceil(8);
    varint::put(out, (eights as u64) << 1 | 1);
    let end = out.len() + eights * width as usize;
    bits(values.iter().map(|value| u64::from(*value)), width, out);
    out.resize(end, 0);
}

/// Appends the lower bits of each value, the first one lowest.
fn bits(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut word, mut filled) = (0_u128, 0);
    for value in values {
        word |= u128::from(value) << filled;
        filled += width;
        if filled >= u64::BITS {
            out.extend_from_slice(&word.to_le_bytes()[..8]);
            word >>= u64::BITS;
            filled -= u64::BITS;
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// Appends numbers as differences from one to the next (DELTA_BINARY_PACKED).
pub fn deltas(values: &[i64], out: &mut Vec<u8>) {
    varint::put(out, BLOCK as u64);
    varint::put(out, (BLOCK / MINIBLOCK) as u64);
    varint::put(out, values.len() as u64);
    varint::put(out, zigzag(values.first().copied().unwrap_or(0)));
    let mut differences = [0_u64; BLOCK];
    for from in (1..values.len()).step_by(BLOCK) {
        let len = BLOCK.min(values.len() - from);
        let block = || values[from - 1..].windows(2).take(len).map(|pair| pair[1].wrapping_sub(pair[0]));
        let smallest = block().min().unwrap_or(0);
        varint::put(out, zigzag(smallest));
        differences.fill(0);
        for (place, difference) in differences.iter_mut().zip(block()) {
            *place = difference.wrapping_sub(smallest).cast_unsigned();
        }
        let width = |part: &[u64]| u64::BITS - part.iter().fold(0, |all, one| all | one).leading_zeros();
        out.extend(differences.chunks(MINIBLOCK).map(|part| width(part).to_le_bytes()[0]));
        // parts behind the last value have no bytes
        for part in differences.chunks(MINIBLOCK).take(len.div_ceil(MINIBLOCK)) {
            bits(part.iter().copied(), width(part), out);
        }
    }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}
