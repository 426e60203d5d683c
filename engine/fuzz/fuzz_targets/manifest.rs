#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| torc_engine::log::fuzz_body::manifest(data));
