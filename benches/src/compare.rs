//! Runs contenders side by side: in every round each runs once, in an order that turns around from round to
//! round (A B, B A, …), so that what the machine does meanwhile hits all of them. Ratios are taken within a
//! round, then their median and quartiles over the rounds.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Something to be measured. The first one of a comparison is what the others are compared with.
pub struct Contender<'a> {
    pub name: &'static str,
    pub run: Step<'a>,
    /// Cleans up behind a run, unmeasured.
    pub reset: Step<'a>,
}

/// Something that a contender does once a round.
pub type Step<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// What one run took.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

/// Measures, and prints a table. `items` is how many each run handles. What each run took, by contender, as JSON.
pub fn compare(title: &str, items: u64, rounds: u32, contenders: &mut [Contender<'_>]) -> Result<Value> {
    let count = contenders.len();
    let mut costs = alternate(rounds + 1, count, |_, n| {
        let cost = measure(&mut contenders[n].run)?;
        (contenders[n].reset)()?;
        Ok(cost)
    })?;
    // the first round warms up
    for costs in &mut costs {
        costs.remove(0);
    }
    println!("{title}: {items} a run, {rounds} rounds, median (quartiles)");
    println!("| | M/s | CPU s/M | time, ratio | CPU, ratio |\n| --- | --- | --- | --- | --- |");
    let millions = items as f64 / 1e6;
    for (contender, own) in contenders.iter().zip(&costs) {
        let rate = spread(own.iter().map(|cost| millions / cost.wall.as_secs_f64()));
        let cpu = spread(own.iter().map(|cost| cost.cpu.as_secs_f64() / millions));
        let ratio = |of: fn(&Cost) -> Duration| spread(ratios(own, &costs[0], |cost| Some(of(cost).as_secs_f64())));
        println!("| {} | {rate} | {cpu} | {} | {} |", contender.name, ratio(|cost| cost.wall), ratio(|cost| cost.cpu));
    }
    let seconds =
        |own: &[Cost], of: fn(&Cost) -> Duration| own.iter().map(|cost| of(cost).as_secs_f64()).collect::<Vec<_>>();
    let contenders = contenders.iter().zip(&costs).map(|(contender, own)| {
        json!({"name": contender.name, "seconds": seconds(own, |cost| cost.wall), "cpu_seconds": seconds(own, |cost| cost.cpu)})
    });
    Ok(json!({"title": title, "items": items, "contenders": contenders.collect::<Vec<_>>()}))
}

/// Writes what was measured, if that is wanted.
pub fn write_json(path: Option<&Path>, measured: &[Value]) -> Result<()> {
    path.map_or(Ok(()), |path| Ok(std::fs::write(path, serde_json::to_vec_pretty(measured)?)?))
}

/// Runs each of `count` contenders once a round, given the round and its number, in an order that turns around.
/// What the runs gave, by contender and round.
pub fn alternate<T>(rounds: u32, count: usize, mut run: impl FnMut(u32, usize) -> Result<T>) -> Result<Vec<Vec<T>>> {
    let mut results: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..count).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for n in order {
            results[n].push(run(round, n)?);
        }
    }
    Ok(results)
}

/// A figure of one contender over that of another, round by round, where both have one.
pub fn ratios<T>(own: &[T], base: &[T], figure: impl Fn(&T) -> Option<f64>) -> impl Iterator<Item = f64> {
    own.iter().zip(base).filter_map(move |(own, base)| Some(figure(own)? / figure(base)?))
}

fn measure(run: &mut dyn FnMut() -> Result<()>) -> Result<Cost> {
    let (wall, cpu) = (std::time::Instant::now(), process_cpu());
    run()?;
    Ok(Cost { wall: wall.elapsed(), cpu: process_cpu().saturating_sub(cpu) })
}

/// CPU time of all threads of this process.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Median and quartiles, as a table has them; a dash if there are no numbers.
pub fn spread(numbers: impl Iterator<Item = f64>) -> String {
    let Some([low, median, high]) = quartiles(numbers) else { return "–".into() };
    format!("{median:.2} ({low:.2}–{high:.2})")
}

/// The lower quartile, the median and the upper one, if there are numbers; between two of them where need be.
pub fn quartiles(numbers: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some([0.25, 0.5, 0.75].map(|share| {
        let (place, next) = ((last as f64 * share).floor(), (last as f64 * share).ceil());
        let part = last as f64 * share - place;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within the numbers")]
        let at = |place: f64| sorted[place as usize];
        at(place) * (1.0 - part) + at(next) * part
    }))
}
