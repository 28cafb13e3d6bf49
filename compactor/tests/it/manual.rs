//! What the programs say of themselves: completions that shells understand, and manual pages without a fault.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{collector_binary, compactor_binary};

/// Each program, with what it can be asked to do.
fn programs() -> [(&'static str, PathBuf, &'static [&'static str]); 2] {
    [
        ("tallylight-collector", collector_binary(), &["check", "send", "sign-link", "completions", "man"]),
        ("tallylight-compactor", compactor_binary(), &["inspect", "verify", "audit", "completions", "man"]),
    ]
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && stderr.is_empty(), "{command:?}: {} {stderr}", output.status);
    stdout
}

#[test]
fn bash_completes_flags_commands_and_values_of_both_programs() {
    // the function that the script registered, called as bash does
    const COMPLETE: &str = r#"source "$1"; shift
registered=$(complete -p "$1"); registered=${registered#*-F }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"${registered%% *}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
echo "${COMPREPLY[*]}""#;
    let folder = tempfile::tempdir().unwrap();
    for (name, binary, commands) in programs() {
        let script = folder.path().join(name);
        fs::write(&script, output(Command::new(&binary).args(["completions", "bash"]))).unwrap();
        let completed = |words: &[&str]| {
            output(Command::new("bash").args(["-c", COMPLETE, "bash"]).arg(&script).arg(name).args(words))
        };
        for command in commands {
            assert_eq!(completed(&[&command[..command.len() - 1]]), format!("{command}\n"), "{name}");
        }
        let expected = match name {
            "tallylight-collector" => [
                (&["--seg"][..], "--segment-size"),
                (&["--ip", "t"], "truncate"),
                (&["check", "--js"], "--json"),
                (&["check", "--rese"], "--reserve"),
            ],
            _ => [
                (&["--foll"][..], "--follow"),
                (&["audit", "--js"], "--json"),
                (&["inspect", "--lim"], "--limit"),
                (&["verify", "--dat"], "--data"),
            ],
        };
        for (words, completion) in expected {
            assert_eq!(completed(words), format!("{completion}\n"), "{name} {words:?}");
        }
        for shell in ["zsh", "fish"] {
            assert!(output(Command::new(&binary).args(["completions", shell])).contains(name), "{shell}");
        }
    }
}

#[test]
fn man_has_nothing_to_say_against_the_pages_and_each_command_and_flag_has_its_place() {
    let folder = tempfile::tempdir().unwrap();
    for (name, binary, commands) in programs() {
        assert_eq!(output(Command::new(&binary).arg("man").arg(folder.path())), "");
        let of = |command: &&str| format!("{name}-{command}.1");
        for page in [format!("{name}.1")].into_iter().chain(commands.iter().map(of)) {
            let mut man = Command::new("man");
            // as lintian looks at them
            man.args(["--warnings", "--encoding=UTF-8", "--local-file", "-Tutf8"]).arg(folder.path().join(&page));
            let text = output(man.env("MANROFFSEQ", "").env("MANWIDTH", "500").env("LC_ALL", "C.UTF-8"));
            assert!(text.contains(&format!("tallylight {}", env!("CARGO_PKG_VERSION"))), "{page}: {text}");
        }
        let mut man = Command::new("man");
        man.arg("--local-file").arg(folder.path().join(format!("{name}.1"))).env("MANWIDTH", "500");
        let text = output(man.env("LC_ALL", "C.UTF-8"));
        let help = output(Command::new(&binary).arg("--help"));
        let flags = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 4);
        for flag in flags.map(|flag| flag.trim_end_matches([',', '.', ')'])) {
            assert!(text.contains(flag), "{name}.1 lacks {flag}");
        }
        for command in commands {
            assert!(text.contains(&format!("{name}-{command}(1)")), "{name}.1 lacks {command}");
        }
    }
}
