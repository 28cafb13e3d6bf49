//! The one table.

use std::time::Duration;

use super::ground::Volume;
use super::honest::Window;
use crate::compare::quartiles;
use crate::machine;

/// What one attack did.
pub struct Row {
    pub name: &'static str,
    pub quiet: Vec<Window>,
    pub attacked: Vec<Window>,
    /// Honest requests that were answered 204.
    pub acknowledged: u64,
    /// Honest events in the log.
    pub logged: u64,
    /// Honest requests that were not answered, or otherwise.
    pub lost: u64,
    /// How often one was sent again, since its connection broke.
    pub again: u64,
    pub volume: Volume,
    pub most_memory: f64,
}

impl Row {
    /// The median over windows, in ms.
    fn median(windows: &[Window], share: f64) -> f64 {
        quartiles(windows.iter().map(|window| window.quantile(share).as_secs_f64() * 1e3)).map_or(0.0, |three| three[1])
    }

    /// As a line of the table.
    pub fn text(&self) -> String {
        let [quiet, attacked] =
            [&self.quiet, &self.attacked].map(|windows| [0.5, 0.99].map(|share| Self::median(windows, share)));
        let Volume { connections, requests, bytes } = self.volume;
        // answered or not, what is in the log and was not acknowledged is not lost; the other way round would be
        let missing = self.acknowledged.saturating_sub(self.logged);
        format!(
            "| {} | {:.2} / {:.2} | {:.2} / {:.2} | {:.2} | {} of {} | {} | {missing} | {} / {} / {:.0} | {:.0} |",
            self.name,
            quiet[0],
            quiet[1],
            attacked[0],
            attacked[1],
            attacked[1] / quiet[1],
            self.lost,
            self.acknowledged + self.lost,
            self.again,
            thousands(connections),
            thousands(requests),
            bytes as f64 / 1e6,
            self.most_memory / 1e6,
        )
    }
}

fn thousands(count: u64) -> String {
    if count < 10_000 { count.to_string() } else { format!("{}k", count / 1000) }
}

/// Prints it.
pub fn print(rows: &[Row], rate: u32, rounds: u32, window: Duration) {
    println!(
        "\nHonest clients at {rate} requests a second, {rounds} rounds of quiet, attack, attack, quiet, {:.1} s each, \
         medians of windows; {}",
        window.as_secs_f64(),
        machine::describe(),
    );
    println!(
        "| attack | quiet p50 / p99 ms | attacked p50 / p99 ms | p99, ratio | not acknowledged | sent again | acknowledged, not in the log \
         | connections / requests / MB of the attacker | RSS MB |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for row in rows {
        println!("{}", row.text());
    }
}
