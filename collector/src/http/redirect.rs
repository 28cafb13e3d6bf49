//! `GET /r`: a signed link leads on to its target, and is counted.
//!
//! The rule kept here: nobody is redirected to where no key of ours has signed for, and whoever follows a link that one
//! has is redirected, whatever becomes of the event. Where there is no redirect there is a page to read: whoever
//! clicked stands before it, and is no programmer.

use std::fmt::Write;

use http::{HeaderName, HeaderValue, StatusCode, header};
use tallylight_proto::link::{self, Claim};
use tallylight_proto::{Refusal, Shed};

use super::answer::Answer;
use super::html::escaped;
use super::{Facts, Shared};
use crate::door::Outcome;

/// The page has text and a link, so nothing else is allowed on it, whatever gets into it; and nobody learns whence
/// somebody went on.
static PAGE_HEADERS: [(HeaderName, &str); 2] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// Answers a GET, or with `is_head` what a GET would be answered, without an event. `over_rate` is why nothing of its
/// sender is taken now, if so.
pub(super) fn answer(shared: &Shared, facts: &Facts<'_>, is_head: bool, over_rate: Option<Shed>) -> Answer {
    let refuse = |reason| {
        if !is_head {
            shared.door.refuse(facts.front, reason);
        }
    };
    if facts.heard.is_speculative {
        refuse(Refusal::Speculative);
        let line = "a visit that may never come is not redirected, the visit itself is";
        return Answer::refused(StatusCode::SERVICE_UNAVAILABLE, Refusal::Speculative.label(), line);
    }
    let claim = Claim::of_query(facts.query);
    shared.redirect_keys.refresh();
    let keys = shared.redirect_keys.get();
    let Some(link) = claim.verify(&keys) else {
        refuse(Refusal::Signature);
        return page(StatusCode::FORBIDDEN, Refusal::Signature, &claim);
    };
    let Some(location) = link.location().and_then(|location| HeaderValue::try_from(location).ok()) else {
        refuse(Refusal::Malformed);
        return page(StatusCode::BAD_REQUEST, Refusal::Malformed, &claim);
    };
    let context = facts.context();
    let not_taken = if is_head {
        let refused = shared.door.look_at_link(link, &context).err().map(|reject| reject.reason().label());
        refused.or_else(|| shared.door.would_shed().or(over_rate).map(Shed::label))
    } else {
        match shared.door.link(link, &context, over_rate) {
            Outcome::Taken => None,
            Outcome::Refused(reject) => Some(reject.reason().label()),
            Outcome::Shed(reason) => Some(reason.label()),
        }
    };
    let found = Answer::found(location);
    // without Retry-After: on a redirect that would make the visitor wait (RFC 9110, 10.2.3)
    match not_taken {
        None => found,
        Some(word) => found.with_refused(word),
    }
}

/// A page in place of the redirect, that shows where the link says it leads.
fn page(status: StatusCode, reason: Refusal, claim: &Claim<'_>) -> Answer {
    let target = claim.target().unwrap_or_default();
    let (title, text) = match (reason, target) {
        (_, "") => ("This link leads nowhere", "The address that it should lead to is missing."),
        (Refusal::Signature, _) => (
            "This link could not be checked",
            "It may have been changed on its way to you. This is the address that it names; go on only if you trust it:",
        ),
        _ => ("This link does not lead to a web page", "This is what it names instead:"),
    };
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{text}</p>\n"
    );
    // writing to a String does not fail
    let _ = match link::location(target) {
        Some(location) => {
            writeln!(html, "<p><a href=\"{}\" rel=\"noreferrer\">{}</a></p>", escaped(&location), escaped(target))
        }
        None if target.is_empty() => Ok(()),
        None => writeln!(html, "<p>{}</p>", escaped(target)),
    };
    html.push_str("</body>\n</html>\n");
    Answer::refused_with_page(status, reason.label(), html).with(&PAGE_HEADERS)
}
