//! What is printed at the end.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::faults::Faults;
use super::load::Tally;
use super::oracle::Found;

/// What was sent, what was done to the programs, and what became of it.
pub struct Report<'a> {
    pub time: Duration,
    pub tally: &'a Tally,
    pub faults: &'a Faults<'a>,
    pub found: &'a Found,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, tally, faults, found } = self;
        let count = |what: &std::sync::atomic::AtomicU64| what.load(Relaxed);
        writeln!(f, "\n{} min {} s", time.as_secs() / 60, time.as_secs() % 60)?;
        let mut line = |number: u64, what: &str| writeln!(f, "{number:>12}  {what}");
        line(count(&tally.sent), "events sent with an id, each until it was acknowledged or its sender gave up")?;
        line(count(&tally.logged), "  acknowledged as logged, each counted once")?;
        line(count(&tally.synced), "  acknowledged as synced, each counted once")?;
        line(count(&tally.unknown), "  of which the sender knows nothing: pixels, hang-ups, datagrams")?;
        line(found.unknown, "    of them counted, each once")?;
        line(found.datagrams, "numbered datagrams received, as their sources say")?;
        line(
            found.lost_datagrams,
            "  and lost: skipped, shed by the kernel, or on their way into a process that was killed",
        )?;
        line(found.rows, "rows of events")?;
        line(count(&tally.copies), "copies sent on purpose")?;
        line(count(&tally.unanswered), "bodies sent again: no answer")?;
        line(count(&tally.turned_away), "bodies sent again: 503")?;
        line(count(&tally.nonsense), "bodies that are no beacons")?;
        for (what, times) in &faults.done {
            line(*times, what)?;
        }
        for (error, times) in &faults.programs.errors {
            line(*times, &format!("errors logged: {error}"))?;
        }
        writeln!(f, "audit: {}", found.audit)
    }
}
