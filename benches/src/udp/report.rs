//! The comparison as a table, and every step of every run as JSON.

use serde_json::{Value, json};

use super::climb::{Step, best, cost, is_senders};
use super::contender::Contender;
use super::load::{EVENT_LEN, Shape};
use crate::compare::{quartiles, ratios, spread};
use crate::machine;

/// Prints a table, and gives the same with all steps.
pub fn print(shape: Shape, pace: u32, contenders: &[Contender], runs: &[Vec<Vec<Step>>]) -> Value {
    let shape = match shape {
        Shape::Single => "a call each",
        Shape::Train => "in trains (GSO)",
    };
    let rounds = runs.first().map_or(0, Vec::len);
    println!(
        "\nUDP, events of {EVENT_LEN} bytes, {shape}: {rounds} rounds, median (quartiles); {}",
        machine::describe()
    );
    println!("| | k/s without loss | ratio | CPU s/M at {}k/s | ratio |\n| --- | --- | --- | --- | --- |", pace / 1000);
    let base = &runs[0];
    let best_of = |climb: &Vec<Step>| Some(best(climb)).filter(|rate| *rate > 0.0);
    let cost_of = |climb: &Vec<Step>| cost(climb, pace);
    let mut written = Vec::new();
    for (contender, own) in contenders.iter().zip(runs) {
        let name = &contender.name;
        let rates: Vec<f64> = own.iter().map(|climb| best(climb) / 1e3).collect();
        let costs: Vec<f64> = own.iter().filter_map(cost_of).collect();
        // of the first one, it is 1
        let rate_ratios: Vec<f64> = ratios(own, base, best_of).collect();
        let cost_ratios: Vec<f64> = ratios(own, base, cost_of).collect();
        let columns = [&rates, &rate_ratios, &costs, &cost_ratios].map(|figures| spread(figures.iter().copied()));
        let unsure = match costs.len() {
            len if len < rounds => format!(" (in {len} rounds)"),
            _ => String::new(),
        };
        let at_least = if 2 * own.iter().filter(|climb| is_senders(climb)).count() > rounds { "≥ " } else { "" };
        println!("| {name} | {at_least}{} | {} | {}{unsure} | {} |", columns[0], columns[1], columns[2], columns[3]);
        let spread_of = |figures: &[f64]| quartiles(figures.iter().copied());
        written.push(json!({
            "name": name,
            "rate_without_loss_thousands": spread_of(&rates),
            "rate_ratio": spread_of(&rate_ratios),
            "cpu_seconds_per_million": spread_of(&costs),
            "cpu_ratio": spread_of(&cost_ratios),
            "rounds": own.iter().map(|climb| climb.iter().map(step).collect()).collect::<Vec<Value>>(),
        }));
    }
    json!({ "shape": shape, "pace": pace, "contenders": written })
}

fn step(step: &Step) -> Value {
    json!({
        "pace": step.pace,
        "sent": step.sent.datagrams,
        "seconds": step.sent.seconds,
        "counted": step.counted,
        "cpu_seconds": step.cpu,
    })
}
