//! The one place where the time of day enters. Waiting and measuring use [`std::time::Instant`] instead.

use std::time::{SystemTime, UNIX_EPOCH};

use tallylight_proto::time::Millis;

/// The wall clock: ms since 1970, UTC. It may jump, in both directions.
#[expect(clippy::disallowed_methods, reason = "this is the one module")]
pub fn now() -> Millis {
    let since = |duration: std::time::Duration| Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX);
    SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(|before| -since(before.duration()), since)
}
