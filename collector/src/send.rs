//! `tallylight-collector send`: lines from stdin become datagrams.
//!
//! The rule kept here: lines go out as they came in, in order, none of them split, and whatever is not sent is said.
//! Other than in a service, waiting is right: for room in the socket, and for the collector to keep up (`--rate`).

use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write as _};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tallylight_proto::datagram;
use tallylight_proto::keys::Key;
use tallylight_sender::outlet::Outlet;

use crate::keys;

/// How long a line waits for others, where lines come one by one.
const LINGER: Duration = Duration::from_millis(10);
/// The collector is told that often that there is nothing.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What was not sent in time may be made up for, up to so much.
const BURST: Duration = Duration::from_millis(10);
/// How often a terminal shows where we are.
const PROGRESS: Duration = Duration::from_millis(200);
/// Lines that cannot be sent and are named; more are only counted.
const NAMED: u64 = 10;
/// Bytes that are read at a time.
const READ: usize = 64 * 1024;

/// How and where to send.
#[derive(Args, Clone, Debug)]
pub struct SendArgs {
    /// Where the collector takes datagrams (its --udp)
    #[arg(long, value_name = "ADDR")]
    pub to: String,

    /// Key file, as the collector's --udp-key; the first key signs
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Send plain text, of which nobody can tell whether it arrived
    #[arg(long, conflicts_with = "key")]
    pub plain: bool,

    /// The most lines in a datagram [default: as many as the path takes, at most 1000]
    #[arg(long, value_name = "N", default_value = "1000", hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub batch: u16,

    /// Lines a second at most, so that the collector can keep up; 0 for no limit
    #[arg(long, value_name = "N", default_value = "50000")]
    pub rate: u64,
}

/// Sends what is on stdin, and says how that went.
pub fn run(args: &SendArgs) -> ExitCode {
    let key = match args.key.as_deref().map(keys::load).transpose() {
        Ok(keys) => keys.and_then(|keys| keys.signing().cloned()),
        Err(error) => return failed(&error, 2),
    };
    match Session::start(args, key) {
        Ok(session) => session.run(Input::new(io::stdin())),
        Err(error) => failed(&format_args!("cannot send to {}: {error}", args.to), 1),
    }
}

fn failed(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    say(&format!("{error}\n"));
    ExitCode::from(code)
}

/// A full or closed stderr is no reason to stop.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

struct Session<'a> {
    args: &'a SendArgs,
    outlet: Outlet,
    pace: Option<Pace>,
    batch: Batch,
    /// Lines that can never be sent.
    skipped: u64,
    /// Whether a datagram that was refused, or not sent, was told of.
    is_refusal_told: bool,
    is_error_told: bool,
    started_at: Instant,
    progress: Option<Instant>,
}

impl<'a> Session<'a> {
    fn start(args: &'a SendArgs, key: Option<Key>) -> io::Result<Self> {
        let outlet = match args.plain {
            true => Outlet::plain(&args.to, None)?,
            false => Outlet::framed(&args.to, key, None)?,
        };
        let started_at = Instant::now();
        Ok(Self {
            args,
            outlet,
            pace: NonZeroU64::new(args.rate).map(Pace::new),
            batch: Batch::default(),
            skipped: 0,
            is_refusal_told: false,
            is_error_told: false,
            started_at,
            progress: io::stderr().is_terminal().then_some(started_at),
        })
    }

    fn run(mut self, mut input: Input<impl AsFd>) -> ExitCode {
        let result = self.send_all(&mut input);
        self.flush();
        self.outlet.heartbeat();
        self.outlet.look_for_refusal();
        self.tell_of_trouble();
        if let Err(error) = &result {
            self.tell(&format!("cannot read stdin: {error}"));
        }
        self.tell(&self.summary());
        let is_all_sent = result.is_ok() && self.skipped == 0 && self.lost() == 0;
        if is_all_sent { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn send_all(&mut self, input: &mut Input<impl AsFd>) -> io::Result<()> {
        loop {
            while let Some((number, line)) = input.next_line(self.outlet.most_body()) {
                match line {
                    Ok(line) => self.line(number, line),
                    Err(TooLong) => self.skip(number, "does not fit into a datagram"),
                }
            }
            if input.is_ended {
                return Ok(());
            }
            if self.batch.lines > 0 && !input.wait(LINGER)? {
                self.flush();
            }
            while !input.wait(HEARTBEAT)? {
                self.outlet.heartbeat();
            }
            input.fill()?;
        }
    }

    fn line(&mut self, number: u64, line: &[u8]) {
        if self.args.plain && line.starts_with(&datagram::MAGIC[..1]) {
            return self.skip(number, "is not text");
        }
        // at the beginning of a body, an array makes JSON of all of it
        let text = line.trim_ascii();
        let is_array = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text).trim_ascii().starts_with(b"[");
        let with_it = self.batch.body.len() + 1 + line.len();
        if is_array || self.batch.lines > 0 && with_it > self.outlet.most_body() {
            self.flush();
        }
        self.batch.push(line);
        if is_array || self.batch.lines == u64::from(self.args.batch) {
            self.flush();
        }
    }

    fn skip(&mut self, number: u64, why: &str) {
        self.skipped += 1;
        match self.skipped {
            ..=NAMED => self.tell(&format!("line {number} {why}: skipped")),
            skipped if skipped == NAMED + 1 => self.tell("more lines are skipped, without a word"),
            _ => {}
        }
    }

    fn flush(&mut self) {
        if self.batch.lines == 0 {
            return;
        }
        if let Some(pace) = &mut self.pace {
            let mut wait = pace.claim(self.batch.lines, Instant::now());
            // a source that gives no sign of life may be forgotten
            while wait > HEARTBEAT {
                thread::sleep(HEARTBEAT);
                wait -= HEARTBEAT;
                self.outlet.heartbeat();
            }
            thread::sleep(wait);
        }
        self.outlet.deliver(&self.batch.body);
        self.batch.clear();
        self.tell_of_trouble();
        self.show_progress();
    }

    /// Once of each kind: what there was in all stands in the summary.
    fn tell_of_trouble(&mut self) {
        if self.outlet.counts().refused > 0 && !self.is_refusal_told {
            self.is_refusal_told = true;
            self.tell(&format!("nobody listens at {}", self.args.to));
        }
        if let Some(error) = self.outlet.take_error().filter(|_| !self.is_error_told) {
            self.is_error_told = true;
            self.tell(&format!("cannot send to {}: {error}", self.args.to));
        }
    }

    fn show_progress(&mut self) {
        if self.progress.is_some_and(|at| at.elapsed() >= PROGRESS) {
            self.progress = Some(Instant::now());
            say(&format!("\r{}\x1b[K", self.summary()));
        }
    }

    fn tell(&self, line: &str) {
        let begin = if self.progress.is_some() { "\r\x1b[K" } else { "" };
        say(&format!("{begin}{line}\n"));
    }

    /// Lines, and datagrams of theirs, of which it is known that they did not arrive.
    fn lost(&self) -> u64 {
        self.outlet.counts().not_sent + self.outlet.counts().refused
    }

    fn summary(&self) -> String {
        let counts = self.outlet.counts();
        let seconds = self.started_at.elapsed().as_secs_f64();
        let mut text = format!(
            "lines: {}, datagrams: {}, bytes: {}, seconds: {seconds:.1}",
            counts.events, counts.datagrams, counts.bytes
        );
        for (what, count) in
            // the system may tell once of several that were refused
            [
                ("skipped", self.skipped),
                ("not sent", counts.not_sent),
                ("datagrams refused, at least", counts.refused),
            ]
        {
            if count > 0 {
                // writing to a String does not fail
                let _ = write!(text, ", {what}: {count}");
            }
        }
        text
    }
}

/// Lines of the next datagram.
#[derive(Default)]
struct Batch {
    body: Vec<u8>,
    lines: u64,
}

impl Batch {
    fn push(&mut self, line: &[u8]) {
        if self.lines > 0 {
            self.body.push(b'\n');
        }
        self.body.extend_from_slice(line);
        self.lines += 1;
    }

    fn clear(&mut self) {
        self.body.clear();
        self.lines = 0;
    }
}

/// Waits so long before each datagram that there are no more lines a second than there may be.
struct Pace {
    line: Duration,
    /// When the next line may leave.
    due: Instant,
}

impl Pace {
    fn new(rate: NonZeroU64) -> Self {
        Self { line: Duration::from_secs(1) / u32::try_from(rate.get()).unwrap_or(u32::MAX), due: Instant::now() }
    }

    /// How long from now these lines have to wait.
    fn claim(&mut self, lines: u64, now: Instant) -> Duration {
        let due = now.checked_sub(BURST).map_or(self.due, |earliest| self.due.max(earliest));
        self.due = due + self.line * u32::try_from(lines).unwrap_or(u32::MAX);
        due.saturating_duration_since(now)
    }
}

/// Lines of a file or pipe, of which no more is kept than a datagram takes.
struct Input<F> {
    file: F,
    buffer: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    /// Of the line that begins there, bytes in which there is no end.
    looked: usize,
    /// How many lines were given out.
    lines: u64,
    /// The beginning of the next line is gone already.
    is_too_long: bool,
    is_ended: bool,
}

struct TooLong;

impl<F: AsFd> Input<F> {
    fn new(file: F) -> Self {
        Self { file, buffer: Vec::new(), at: 0, looked: 0, lines: 0, is_too_long: false, is_ended: false }
    }

    /// The next line that is not blank, and its number; none: more has to be read, or all is.
    fn next_line(&mut self, most: usize) -> Option<(u64, Result<&[u8], TooLong>)> {
        loop {
            let rest = &self.buffer[self.at..];
            let end = rest[self.looked..].iter().position(|byte| *byte == b'\n').map(|end| self.looked + end);
            let (len, behind) = match end {
                Some(end) => (end, end + 1),
                None if self.is_ended && (!rest.is_empty() || self.is_too_long) => (rest.len(), rest.len()),
                None => {
                    self.looked = rest.len();
                    if self.looked > most {
                        self.is_too_long = true;
                        (self.at, self.looked) = (self.buffer.len(), 0);
                    }
                    return None;
                }
            };
            let begin = self.at;
            (self.at, self.looked) = (begin + behind, 0);
            self.lines += 1;
            if std::mem::take(&mut self.is_too_long) || len > most {
                return Some((self.lines, Err(TooLong)));
            }
            if !self.buffer[begin..begin + len].trim_ascii().is_empty() {
                return Some((self.lines, Ok(&self.buffer[begin..begin + len])));
            }
        }
    }

    /// Whether there is something to read, or the end, before this time has passed.
    fn wait(&self, time: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&timeout)) {
                Err(Errno::INTR) => {}
                result => return Ok(result? > 0),
            }
        }
    }

    /// Reads more, once.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let had = self.buffer.len();
        self.buffer.resize(had + READ, 0);
        let read = loop {
            match rustix::io::read(&self.file, &mut self.buffer[had..]) {
                Err(Errno::INTR) => {}
                // whoever shares it with us made it so
                Err(Errno::AGAIN) => break Ok(None),
                result => break result.map(Some),
            }
        };
        self.buffer.truncate(had + read.unwrap_or_default().unwrap_or_default());
        self.is_ended = read? == Some(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Seek, Write};

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn lines(bytes: &[u8], most: usize) -> Vec<(u64, Option<String>)> {
        let mut input = Input::new(file(bytes));
        let mut lines = Vec::new();
        loop {
            while let Some((number, line)) = input.next_line(most) {
                lines.push((number, line.ok().map(|line| String::from_utf8(line.to_vec()).unwrap())));
            }
            if input.is_ended {
                return lines;
            }
            input.fill().unwrap();
        }
    }

    #[test]
    fn lines_keep_their_numbers_and_bytes_and_blank_ones_are_left_out() {
        let line = |number, line: &str| (number, Some(line.to_owned()));
        assert_eq!(lines(b"a=1\r\n\n \r\n\tb=2 \nc=3", 9), [line(1, "a=1\r"), line(4, "\tb=2 "), line(5, "c=3")]);
        assert_eq!(lines(b"a=1\n", 9), [line(1, "a=1")]);
        assert_eq!(lines(b"", 9), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_named_and_what_follows_is_not_touched() {
        for len in [10, READ, 3 * READ, 3 * READ + 1] {
            let bytes = ["a=1\n", &"x".repeat(len), "\nb=2\n", &"y".repeat(len)].concat();
            let (kept, gone) = (|number, line: &str| (number, Some(line.to_owned())), |number| (number, None));
            assert_eq!(lines(bytes.as_bytes(), 9), [kept(1, "a=1"), gone(2), kept(3, "b=2"), gone(4)], "{len}");
        }
        // nor is it kept
        let mut input = Input::new(file(&vec![b'x'; 10 * READ]));
        while !input.is_ended {
            input.fill().unwrap();
            assert!(input.next_line(9).is_none_or(|(number, line)| number == 1 && line.is_err()));
            assert!(input.buffer.len() <= READ, "{}", input.buffer.len());
        }
    }

    #[test]
    fn the_pace_is_kept_and_what_was_missed_is_not_made_up_for() {
        let mut pace = Pace::new(NonZeroU64::new(1000).unwrap());
        let start = pace.due;
        let ms = Duration::from_millis;
        assert_eq!(pace.claim(50, start), ms(0));
        assert_eq!(pace.claim(100, start), ms(50));
        assert_eq!(pace.claim(1, start + ms(60)), ms(90));
        // late by less than the burst: made up for
        assert_eq!(pace.claim(1, start + ms(155)), ms(0));
        assert_eq!(pace.claim(10, start + ms(155)), ms(0));
        assert_eq!(pace.claim(1, start + ms(155)), ms(7));
        // an hour later
        assert_eq!(pace.claim(20, start + ms(3_600_000)), ms(0));
        assert_eq!(pace.claim(1, start + ms(3_600_000)), ms(10));
    }
}
