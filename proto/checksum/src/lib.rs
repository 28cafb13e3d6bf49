//! CRC-32C (RFC 3720, appendix B.4) of what a record is: a few hundred bytes, in words of eight.
//!
//! The crate `crc32c` takes so few of them one word after the other, and a processor's instruction for that has an answer three
//! cycles later (Intel, *Intrinsics Guide*, `_mm_crc32_u64`). Here three parts of a record are summed side by side, and put
//! together by a multiplication without carries (Gopal et al., *Fast CRC Computation for iSCSI Polynomial Using CRC32
//! Instruction*, Intel 2011). On processors without these instructions it is that crate's sum.

/// The checksum of what `crc` is that of, with `head` and `words` behind it. That of nothing is 0.
#[inline]
pub fn append(crc: u32, head: &[u8; 12], words: &[[u8; 8]]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("pclmulqdq") {
        // SAFETY: the processor has what the function asks for
        return unsafe { x86::append(crc, head, words) };
    }
    append_anywhere(crc, head, words)
}

fn append_anywhere(crc: u32, head: &[u8; 12], words: &[[u8; 8]]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc, head), words.as_flattened())
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_mm_clmulepi64_si128, _mm_crc32_u32, _mm_crc32_u64, _mm_cvtsi32_si128, _mm_cvtsi128_si64};

    /// Fewer words than this are taken one after the other: putting sums together costs as much as eight of them.
    const FEW: usize = 12;
    /// Of so many words is a part, at most: a record of nearly 3 KiB is taken at once.
    const MOST: usize = 127;
    /// The polynomial, its bits in reverse.
    const POLYNOMIAL: u32 = 0x82f6_3b78;

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub fn append(crc: u32, head: &[u8; 12], mut words: &[[u8; 8]]) -> u32 {
        let [a, b, c, d, e, f, g, h, tail @ ..] = *head;
        let mut sum = _mm_crc32_u64(u64::from(!crc), u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        sum = u64::from(_mm_crc32_u32(low(sum), u32::from_le_bytes(tail)));
        while words.len() >= FEW {
            let len = ((words.len() - 1) / 3).min(MOST);
            let (first, rest) = words.split_at(len);
            let (second, rest) = rest.split_at(len);
            let (third, rest) = rest.split_at(len);
            let mut sums = [sum, 0, 0];
            for ((first, second), third) in first.iter().zip(second).zip(third) {
                sums[0] = _mm_crc32_u64(sums[0], u64::from_le_bytes(*first));
                sums[1] = _mm_crc32_u64(sums[1], u64::from_le_bytes(*second));
                sums[2] = _mm_crc32_u64(sums[2], u64::from_le_bytes(*third));
            }
            // what the first two become behind all that follows goes into the one word behind the parts
            let (last, rest) = rest.split_first().expect("one is left over");
            let before = ahead(sums[0], 2 * len + 1) ^ ahead(sums[1], len + 1);
            sum = _mm_crc32_u64(sums[2], u64::from_le_bytes(*last) ^ before);
            words = rest;
        }
        words.iter().for_each(|word| sum = _mm_crc32_u64(sum, u64::from_le_bytes(*word)));
        !low(sum)
    }

    /// The word whose sum is that of so many words of zeros behind this sum.
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn ahead(sum: u64, words: usize) -> u64 {
        let number = |number: u32| _mm_cvtsi32_si128(number.cast_signed());
        let product = _mm_clmulepi64_si128::<0>(number(low(sum)), number(AHEAD[words]));
        _mm_cvtsi128_si64(product).cast_unsigned()
    }

    #[expect(clippy::cast_possible_truncation, reason = "a sum has 32 bits")]
    fn low(sum: u64) -> u32 {
        sum as u32
    }

    /// What a sum is multiplied with to get behind so many words: x to the power of 64 for each of them, less 32 by which the
    /// instruction goes on, and one by which a product of reversed bits is off.
    const AHEAD: [u32; 2 * MOST + 2] = {
        let mut powers = [0; 2 * MOST + 2];
        // x to the power of 31, its bits in reverse
        let mut power = 1_u32;
        let mut words = 1;
        while words < powers.len() {
            powers[words] = power;
            let mut bits = 0;
            while bits < 64 {
                power = (power >> 1) ^ (POLYNOMIAL * (power & 1));
                bits += 1;
            }
            words += 1;
        }
        powers
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, as the polynomial says.
    fn by_definition(crc: u32, bytes: impl IntoIterator<Item = u8>) -> u32 {
        let step =
            |crc: u32, byte: u8| (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)));
        !bytes.into_iter().fold(!crc, step)
    }

    #[test]
    fn it_is_the_checksum_of_the_rfc() {
        assert_eq!(by_definition(0, *b"123456789"), 0xe306_9283);
        // 32 bytes of zeros, of ones, and from 0 up: appendix B.4
        let up: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        for (bytes, expected) in [([0; 32], 0x8a91_36aa), ([0xff; 32], 0x62a8_ab43), (up, 0x46dd_794e)] {
            let (head, rest) = bytes.split_first_chunk::<12>().unwrap();
            // the last four are no whole word
            let (words, tail) = rest.as_chunks();
            assert_eq!(by_definition(append(0, head, words), tail.iter().copied()), expected);
        }
    }

    #[test]
    fn records_of_all_lengths_have_their_checksum() {
        let words: Vec<[u8; 8]> =
            (0..1600_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n << 60).to_le_bytes()).collect();
        for len in 0..words.len() {
            let bytes = [7; 12].into_iter().chain(words[..len].as_flattened().iter().copied());
            let expected = by_definition(0xdead_beef, bytes);
            assert_eq!(append(0xdead_beef, &[7; 12], &words[..len]), expected, "{len} words");
            assert_eq!(append_anywhere(0xdead_beef, &[7; 12], &words[..len]), expected, "{len} words");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_same_on_all_processors(crc: u32, head: [u8; 12], words in prop::collection::vec(any::<[u8; 8]>(), 0..900)) {
            prop_assert_eq!(append(crc, &head, &words), append_anywhere(crc, &head, &words));
        }
    }
}
