//! What `deploy/OPERATIONS.md` tells an operator to do is done here, by real programs, and then all is as it says.

mod capacity;
mod erase;
mod full_disk;
mod keys;
pub mod page;
mod restore;

use std::net::SocketAddr;
use std::ops::Range;

use crate::client::{self, Click, Client, Form};
use page::By;

/// When the ids of these tests' events were made.
const STARTED_MS: u64 = 1_795_600_000_000;

/// Each section with blocks, and how many of them `make test` and `make test-deb` run.
const SECTIONS: [(&str, usize, usize); 8] = [
    ("", 1, 0),
    ("Capacity", 2, 0),
    ("Upgrade", 0, 1),
    ("Backup", 1, 0),
    ("Restore", 2, 0),
    ("A full disk", 1, 0),
    ("Keys", 2, 1),
    ("One visitor's data", 2, 2),
];

#[test]
fn every_block_of_the_operations_page_is_run_by_a_test() {
    let blocks = page::all_blocks();
    let mut sections: Vec<(&str, usize, usize)> = Vec::new();
    for block in &blocks {
        if sections.last().is_none_or(|(section, ..)| *section != block.section) {
            sections.push((&block.section, 0, 0));
        }
        let (_, ours, debians) = sections.last_mut().unwrap();
        *(if block.by == By::Test { ours } else { debians }) += 1;
    }
    assert_eq!(sections, SECTIONS);
}

/// Sends clicks with these numbers and a target, a hundred a body, each until it is acknowledged.
fn send(to: SocketAddr, target: &str, numbers: Range<u64>) {
    let mut client = Client::new(to);
    let clicks: Vec<Click> =
        numbers.map(|number| Click { target: target.into(), ..Click::new(STARTED_MS, number) }).collect();
    for clicks in clicks.chunks(100) {
        client.post("/api/beacon", &client::body(clicks, Form::Queries), false);
    }
}
