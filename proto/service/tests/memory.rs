//! What becomes of memory that is freed. A program of its own, since that is decided for all of one.

use std::thread;

use tallylight_service::memory::{give_back, share_what_is_freed};

const PIECE: usize = 1 << 20;
const PIECES: usize = 48;

fn main() {
    // with another C library nothing is promised
    if cfg!(target_env = "gnu") {
        share_what_is_freed();
        let before = resident();
        let is_kept = || (PIECES * PIECE..PIECES * PIECE * 5 / 4).contains(&resident().saturating_sub(before));
        drop(pieces());
        assert!(is_kept(), "what is freed at the end of the arena");
        for _ in 0..4 {
            let pieces = pieces();
            thread::spawn(move || drop(pieces)).join().expect("it does not panic");
            drop(thread::spawn(self::pieces).join().expect("it does not panic"));
        }
        assert!(is_kept(), "for whoever needs it next");
        give_back();
        let left = resident().saturating_sub(before);
        assert!(left < PIECES * PIECE / 8, "{left} bytes are left");
    }
}

fn pieces() -> Vec<Vec<u8>> {
    (0..PIECES).map(|_| vec![1; PIECE]).collect()
}

/// Bytes of memory that this process has now (`proc_pid_statm(5)`).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("the second number");
    pages * 4096
}
