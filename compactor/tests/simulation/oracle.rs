//! What was sent, what was promised for it, and what must be true now.
//!
//! The rule: it believes the outside alone. A promise is an answer that a sender got; what it stands for is in SECURITY.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tallylight_collector::log::{Ack, Level, StatusSnapshot};
use tokio::sync::oneshot::error::TryRecvError;

use crate::outputs::Row;
use crate::traffic::Sent;

/// What the sender of an event was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Nothing, or that it could not be taken.
    None,
    /// It is in the log, below this position: it survives a kill.
    Logged { position: u64 },
    /// It is on disk: it survives everything but the disk's own end.
    Synced,
}

/// An event, and all that is known about it.
pub struct Known {
    pub sent: Sent,
    /// How often it was sent, and not shed for certain.
    pub copies: usize,
    pub promise: Promise,
    /// It was published, and must stay.
    pub is_published: bool,
}

struct Waiting {
    ack: Ack,
    events: Vec<usize>,
    level: Level,
    /// Shed means that nothing of it is there.
    is_whole: bool,
}

#[derive(Default)]
pub struct Oracle {
    pub events: Vec<Known>,
    by_token: HashMap<String, usize>,
    waiting: Vec<Waiting>,
    /// The token that stands at each position that was ever published.
    positions: BTreeMap<i64, String>,
    failed_syncs: u64,
    /// A sync has failed since the collector was started, which may not know it yet: what it says to be in the log may be
    /// on no disk, and in the page cache no more.
    is_disk_failing: bool,
    /// Those that were acknowledged since it was last seen that they are there, which stand behind this position.
    fresh: Vec<usize>,
    fresh_from: u64,
    pub acked: u64,
    pub synced: u64,
    pub shed: u64,
}

impl Oracle {
    pub fn add(&mut self, sent: Sent) -> usize {
        let number = self.events.len();
        self.by_token.insert(sent.token.clone(), number);
        self.events.push(Known { sent, copies: 0, promise: Promise::None, is_published: false });
        number
    }

    /// A body of these was sent, and its sender waits.
    pub fn waits(&mut self, ack: Ack, events: Vec<usize>, level: Level, is_whole: bool) {
        self.waiting.push(Waiting { ack, events, level, is_whole });
    }

    /// These were not taken, nor any of them.
    pub fn is_shed(&mut self, events: &[usize]) {
        self.shed += events.len() as u64;
        for event in events {
            self.events[*event].copies -= 1;
        }
    }

    /// Those that were acknowledged since this was last asked, and the position behind which they stand.
    pub fn take_fresh(&mut self) -> (Vec<String>, u64) {
        let fresh = std::mem::take(&mut self.fresh);
        let is_promised = |event: &usize| self.events[*event].promise != Promise::None;
        let tokens = fresh.into_iter().filter(is_promised).map(|event| self.events[event].sent.token.clone());
        (tokens.collect(), self.fresh_from)
    }

    /// Reads the answers that there are. Whoever waits for a collector that is gone, waits no longer.
    pub fn hear(&mut self, status: &StatusSnapshot, failed_syncs: u64) {
        for mut waiting in std::mem::take(&mut self.waiting) {
            match waiting.ack.try_recv() {
                Err(TryRecvError::Empty) => self.waiting.push(waiting),
                Err(TryRecvError::Closed) => {}
                Ok(Err(_)) if waiting.is_whole => self.is_shed(&waiting.events),
                Ok(Err(_)) => self.shed += waiting.events.len() as u64,
                Ok(Ok(())) => {
                    let promise = match waiting.level {
                        Level::Logged => Promise::Logged { position: status.appended },
                        Level::Synced => Promise::Synced,
                    };
                    self.acked += waiting.events.len() as u64;
                    if waiting.level == Level::Logged {
                        self.fresh.extend(&waiting.events);
                    }
                    for event in waiting.events {
                        let known = &mut self.events[event];
                        self.synced += u64::from(promise == Promise::Synced);
                        if known.promise != Promise::Synced {
                            known.promise = promise;
                        }
                    }
                }
            }
        }
        if self.fresh.is_empty() {
            self.fresh_from = status.appended;
        }
        self.syncs_failed(failed_syncs);
        // the collector says in /metrics that so much is on disk
        for known in &mut self.events {
            if matches!(known.promise, Promise::Logged { position } if position <= status.synced) {
                known.promise = Promise::Synced;
            }
        }
    }

    /// A sync that fails takes what it was to put on disk, as a power cut would.
    pub fn syncs_failed(&mut self, failed_syncs: u64) {
        if failed_syncs > self.failed_syncs {
            self.failed_syncs = failed_syncs;
            self.is_disk_failing = true;
        }
        if self.is_disk_failing {
            self.power_was_cut();
        }
    }

    /// The collector is gone, and with it all connections.
    pub fn collector_died(&mut self) {
        self.waiting.clear();
        self.is_disk_failing = false;
    }

    /// So is what was only in memory.
    pub fn power_was_cut(&mut self) {
        for known in &mut self.events {
            if known.promise != Promise::Synced {
                known.promise = Promise::None;
            }
        }
    }

    /// Those of which nobody knows whether they were taken, and that can be sent again.
    pub fn unanswered(&self) -> Vec<usize> {
        let is_one = |known: &Known| known.promise == Promise::None && known.sent.id.is_some();
        (0..self.events.len()).filter(|event| is_one(&self.events[*event])).collect()
    }

    fn of(&self, token: &str) -> usize {
        *self.by_token.get(token).unwrap_or_else(|| panic!("nobody ever sent {token:?}"))
    }

    /// What stands in the log and in the output, by its tokens: everything that was promised must be there.
    pub fn must_be_in(&self, there: &BTreeSet<String>) {
        for token in there {
            self.of(token);
        }
        for known in &self.events {
            let is_there = there.contains(&known.sent.token);
            assert!(
                known.promise == Promise::None || is_there,
                "{} was promised ({:?}) and is nowhere: {:?}",
                known.sent.token,
                known.promise,
                known.sent
            );
        }
    }

    /// How many of those that were promised are not there.
    pub fn missing_from(&self, there: &BTreeSet<String>) -> usize {
        let is_missing = |known: &&Known| known.promise != Promise::None && !there.contains(&known.sent.token);
        self.events.iter().filter(is_missing).count()
    }

    /// The rows that are published: each event once, as it was sent, and once published always.
    pub fn must_agree_with(&mut self, rows: &[Row], is_honest: bool) {
        let mut times: BTreeMap<usize, usize> = BTreeMap::new();
        for row in rows {
            let event = self.of(&row.token);
            let known = &self.events[event];
            let Sent { token, site, target, value, padding, .. } = &known.sent;
            let as_sent = (*site, *target, value.map(|value| value as f64), *padding);
            let as_read = (&*row.site, &*row.target, row.value, row.padding);
            assert_eq!(as_read, as_sent, "{token} was published otherwise than it was sent");
            *times.entry(event).or_default() += 1;
            let before = self.positions.entry(row.position).or_insert_with(|| row.token.clone());
            assert!(
                !is_honest || *before == row.token,
                "{} stood at position {}, and now {}",
                before,
                row.position,
                row.token
            );
        }
        for (event, times) in &times {
            let Known { sent, copies, .. } = &self.events[*event];
            let most = if sent.id.is_some() { 1.min(*copies) } else { *copies };
            assert!(*times <= most, "{} is counted {times} times, and was taken {copies} times at most", sent.token);
        }
        for (event, known) in self.events.iter_mut().enumerate() {
            let is_there = times.contains_key(&event);
            assert!(!is_honest || !known.is_published || is_there, "{} was published, and is gone", known.sent.token);
            known.is_published = is_there;
        }
    }
}
