//! What is published for other languages: it is what this crate does.

// all of this is tests, which clippy only knows of functions that are marked so
#![allow(clippy::unwrap_used)]

mod datagrams;
mod links;
