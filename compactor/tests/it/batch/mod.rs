//! The ready queries of `deploy/batch`, in all engines, over what real programs on two nodes have written.

mod expected;
mod opened;
mod schema;
mod traffic;

use std::path::Path;

use serde_json::{Value, json};
use tallylight_proto::layout;

use crate::harness::Environment;
use crate::{out, python};
use expected::{Days, answers};
use opened::Opened;
use traffic::{DAYS, MARKED, Sent};

const ENGINES: [&str; 5] = ["duckdb", "clickhouse", "polars", "pandas", "spark"];
/// Up to so many visitors are told apart exactly.
const EXACT: u64 = 384;
/// Two standard errors.
const ERROR: f64 = 0.033;

#[test]
fn every_engine_answers_what_follows_from_the_events_that_were_sent() {
    let folder = tempfile::tempdir().unwrap();
    let sent = traffic::traffic();
    let out = traffic::compacted(&sent, folder.path());
    for engine in ENGINES {
        let marks = folder.path().join(engine);
        let opened = Opened::watch(&out, layout::HOURLY, &marks);
        let report = ask(engine, &out, &marks);
        assert_answers(engine, &report["all"], &sent, Days(DAYS[0], DAYS[2]));
        assert_answers(engine, &report["day"], &sent, Days(DAYS[1], DAYS[1]));
        assert_eq!(report["types"], schema::types_in(engine), "{engine}");
        let marked = sent.iter().find(|sent| sent.event.item == MARKED).unwrap();
        let id = marked.event.id.simple().to_string();
        assert!(is_near(&report["marked"], &json!([id, 90_000, -12.5, 2, false, "grün"])), "{engine}: {report}");
        assert_pruned(engine, &report["files"], opened, &out);
    }
}

/// What a reader says, on a machine whose own time is not UTC. It leaves nothing beside the queries.
fn ask(engine: &str, out: &Path, marks: &Path) -> Value {
    let environment: Environment = vec![("TZ", "Europe/Berlin".into()), ("PYTHONDONTWRITEBYTECODE", "1".into())];
    let [first, day, last] = DAYS;
    let [out, marks] = [out, marks].map(|path| path.to_str().unwrap());
    python::read_under(&environment, "batch.py", &[engine, out, first, last, day, marks])
}

fn assert_answers(engine: &str, theirs: &Value, sent: &[Sent], days: Days<'_>) {
    for (query, ours) in answers(sent, days) {
        let theirs = &theirs[query];
        assert_eq!(theirs["columns"], ours["columns"], "{engine}: {query}");
        let [rows, expected] = [theirs, &ours].map(|table| table["rows"].as_array().unwrap());
        assert!(!expected.is_empty());
        let is_same = |(row, expected): (&Value, &Value)| match query {
            "visitors" => [0, 1].iter().all(|n| row[n] == expected[n]) && is_estimate(&row[2], &expected[2]),
            _ => is_near(row, expected),
        };
        if let Some(place) = rows.iter().zip(expected).position(|pair| !is_same(pair)) {
            panic!("{engine}: {query}: {} where {} is right", rows[place], expected[place]);
        }
        assert_eq!(rows.len(), expected.len(), "{engine}: {query}");
    }
}

/// The same, but for the last digits of numbers that are not whole.
fn is_near(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::Array(theirs), Value::Array(ours)) => {
            theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(theirs, ours)| is_near(theirs, ours))
        }
        (Value::Number(theirs), Value::Number(ours)) => {
            (theirs.as_f64().unwrap() - ours.as_f64().unwrap()).abs() < 1e-9
        }
        _ => theirs == ours,
    }
}

fn is_estimate(theirs: &Value, exact: &Value) -> bool {
    let [theirs, exact] = [theirs, exact].map(|number| number.as_u64().unwrap());
    #[expect(clippy::cast_precision_loss, reason = "some thousands of visitors")]
    let allowed = if exact <= EXACT { 0.0 } else { exact as f64 * ERROR };
    #[expect(clippy::cast_precision_loss, reason = "some thousands of visitors")]
    let error = theirs.abs_diff(exact) as f64;
    error <= allowed
}

/// The engine says that it has read the files of the day and no others, and the kernel that it has opened no others, but
/// perhaps one to see which columns there are.
fn assert_pruned(engine: &str, said: &Value, opened: Opened, out: &Path) {
    let of_day = format!("date={}", DAYS[1]);
    let all = out::files(out, layout::HOURLY);
    let (asked_for, others): (Vec<_>, Vec<_>) = all.iter().partition(|file| file.starts_with(&of_day));
    assert!(asked_for.len() > 10 && others.len() > 10);
    assert_eq!(*said, asked_for.len(), "{engine}");
    let opened = opened.files();
    assert!(asked_for.iter().all(|file| opened.contains(*file)), "{engine}: {opened:?}");
    assert!(opened.len() <= asked_for.len() + 1, "{engine}: {opened:?}");
}
