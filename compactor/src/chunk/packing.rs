//! How Parquet packs whole numbers (its `Encodings.md`).

use tallylight_proto::varint;

/// Values that are packed together, and the shortest run of equal ones.
const PACK: usize = 8;
/// Values of a block of deltas, which has one smallest delta, and of each of its parts, which has one width.
const BLOCK: usize = 128;
const MINIBLOCK: usize = 32;

/// Appends values of so many bits as runs of equal ones and packs of others (RLE/bit-packing hybrid). A run begins where a pack
/// would.
pub fn hybrid(values: &[u32], width: u32, out: &mut Vec<u8>) {
    let (packs, rest) = values.as_chunks::<PACK>();
    let mut at = 0;
    while at < packs.len() {
        let packed = packs[at..].iter().take_while(|pack| !is_run(pack)).count();
        if packed > 0 || at == packs.len() {
            pack(packs[at..at + packed].as_flattened(), width, out);
            at += packed;
        } else {
            let run = packs[at..].iter().take_while(|pack| **pack == packs[at]).count();
            varint::put(out, ((run * PACK) as u64) << 1);
            out.extend_from_slice(&packs[at][0].to_le_bytes()[..width.div_ceil(8) as usize]);
            at += run;
        }
    }
    pack(rest, width, out);
}

fn is_run(pack: &[u32; PACK]) -> bool {
    pack.iter().fold(0, |all, value| all | (value ^ pack[0])) == 0
}

/// The bits that numbers up to this one take.
pub fn width(largest: u32) -> u32 {
    u32::BITS - largest.leading_zeros()
}

fn pack(values: &[u32], width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let packs = values.len().div_ceil(PACK);
    varint::put(out, (packs as u64) << 1 | 1);
    let end = out.len() + packs * width as usize;
    narrow(values.iter().map(|value| u64::from(*value)), width, out);
    out.resize(end, 0);
}

/// Appends the lower bits of each value, at most 32, the first one lowest.
fn narrow(values: impl ExactSizeIterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    out.reserve(values.len() * width as usize / 8 + 8);
    let (mut word, mut filled) = (0_u64, 0);
    for value in values {
        word |= value << filled;
        filled += width;
        if filled >= u32::BITS {
            out.extend_from_slice(&word.to_le_bytes()[..4]);
            word >>= u32::BITS;
            filled -= u32::BITS;
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// The same of up to 64 bits.
fn wide(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
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
    for from in (1..values.len()).step_by(BLOCK) {
        let pairs = values[from - 1..].windows(2).take(BLOCK);
        let len = pairs.len();
        let mut differences = [0; BLOCK];
        differences.iter_mut().zip(pairs).for_each(|(place, pair)| *place = pair[1].wrapping_sub(pair[0]));
        let smallest = differences[..len].iter().copied().min().unwrap_or(0);
        varint::put(out, zigzag(smallest));
        let above = differences.map(|difference| difference.wrapping_sub(smallest).cast_unsigned());
        let (parts, _) = above.as_chunks::<MINIBLOCK>();
        // what is behind the last value takes no bits, and parts there have no bytes
        let there = |part: usize| len.saturating_sub(part * MINIBLOCK).min(MINIBLOCK);
        let widths: [u32; BLOCK / MINIBLOCK] = std::array::from_fn(|part| {
            u64::BITS - parts[part][..there(part)].iter().fold(0, |all, one| all | one).leading_zeros()
        });
        out.extend(widths.map(|width| width.to_le_bytes()[0]));
        for (part, width) in widths.into_iter().enumerate().take(len.div_ceil(MINIBLOCK)) {
            let end = out.len() + width as usize * MINIBLOCK / 8;
            let values = parts[part][..there(part)].iter().copied();
            if width <= u32::BITS {
                narrow(values, width, out)
            } else {
                wide(values, width, out)
            }
            out.resize(end, 0);
        }
    }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}
