//! Runs contenders side by side: in every round each runs once, in an order that turns around from round to
//! round (A B, B A, …), so that what the machine does meanwhile hits all of them. Ratios are taken within a
//! round, then their median and quartiles over the rounds.

use std::time::Duration;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

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

/// Measures, and prints a table. `items` is how many each run handles.
pub fn compare(title: &str, items: u64, rounds: u32, contenders: &mut [Contender<'_>]) -> Result<()> {
    let mut costs = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for n in order {
            let cost = measure(&mut contenders[n].run)?;
            (contenders[n].reset)()?;
            // the first round warms up
            if round > 0 {
                costs[n].push(cost);
            }
        }
    }
    let base = costs[0].clone();
    println!("{title}: {items} a run, {rounds} rounds, median (quartiles)");
    println!("| | M/s | CPU s/M | time, ratio | CPU, ratio |\n| --- | --- | --- | --- | --- |");
    for (contender, costs) in contenders.iter().zip(&costs) {
        let millions = items as f64 / 1e6;
        let rate = spread(costs.iter().map(|cost| millions / cost.wall.as_secs_f64()));
        let cpu = spread(costs.iter().map(|cost| cost.cpu.as_secs_f64() / millions));
        let ratio = |of: fn(&Cost) -> Duration| {
            spread(costs.iter().zip(&base).map(move |(cost, base)| of(cost).as_secs_f64() / of(base).as_secs_f64()))
        };
        println!("| {} | {rate} | {cpu} | {} | {} |", contender.name, ratio(|cost| cost.wall), ratio(|cost| cost.cpu));
    }
    Ok(())
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

fn spread(numbers: impl Iterator<Item = f64>) -> String {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |quarter: usize| sorted[(sorted.len() - 1) * quarter / 4];
    format!("{:.2} ({:.2}–{:.2})", at(2), at(1), at(3))
}
