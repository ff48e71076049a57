#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fiefdom::fuzzing::archive_import(data));
