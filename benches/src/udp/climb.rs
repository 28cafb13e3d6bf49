//! One run of one receiver: it is started, climbs the steps of load, and is stopped.
//!
//! The climb ends when two steps running were above what it can take or what the sender can send; one alone may be
//! the machine's.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::contender::{Contender, Output, Start};
use super::load::{Load, Sent, Shape};
use crate::process::{self, Process};

/// A receiver that has counted nothing new for so long is done; longer than the second that peers may keep lines.
const SETTLED: Duration = Duration::from_millis(2_500);
/// A receiver that has written nothing for so long may be told to write the rest.
const IDLE: Duration = Duration::from_millis(300);
/// A receiver that is behind may catch up for so long.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
/// Before the first step, at its pace.
const WARM_UP: Duration = Duration::from_millis(500);
/// A sender slower than this share of its pace does not hold the step.
const KEEPS_PACE: f64 = 0.95;

/// What is climbed.
pub struct Plan<'a> {
    /// Datagrams a second.
    pub steps: &'a [u32],
    /// How long each is held.
    pub step: Duration,
}

/// A step of a run.
pub struct Step {
    /// Datagrams a second that were asked of the sender.
    pub pace: u32,
    pub sent: Sent,
    /// What the receiver has of them.
    pub counted: u64,
    /// CPU seconds of the receiver, until it was done with them.
    pub cpu: f64,
}

impl Step {
    /// Datagrams a second that were sent.
    pub fn rate(&self) -> f64 {
        self.sent.datagrams as f64 / self.sent.seconds
    }

    /// Whether all of them arrived, once.
    pub fn is_whole(&self) -> bool {
        self.counted == self.sent.datagrams
    }

    /// CPU seconds for a million datagrams.
    pub fn cpu_per_million(&self) -> f64 {
        self.cpu / (self.counted as f64 / 1e6)
    }

    /// Whether it was sent at the pace that was asked for.
    pub fn keeps_pace(&self) -> bool {
        self.rate() >= KEEPS_PACE * f64::from(self.pace)
    }
}

/// The highest rate without loss: 0 if there is none.
pub fn best(climb: &[Step]) -> f64 {
    climb.iter().filter(|step| step.is_whole()).map(Step::rate).fold(0.0, f64::max)
}

/// Whether more could not be sent: the highest rate without loss is the sender's, not the receiver's.
pub fn is_senders(climb: &[Step]) -> bool {
    climb.last().is_some_and(Step::is_whole)
}

/// CPU seconds for a million datagrams at this pace, if it was held and nothing was lost.
pub fn cost(climb: &[Step], pace: u32) -> Option<f64> {
    let step = climb.iter().find(|step| step.pace == pace && step.is_whole() && step.keeps_pace())?;
    Some(step.cpu_per_million())
}

/// One run.
pub fn run(contender: &Contender, shape: Shape, plan: &Plan<'_>, parent: &Path) -> Result<Vec<Step>> {
    let folder = tempfile::tempdir_in(parent)?;
    let Start { command, port, output, flush, recycler: _recycler } = contender.start(folder.path())?;
    let log = folder.path().join("output");
    let climb = || -> Result<_> {
        let mut process = Process::start(&command, &log)?;
        process.wait_for_port(port)?;
        let load = Load::new(port, shape, contender.is_framed)?;
        let mut run = Run { load, process, output, flush };
        let steps = run.climb(plan)?;
        run.process.stop()?;
        Ok(steps)
    };
    climb().with_context(|| format!("it said: {}", std::fs::read_to_string(&log).unwrap_or_default()))
}

struct Run {
    load: Load,
    process: Process,
    output: Output,
    flush: Option<Signal>,
}

impl Run {
    fn climb(&mut self, plan: &Plan<'_>) -> Result<Vec<Step>> {
        let first = *plan.steps.first().context("no steps")?;
        ensure!(self.step(first, WARM_UP)?.counted > 0, "nothing arrived");
        let (mut steps, mut above) = (Vec::new(), 0);
        for &pace in plan.steps {
            let step = self.step(pace, plan.step)?;
            above = if step.is_whole() && step.keeps_pace() { 0 } else { above + 1 };
            steps.push(step);
            if above == 2 {
                break;
            }
        }
        Ok(steps)
    }

    fn step(&mut self, pace: u32, time: Duration) -> Result<Step> {
        let (before, cpu) = (self.output.count()?, self.process.cpu()?);
        let sent = self.load.send(pace, time)?;
        let counted = self.settle(before, sent.datagrams)?;
        Ok(Step { pace, sent, counted, cpu: self.process.cpu()? - cpu })
    }

    /// Waits until all have arrived, or no more come. How many have.
    fn settle(&mut self, before: u64, sent: u64) -> Result<u64> {
        let begin = Instant::now();
        let (mut last, mut changed, mut flush) = (before, begin, self.flush);
        loop {
            process::check()?;
            let now = self.output.count()?;
            if now != last {
                (last, changed) = (now, Instant::now());
            }
            if now - before >= sent || changed.elapsed() > SETTLED || begin.elapsed() > CATCH_UP_LIMIT {
                return Ok(now - before);
            }
            if let Some(signal) = flush.take_if(|_| changed.elapsed() > IDLE) {
                self.process.signal(signal)?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A run in a line.
pub struct Brief<'a>(pub &'a [Step]);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.0 {
            let lost = 100.0 * (1.0 - step.counted as f64 / step.sent.datagrams as f64);
            write!(out, " {:.0}k/s {lost:.1}% lost {:.2} s/M;", step.rate() / 1e3, step.cpu_per_million())?;
        }
        Ok(())
    }
}
