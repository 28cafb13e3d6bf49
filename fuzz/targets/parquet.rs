//! libFuzzer's side of [`tallylight_fuzz::parquet`].
//!
//! It ends at every panic, also one that is caught. Those of the Parquet library are, and are no finding: the compactor
//! makes errors of them. One that it does not catch still ends the run.
#![no_main]

use std::panic::{PanicHookInfo, set_hook, take_hook};

fn is_of_the_library(info: &PanicHookInfo<'_>) -> bool {
    let file = info.location().map_or("", |location| location.file());
    // of the standard library, where it is called with what they hold
    ["/parquet-", "/arrow-", "/bytes-", "/zstd-", "/library/"].iter().any(|part| file.contains(part))
}

libfuzzer_sys::fuzz_target!(
    init: {
        let end = take_hook();
        set_hook(Box::new(move |info| {
            if !is_of_the_library(info) {
                end(info);
            }
        }));
    },
    |bytes: &[u8]| tallylight_fuzz::parquet(bytes)
);
