//! Pages: what runs are made of, 4 KiB each.
//!
//! The rule: **a page that is not the one that was written there is not read.** The last four bytes of each are a
//! CRC-32C over the run's number, the page's number and all before them. So neither a flipped bit nor a page of
//! another run or place passes.

/// Bytes of a page: what disks and the page cache deal in.
pub(super) const PAGE_BYTES: usize = 4096;
/// Bytes of a page before its checksum.
pub(super) const BODY_BYTES: usize = PAGE_BYTES - 4;

pub(super) type Page = [u8; PAGE_BYTES];

/// Writes the checksum of page `number` of a run.
pub(super) fn seal(page: &mut Page, run: u64, number: u64) {
    let check = checksum(page, run, number);
    page[BODY_BYTES..].copy_from_slice(&check);
}

/// Whether this is page `number` of that run, as it was sealed.
pub(super) fn is_whole(page: &Page, run: u64, number: u64) -> bool {
    page[BODY_BYTES..] == checksum(page, run, number)
}

fn checksum(page: &Page, run: u64, number: u64) -> [u8; 4] {
    let place = crc32c::crc32c_append(crc32c::crc32c(&run.to_le_bytes()), &number.to_le_bytes());
    crc32c::crc32c_append(place, &page[..BODY_BYTES]).to_le_bytes()
}

/// The eight bytes at `at`, as a number.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut out"))
}

/// The four bytes at `at`, as a number.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut out"))
}

/// The id at `at`. Big-endian: the order of the numbers is that of the bytes, and for version 7 that of time.
pub(super) fn id_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_be_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes were cut out"))
}
