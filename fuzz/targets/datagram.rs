//! libFuzzer's side of [`tallylight_fuzz::datagram`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tallylight_fuzz::datagram(bytes));
