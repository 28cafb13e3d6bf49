//! How much is sent: it changes every few seconds, from nothing to all that comes out.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Chance, Over};

/// How finely waiting is measured.
const STEP: Duration = Duration::from_millis(5);

/// Events a second, over all senders.
#[derive(Default)]
pub struct Tempo(AtomicU64);

/// One stretch of it.
#[derive(Clone, Copy, Debug)]
enum Movement {
    Silence,
    Trickle,
    Steady,
    Ramp,
    Burst,
}

impl Tempo {
    /// One that stays.
    pub fn of(rate: u64) -> Self {
        Self(AtomicU64::new(rate))
    }

    /// Changes it until it is over. `steady` is what it mostly is.
    pub fn conduct(&self, over: &Over, steady: u64, seed: u64) {
        use Movement::{Burst, Ramp, Silence, Steady, Trickle};
        let mut chance = Chance(seed);
        while !over.is_over() {
            let movement = chance.one_of(&[Steady, Steady, Steady, Ramp, Burst, Trickle, Silence]);
            let millis = match movement {
                Steady | Ramp => 4000 + chance.below(6000),
                Burst | Silence => 1000 + chance.below(2000),
                Trickle => 2000 + chance.below(3000),
            };
            self.play(movement, Duration::from_millis(millis), over, steady);
        }
    }

    fn play(&self, movement: Movement, time: Duration, over: &Over, steady: u64) {
        let begun = Instant::now();
        while begun.elapsed() < time && !over.is_over() {
            let part = u64::try_from(begun.elapsed().as_millis() * 100 / time.as_millis()).unwrap();
            let rate = match movement {
                Movement::Silence => 0,
                Movement::Trickle => 50,
                Movement::Steady => steady,
                Movement::Ramp => steady * 2 * part / 100,
                Movement::Burst => steady * 8,
            };
            self.0.store(rate, Relaxed);
            thread::sleep(STEP * 10);
        }
    }
}

/// How one sender keeps to it.
pub struct Pacer<'a> {
    tempo: &'a Tempo,
    /// Of a hundred events, those that are this sender's.
    share: f64,
    /// Events that were sent before their time.
    ahead: f64,
    at: Instant,
}

impl<'a> Pacer<'a> {
    /// For the sender of so many in a hundred events.
    pub fn new(tempo: &'a Tempo, percent: u32) -> Self {
        Self { tempo, share: f64::from(percent) / 100.0, ahead: 0.0, at: Instant::now() }
    }

    /// Waits until the next may be sent after so many were.
    pub fn sent(&mut self, events: usize, over: &Over) {
        #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
        let events = events as f64;
        // what was not sent while there was no answer is not made up for
        self.ahead = self.ahead.max(0.0) + events;
        loop {
            let now = Instant::now();
            #[expect(clippy::cast_precision_loss, reason = "some thousands")]
            let rate = self.tempo.0.load(Relaxed) as f64;
            self.ahead -= rate * self.share * (now - self.at).as_secs_f64();
            self.at = now;
            if self.ahead <= 0.0 || over.is_over() {
                return;
            }
            thread::sleep(STEP);
        }
    }
}
