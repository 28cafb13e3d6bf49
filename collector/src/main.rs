//! The program `tallylight-collector`.

use std::panic;
use std::process::{ExitCode, abort};
use std::time::Duration;

use clap::CommandFactory;
use tallylight_collector::command_line::{CommandLine, Other};
use tallylight_collector::{check, lifecycle, send, sign_link};
use tallylight_service::logging;
use tallylight_service::manual::Man;

/// Time for the thread that writes log lines to write the one about a panic.
const LAST_WORDS: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let line = CommandLine::parse();
    match &line.other {
        Some(Other::Check(args)) => return check::run(args),
        Some(Other::Send(args)) => return send::run(args),
        Some(Other::SignLink(args)) => return sign_link::run(args),
        Some(Other::Completions(args)) => {
            args.print(CommandLine::command());
            return ExitCode::SUCCESS;
        }
        Some(Other::Man(args)) => return written(args),
        None => {}
    }
    let _flush = logging::init();
    end_on_panic();
    match lifecycle::run(line.settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn written(man: &Man) -> ExitCode {
    match man.write(CommandLine::command()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write manual pages into {}: {error}", man.folder.display());
            ExitCode::FAILURE
        }
    }
}

/// A panic in any thread ends the process, which the log is made to survive: a collector that goes on without one
/// of its threads would lose events without a word.
fn end_on_panic() {
    let log = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        log(info);
        std::thread::sleep(LAST_WORDS);
        abort();
    }));
}
