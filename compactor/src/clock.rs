//! The only place where the compactor asks what time it is.
//!
//! Counts never depend on it: the clock says how old a segment is, how far the outputs lag behind, and keeps
//! `complete_through` from running ahead.

use std::time::{SystemTime, UNIX_EPOCH};

use tallylight_proto::time::Millis;

/// Now, in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
