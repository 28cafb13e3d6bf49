//! Comparisons of Tallylight with the obvious alternatives, each in one run, alternated, as a ratio with its
//! spread. Nothing here asserts a time; see `benches/README.md` for how to read the numbers.

#![forbid(unsafe_code)]

mod beacons;
mod compact;
mod compare;
mod counters;
mod hostile;
mod http;
mod log;
mod machine;
mod micro;
mod peers;
mod process;
mod rows;
mod spares;
mod udp;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Comparisons of Tallylight with the obvious alternatives")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Rounds; in each one every contender runs once, in alternating order.
    #[arg(long, default_value_t = 10, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[derive(Subcommand)]
enum What {
    /// The steps of an event's way, each beside the obvious way to do it.
    Micro(micro::Arguments),
    /// Appending to the log, beside write(2).
    Log(log::Arguments),
    /// Taking datagrams, beside rsyslog, syslog-ng and a bare loop.
    Udp(udp::Arguments),
    /// Beacons over HTTP, beside nginx.
    Http(http::Arguments),
    /// Instructions, allocations and system calls of a request, exactly.
    Counters(counters::Arguments),
    /// Honest clients' latency while the collector is attacked, beside their quiet one.
    Hostile(hostile::Arguments),
    /// From the log to hourly Parquet, beside batch engines.
    Compact(compact::Arguments),
    /// What the compactor costs as the ids that it knows, or an hour's groups, become more.
    Growth(compact::GrowthArguments),
    /// The compactor's roll-up without rows, which `compact` starts.
    #[command(hide = true)]
    RollUp(compact::RollUpArguments),
    /// The bare loop, which `udp` starts.
    #[command(hide = true)]
    UdpReceiver(udp::ReceiverArguments),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.what {
        What::Micro(micro) => micro::run(&micro, arguments.rounds),
        What::Log(log) => log::run(&log, arguments.rounds),
        What::Udp(udp) => udp::run(&udp, arguments.rounds),
        What::Http(http) => http::run(&http, arguments.rounds),
        What::Counters(counters) => counters::run(&counters),
        What::Hostile(hostile) => hostile::run(&hostile, arguments.rounds),
        What::Compact(compact) => compact::run(&compact, arguments.rounds),
        What::Growth(growth) => compact::growth(&growth, arguments.rounds),
        What::RollUp(roll_up) => compact::roll_up(&roll_up),
        What::UdpReceiver(receiver) => udp::receive(&receiver),
    }
}
