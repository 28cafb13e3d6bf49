//! Log lines on stderr that can neither stop, slow nor fail the program.
//!
//! The rule kept here: whoever logs never waits and never sees an error. Lines go through a bounded channel
//! to one thread, which alone writes; where stderr is a full pipe that thread waits and the lines that no
//! longer fit are dropped and counted ([`lost_lines`]); where it is closed or its disk is full the line is lost and
//! counted too. Panics are logged the same way, since the standard hook would wait for stderr.
//!
//! `TALLYLIGHT_LOG` filters (`info`, `debug`, `warn,tallylight_collector=trace`), `TALLYLIGHT_LOG_FORMAT` is
//! `text` (the default) or `json`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::bar;

/// Lines that wait for stderr before more are dropped: about a megabyte at worst, seconds of the busiest log.
const LINES_WAITING: usize = 4096;

/// How long the end of the program waits for a stderr that takes nothing.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// Lines lost since the program started.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Log lines that were never written, because stderr was full, closed or slow.
pub fn lost_lines() -> u64 {
    LOST.load(Relaxed)
}

/// Sends the program's log to stderr, as the environment says. To be called once, first of all; keep the
/// guard until the program ends. A second call changes nothing.
pub fn init() -> FlushGuard {
    let json = env::var("TALLYLIGHT_LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    let wanted = env::var("TALLYLIGHT_LOG").ok().filter(|filter| !filter.trim().is_empty());
    let filter = wanted.as_deref().map_or(Ok(EnvFilter::new("info")), EnvFilter::try_new);
    let (filter, mistake) = match filter {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };

    // a descriptor of our own: the standard library's stderr has a lock, which the waiting thread would hold
    // against everybody else
    let writer = match io::stderr().as_fd().try_clone_to_owned() {
        Ok(stderr) => Lines::start(File::from(stderr)),
        Err(_) => Lines::start(io::sink()),
    };
    let guard = FlushGuard { lines: writer.clone() };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()))
        .with_writer(writer)
        .log_internal_errors(false);
    // an error means that a subscriber is there already: it keeps the log
    let installed = if json {
        tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
    } else {
        tracing::subscriber::set_global_default(builder.finish())
    };
    if installed.is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
    if let Some(error) = mistake {
        tracing::warn!(%error, "TALLYLIGHT_LOG is not a filter, using info");
    }
    guard
}

/// Writes out what waits when the program ends, for half a second at most.
#[must_use = "dropping it at once flushes nothing"]
pub struct FlushGuard {
    lines: Lines,
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        self.lines.flush_within(FLUSH_LIMIT);
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("(no text)");
    tracing::error!(thread = thread.name().unwrap_or("?"), location, backtrace, "panicked: {message}");
}

/// What goes to the writing thread.
enum Message {
    Line(Box<[u8]>),
    /// Answered when everything before it is written.
    Flush(Sender<()>),
}

/// The sending end; cheap to clone, never waits.
#[derive(Clone)]
struct Lines {
    channel: SyncSender<Message>,
}

impl Lines {
    /// Starts the thread that writes to `sink`. It ends when every sender is gone.
    fn start(sink: impl Write + Send + 'static) -> Self {
        let (channel, lines) = mpsc::sync_channel(LINES_WAITING);
        let told = lost_lines();
        // without a thread to take them, lines are dropped and counted like any others
        let _ = thread::Builder::new().name("log-lines".into()).spawn(move || write_lines(&lines, sink, told));
        Self { channel }
    }

    /// Waits until all that was sent is written, or the time is over.
    fn flush_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, is_done) = mpsc::channel();
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.channel.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            thread::sleep(Duration::from_millis(5));
        }
        // done, nobody there, or too late: nothing more can be done in each case
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The thread: takes lines as long as there are senders. Losses are told when it has caught up, so that telling
/// them does not cost more lines. `told` starts as the losses that are none of this sink's.
fn write_lines(lines: &Receiver<Message>, mut sink: impl Write, mut told: u64) {
    loop {
        let message = lines.try_recv().or_else(|_| {
            tell_losses(&mut sink, &mut told);
            lines.recv()
        });
        match message {
            Ok(Message::Line(line)) => {
                if bar::aside(|| sink.write_all(&line)).is_err() {
                    LOST.fetch_add(1, Relaxed);
                    // losses of a sink that fails cannot be told to it
                    told += 1;
                }
            }
            Ok(Message::Flush(done)) => {
                tell_losses(&mut sink, &mut told);
                let _ = sink.flush();
                let _ = done.send(());
            }
            Err(_) => return,
        }
    }
}

fn tell_losses(sink: &mut impl Write, told: &mut u64) {
    let lost = lost_lines();
    let line = format!("({} log lines lost: stderr was too slow)\n", lost.saturating_sub(*told));
    if lost > *told && bar::aside(|| sink.write_all(line.as_bytes())).is_ok() {
        *told = lost;
    }
}

impl Write for Lines {
    /// One whole event, as the formatter gives it. Always succeeds.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.channel.try_send(Message::Line(line.into())).is_err() {
            LOST.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// `LOST` is the process's, and so are these tests: one at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Takes nothing until the gate opens, then everything.
    struct Gated {
        gate: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.recv();
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Fails like a closed pipe.
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_stderr_that_nobody_reads_costs_lines_and_never_a_wait() {
        let _one = ONE_AT_A_TIME.lock();
        let (open, gate) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut lines = Lines::start(Gated { gate, taken: Arc::clone(&taken) });
        let before = lost_lines();
        let sent = LINES_WAITING + 100;
        for n in 0..sent {
            lines.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        assert!(lost_lines() > before, "a full channel must drop");

        let start = Instant::now();
        lines.flush_within(Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(5), "the end of the program must not wait for it");

        drop(open);
        lines.flush_within(Duration::from_secs(20));
        let taken = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert!(taken.starts_with("line 0\nline 1\n"), "{}", &taken[..40]);
        let told = format!("({} log lines lost: stderr was too slow)", lost_lines() - before);
        assert!(taken.contains(&told), "{told} is not in {}", &taken[taken.len() - 200..]);
    }

    #[test]
    fn a_closed_stderr_is_counted_and_nothing_else() {
        let _one = ONE_AT_A_TIME.lock();
        let mut lines = Lines::start(Broken);
        let before = lost_lines();
        for _ in 0..3 {
            lines.write_all(b"gone\n").unwrap();
        }
        lines.flush_within(Duration::from_secs(20));
        assert_eq!(lost_lines(), before + 3);
    }

    #[test]
    fn all_lines_are_written_in_order_before_the_guard_is_gone() {
        let _one = ONE_AT_A_TIME.lock();
        let (open, gate) = mpsc::channel();
        drop(open);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut lines = Lines::start(Gated { gate, taken: Arc::clone(&taken) });
        let wanted: String = (0..500).map(|n| format!("line {n}\n")).collect();
        for n in 0..500 {
            lines.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        drop(FlushGuard { lines });
        assert_eq!(String::from_utf8(taken.lock().unwrap().clone()).unwrap(), wanted);
    }
}
