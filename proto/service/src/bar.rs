//! How far long work has got, for whoever looks on.
//!
//! The rule kept here: **a bar is on stderr, only where that is a terminal, and the work never waits for it.** Whoever works adds to
//! a number; a thread of the bar's own draws it ten times a second, and may wait for a terminal that is held. Whatever
//! else is written to the terminal meanwhile goes through [`aside`], so that no line begins behind half a bar.

use std::convert::Infallible;
use std::env;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that takes no longer shows nothing.
const DELAY: Duration = Duration::from_millis(200);
/// How often it is drawn.
const TICK: Duration = Duration::from_millis(100);
/// At most so often, which is not what decides.
const HERTZ: u8 = 20;
/// How long the end of the work waits for a terminal that takes nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// Without colours.
const TEMPLATE: &str = "{prefix} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {eta} left";

/// The one that is drawn.
static DRAWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn drawn() -> MutexGuard<'static, Option<ProgressBar>> {
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes to the terminal, while the bar steps aside if there is one.
pub fn aside<T>(write: impl FnOnce() -> T) -> T {
    let bar = drawn().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// A bar for as long as it lives. Where nobody would see one, there is none.
#[derive(Debug, Default)]
pub struct Bar {
    drawing: Option<Drawing>,
}

#[derive(Debug)]
struct Drawing {
    done: Arc<AtomicU64>,
    /// Nothing is sent: the work lasts as long as this does.
    work: Option<Sender<Infallible>>,
    /// And the thread as long as its end of this.
    thread: Receiver<Infallible>,
}

impl Bar {
    /// One for so many bytes of work, which is called `what`.
    pub fn start(what: &'static str, bytes: u64) -> Self {
        let is_seen = io::stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        if bytes == 0 || !is_seen {
            return Self::default();
        }
        let done = Arc::new(AtomicU64::new(0));
        let ((work, is_working), (is_drawing, thread)) = (mpsc::channel(), mpsc::channel());
        let drawing = Drawing { done: Arc::clone(&done), work: Some(work), thread };
        let draw = move || {
            draw(what, bytes, &done, &is_working);
            drop(is_drawing);
        };
        let started = thread::Builder::new().name("bar".into()).spawn(draw);
        Self { drawing: started.is_ok().then_some(drawing) }
    }

    /// So much more is done.
    pub fn add(&self, bytes: u64) {
        if let Some(drawing) = &self.drawing {
            drawing.done.fetch_add(bytes, Relaxed);
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        self.work = None;
        let _ = self.thread.recv_timeout(PATIENCE);
    }
}

/// The thread.
fn draw(what: &'static str, bytes: u64, done: &AtomicU64, work: &Receiver<Infallible>) {
    let goes_on = |time| work.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    if !goes_on(DELAY) {
        return;
    }
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is a constant").progress_chars("=> ");
    let target = ProgressDrawTarget::stderr_with_hz(HERTZ);
    let bar = ProgressBar::with_draw_target(Some(bytes), target).with_style(style).with_prefix(what);
    *drawn() = Some(bar.clone());
    loop {
        bar.set_position(done.load(Relaxed).min(bytes));
        if !goes_on(TICK) {
            break;
        }
    }
    *drawn() = None;
    bar.finish_and_clear();
}
