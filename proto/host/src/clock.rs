//! What time it is.
//!
//! The rule: the wall clock may jump, in both directions, and no count depends on it; how much time has passed is
//! asked of [`instant`] alone.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock: ms since 1970, UTC.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> i64 {
    ask_the_world!(world => world.now());
    let since = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(|before| -since(before.duration()), since)
}

/// The monotonic clock (`CLOCK_MONOTONIC`, clock_gettime(2)).
pub fn instant() -> Instant {
    ask_the_world!(world => world.instant());
    Instant::now()
}

/// How long ago that was.
pub fn since(earlier: Instant) -> Duration {
    instant().saturating_duration_since(earlier)
}
