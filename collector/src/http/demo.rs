//! `/demo/`: a small bookshop to try Tallylight with, compiled into the program.

use http::{HeaderName, StatusCode, header};

use super::answer::Answer;

const SHOP: &str = include_str!("../demo/index.html");
/// The page's links are relative to its folder.
static TO_SHOP: [(HeaderName, &str); 1] = [(header::LOCATION, "/demo/")];

/// The page at a path, if there is one.
pub(super) fn page(path: &str) -> Option<Answer> {
    match path {
        "/demo/" | "/demo/index.html" => Some(Answer::content("text/html; charset=utf-8", SHOP)),
        "/demo" => Some(Answer::status(StatusCode::PERMANENT_REDIRECT).with(&TO_SHOP)),
        _ => None,
    }
}
