//! LEB128: numbers in as few bytes as they need, seven bits a byte, the lowest first
//! (DWARF 5, §7.6).

/// Appends a number.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Takes a number from the beginning. None if it ends too early, has more than 64 bits, or more bytes than it needs: a number
/// has one form.
#[inline]
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    match bytes.split_first() {
        // most lengths
        Some((byte, rest)) if *byte < 0x80 => {
            *bytes = rest;
            Some((*byte).into())
        }
        _ => take_long(bytes),
    }
}

fn take_long(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number).filter(|_| byte > 0 || shift == 0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back() {
        for number in (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, u64::MAX >> bit]) {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            let mut rest = &bytes[..];
            assert_eq!((take(&mut rest), rest), (Some(number), &[][..]));
            assert_eq!(take(&mut &bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn a_number_in_more_bytes_than_it_needs_is_none() {
        for bytes in [&[0x80, 0][..], &[0xff, 0], &[0x80, 0x80, 0]] {
            assert_eq!(take(&mut &*bytes), None);
        }
        assert_eq!(take(&mut &[0][..]), Some(0));
    }

    #[test]
    fn more_than_64_bits_are_no_number() {
        assert_eq!(take(&mut &[0xff; 10][..]), None);
        assert_eq!(take(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..]), None);
    }
}
