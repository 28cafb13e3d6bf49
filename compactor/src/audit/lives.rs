//! The lives of the collector, as its ledger records tell: who ended in order, who was killed, and what that hides.

use tallylight_proto::ledger::Ledger;
use tallylight_proto::sources::Scope;
use tallylight_proto::time::{Millis, rfc3339};

use super::balance::Line;

/// One life.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Life {
    started: Millis,
    /// When it wrote its last ledger record.
    told_at: Millis,
    /// When its last event behind that was received.
    last_event: Option<Millis>,
    is_closed: bool,
    /// Records that are lost behind its last ledger record: its closing one may be among them.
    lost: u64,
}

/// All lives of a log.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    lives: Vec<Life>,
}

impl Lives {
    /// A ledger record, which may be the first of its segment.
    pub fn ledger(&mut self, ledger: &Ledger, is_first: bool) {
        let life = match self.lives.last_mut().filter(|life| life.started == ledger.life) {
            Some(life) => life,
            None => {
                let (started, told_at) = (ledger.life, ledger.at);
                self.lives.push(Life { started, told_at, last_event: None, is_closed: false, lost: 0 });
                self.lives.last_mut().expect("one was pushed")
            }
        };
        if !Self::is_carried(ledger, is_first) {
            (life.told_at, life.last_event, life.lost) = (ledger.at, None, 0);
        }
        life.is_closed = ledger.closing;
    }

    /// One that tells everything behind the begin of a segment is what the next life wrote there for a killed one.
    pub fn is_carried(ledger: &Ledger, is_first: bool) -> bool {
        ledger.marks.scope == Scope::All && !is_first && !ledger.closing
    }

    /// An event.
    pub fn event(&mut self, received_at: Millis) {
        if let Some(life) = self.lives.last_mut() {
            life.last_event = Some(life.last_event.map_or(received_at, |last| last.max(received_at)));
        }
    }

    /// Records were lost.
    pub fn lost(&mut self, records: u64) {
        if let Some(life) = self.lives.last_mut() {
            life.lost += records;
        }
    }

    /// Whether the life that stands last was not closed, and is another one than this.
    pub fn was_killed_before(&self, next: Millis) -> bool {
        self.lives.last().is_some_and(|life| !life.is_closed && life.started != next)
    }

    /// Whether the last life has no end in the log.
    pub fn is_open(&self) -> bool {
        self.lives.last().is_some_and(|life| !life.is_closed)
    }

    /// A line for those that were killed, and one for all. Whether the last one is still running is known by its lock.
    pub fn lines(&self, is_running: bool) -> Vec<Line> {
        let last = self.lives.len().saturating_sub(1);
        let open = self.lives.iter().enumerate().filter(|(_, life)| !life.is_closed);
        let (runs, killed): (Vec<_>, Vec<_>) = open.partition(|(at, _)| *at == last && is_running);
        let ended = self.lives.len() - killed.len() - runs.len();
        let still = if runs.is_empty() { "" } else { ", the last one is running" };
        let all = format!("{} in the log: {ended} ended in order, {} killed{still}", self.lives.len(), killed.len());
        let all = Line::fact("lives", all);
        let gap = |life: &Life| {
            let (started, told_at) = (rfc3339(life.started), rfc3339(life.told_at));
            let until = life.last_event.map_or("none was logged after that".to_owned(), |at| {
                format!("events were logged until {}", rfc3339(at))
            });
            let lost = match life.lost {
                0 => String::new(),
                lost => format!("; or its end is among {lost} lost records"),
            };
            let note = format!(
                "killed after {told_at} ({until}): what it received, shed and refused after {told_at} \
                 is not known: at most a second, or ten while the disk was full{lost}"
            );
            Line::fact(format!("life {started}"), note)
        };
        [all].into_iter().chain(killed.into_iter().map(|(_, life)| gap(life))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tallylight_proto::Counts;
    use tallylight_proto::sources::Marks;

    fn ledger(life: Millis, at: Millis, closing: bool, scope: Scope) -> Ledger {
        Ledger { at, life, closing, counts: Counts::default(), marks: Marks { scope, ..Marks::default() } }
    }

    #[test]
    fn a_life_without_an_end_was_killed_or_runs() {
        let mut lives = Lives::default();
        lives.ledger(&ledger(0, 0, false, Scope::All), true);
        lives.event(1500);
        lives.ledger(&ledger(0, 1000, false, Scope::Changes), false);
        lives.event(1700);
        assert!(lives.was_killed_before(60_000) && !lives.was_killed_before(0));
        lives.ledger(&ledger(0, 59_000, false, Scope::All), false);
        lives.ledger(&ledger(60_000, 60_000, false, Scope::All), true);
        lives.ledger(&ledger(60_000, 61_000, true, Scope::Changes), false);
        assert!(!lives.is_open());
        lives.ledger(&ledger(70_000, 70_000, false, Scope::All), true);
        let texts = |is_running| lives.lines(is_running).into_iter().map(|line| line.note).collect::<Vec<_>>();
        assert_eq!(texts(true)[0], "3 in the log: 1 ended in order, 1 killed, the last one is running");
        let said = "killed after 1970-01-01T00:00:01.000Z (events were logged until 1970-01-01T00:00:01.700Z): what it";
        assert!(texts(true)[1].starts_with(said), "{:?}", texts(true));
        let texts = texts(false);
        assert_eq!((texts.len(), &*texts[0]), (3, "3 in the log: 1 ended in order, 2 killed"));
        assert!(texts[2].contains("(none was logged after that)"), "{texts:?}");
    }
}
