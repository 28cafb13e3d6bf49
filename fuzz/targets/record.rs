//! libFuzzer's side of [`tallylight_fuzz::record`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tallylight_fuzz::record(bytes));
