//! `GET /api/beacon`: the pixel, answered before its event is written.
//!
//! Whatever becomes of the event, the answer is the GIF: a page must never show a broken image.

use super::answer::Answer;
use super::{Facts, Shared, debug};
use crate::door::Outcome;
use tallylight_proto::{Refusal, beacon};

/// Answers a GET, or with `is_head` what a GET would be answered, without an event.
pub(super) fn answer(shared: &Shared, facts: &Facts<'_>, is_head: bool) -> Answer {
    let query = beacon::Query::of(facts.query);
    if query.wants_debug() {
        shared.stats.debug.add(u64::from(!is_head));
        return debug::answer(shared, facts);
    }
    if facts.heard.is_speculative {
        if !is_head {
            shared.door.refuse(facts.front, Refusal::Speculative);
        }
        return Answer::pixel().with_refused(Refusal::Speculative.label());
    }
    let context = facts.context();
    if is_head {
        let refusal = |reject: beacon::Reject| Answer::refusal(reject.reason(), reject).with_pixel();
        let shed = shared.door.would_shed();
        let taken = |_| shed.map_or_else(Answer::pixel, |reason| Answer::shed(reason).with_pixel());
        return shared.door.look(query, &context).map_or_else(refusal, taken);
    }
    match shared.door.pixel(query, &context) {
        Outcome::Taken => Answer::pixel(),
        Outcome::Refused(reject) => Answer::refusal(reject.reason(), reject).with_pixel(),
        Outcome::Shed(reason) => Answer::shed(reason).with_pixel(),
    }
}
