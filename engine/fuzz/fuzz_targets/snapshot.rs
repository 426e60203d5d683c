#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| torc_engine::snapshot::fuzz_body(data));
