//! How much happened.

use std::fmt;

macro_rules! figures {
    ($($name:ident: $what:literal),* $(,)?) => {
        /// Counts of what happened in one life, or in many.
        #[derive(Clone, Debug, Default)]
        pub struct Figures {
            $(#[doc = $what] pub $name: u64,)*
        }

        impl Figures {
            /// These happened, too.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// A simulation in which something never happens shows nothing about it.
            pub fn assert_everything_happened(&self) {
                $(assert!(self.$name > 0, "there was not one of: {}", $what);)*
            }
        }

        impl fmt::Display for Figures {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut texts = Vec::new();
                $(texts.push(format!("{} {}", self.$name, $what));)*
                f.write_str(&texts.join(", "))
            }
        }
    };
}

figures! {
    steps: "calls to a machine that may fail",
    minutes: "simulated minutes",
    events: "events sent",
    acked: "acknowledged",
    synced: "of them with ack=synced",
    shed: "told to come again",
    rows: "rows published",
    duplicates: "duplicates",
    collector_kills: "kills of the collector",
    compactor_kills: "kills of the compactor",
    power_cuts: "power cuts",
    power_cuts_in_recovery: "of them while the collector was starting",
    failures: "ends of the collector by an error of the disk",
    setbacks: "passes of the compactor that ended with an error",
    stops: "ends of the collector in order",
    full_disks: "times that the disk was filled",
    clock_jumps: "times that the clock was set",
    segments: "segments begun",
    recycled: "of them out of spares",
    released: "segments released",
    torn: "records torn",
    lies: "power cuts on a disk that lies",
    rotten: "bits rotten",
    damaged: "records damaged by that",
}
