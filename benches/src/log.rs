//! What it costs to bring an event from a front to where it survives the death of the process.
//!
//! All contenders encode the same events into batches of the same size and hand them over a channel of the same
//! kind to a thread that frames, checksums and keeps them on the same disk; they are done when the last record
//! is with the kernel. None syncs before. They differ in how the other end keeps the records.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use crossbeam_channel::bounded;
use tallylight_collector::log::{Appender, Batch, Level, Log, Options, ack};
use tallylight_proto::segment::{Framing, HEADER_LEN, framed_len};
use tallylight_proto::{Event, record};

use crate::beacons::Beacons;
use crate::compare::{Contender, compare, write_json};
use crate::spares;

const SEGMENT_SIZE: u64 = 256 << 20;
const QUEUE_LEN: usize = 1024;

/// What is to be appended.
#[derive(clap::Args)]
pub struct Arguments {
    /// Events a run.
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// Events a batch: what a busy worker gathers between two looks at its sockets.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Folder on the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Writes what each run took to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Prints the comparison.
pub fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    let folder = tempfile::tempdir_in(&arguments.dir)?;
    let mut beacons = Beacons::new(1);
    let events: Vec<Event<'_>> = (0..4096).map(|_| beacons.event()).collect();
    let mut encoded = Vec::new();
    events.iter().for_each(|event| record::encode_event(event, &mut encoded));
    let title = format!("log append, records of {} bytes", encoded.len() / events.len());
    let work = Work { events: &events, count: arguments.events, batch: usize::from(arguments.batch) };

    let fresh = OurLog::start(folder.path().join("fresh"), |finished, _| std::fs::remove_file(finished))?;
    let recycled = OurLog::start(folder.path().join("recycled"), spares::keep)?;
    let buffered = WriteCalls { path: folder.path().join("buffered"), buffer: 64 << 10 };
    let each = WriteCalls { path: folder.path().join("each"), buffer: 0 };
    let mut contenders = [
        buffered.contender("write(2), 64 KiB a call", work),
        each.contender("write(2), a call a record", work),
        fresh.contender("Tallylight's log, fresh segments", work),
        recycled.contender("Tallylight's log, recycled segments", work),
    ];
    let measured = compare(&title, work.count as u64, rounds, &mut contenders)?;
    drop(contenders);
    fresh.log.finish();
    recycled.log.finish();
    write_json(arguments.json.as_deref(), &[measured])
}

/// The events of one run.
#[derive(Clone, Copy)]
struct Work<'a> {
    events: &'a [Event<'a>],
    count: usize,
    batch: usize,
}

impl<'a> Work<'a> {
    /// The events, batch by batch.
    fn batches(self) -> impl Iterator<Item = impl Iterator<Item = &'a Event<'a>>> {
        (0..self.count).step_by(self.batch).map(move |from| {
            let len = self.batch.min(self.count - from);
            (from..from + len).map(move |n| &self.events[n % self.events.len()])
        })
    }
}

/// Our way: mapped segments, committed once a drain of the channel.
struct OurLog {
    log: Log,
    data: PathBuf,
    /// What becomes of a finished segment, given the folder of spares.
    finish: fn(&Path, &Path) -> std::io::Result<()>,
}

impl OurLog {
    fn start(data: PathBuf, finish: fn(&Path, &Path) -> std::io::Result<()>) -> Result<Self> {
        let options = Options {
            data: data.clone(),
            node: "bench-000000".into(),
            segment_size: SEGMENT_SIZE,
            sync_interval: Duration::from_secs(3600),
            reserve: 0,
            watchdog: Default::default(),
        };
        let (log, _) = Log::start(options, |error| panic!("{error}"))?;
        Ok(Self { log, data, finish })
    }

    fn contender<'a>(&'a self, name: &'static str, work: Work<'a>) -> Contender<'a> {
        Contender {
            name,
            run: Box::new(move || self.append(work)),
            reset: Box::new(|| spares::recycle(&self.data, self.finish)),
        }
    }

    fn append(&self, work: Work<'_>) -> Result<()> {
        let appender = self.log.appender();
        for events in work.batches() {
            let mut batch = appender.batch();
            events.for_each(|event| batch.push(event));
            send(&appender, batch);
        }
        let (sender, receiver) = ack();
        let mut last = appender.batch();
        last.ack_since(0, Level::Logged, sender);
        send(&appender, last);
        receiver.blocking_recv()?.map_err(|shed| anyhow!("shed: {}", shed.label()))
    }
}

/// Hands a batch to the log; a bench may wait where a front must shed.
pub fn send(appender: &Appender, mut batch: Batch) {
    while let Err(full) = appender.try_send(batch) {
        batch = full;
        std::thread::yield_now();
    }
}

/// The obvious way: a file and `write(2)`.
struct WriteCalls {
    path: PathBuf,
    /// Bytes gathered before a call.
    buffer: usize,
}

impl WriteCalls {
    fn contender<'a>(&'a self, name: &'static str, work: Work<'a>) -> Contender<'a> {
        let reset = || Ok(std::fs::remove_file(&self.path)?);
        Contender { name, run: Box::new(move || self.append(work)), reset: Box::new(reset) }
    }

    fn append(&self, work: Work<'_>) -> Result<()> {
        let (sender, batches) = bounded::<Vec<u8>>(QUEUE_LEN);
        let (recycle, recycled) = bounded::<Vec<u8>>(QUEUE_LEN);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| -> Result<()> {
                let recycle = recycle;
                let mut file = File::create(&self.path)?;
                let framing = Framing::new(1, 0);
                let (mut out, mut offset, mut ordinal) = (Vec::new(), HEADER_LEN as u64, 0);
                for mut batch in batches {
                    let mut rest = &batch[..];
                    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
                        let (payload, behind) = behind.split_at(u32::from_ne_bytes(*len) as usize);
                        rest = behind;
                        let start = out.len();
                        out.resize(start + framed_len(payload.len()), 0);
                        framing.write(&mut out[start..], offset, ordinal, payload);
                        offset += framed_len(payload.len()) as u64;
                        ordinal += 1;
                        if out.len() >= self.buffer {
                            file.write_all(&out)?;
                            out.clear();
                        }
                    }
                    batch.clear();
                    // the other end may have gone
                    let _ = recycle.try_send(batch);
                }
                Ok(file.write_all(&out)?)
            });
            for events in work.batches() {
                let mut batch = recycled.try_recv().unwrap_or_default();
                for event in events {
                    let start = batch.len();
                    batch.extend_from_slice(&[0; 4]);
                    record::encode_event(event, &mut batch);
                    let len = u32::try_from(batch.len() - start - 4)?;
                    batch[start..start + 4].copy_from_slice(&len.to_ne_bytes());
                }
                sender.send(batch)?;
            }
            drop(sender);
            writer.join().map_err(|_| anyhow!("the writer panicked"))?
        })
    }
}
