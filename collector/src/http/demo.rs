//! `/demo/`: a small bookshop to try Tallylight with, compiled into the program, and a page for each way of sending.
//!
//! The rule kept here: each page says by its Content-Security-Policy what it may do, and that is no more than the pages
//! of a strict customer may.

use std::sync::LazyLock;

use base64ct::{Base64, Encoding};
use http::{HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use tallylight_proto::link::Link;

use super::answer::Answer;
use super::html::escaped;
use super::{Head, Shared, script};

/// What all pages may do.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'";
/// Asked for again each time, but not `no-store`, which would keep pages out of the back/forward cache.
static FRESH: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-cache")];
/// The page's links are relative to its folder.
static TO_SHOP: [(HeaderName, &str); 1] = [(header::LOCATION, "/demo/")];

/// The policy that allows the client where it stands in the page itself, and no other script.
static INLINE: LazyLock<String> =
    LazyLock::new(|| format!("'sha256-{}'", Base64::encode_string(&Sha256::digest(script::NEWEST))));

/// What is at a path, if it is one of the shop's.
pub(super) fn answer(shared: &Shared, head: &Head<'_>) -> Option<Answer> {
    let name = head.path.strip_prefix("/demo")?;
    let answer = match name {
        "" => return Some(Answer::status(StatusCode::PERMANENT_REDIRECT).with(&TO_SHOP)),
        "/" | "/index.html" => page(include_str!("../demo/index.html").to_owned(), "'self'"),
        "/shop.css" => Answer::content("text/css; charset=utf-8", include_str!("../demo/shop.css")),
        "/shop.js" => Answer::content("text/javascript; charset=utf-8", include_str!("../demo/shop.js")),
        "/inline.html" => {
            let main = include_str!("../demo/inline.html").replace("{origin}", &escaped(&origin(head)));
            page(framed("The script in the page", &main.replace("{client}", script::NEWEST)), &INLINE)
        }
        "/mail.html" => {
            let main = include_str!("../demo/mail.html").replace("{link}", &signed_link(shared, head));
            page(framed("A link in an e-mail", &main), "'none'")
        }
        "/noscript.html" => page(framed("A pixel without script", include_str!("../demo/noscript.html")), "'none'"),
        "/ping.html" => page(framed("A link with ping", include_str!("../demo/ping.html")), "'none'"),
        // what these two do is done in attributes
        "/image-on-click.html" => {
            let main = include_str!("../demo/image-on-click.html");
            page(framed("An image asked for on click", main), "'unsafe-inline'")
        }
        "/image-first.html" => {
            page(framed("An image waited for", include_str!("../demo/image-first.html")), "'unsafe-inline'")
        }
        _ => return None,
    };
    Some(answer.with(&FRESH))
}

/// What is special about a page, in what all small pages have.
fn framed(title: &str, main: &str) -> String {
    include_str!("../demo/frame.html").replace("{title}", title).replace("{main}", main)
}

/// A page, which may run no other scripts than these.
fn page(html: String, script_src: &str) -> Answer {
    let policy = format!("{POLICY}; script-src {script_src}");
    let policy = HeaderValue::try_from(policy).expect("words and base64 are a header");
    Answer::content("text/html; charset=utf-8", html).with_own(header::CONTENT_SECURITY_POLICY, policy)
}

/// Where the visitor found this collector, as far as it knows.
fn origin(head: &Head<'_>) -> String {
    format!("http://{}", head.headers.host().unwrap_or("localhost"))
}

/// A link as it would stand in a letter, or why there is none.
fn signed_link(shared: &Shared, head: &Head<'_>) -> String {
    shared.redirect_keys.refresh();
    let keys = shared.redirect_keys.get();
    let link = Link {
        site: Some("bookshop".into()),
        target: Some(format!("{}/demo/?book=salt-and-barley", origin(head)).into()),
        item: Some("salt-and-barley".into()),
        placement: Some("letter".into()),
        ..Link::default()
    };
    match keys.signing().and_then(|key| link.to_query(key).ok()) {
        Some(query) => format!("<a class=\"back\" href=\"/r?{}\">Salt and Barley</a>", escaped(&query)),
        None => "(a link, if the collector had a key to sign it with: <code>--redirect-key</code>)".to_owned(),
    }
}
