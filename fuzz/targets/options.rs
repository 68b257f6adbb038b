//! A command line: one word a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use understudy::cli;

fuzz_target!(|text: &str| {
    let words = ["understudy"].into_iter().chain(text.lines()).map(Into::into);
    let _ = cli::parse(words);
});
