//! The comparison as a table, and every round as JSON.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::contender::Contender;
use super::{Measured, Shape};
use crate::compare::{quartiles, ratios, spread};
use crate::machine;

/// Prints a table, and gives the same with all rounds.
pub fn print(name: &str, shape: Shape, contenders: &[Contender], runs: &[Vec<Measured>]) -> Value {
    let rounds = runs.first().map_or(0, Vec::len);
    let pace = match shape {
        Shape::Open { rate: Some(rate) } => format!(", {rate:.0} requests a second"),
        _ => String::new(),
    };
    println!("\n{name}{pace}: {rounds} rounds, median (quartiles); {}", machine::describe());
    println!("| | requests/s | CPU µs a request | CPU, ratio | p50 / p99 / p99.9 µs | failed |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut written = Vec::new();
    for (contender, own) in contenders.iter().zip(runs) {
        let rate: Vec<f64> = own.iter().map(Measured::rate).collect();
        let cost: Vec<f64> = own.iter().map(Measured::cost).collect();
        let ratio: Vec<f64> = ratios(own, &runs[0], |measured| Some(measured.cost())).collect();
        let median = |figures: &[f64]| quartiles(figures.iter().copied()).map_or(f64::NAN, |[_, median, _]| median);
        let latency: Vec<f64> = (0..3)
            .map(|n| median(&own.iter().filter_map(|measured| Some(measured.latency?[n])).collect::<Vec<_>>()))
            .collect();
        let latency_text = match latency[0].is_nan() {
            true => "–".to_owned(),
            false => latency.iter().map(|us| format!("{us:.0}")).collect::<Vec<_>>().join(" / "),
        };
        let failed: u64 = own.iter().map(|measured| measured.failed).sum();
        let cost_text = spread(cost.iter().copied());
        let ratio_text = spread(ratio.iter().copied());
        println!(
            "| {} | {:.0} | {cost_text} | {ratio_text} | {latency_text} | {failed} |",
            contender.name,
            median(&rate)
        );
        let spread_of = |figures: &[f64]| quartiles(figures.iter().copied());
        written.push(json!({
            "name": contender.name,
            "requests_per_second": spread_of(&rate),
            "cpu_us_per_request": spread_of(&cost),
            "cpu_ratio": spread_of(&ratio),
            "latency_us_p50_p99_p999": (!latency[0].is_nan()).then_some(latency),
            "failed": failed,
            "rounds": own.iter().map(round).collect::<Vec<Value>>(),
        }));
    }
    json!({ "name": name, "shape": format!("{shape:?}"), "contenders": written })
}

fn round(measured: &Measured) -> Value {
    json!({
        "answered": measured.answered,
        "failed": measured.failed,
        "seconds": measured.seconds,
        "cpu_seconds": measured.cpu,
        "latency_us": measured.latency,
    })
}

/// What h2load says of a run.
pub fn of_h2load(text: &str, cpu: f64) -> Result<Measured> {
    let line = |begin: &str| text.lines().find(|line| line.starts_with(begin)).with_context(|| format!("no {begin:?}"));
    // finished in 2.00s, 75432.50 req/s, 5.61MB/s, or in 999.35ms
    let took = line("finished in ")?.split([' ', ',']).nth(2).unwrap_or_default();
    let (took, unit) = took.strip_suffix("ms").map_or((took.strip_suffix('s'), 1.0), |ms| (Some(ms), 0.001));
    let seconds = took.and_then(|took| took.parse().ok()).map(|took: f64| took * unit);
    // requests: 150865 total, 151121 started, 150865 done, 150865 succeeded, 0 failed, 0 errored, 0 timeout
    let counts: Vec<u64> = line("requests: ")?.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let [_, _, done, answered, ..] = counts[..] else { anyhow::bail!("h2load tells something else") };
    let seconds = seconds.context("h2load does not say how long it ran")?;
    Ok(Measured { answered, failed: done - answered, seconds, cpu, latency: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2load_says_how_long_it_ran_in_seconds_or_less() {
        let said = |took| {
            format!(
                "finished in {took}, 41542.00 req/s, 2.94MB/s\n\
                 requests: 41542 total, 41670 started, 41542 done, 41540 succeeded, 0 failed, 2 errored, 0 timeout\n"
            )
        };
        for (took, seconds) in [("2.00s", Some(2.0)), ("999.50ms", Some(0.9995)), ("soon", None), ("ms", None)] {
            let measured = of_h2load(&said(took), 1.0);
            assert_eq!(measured.as_ref().ok().map(|measured| measured.seconds), seconds, "{took}");
            assert!(measured.is_err() || measured.is_ok_and(|m| (m.answered, m.failed) == (41_540, 2)));
        }
    }
}
