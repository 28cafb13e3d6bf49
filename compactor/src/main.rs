//! `tallylight-compactor`: see the library for what it does and `--help` for how to tell it.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use tallylight_compactor::audit::audit;
use tallylight_compactor::inspect::inspect;
use tallylight_compactor::metrics::Metrics;
use tallylight_compactor::run::{Compactor, Outcome, RunError};
use tallylight_compactor::settings::{Command, Settings};
use tallylight_compactor::state_folder::require_log;
use tallylight_compactor::stop::Stop;
use tallylight_compactor::verify::verify;
use tallylight_service::admin::Serving;
use tallylight_service::memory::share_what_is_freed;
use tallylight_service::{AdminServer, HandedOver, Notifier, Pages, Watchdog, handed_over, logging, recorder};

/// Unusable arguments, as clap has it.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    share_what_is_freed();
    let settings = Settings::parse();
    let _flushed_at_the_end = logging::init();
    match run(&settings) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            let is_unusable = error.downcast_ref::<RunError>().is_some_and(RunError::is_unusable);
            if is_unusable { ExitCode::from(UNUSABLE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(settings: &Settings) -> Result<ExitCode> {
    let data = &settings.folders.data;
    let stdout = || io::BufWriter::new(io::stdout().lock());
    match &settings.command {
        Some(Command::Inspect(wanted)) => {
            require_log(data).map_err(RunError::from)?;
            inspect(data, wanted, stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Verify) => {
            require_log(data).map_err(RunError::from)?;
            let findings = verify(data, stdout())?;
            Ok(if findings.damaged_places == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(Command::Audit(wanted)) => {
            require_log(data).map_err(RunError::from)?;
            let adds_up = audit(data, settings.folders.out.as_deref(), wanted.json, stdout())?;
            Ok(if adds_up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(Command::Completions(wanted)) => {
            wanted.print(Settings::command());
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Man(wanted)) => {
            wanted
                .write(Settings::command())
                .with_context(|| format!("cannot write into {}", wanted.folder.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        None => compact(settings),
    }
}

fn compact(settings: &Settings) -> Result<ExitCode> {
    let mut handed_over = handed_over::take()?;
    let systemd = Arc::new(Notifier::from_env());
    let stop = Stop::on_signals({
        let systemd = Arc::clone(&systemd);
        move || systemd.stopping("committing what has been read")
    });
    let stop = stop.context("cannot listen for signals")?;
    let recorder = recorder::install()?;
    let metrics = Arc::new(Metrics::new());
    let _serving = settings.admin().map(|addr| serve(addr, &mut handed_over, recorder, &metrics)).transpose()?;
    let watchdog = Watchdog::from_env();
    let compactor = Compactor { settings, metrics: &metrics, stop: &stop, watchdog: &watchdog };
    if settings.running.follow {
        systemd.ready("following the log");
        compactor.follow()?;
        return Ok(ExitCode::SUCCESS);
    }
    match compactor.once()? {
        Outcome::NoLog => {
            tracing::warn!("no log yet in {}: nothing to compact", settings.folders.data.display());
        }
        Outcome::Done => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(
    addr: std::net::SocketAddr,
    handed_over: &mut Vec<HandedOver>,
    recorder: metrics_exporter_prometheus::PrometheusHandle,
    metrics: &Arc<Metrics>,
) -> Result<Serving> {
    let server = AdminServer::bind(addr, handed_over)?;
    tracing::info!(addr = %server.local_addr(), "admin port: /metrics, /healthz, /readyz");
    let (refresh, ready) = (Arc::clone(metrics), Arc::clone(metrics));
    Ok(server.serve(Pages {
        metrics: recorder,
        version: env!("CARGO_PKG_VERSION"),
        refresh: Arc::new(move || refresh.refresh()),
        health: Arc::new(|| Ok(())),
        ready: Arc::new(move || ready.ready()),
        further: [].into(),
    })?)
}
