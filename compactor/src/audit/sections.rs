//! What is to add up, from what was read.

use std::collections::BTreeMap;

use tallylight_proto::ledger::{self, DatagramCounts};
use tallylight_proto::time::Hour;
use tallylight_proto::{DatagramRefusal, Front, Refusal, Shed};

use super::balance::{Line, Room, Section, Sum, Term, minus, plus};
use super::fates::sum;
use super::log::{Ahead, Scan};
use super::output::Measured;
use crate::commit::{Commit, Counts, FrontCounts};

/// Everything that was read.
pub struct Found<'a> {
    /// The last commit.
    pub commit: Option<&'a Commit>,
    /// The log and the rows.
    pub scan: &'a Scan,
    /// The hourly files.
    pub hourly: &'a BTreeMap<Hour, Measured>,
    /// How many parts `events` has.
    pub parts: usize,
    /// Whether the collector is there.
    pub is_running: bool,
}

impl Found<'_> {
    /// All sections that there is something to say of.
    pub fn sections(&self) -> Vec<Section> {
        let section = |name, title: String, lines: Vec<Line>| Section { name, title, lines };
        let scan = self.scan;
        let mut sections =
            vec![section("ledger", "The collector's ledger, at the end of the log".into(), self.ledger())];
        if let Some(commit) = self.commit {
            let title = format!("The commit, at position {}", commit.snapshot.place.position);
            sections.push(section("commit", title, self.committed(commit)));
        }
        if self.commit.is_some() || !self.hourly.is_empty() || self.parts > 0 {
            let title = format!("The output: {} hourly files, {} parts of events", self.hourly.len(), self.parts);
            sections.push(section("output", title, self.output()));
        }
        let begin = scan.begin.map_or(0, |(position, _)| position);
        let title = format!("The log against the rows, from position {begin} to {}", scan.end);
        sections.push(section("log", title, self.log()));
        sections.push(section("sources", "Sources of datagrams".into(), self.sources()));
        sections.push(section("lives", "Lives of the collector".into(), scan.lives.lines(self.is_running)));
        sections
    }

    fn sources(&self) -> Vec<Line> {
        let mut lines = self.scan.sources.lines();
        let told = self.scan.counts().map(|counts| counts.datagrams).filter(|told| *told != DatagramCounts::default());
        // the collector counts again from where its log was set back to
        lines.extend(told.filter(|_| !self.scan.is_set_back()).map(|told| self.scan.sources.totals(&told)));
        lines
    }

    fn counts(&self) -> Counts {
        self.commit.map(|commit| commit.snapshot.counts).unwrap_or_default()
    }

    fn ledger(&self) -> Vec<Line> {
        let Some(counts) = self.scan.counts() else { return vec![Line::fact("ledger", "no record of it in the log")] };
        let line = |label: &str, counts: &ledger::FrontCounts| {
            let parts = [plus("logged", counts.logged), plus("shed", counts.all_shed())];
            let parts = parts.into_iter().chain([plus("refused", counts.all_refused())]);
            let reasons = self::reasons(Shed::ALL.map(Shed::label), counts.shed);
            let reasons = reasons.chain(self::reasons(Refusal::ALL.map(Refusal::label), counts.refused));
            let reasons: Vec<String> = reasons.collect();
            let note = if reasons.is_empty() { String::new() } else { format!("({})", reasons.join(", ")) };
            Line::of(label, Sum::exact(plus("received", counts.received), parts)).noted(note)
        };
        let fronts = Front::ALL.into_iter().map(|front| (front, &counts.fronts[front.index()]));
        let used = fronts.filter(|(_, counts)| **counts != ledger::FrontCounts::default());
        let mut lines: Vec<Line> = used.map(|(front, counts)| line(front.label(), counts)).collect();
        lines.push(line("all", &counts.events()));
        if counts.datagrams != DatagramCounts::default() {
            lines.push(Line::fact("datagrams", datagrams_text(&counts.datagrams)));
        }
        lines
    }

    fn committed(&self, commit: &Commit) -> Vec<Line> {
        let (snapshot, counts) = (&commit.snapshot, &commit.snapshot.counts);
        let events = counts.events();
        let mut lines = Vec::new();
        match snapshot.place.ordinal {
            None => lines.push(Line::fact("records", "their number is not known")),
            Some(ordinal) => {
                let parts = [
                    plus("before_the_log", counts.records_before),
                    plus("read", events.read),
                    plus("ledger_records", counts.ledgers),
                    plus("damaged", counts.damaged),
                    plus("torn", counts.torn),
                    minus("taken_by_power_cuts", counts.records_taken),
                ];
                let parts = without_zeros(parts, &["read", "ledger_records", "damaged", "torn"]);
                lines.push(Line::of("records", Sum::exact(plus("records", ordinal), parts)));
            }
        }
        lines.extend(self.set_back(commit));
        let at_commit = self.scan.at_commit.as_ref().and_then(|(counts, _)| counts.as_ref());
        // what was lost after it was read is not in the ledger that recovery made
        let less = match at_commit {
            None => 0,
            Some(_) if self.scan.is_set_back() => u64::MAX,
            Some(_) => self.scan.lost_below_commit,
        };
        let room = Room { more: counts.damaged + counts.torn, less };
        let ledger = at_commit.copied().or_else(|| snapshot.ledger.counts());
        let line = |label: &str, counts: &FrontCounts, logged: Option<u64>| {
            let FrontCounts { read, counted, duplicates, bots, before, taken } = *counts;
            let parts = [plus("before_the_log", before), plus("read", read), minus("taken_by_power_cuts", taken)];
            let logged =
                logged.map(|logged| Sum::within(plus("logged", logged), without_zeros(parts, &["read"]), room));
            let parts = [plus("counted", counted), plus("duplicates", duplicates), plus("bots", bots)];
            let sums = logged.into_iter().chain([Sum::exact(plus("read", read), parts)]).collect();
            Line { label: label.into(), sums, ..Line::default() }
        };
        for front in Front::ALL {
            let (counts, logged) =
                (&counts.fronts[front.index()], ledger.map(|ledger| ledger.fronts[front.index()].logged));
            if *counts != FrontCounts::default() || logged.is_some_and(|logged| logged > 0) {
                lines.push(line(front.label(), counts, logged));
            }
        }
        lines.push(line("all", &events, ledger.map(|ledger| ledger.events().logged)));
        let waiting: u64 = self.scan.fronts.iter().map(|fates| fates.waiting).sum();
        let note = match waiting {
            0 => "nothing in the log waits for the compactor".into(),
            _ => format!("{waiting} events in the log are not committed yet"),
        };
        lines.push(Line::fact("waiting", note));
        lines
    }

    /// What is wrong or to be told if the log is not where the commit says.
    fn set_back(&self, commit: &Commit) -> Option<Line> {
        let position = commit.snapshot.place.position;
        if self.scan.is_set_back() {
            let note = "a power cut took records that were read already; the compactor will notice when it runs";
            return Some(Line::fact("log", note));
        }
        if self.scan.is_behind_commit() {
            let note = format!("it ends at position {}, before the commit at {position}", self.scan.end);
            return Some(Line::wrong("log", note));
        }
        let of_log = self.scan.at_commit.as_ref().and_then(|(_, ordinal)| *ordinal);
        let (ours, of_log) = commit.snapshot.place.ordinal.zip(of_log).filter(|(ours, of_log)| ours != of_log)?;
        Some(Line::of("log", Sum::exact(plus("records", ours), [plus("in_the_log", of_log)])))
    }

    fn output(&self) -> Vec<Line> {
        let counts = self.counts();
        let events = counts.events();
        let (mut all, mut ahead) = (Measured::default(), Ahead::default());
        self.hourly.values().for_each(|hour| all.add(hour));
        for hour in self.scan.ahead.values() {
            ahead.known.merge(hour.known);
            ahead.counted_or_duplicate += hour.counted_or_duplicate;
            ahead.bot_or_duplicate += hour.bot_or_duplicate;
            ahead.client_lost.iter_mut().zip(hour.client_lost).for_each(|(sum, more)| *sum += more);
        }
        let orphans = self.scan.all_orphans();
        let has_orphans = orphans.compacted() > 0;
        // duplicates have no rows: of those that were taken from the log nothing tells how many they were
        let duplicates_taken = if has_orphans { u64::MAX } else { self.scan.torn };
        let undecided = ahead.counted_or_duplicate + ahead.bot_or_duplicate;
        let line = |label: &str, hourly, committed: Term, known, more: u64| {
            let ahead = Some(plus("ahead_of_it", known)).filter(|term| term.value > 0);
            let parts = [committed].into_iter().chain(ahead);
            Line::of(label, Sum::within(plus("hourly", hourly), parts, Room { more, less: 0 }))
        };
        let mut lines = vec![
            line(
                "events",
                all.events,
                plus("counted", events.counted),
                ahead.known.counted,
                ahead.counted_or_duplicate + orphans.counted,
            ),
            line(
                "duplicates",
                all.duplicates,
                plus("duplicates", events.duplicates),
                ahead.known.duplicates,
                duplicates_taken.saturating_add(undecided),
            ),
            line(
                "bot events",
                all.bots,
                plus("bots", events.bots),
                ahead.known.bots,
                ahead.bot_or_duplicate + orphans.bots,
            ),
            line(
                "client lost",
                all.client_lost,
                plus("client_lost", counts.client_lost),
                ahead.client_lost[0],
                if has_orphans { u64::MAX } else { ahead.client_lost[1] },
            ),
        ];
        if ahead != Ahead::default() {
            let beyond = ahead.known.compacted() + undecided;
            let more = if has_orphans { u64::MAX } else { self.scan.torn };
            let whole = plus("hourly", all.events + all.duplicates + all.bots);
            let parts = [plus("read", events.read), plus("ahead_of_it", beyond)];
            let hours = self.scan.ahead.len();
            let mut note = format!("{hours} hours are published further than the commit");
            if undecided > 0 {
                note.push_str(&format!(
                    "; of {undecided} events whether they are duplicates is known when the compactor is at rest"
                ));
            }
            lines.push(Line::of("all", Sum::within(whole, parts, Room { more, less: 0 })).noted(note));
        }
        for front in Front::ALL {
            let (rows, of_front) = (self.scan.rows_below[front.index()], counts.fronts[front.index()]);
            let orphans = self.scan.orphans[front.index()];
            if rows.compacted() == 0 && of_front == FrontCounts::default() {
                continue;
            }
            let of = |name, rows, committed, more| Sum::within(plus(name, rows), [committed], Room { more, less: 0 });
            let sums = vec![
                of("rows", rows.counted, plus("counted", of_front.counted), orphans.counted),
                of("bot_rows", rows.bots, plus("bots", of_front.bots), orphans.bots),
            ];
            lines.push(Line { label: format!("rows {}", front.label()), sums, ..Line::default() });
        }
        lines.extend(self.hours());
        if has_orphans {
            let note = format!("{} of events that the log has lost since they were published", orphans.compacted());
            lines.push(Line::fact("rows", note));
        }
        lines
    }

    /// Rows of each hour against its hourly file: a line for all that agree, and one for each that does not.
    fn hours(&self) -> Vec<Line> {
        let mut hours: Vec<Hour> = self.hourly.keys().chain(self.scan.hours.keys()).copied().collect();
        hours.sort_unstable();
        hours.dedup();
        let mut lines = Vec::new();
        for hour in &hours {
            let measured = self.hourly.get(hour).copied().unwrap_or_default();
            let rows = self.scan.hours.get(hour).copied().unwrap_or_default();
            let ahead = self.scan.ahead.get(hour).copied().unwrap_or_default();
            let of = |hourly, at: usize, name, more| {
                let room = Room { more, less: rows.orphans[at] };
                Sum::within(plus("hourly", hourly), [plus(name, rows.covered[at])], room)
            };
            let sums = vec![
                of(measured.events, 0, "rows", ahead.counted_or_duplicate),
                of(measured.bots, 1, "bot_rows", ahead.bot_or_duplicate),
            ];
            let line = Line { label: hour.to_string(), sums, ..Line::default() };
            lines.extend((!line.adds_up()).then_some(line));
        }
        let known = self.commit.iter().flat_map(|commit| &commit.hours);
        for (hour, published) in known {
            let covered = self.hourly.get(hour).map_or(0, |measured| measured.covered);
            if covered < *published {
                let note = format!("the hourly file covers it up to {covered}, but was published up to {published}");
                lines.push(Line::wrong(hour.to_string(), note));
            }
        }
        let note = format!("{} hours, in each as many rows as events", hours.len());
        if lines.is_empty() {
            lines.push(Line { label: "hours".into(), note, ..Line::default() });
        }
        lines
    }

    fn log(&self) -> Vec<Line> {
        let (scan, counts) = (self.scan, self.counts());
        let lost = scan.damaged + scan.torn + scan.vanished;
        let is_whole = scan.begin.is_some_and(|(_, ordinal)| ordinal == 0) && counts.records_before == 0;
        let room = Room { more: scan.lost_below_commit + counts.events().taken, less: 0 };
        let room = if scan.is_set_back() { Room { more: u64::MAX, less: 0 } } else { room };
        let mut lines = Vec::new();
        for front in Front::ALL {
            let (fates, of_front) = (scan.fronts[front.index()], counts.fronts[front.index()]);
            let logged = scan.counts().map_or(0, |counts| counts.fronts[front.index()].logged);
            if logged == 0 && fates.compacted() + fates.waiting == 0 {
                continue;
            }
            let before = scan.before.map_or(0, |before| before[front.index()]);
            let fates_of =
                [plus("counted", fates.counted), plus("duplicates", fates.duplicates), plus("bots", fates.bots)];
            let parts = fates_of.clone().into_iter().chain([plus("waiting", fates.waiting)]);
            let parts = [plus("before_the_log", before)].into_iter().filter(|term| term.value > 0).chain(parts);
            let sum = Sum::within(plus("logged", logged), parts, Room { more: lost, less: 0 });
            lines.push(Line::of(front.label(), sum));
            if is_whole && self.commit.is_some() {
                let duplicates = plus("duplicates_read", of_front.duplicates);
                let sums = vec![
                    Sum::within(plus("read", of_front.read), fates_of, room),
                    Sum::within(duplicates, [plus("duplicates", fates.duplicates)], room),
                ];
                let label = format!("{} committed", front.label());
                lines.push(Line { label, sums, is_hidden: true, ..Line::default() });
            }
        }
        let of = |name: &str, records: u64| format!("{records} {name}");
        if lost > 0 {
            let note = [of("records damaged", scan.damaged), of("torn", scan.torn)].join(", ");
            lines.push(Line::fact("lost", format!("{note}; tallylight-compactor verify lists them")));
        }
        if scan.vanished > 0 {
            lines.push(Line::fact("let go of", format!("{} while this was read", of("records", scan.vanished))));
        }
        let events = sum(&scan.logged());
        lines.push(Line::fact("records", format!("{events} events, {} ledger records", scan.ledgers)));
        lines.extend(scan.wrong.iter().map(|(label, text)| Line::wrong(label.as_str(), text.as_str())));
        if scan.more_wrong > 0 {
            lines.push(Line::wrong("and more", format!("{} of the same", scan.more_wrong)));
        }
        lines
    }
}

/// The terms that are not 0, and those that always stand there.
fn without_zeros<const N: usize>(terms: [Term; N], kept: &[&str]) -> impl Iterator<Item = Term> {
    terms.into_iter().filter(move |term| term.value > 0 || kept.contains(&term.name))
}

fn reasons<const N: usize>(labels: [&'static str; N], counts: [u64; N]) -> impl Iterator<Item = String> {
    let pairs = labels.into_iter().zip(counts).filter(|(_, count)| *count > 0);
    pairs.map(|(label, count)| format!("{label} {count}"))
}

fn datagrams_text(counts: &DatagramCounts) -> String {
    let DatagramCounts { received, lost, recovered, duplicate, kernel_dropped, refused } = counts;
    let mut text = format!(
        "{received} received, {lost} lost, {recovered} recovered, {duplicate} duplicate, {kernel_dropped} dropped by the \
         kernel"
    );
    let refused: Vec<String> = reasons(DatagramRefusal::ALL.map(DatagramRefusal::label), *refused).collect();
    if !refused.is_empty() {
        text.push_str(&format!(", refused: {}", refused.join(", ")));
    }
    text
}
