//! `POST /api/beacon`: bodies of events, answered when they are where the sender wants them.
//!
//! The rule kept here: `204` stands for events that survive what the sender asked for (`ack=logged`, the
//! default: the death of the collector; `ack=synced`: a power cut). A body that never came whole has not reached
//! the door and is no event; one that came and cannot be read is one received and one refused.

use bytes::Bytes;
use http::StatusCode;
use hyper::body::Body as HttpBody;
use tallylight_proto::beacon::{self, Body, Entries};
use tallylight_proto::{Front, Refusal, Shed};
use tokio::time::Instant;

use super::answer::Answer;
use super::payload::{self, PayloadError};
use super::{Facts, Shared, text};
use crate::door::Posted;
use crate::log::{Ack, Level};

/// A body of more events is judged in pieces.
const AT_ONCE: u64 = 32;

/// Answers a POST.
pub(super) async fn answer<B: HttpBody<Data = Bytes> + Unpin>(
    shared: &Shared,
    facts: &Facts<'_>,
    body: &mut B,
    deadline: Instant,
) -> Answer {
    let level = match beacon::parameter(facts.query, "ack").as_deref() {
        None | Some("" | "logged") => Ok(Level::Logged),
        Some("synced") => Ok(Level::Synced),
        Some(_) => Err((Refusal::Malformed, "ack is neither logged nor synced")),
    };
    let level = match facts.heard.is_speculative {
        true => Err((Refusal::Speculative, "the browser only prepares a visit that may never come")),
        false => level,
    };
    let Some(encoding) = payload::encoding(&facts.heard.content_encoding) else {
        shared.door.refuse(facts.front, Refusal::Type);
        return Answer::refusal(Refusal::Type, "the content encoding is neither gzip nor identity");
    };
    let read = tokio::select! {
        biased;
        read = payload::read(body, shared.options.max_body, deadline) => read,
        () = shared.phase.is_closed() => {
            shared.door.shed(facts.front, Shed::Draining);
            return Answer::shed(Shed::Draining);
        }
    };
    let decoded = match read {
        Ok(bytes) => payload::decode(bytes, encoding, &shared.turnstile).await,
        Err(error) => Err(error),
    };
    let bytes = match decoded {
        Ok(bytes) => bytes,
        Err(error) => {
            if let PayloadError::TooLarge { limit, .. } = error {
                facts.charge(shared, payload::tokens(limit));
            }
            return match level {
                Err((reason, line)) if error.is_whole() => {
                    shared.door.refuse(facts.front, reason);
                    Answer::refusal(reason, line)
                }
                _ => unread(shared, facts.front, error),
            };
        }
    };
    let heard = facts.heard;
    let (content_type, ping_from, ping_to) = (text(heard.content_type), text(heard.ping_from), text(heard.ping_to));
    let entries = Entries::of(Body {
        content_type: &content_type,
        query: facts.query,
        ping_from: &ping_from,
        ping_to: &ping_to,
        bytes: &bytes,
    });
    // the first one is paid for
    facts.charge(shared, entries.len().max(payload::tokens(bytes.len() as u64)).saturating_sub(1));
    let level = match level {
        Ok(level) => level,
        Err((reason, line)) => {
            shared.door.refuse_body(&entries, facts.front, reason);
            return Answer::refusal(reason, line);
        }
    };
    match judge(shared, facts, entries, level).await {
        Posted::Refused(reject) => Answer::refusal(reject.reason(), reject),
        Posted::Shed(reason) => Answer::shed(reason),
        Posted::Sent { ack, refused, first } => {
            // waiting can take a while, and the body is no longer needed
            drop(bytes);
            match (wait(shared, ack, level).await, first) {
                (Err(reason), _) => Answer::shed(reason),
                (Ok(()), Some(first)) => Answer::no_content().with_some_refused(refused, first.reason()),
                (Ok(()), None) => Answer::no_content(),
            }
        }
    }
}

/// A body of many events is judged in pieces, and passes the turnstile between them.
async fn judge(shared: &Shared, facts: &Facts<'_>, entries: Entries<'_>, level: Level) -> Posted {
    let context = facts.context();
    if entries.len() <= AT_ONCE {
        return shared.door.body(entries, &context, level);
    }
    let mut opened = shared.door.open(entries);
    while shared.door.judge_piece(&mut opened, &context) {
        shared.turnstile.pass().await;
    }
    shared.door.close_body(opened, facts.front, level)
}

async fn wait(shared: &Shared, ack: Ack, level: Level) -> Result<(), Shed> {
    let started = std::time::Instant::now();
    // closed without a word: the log has failed, and the process is about to end
    let result = ack.await.unwrap_or(Err(Shed::Disk));
    let timing = match level {
        Level::Logged => &shared.stats.logged,
        Level::Synced => &shared.stats.synced,
    };
    timing.record(started.elapsed());
    result
}

fn unread(shared: &Shared, front: Front, error: PayloadError) -> Answer {
    let reason = match error {
        PayloadError::TooLarge { .. } => Refusal::TooLarge,
        PayloadError::NotGzip => Refusal::Malformed,
        PayloadError::Slow => return Answer::refused(StatusCode::REQUEST_TIMEOUT, "timeout", error),
        PayloadError::Broken => return Answer::refused(StatusCode::BAD_REQUEST, "malformed", error),
    };
    shared.door.refuse(front, reason);
    Answer::refusal(reason, error)
}
