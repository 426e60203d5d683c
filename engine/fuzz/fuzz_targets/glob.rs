#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| torc_engine::fuzz::glob(data));
