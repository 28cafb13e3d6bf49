//! Whether memory and files stay flat: a table of what was seen, and a verdict on each line.
//!
//! Each stretch without restarts is cut into three. The median of its last third may be above that of its first third
//! by a margin, and so may the last stretch's be above the first one's. Margins are what the programs may keep by
//! design; anything that grows with the number of events, faults or hours passes them in half an hour.

use std::fmt::Write;

use super::watch::{Process, Sample};

/// A line of the table.
struct Line {
    name: &'static str,
    of: fn(&Sample) -> Option<f64>,
    /// By how much it may rise.
    margin: f64,
    /// What it may never be above.
    limit: f64,
}

fn collector(of: fn(&Process) -> f64) -> impl Fn(&Sample) -> Option<f64> {
    move |sample| sample.collector.as_ref().map(of)
}

const LINES: [Line; 13] = [
    // buffers grow to the largest batch and to as many connections as there were at a time
    Line { name: "collector: anonymous memory, MiB", of: |s| collector(|p| p.anonymous)(s), margin: 8.0, limit: 64.0 },
    // segments are mapped, so this has some MiB of files in it
    Line {
        name: "collector: most resident, MiB",
        of: |s| collector(|p| p.most_resident)(s),
        margin: 16.0,
        limit: 96.0,
    },
    Line { name: "collector: threads", of: |s| collector(|p| p.threads)(s), margin: 0.0, limit: 16.0 },
    // connections come and go with the load
    Line { name: "collector: open files", of: |s| collector(|p| p.open_files)(s), margin: 4.0, limit: 128.0 },
    // pages of the index of ids stay in memory, 64 MiB at most, and events wait for a part
    Line {
        name: "compactor: anonymous memory, MiB",
        of: |s| s.compactor.map(|p| p.anonymous),
        margin: 64.0,
        limit: 256.0,
    },
    Line {
        name: "compactor: most resident, MiB",
        of: |s| s.compactor.map(|p| p.most_resident),
        margin: 80.0,
        limit: 320.0,
    },
    Line { name: "compactor: threads", of: |s| s.compactor.map(|p| p.threads), margin: 0.0, limit: 16.0 },
    // one for each run of the index
    Line { name: "compactor: open files", of: |s| s.compactor.map(|p| p.open_files), margin: 8.0, limit: 64.0 },
    // what is not compacted yet, and what the compactor's clock says is not old
    Line { name: "segments in the log", of: |s| Some(s.segments), margin: 8.0, limit: 400.0 },
    // two, and one that is being taken
    Line { name: "spare segments", of: |s| Some(s.spares), margin: 2.0, limit: 4.0 },
    Line { name: "files of the id index", of: |s| Some(s.index_files), margin: 16.0, limit: 100.0 },
    Line { name: "hourly files an hour", of: |s| Some(s.hourly_files_per_hour), margin: 0.0, limit: 1.0 },
    // each restart in order and each late amendment may add one, and at first there are few hours
    Line { name: "parts of events an hour", of: |s| Some(s.parts_per_hour), margin: 4.0, limit: 64.0 },
];

/// The table in Markdown, and which lines are not flat.
pub fn table(samples: &[Sample]) -> (String, Vec<&'static str>) {
    let stretches = samples.iter().filter_map(|sample| sample.calm).max().map_or(0, |last| last + 1);
    let heads: String = (1..=stretches).map(|n| format!(" stretch {n}: start → middle → end |")).collect();
    let mut table =
        format!("| |{heads} most | may rise by | |\n| --- |{} --- | --- | --- |\n", " --- |".repeat(stretches));
    let mut rising = Vec::new();
    for line in &LINES {
        let thirds: Vec<[f64; 3]> = (0..stretches).map(|n| thirds(samples, n, line)).collect();
        let most = samples.iter().filter_map(line.of).fold(0.0, f64::max);
        let across = thirds.last().zip(thirds.first()).map(|(last, first)| [first[2], last[2], last[2]]);
        let is_flat = thirds.iter().chain(&across).all(|[start, _, end]| *end <= start + line.margin);
        let is_flat = is_flat && most <= line.limit;
        let cells: String = thirds.iter().map(|[a, b, c]| format!(" {a:.1} → {b:.1} → {c:.1} |")).collect();
        let verdict = if is_flat { "flat" } else { "NOT FLAT" };
        writeln!(table, "| {} |{cells} {most:.1} of {} | {} | {verdict} |", line.name, line.limit, line.margin)
            .unwrap();
        if !is_flat {
            rising.push(line.name);
        }
    }
    (table, rising)
}

/// The medians of the three thirds of a stretch, without the first tenth of it, in which processes warm up.
fn thirds(samples: &[Sample], stretch: usize, line: &Line) -> [f64; 3] {
    let values: Vec<f64> = samples.iter().filter(|sample| sample.calm == Some(stretch)).filter_map(line.of).collect();
    let values = &values[values.len() / 10..];
    assert!(values.len() >= 3, "nothing was seen of {} in stretch {stretch}", line.name);
    let third = values.len().div_ceil(3);
    let part = |n: usize| median(&values[(n * third).min(values.len() - 1)..((n + 1) * third).min(values.len())]);
    [part(0), part(1), part(2)]
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: impl Fn(u32) -> f64) -> Vec<Sample> {
        let process = |anonymous| Process { anonymous, most_resident: 20.0, threads: 5.0, open_files: 20.0 };
        let sample = |n| Sample {
            calm: (n % 100 >= 40).then_some(n as usize / 100),
            collector: Some(process(memory(n))),
            compactor: Some(process(50.0)),
            hourly_files_per_hour: 1.0,
            ..Sample::default()
        };
        (0..300).map(sample).collect()
    }

    #[test]
    fn what_goes_up_and_down_is_flat_and_what_only_goes_up_is_not() {
        assert_eq!(table(&samples(|n| 10.0 + f64::from(n % 7))).1, [""; 0]);
        // within one life
        assert_eq!(table(&samples(|n| 10.0 + f64::from(n % 100) / 3.0)).1, ["collector: anonymous memory, MiB"]);
        // from one to the next
        assert_eq!(table(&samples(|n| 10.0 + f64::from(n / 100) * 5.0)).1, ["collector: anonymous memory, MiB"]);
        // never
        let once = |n| if n == 7 { 100.0 } else { 10.0 };
        assert_eq!(table(&samples(once)).1, ["collector: anonymous memory, MiB"]);
    }
}
