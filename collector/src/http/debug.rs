//! `debug=1`: what a beacon would be understood as, for whoever builds a page. Nothing is recorded.

use serde::{Serialize, Serializer};
use tallylight_proto::json::EventJson;
use tallylight_proto::{Event, Refusal, beacon};

use super::answer::Answer;
use super::{Facts, Shared};

/// The whole answer, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    /// Null if it would be refused.
    #[serde(serialize_with = "as_json")]
    event: Option<&'a Event<'a>>,
    /// What is probably not meant.
    warnings: Vec<String>,
    /// Null if it would be taken.
    refused: Option<Refused>,
}

#[derive(Serialize)]
struct Refused {
    reason: &'static str,
    detail: String,
}

/// Whether a query asks for it.
pub(super) fn is_wanted(query: &str) -> bool {
    beacon::parameter(query, "debug").is_some_and(|debug| debug == "1")
}

/// Answers `200`, also where the beacon itself would be refused.
pub(super) fn answer(shared: &Shared, facts: &Facts<'_>) -> Answer {
    let context = facts.context();
    let looked = shared.door.look(beacon::Query::of(facts.query), &context);
    let refused = match &looked {
        _ if facts.heard.is_speculative => Some(Refused {
            reason: Refusal::Speculative.label(),
            detail: "the browser only prepares a visit that may never come".into(),
        }),
        Ok(_) => None,
        Err(reject) => Some(Refused { reason: reject.reason().label(), detail: reject.to_string() }),
    };
    let event = looked.as_ref().ok();
    let warnings = event.map(|event| beacon::warnings(facts.query, &context, event)).unwrap_or_default();
    let report = Report { event, warnings: warnings.iter().map(ToString::to_string).collect(), refused };
    let mut text = serde_json::to_vec_pretty(&report).expect("texts and numbers are JSON");
    text.push(b'\n');
    Answer::content("application/json", text)
}

fn as_json<S: Serializer>(event: &Option<&Event<'_>>, serializer: S) -> Result<S::Ok, S::Error> {
    event.map(EventJson).serialize(serializer)
}
