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
    // finished in 2.00s, 75432.50 req/s, 5.61MB/s
    let seconds = line("finished in ")?.split([' ', ',']).nth(2).and_then(|s| s.strip_suffix('s')?.parse().ok());
    // requests: 150865 total, 151121 started, 150865 done, 150865 succeeded, 0 failed, 0 errored, 0 timeout
    let counts: Vec<u64> = line("requests: ")?.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let [_, _, done, answered, ..] = counts[..] else { anyhow::bail!("h2load tells something else") };
    let seconds = seconds.context("h2load does not say how long it ran")?;
    Ok(Measured { answered, failed: done - answered, seconds, cpu, latency: None })
}
