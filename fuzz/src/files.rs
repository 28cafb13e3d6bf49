//! Files that may have been harmed: a valid one and edits to it, or bytes in its place.

/// Bytes of one edit.
const EDIT: usize = 6;
const MOST_EDITS: usize = 16;

/// What is done to a file: bits flip, parts are lost or come from elsewhere, it is cut or grows.
pub(crate) fn edit(file: &mut Vec<u8>, edits: &[u8]) {
    for [what, at0, at1, from0, from1, much] in edits.as_chunks::<EDIT>().0.iter().take(MOST_EDITS) {
        if file.is_empty() {
            return;
        }
        let place = |high: &u8, low: &u8| (usize::from(*high) << 8 | usize::from(*low)) % file.len();
        // the end is where the footer is
        let (at, from) = match what & 64 {
            0 => (place(at0, at1), place(from0, from1)),
            _ => (file.len() - 1 - place(at0, at1), file.len() - 1 - place(from0, from1)),
        };
        let len = (usize::from(*much) + 1) * if *what > 127 { 16 } else { 1 };
        let len = len.min(file.len() - at.max(from));
        match what % 6 {
            0 => file[at] ^= 1 << (much % 8),
            1 => file[at] = *much,
            2 => file[at..at + len].fill(0),
            3 => file.copy_within(from..from + len, at),
            4 => file.truncate(at),
            _ => {
                let part = file[from..from + len].to_vec();
                file.splice(at..at, part);
            }
        }
    }
}

/// The same without a byte of anybody's choosing, so that no checksum can be made up.
pub(crate) fn harm(file: &mut Vec<u8>, edits: &[u8]) {
    let mut edits = edits.to_vec();
    for edit in edits.as_chunks_mut::<EDIT>().0 {
        if edit[0] % 6 == 1 {
            edit[0] -= 1;
        }
    }
    edit(file, &edits);
}
