//! What the README shows of it.

use std::fmt::Write;

use serde_json::Value;

use crate::browsers::state::State;
use crate::browsers::trial::Trial;
use crate::harness::browser::Browser;

/// A table in Markdown: a row for each state.
pub fn of(browser: &Browser, trials: &[Trial], counted: &Value) -> String {
    let mut table = format!(
        "\n{}, {} tracked clicks\n\n\
         | the collector | stuck | added delay, p50 / p95 ms | a plain link, p50 / p95 ms | delivered at once → after the next visit | counted |\n\
         | --- | --- | --- | --- | --- | --- |\n",
        browser.name(),
        trials.iter().filter(|trial| trial.is_tracked()).count(),
    );
    for state in State::ALL {
        let tracked: Vec<&Trial> = trials.iter().filter(|trial| trial.state == state && trial.is_tracked()).collect();
        let of = tracked.len();
        let share = |count: usize| format!("{} %", count * 100 / of);
        let events = |trial: &Trial| counted[&trial.item]["events"].as_f64().unwrap_or(0.0);
        let stuck = share(tracked.iter().filter(|trial| trial.delay.is_none()).count());
        let at_once = share(tracked.iter().filter(|trial| trial.at_once).count());
        let delivered = share(tracked.iter().filter(|trial| events(trial) > 0.0).count());
        let added = added_delays(trials, state);
        let plain = delays(trials, state, false);
        writeln!(
            table,
            "| {} | {stuck} | {:+.0} / {:+.0} | {:.0} / {:.0} | {at_once} → {delivered} | ×{:.2} |",
            state.words(),
            quantile(&added, 0.5),
            quantile(&added, 0.95),
            quantile(&plain, 0.5),
            quantile(&plain, 0.95),
            tracked.iter().map(|trial| events(trial)).sum::<f64>() / as_f64(of),
        )
        .expect("writing to a String does not fail");
    }
    table
}

/// The least that tracking adds to a click's way to its destination in a state, in milliseconds.
pub fn least_added(trials: &[Trial], state: State) -> f64 {
    quantile(&added_delays(trials, state), 0.0)
}

/// Each tracked click's delay less the median of plain links to a destination of the same pace in the same state.
fn added_delays(trials: &[Trial], state: State) -> Vec<f64> {
    [false, true]
        .into_iter()
        .flat_map(|is_slow| {
            let of_pace = |is_tracked| {
                let chosen = trials.iter().filter(move |trial| {
                    trial.state == state && trial.is_slow == is_slow && trial.is_tracked() == is_tracked
                });
                chosen.filter_map(|trial| trial.delay).collect::<Vec<f64>>()
            };
            let plain = quantile(&of_pace(false), 0.5);
            of_pace(true).into_iter().map(move |delay| delay - plain)
        })
        .collect()
}

fn delays(trials: &[Trial], state: State, is_tracked: bool) -> Vec<f64> {
    let chosen = trials.iter().filter(|trial| trial.state == state && trial.is_tracked() == is_tracked);
    chosen.filter_map(|trial| trial.delay).collect()
}

/// The least value that so much of them is not above.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (as_f64(values.len()) * share).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among some hundred values")]
    values.get((place as usize).saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "some hundred clicks")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
