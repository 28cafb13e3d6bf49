//! The report for people: a line a sum, numbers below each other.

use std::io::{self, Write};

use super::balance::{Line, Report, Section, Sum, Term};

const LABEL: usize = 22;

/// Prints a report.
pub fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for section in report.sections.iter().filter(|section| !section.lines.is_empty()) {
        print_section(section, out)?;
    }
    let wrong = report.sections.iter().flat_map(|section| &section.lines).filter(|line| !line.adds_up()).count();
    match wrong {
        0 => writeln!(out, "Node {}: everything adds up", report.node),
        1 => writeln!(out, "Node {}: 1 line DOES NOT ADD UP", report.node),
        _ => writeln!(out, "Node {}: {wrong} lines DO NOT ADD UP", report.node),
    }
}

fn print_section(section: &Section, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", section.title)?;
    let widths = widths(&section.lines);
    for line in section.lines.iter().filter(|line| !line.is_hidden || !line.adds_up()) {
        let mut text = format!("  {:LABEL$}", line.label);
        for (at, sum) in line.sums.iter().enumerate() {
            text.push_str(if at == 0 { " " } else { "; " });
            text.push_str(&sum_text(sum, &widths));
        }
        if !line.note.is_empty() {
            text.push_str(if line.sums.is_empty() { " " } else { "  " });
            text.push_str(&line.note);
        }
        let verdict = match (line.adds_up(), line.is_fact) {
            (false, _) => "  DOES NOT ADD UP",
            (true, true) => "",
            (true, false) => "  ok",
        };
        writeln!(out, "{text}{verdict}")?;
    }
    writeln!(out)
}

/// How many digits the terms of a section's sums have, by their names: same names stand below each other.
fn widths(lines: &[Line]) -> Vec<(&'static str, usize)> {
    let mut widths: Vec<(&'static str, usize)> = Vec::new();
    for sum in lines.iter().filter(|line| !line.is_hidden).flat_map(|line| &line.sums) {
        for term in [&sum.whole].into_iter().chain(&sum.parts) {
            let digits = term.value.to_string().len();
            match widths.iter_mut().find(|(name, _)| *name == term.name) {
                Some((_, width)) => *width = digits.max(*width),
                None => widths.push((term.name, digits)),
            }
        }
    }
    widths
}

fn sum_text(sum: &Sum, widths: &[(&'static str, usize)]) -> String {
    let term = |term: &Term| {
        let width = widths.iter().find(|(name, _)| *name == term.name).map_or(0, |(_, width)| *width);
        format!("{:>width$} {}", term.value, term.name.replace('_', " "))
    };
    let mut text = term(&sum.whole);
    for (at, part) in sum.parts.iter().enumerate() {
        text.push_str(match (at, part.is_minus) {
            (0, _) => " = ",
            (_, true) => " - ",
            (_, false) => " + ",
        });
        text.push_str(&term(part));
    }
    if sum.difference != 0 {
        let which = if sum.difference > 0 { "over" } else { "short" };
        text.push_str(&format!(" ({} {which})", sum.difference.unsigned_abs()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::balance::{minus, plus};
    use super::*;

    #[test]
    fn same_terms_stand_below_each_other_and_what_is_out_is_named() {
        let lines = vec![
            Line::of("http1", Sum::exact(plus("read", 1000), [plus("counted", 990), minus("bots", 0)])).noted("why"),
            Line::of("udp", Sum::exact(plus("read", 7), [plus("counted", 7), minus("bots", 0)])),
            Line::fact("log", "5 torn"),
            Line::wrong("position 7", "a row without a record"),
        ];
        let sections = vec![Section { name: "commit", title: "The commit".into(), lines }];
        let mut out = Vec::new();
        print(&Report { node: "n".into(), sections }, &mut out).unwrap();
        let expected = "The commit\n  \
                        http1                  1000 read = 990 counted - 0 bots (10 over)  why  DOES NOT ADD UP\n  \
                        udp                       7 read =   7 counted - 0 bots  ok\n  \
                        log                    5 torn\n  \
                        position 7             a row without a record  DOES NOT ADD UP\n\n\
                        Node n: 2 lines DO NOT ADD UP\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
