//! Everything that sends datagrams for us, against a real collector: the senders of `deploy/senders`, the crate, and
//! `tallylight-collector send`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tallylight_proto::keys::Key;
use tallylight_sender::Sender;
use tempfile::TempDir;

use crate::harness::datagrams;
use crate::harness::{SourceReport, collector_binary, test_env, wait_for, workspace};
use crate::udp::{Fixture, key_file};

/// Ways to send lines from stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Python,
    Node,
    PhpWithFile,
    PhpWithApcu,
    Send,
}

impl Way {
    const ALL: [Self; 5] = [Self::Python, Self::Node, Self::PhpWithFile, Self::PhpWithApcu, Self::Send];

    /// The program, and whether it is Python, PHP or Node, without what it runs. What it keeps, it keeps in `folder`.
    fn interpreter(self, folder: &TempDir) -> Command {
        let mut command = match self {
            Self::Python => Command::new(test_env("venv/bin/python")),
            Self::Node => Command::new("node"),
            Self::PhpWithFile | Self::PhpWithApcu => Command::new("php"),
            Self::Send => Command::new(collector_binary()),
        };
        if self == Self::PhpWithApcu {
            command.args(["-d", "apc.enable_cli=1"]);
        }
        command.env("TMPDIR", folder.path()).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(senders());
        command
    }

    fn file(self) -> &'static str {
        match self {
            Self::Python => "tallylight.py",
            Self::Node => "tallylight.js",
            Self::PhpWithFile | Self::PhpWithApcu => "tallylight.php",
            Self::Send => "",
        }
    }

    /// The whole command.
    fn command(self, to: &str, key: Option<&PathBuf>, folder: &TempDir) -> Command {
        let mut command = self.interpreter(folder);
        if self == Self::Send {
            command.args(["send", "--to", to]);
            key.into_iter().for_each(|key| _ = command.arg("--key").arg(key));
        } else {
            command.arg(self.file()).arg(to).args(key);
        }
        command
    }
}

fn senders() -> PathBuf {
    workspace().join("deploy/senders")
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("{error}: `make test-env` installs it: {command:?}"))
}

/// Runs a command with these lines as its stdin.
fn feed(command: Command, lines: &str) -> Output {
    let mut child = spawn(command);
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn assert_quiet(output: &Output) {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Waits until so many events are in the log, and gives them.
fn logged(fixture: &Fixture, count: u64) -> Vec<Value> {
    wait_for(&format!("{count} events, there are {:?}", fixture.datagrams()), || {
        (fixture.collector.metrics().count("tallylight_events_logged_total") >= count).then_some(())
    });
    assert_eq!((fixture.events().logged, fixture.events().received), (count, count));
    fixture.inspect()
}

/// The one source that there is. Nothing of it is missing.
fn only_source(fixture: &Fixture) -> SourceReport {
    let sources = fixture.settle();
    let [source] = &sources.sources[..] else { panic!("{sources:#?}") };
    assert_eq!((source.first, source.lost, source.duplicate, source.stale), (1, 0, 0, 0), "{source:?}");
    assert_eq!(source.next - 1, source.received);
    source.clone()
}

fn numbers(events: &[Value]) -> BTreeSet<&str> {
    events.iter().map(|event| event["props"]["n"].as_str().unwrap()).collect()
}

#[test]
fn senders_frame_as_the_published_vectors_say() {
    let vectors = workspace().join("proto/vectors/datagrams.json");
    let parsed: Value = serde_json::from_str(&fs::read_to_string(&vectors).unwrap()).unwrap();
    let expected: Vec<&str> =
        parsed["framed"].as_array().unwrap().iter().map(|vector| vector["hex"].as_str().unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    for (way, driver) in [(Way::Python, "frames.py"), (Way::PhpWithFile, "frames.php"), (Way::Node, "frames.js")] {
        let driver = workspace().join("collector/tests/senders").join(driver);
        let mut command = way.interpreter(&folder);
        command.arg(driver).arg(senders()).arg(&vectors);
        let output = feed(command, "");
        assert_quiet(&output);
        assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), expected, "{way:?}");
    }
}

fn assert_lines_arrive(way: Way, key: Option<&(String, Key)>) {
    const COUNT: u64 = 2000;
    let folder = tempfile::tempdir().unwrap();
    let file = key.map(|(line, _)| key_file(&folder, &format!("# ours\n{line}{}", datagrams::key(9, 9).0)));
    let fixture = match key {
        Some((line, _)) => Fixture::with_keys(line, &[]),
        None => Fixture::start(&[]),
    };
    let json = (1..=COUNT / 2).map(|n| format!("{{\"site\":\"books\",\"event\":\"view\",\"n\":\"{n}\"}}\n"));
    let query = (COUNT / 2 + 1..=COUNT).map(|n| format!("site=books&event=click&n={n}\n\n"));
    let lines: String = json.chain(query).collect();
    let output = feed(way.command(&fixture.collector.udp.to_string(), file.as_ref(), &folder), &lines);
    assert!(output.status.success(), "{way:?}: {output:?}");

    let events = logged(&fixture, COUNT);
    assert_eq!(numbers(&events).len() as u64, COUNT, "{way:?}");
    assert!(events.iter().all(|event| event["site"] == "books" && event["front"] == "udp"));
    let source = only_source(&fixture);
    assert_eq!((source.key, source.events), (key.map(|(_, key)| key.id()), COUNT), "{way:?}");
    assert!(source.received < COUNT / 10, "{way:?}: lines share datagrams: {source:?}");
    let ids: BTreeSet<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len() as u64, COUNT);
    fixture.end();
}

#[test]
fn every_line_of_every_sender_is_logged_once() {
    Way::ALL.into_iter().for_each(|way| assert_lines_arrive(way, None));
}

#[test]
fn every_line_of_every_sender_with_a_key_is_logged_once() {
    Way::ALL.into_iter().for_each(|way| assert_lines_arrive(way, Some(&datagrams::key(7, 1))));
}

#[test]
fn a_line_that_fits_into_no_datagram_is_named_and_all_others_arrive() {
    for way in Way::ALL {
        let fixture = Fixture::start(&[]);
        let folder = tempfile::tempdir().unwrap();
        let lines = format!("n=1\n\nn={}\nn=2", "x".repeat(70_000));
        let output = feed(way.command(&fixture.collector.udp.to_string(), None, &folder), &lines);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{way:?}: {stderr}");
        assert_eq!(stderr.lines().next(), Some("line 3 does not fit into a datagram: skipped"), "{way:?}");
        assert_eq!(numbers(&logged(&fixture, 2)), ["1", "2"].into());
        only_source(&fixture);
        fixture.end();
    }
}

/// The block of code of the README in this language, at this collector.
fn example(language: &str, fixture: &Fixture) -> String {
    let readme = fs::read_to_string(senders().join("README.md")).unwrap();
    let (_, behind) = readme.split_once(&format!("```{language}\n")).unwrap();
    let code = behind.split("```").next().unwrap();
    assert_eq!(code.lines().count(), 3, "{code}");
    assert!(code.contains("127.0.0.1:5001"));
    code.replace("127.0.0.1:5001", &fixture.collector.udp.to_string())
}

#[test]
fn the_three_lines_of_the_readme_send_an_event_from_every_language() {
    for (way, language, url, flag) in [
        (Way::Python, "python", "url = 'https://x.example/a?b=c&d=e f'\n", "-c"),
        (Way::PhpWithFile, "php", "$url = 'https://x.example/a?b=c&d=e f';\n", "-r"),
        (Way::PhpWithApcu, "php", "$url = 'https://x.example/a?b=c&d=e f';\n", "-r"),
        (Way::Node, "js", "const url = 'https://x.example/a?b=c&d=e f';\n", "-e"),
    ] {
        let fixture = Fixture::start(&[]);
        let folder = tempfile::tempdir().unwrap();
        let mut command = way.interpreter(&folder);
        command.arg(flag).arg(url.to_owned() + &example(language, &fixture));
        assert_quiet(&feed(command, ""));
        let events = logged(&fixture, 1);
        let [event] = &events[..] else { panic!("{events:?}") };
        assert_eq!((&event["site"], &event["event"]), (&"books".into(), &"click".into()), "{way:?}");
        assert_eq!(event["target"], "https://x.example/a?b=c&d=e f", "{way:?}");
        assert_eq!(only_source(&fixture).received, 1);
        fixture.end();
    }
}

#[test]
fn the_crate_sends_what_it_is_given_and_tells_of_its_end() {
    let (line, key) = datagrams::key(7, 1);
    let fixture = Fixture::with_keys(&line, &[]);
    let sender = Sender::builder().key(key).connect(fixture.collector.udp).unwrap();
    for n in 0..1000 {
        sender.send([("site", "books"), ("n", &n.to_string())]).unwrap();
    }
    drop(sender);
    assert_eq!(numbers(&logged(&fixture, 1000)).len(), 1000);
    let source = only_source(&fixture);
    assert_eq!((source.key, source.events), (Some(7), 1000));
    fixture.end();
}

#[test]
fn events_that_a_sender_had_no_room_for_are_lost_for_the_collector_too() {
    let fixture = Fixture::start(&[]);
    let linger = Duration::from_millis(100);
    let sender =
        Sender::builder().max_datagram(1024).buffer(1000).linger(linger).connect(fixture.collector.udp).unwrap();
    for n in 0..200 {
        sender.send([("n", format!("{n:048}"))]).unwrap();
    }
    wait_for("all to be decided", || {
        let stats = sender.stats();
        (stats.events + stats.not_sent == 200).then_some(())
    });
    let stats = sender.stats();
    drop(sender);
    wait_for("the loss", || (fixture.datagrams().lost > 0).then_some(()));
    let sources = fixture.settle();
    let [source] = &sources.sources[..] else { panic!("{sources:#?}") };
    assert_eq!((source.events, source.received), (stats.events, stats.datagrams));
    assert!(source.lost >= stats.not_sent.div_ceil(20), "{source:?} {stats:?}");
    fixture.end();
}

#[test]
fn a_forked_child_of_python_is_a_source_of_its_own() {
    let fixture = Fixture::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut command = Way::Python.interpreter(&folder);
    let script = "import os, sys\nfrom tallylight import Sender\nsender = Sender(sys.argv[1])\nsender.send(n='parent 1')\n\
                  child = os.fork()\nsender.send(n='parent 2' if child else 'child')\n\
                  sys.exit(os.waitpid(child, 0)[1] if child else 0)";
    command.arg("-c").arg(script).arg(fixture.collector.udp.to_string());
    assert_quiet(&feed(command, ""));
    let events = logged(&fixture, 3);
    assert_eq!(numbers(&events), ["parent 1", "parent 2", "child"].into());
    let source = |n: &str| &events.iter().find(|event| event["props"]["n"] == n).unwrap()["source"];
    assert_eq!(source("parent 1"), source("parent 2"));
    assert_ne!(source("parent 1"), source("child"));
    assert!(fixture.settle().sources.iter().all(|source| (source.first, source.lost, source.duplicate) == (1, 0, 0)));
    fixture.end();
}

/// One request of PHP that sends events numbered from `from` on, with a flush behind each.
fn php_request(way: Way, fixture: &Fixture, folder: &TempDir, from: u32, count: u32) -> Child {
    let script = "require 'tallylight.php'; $sender = new Tallylight($argv[1]); \
                  for ($n = $argv[2]; $n < $argv[2] + $argv[3]; $n++) { $sender->send(['n' => $n]); $sender->flush(); }";
    let mut command = way.interpreter(folder);
    let to = fixture.collector.udp.to_string();
    command.args(["-r", script, &to, &from.to_string(), &count.to_string()]);
    spawn(command)
}

#[test]
fn requests_of_php_share_a_source_and_never_a_number() {
    let fixture = Fixture::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let side_by_side: Vec<Child> =
        (0..4).map(|i| php_request(Way::PhpWithFile, &fixture, &folder, 100 * i, 100)).collect();
    side_by_side.into_iter().for_each(|child| assert_quiet(&child.wait_with_output().unwrap()));
    assert_quiet(&php_request(Way::PhpWithFile, &fixture, &folder, 400, 1).wait_with_output().unwrap());
    assert_eq!(numbers(&logged(&fixture, 401)).len(), 401);
    assert_eq!(only_source(&fixture).received, 401);

    // what is left of an earlier boot, which may be older than what was sent, is not gone on with
    let state = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let state = fs::read_dir(state).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&state).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(text.contains(boot.trim()), "{text}");
    fs::write(&state, text.replace(boot.trim(), &boot.trim().replace(|c: char| c.is_ascii_digit(), "x"))).unwrap();
    assert_quiet(&php_request(Way::PhpWithFile, &fixture, &folder, 500, 1).wait_with_output().unwrap());
    logged(&fixture, 402);
    assert_eq!(fixture.settle().sources.len(), 2);
    fixture.end();
}

#[test]
fn php_with_apcu_keeps_its_source_until_the_cache_is_cleared() {
    let fixture = Fixture::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    // a cache lives as long as its process: several senders of one stand for requests, and forks for workers
    let script = "require 'tallylight.php'; \
        function request($n) { global $argv; $sender = new Tallylight($argv[1]); $sender->send(['n' => $n]); $sender->flush(); } \
        request(0); \
        for ($i = 1; $i <= 4; $i++) if (pcntl_fork() === 0) { for ($n = 0; $n < 100; $n++) request(\"$i $n\"); exit; } \
        while (pcntl_wait($status) > 0); \
        foreach (apcu_cache_info()['cache_list'] as $entry) if (strlen($entry['info']) === 35) apcu_delete($entry['info']); \
        request('counter gone'); request('and on'); \
        apcu_clear_cache(); request('all gone');";
    let mut command = Way::PhpWithApcu.interpreter(&folder);
    command.args(["-r", script, &fixture.collector.udp.to_string()]);
    assert_quiet(&feed(command, ""));
    assert_eq!(numbers(&logged(&fixture, 404)).len(), 404);
    let mut sources = fixture.settle().sources;
    sources.sort_by_key(|source| source.received);
    assert_eq!(sources.iter().map(|source| source.received).collect::<Vec<_>>(), [1, 2, 401]);
    assert!(sources.iter().all(|source| (source.first, source.lost, source.duplicate) == (1, 0, 0)), "{sources:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fixture.end();
}

#[test]
fn php_trusts_no_folder_that_others_can_write_to() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let fixture = Fixture::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join(format!("tallylight-{}", fs::metadata(folder.path()).unwrap().uid()));
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    assert_quiet(&php_request(Way::PhpWithFile, &fixture, &folder, 0, 3).wait_with_output().unwrap());
    logged(&fixture, 3);
    assert_eq!(only_source(&fixture).received, 3);
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
    fixture.end();
}

fn send(fixture: &Fixture, flags: &[&str]) -> Command {
    let mut command = Command::new(collector_binary());
    command.args(["send", "--to", &fixture.collector.udp.to_string()]).args(flags);
    command
}

#[test]
fn send_says_what_it_did_in_one_line() {
    let fixture = Fixture::start(&[]);
    let output = feed(send(&fixture, &["--batch=10"]), &"event=e&n=0\n".repeat(95));
    let stderr = text(&output.stderr);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let (figures, seconds) = stderr.split_once(", seconds: ").unwrap();
    // headers, lines, and what parts them
    assert_eq!(figures, format!("lines: 95, datagrams: 10, bytes: {}", 10 * 24 + 95 * 11 + 85));
    assert!(seconds.trim_end().parse::<f64>().is_ok() && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(logged(&fixture, 95).len(), 95);
    assert_eq!(only_source(&fixture).received, 10);
    fixture.end();
}

#[test]
fn send_keeps_the_rate_it_is_given() {
    let fixture = Fixture::start(&[]);
    let started_at = Instant::now();
    let output = feed(send(&fixture, &["--batch=10", "--rate=500"]), &"event=e\n".repeat(200));
    assert!(output.status.success(), "{output:?}");
    // but for the first ten, and what may be made up for
    assert!(started_at.elapsed() >= Duration::from_millis(360), "{:?}", started_at.elapsed());
    logged(&fixture, 200);
    fixture.end();
}

#[test]
fn send_does_not_wait_for_more_lines_than_there_are() {
    let fixture = Fixture::start(&[]);
    let mut child = spawn(send(&fixture, &[]));
    let mut stdin = child.stdin.take().unwrap();
    for n in 1..=3_u64 {
        // the end of one line, the beginning of the next
        stdin
            .write_all(format!("{}event=e&n=", if n == 1 { "".to_owned() } else { format!("{}\n", n - 1) }).as_bytes())
            .unwrap();
        wait_for("the lines that are whole", || {
            (fixture.collector.metrics().count("tallylight_events_logged_total") == n - 1).then_some(())
        });
    }
    // silent now, it gives signs of life
    let heard = fixture.datagrams().received;
    wait_for("a heartbeat", || (fixture.datagrams().received > heard).then_some(()));
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(numbers(&logged(&fixture, 3)), ["", "1", "2"].into());
    assert_eq!(only_source(&fixture).received, 3);
    fixture.end();
}

#[test]
fn send_takes_an_array_as_a_body_of_its_own() {
    let fixture = Fixture::start(&[]);
    let lines = "n=1\n [{\"n\":\"2\"},{\"n\":\"3\"}]\nn=4\n\u{feff}[{\"n\":\"5\"}]\n";
    let output = feed(send(&fixture, &[]), lines);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(numbers(&logged(&fixture, 5)), ["1", "2", "3", "4", "5"].into());
    assert_eq!(only_source(&fixture).received, 4);
    fixture.end();
}

#[test]
fn send_plain_sends_text_and_nothing_else() {
    let fixture = Fixture::start(&[]);
    let output = feed(send(&fixture, &["--plain", "--batch=2"]), "n=1\nn=2\nn=3\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(numbers(&logged(&fixture, 3)), ["1", "2", "3"].into());
    assert_eq!((fixture.settle().sources.len(), fixture.datagrams().received), (0, 2));

    let mut child = spawn(send(&fixture, &["--plain"]));
    child.stdin.take().unwrap().write_all(b"\xF5TL=1\nn=4\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).starts_with("line 1 is not text: skipped\n"), "{output:?}");
    assert_eq!(logged(&fixture, 4).len(), 4);
    fixture.end();
}

#[test]
fn send_fails_where_nobody_listens_and_where_its_key_is_no_secret() {
    use std::os::unix::fs::PermissionsExt;
    let mut fixture = Fixture::start(&[]);
    fixture.collector.kill9();
    let output = feed(send(&fixture, &[]), "n=1\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).starts_with(&format!("nobody listens at {}\n", fixture.collector.udp)), "{output:?}");

    let folder = tempfile::tempdir().unwrap();
    let file = key_file(&folder, &datagrams::key(7, 1).0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = feed(send(&fixture, &["--key", file.to_str().unwrap()]), "");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("open to everybody"), "{output:?}");
    for flags in [&["--plain", "--key=x"] as &[&str], &["--batch=0"], &["--batch=1001"], &["--rate=x"]] {
        assert_eq!(feed(send(&fixture, flags), "").status.code(), Some(2), "{flags:?}");
    }
}
