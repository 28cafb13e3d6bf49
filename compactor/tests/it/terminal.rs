//! What people at a terminal see that programs do not: how far long work is, and colours.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tallylight_proto::segment::HEADER_LEN;
use tempfile::TempDir;

use crate::harness::{collector_binary, compactor_binary, wait_for};
use crate::out;
use crate::testlog::{self, HOUR, TestLog, event};

const EVENTS: u64 = 60_000;
/// A disk that takes 30 ms for each piece of the log, of which these events fill some: long work.
const SLOW_DISK: &str = "strace -f -qq -o /dev/null --seccomp-bpf -e trace=pread64 -e inject=pread64:delay_exit=30000 ";
/// How an escape sequence begins.
const ESCAPE: char = '\x1b';

/// A log in which an event is damaged, far enough behind the first that a bar is there by then, and the size of its records as a bar has it.
fn damaged_log(events: u64) -> (TempDir, String) {
    let folder = testlog::folder();
    let mut log = TestLog::new(folder.path(), 32 << 20);
    for n in 0..events {
        log.event(&event(n, 0));
    }
    log.closing(testlog::START + HOUR);
    log.seal();
    log.patch(log.places[log.places.len() * 3 / 4].0 + 40, b"rotten");
    #[expect(clippy::cast_precision_loss, reason = "to be shown")]
    let mebibytes = (log.position() - HEADER_LEN as u64) as f64 / f64::from(1 << 20);
    (folder, format!(" of {mebibytes:.2} MiB, "))
}

fn of<'a>(arguments: &[&'a str], data: &'a Path) -> Vec<&'a str> {
    [arguments, &["--data", data.to_str().unwrap()]].concat()
}

fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TALLYLIGHT_")) {
        command.env_remove(name);
    }
    command.args(arguments).env_remove("NO_COLOR").env("TERM", "xterm");
    command
}

/// Runs it with a terminal for its stderr, and its stdout in a file of the data folder.
fn terminal(before: &str, arguments: &[&str], data: &Path) -> Command {
    let quoted = |word: &OsStr| format!("'{}'", word.to_str().unwrap());
    let program = command(&compactor_binary(), &of(arguments, data));
    let words: Vec<String> = [program.get_program()].into_iter().chain(program.get_args()).map(quoted).collect();
    let line = format!("{before}{} > '{}'", words.join(" "), data.join("stdout").display());
    let mut script = command(Path::new("script"), &["--quiet", "--command", &line, "/dev/null"]);
    script.stdout(Stdio::piped());
    script
}

/// What the terminal gets, and what the file has in the end.
fn on_a_terminal(
    before: &str,
    arguments: &[&str],
    data: &Path,
    variables: &[(&str, &str)],
    until: impl FnOnce(),
) -> (String, Vec<u8>) {
    // what is typed: nothing, but without an end
    let (nothing, _typist) = std::io::pipe().unwrap();
    let mut script = terminal(before, arguments, data);
    let script = script.envs(variables.iter().copied()).stdin(nothing).spawn();
    until();
    let output = script.expect("script of Debian's bsdutils runs").wait_with_output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), fs::read(data.join("stdout")).unwrap())
}

fn piped(program: PathBuf, arguments: &[&str], data: &Path) -> Output {
    command(&program, &of(arguments, data)).output().unwrap()
}

#[test]
fn long_work_shows_on_a_terminal_how_far_it_is_and_nowhere_else() {
    let (folder, total) = damaged_log(EVENTS);
    let data = folder.path();
    for (arguments, what) in [
        (&["inspect"][..], "inspecting ["),
        (&["verify"], "verifying ["),
        (&["--once"], "compacting ["),
        (&["audit", "--json"], "auditing ["),
    ] {
        let (terminal, stdout) = on_a_terminal(SLOW_DISK, arguments, data, &[], || {});
        assert!(terminal.contains(what) && terminal.contains(&total), "{what} {total}: {terminal:?}");
        // it is taken away in the end: behind the last return there is nothing of it
        let end = terminal.rsplit(['\r', '\n', ESCAPE]).find(|rest| !rest.is_empty()).unwrap_or_default();
        assert!(!end.contains(what), "{terminal:?}");
        // lines begin where a bar was taken away
        for line in terminal.lines().filter(|line| line.contains("damaged")) {
            let (before, _) = line.split_once(" ERROR ").or_else(|| line.split_once("damaged")).unwrap();
            assert!(!before.rsplit('\r').next().unwrap().contains(what), "{line:?}");
        }
        if arguments != ["--once"] {
            let piped = piped(compactor_binary(), arguments, data);
            assert_eq!(piped.stdout, stdout, "{arguments:?}: the same for programs");
            let stderr = String::from_utf8(piped.stderr).unwrap();
            assert!(!stderr.contains(ESCAPE) && !stderr.contains(what), "{stderr:?}");
        }
    }
}

#[test]
fn a_follower_shows_how_far_it_is_with_what_it_finds_at_its_start() {
    let (folder, total) = damaged_log(EVENTS);
    let data = folder.path();
    let told = data.join("pid");
    let before = format!("{SLOW_DISK}sh -c 'echo $$ > {}; exec \"$@\"' sh ", told.display());
    let (terminal, _) = on_a_terminal(&before, &["--follow", "--admin", "off", "--every", "50ms"], data, &[], || {
        wait_for("an hour", || (!out::files(&data.join("out"), "hourly").is_empty()).then_some(()));
        let pid: i32 = fs::read_to_string(told).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    });
    assert!(terminal.contains("compacting [") && terminal.contains(&total), "{terminal:?}");
}

#[test]
fn there_are_colours_on_terminals_only_and_none_where_they_are_not_wanted() {
    let is_coloured = |text: &str| {
        let mut sequences = text.split("\x1b[").skip(1);
        sequences.any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'))
    };
    let (folder, _) = damaged_log(1);
    let data = folder.path();
    let once = |variables: &[(&str, &str)]| {
        let _ = fs::remove_dir_all(data.join("compactor"));
        let _ = fs::remove_dir_all(data.join("out"));
        let (terminal, _) = on_a_terminal("", &["--once"], data, variables, || {});
        assert!(terminal.contains("the log is damaged"), "{terminal}");
        terminal
    };
    assert!(is_coloured(&once(&[])));
    assert!(!is_coloured(&once(&[("NO_COLOR", "1")])));
    assert!(is_coloured(&once(&[("NO_COLOR", "")])), "as https://no-color.org has it");
    let mistaken = ["--no-such-flag"];
    assert!(is_coloured(&on_a_terminal("", &mistaken, data, &[], || {}).0));
    assert!(!is_coloured(&on_a_terminal("", &mistaken, data, &[("NO_COLOR", "1")], || {}).0));

    for program in [compactor_binary(), collector_binary()] {
        for arguments in [&["--help"][..], &mistaken, &["--once"], &["verify"], &["inspect"], &["check"], &["audit"]] {
            let Output { stdout, stderr, .. } = piped(program.clone(), arguments, data);
            let said = String::from_utf8([stdout, stderr].concat()).unwrap();
            assert!(!said.contains(ESCAPE), "{program:?} {arguments:?}: {said:?}");
        }
    }
}
