//! Memory in a file, as `mapped-ram` has it.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use understudy::migration::ram::block::{Bytes, RamBlock};
use understudy::migration::ram::loader::{LoadOptions, RamLoader};
use understudy::migration::ram::mapped::MappedFile;

fuzz_target!(|bytes: &[u8]| {
    let block = |name: &str| {
        let memory = Arc::new(Bytes::new(Vec::new(), 16 << 12));
        RamBlock { name: name.to_owned(), address: 0, memory }
    };
    let options = LoadOptions { mapped: true, ..LoadOptions::default() };
    let loader = RamLoader::new(vec![block("a"), block("b")], options).expect("memory is cleared");
    let file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut &file, bytes).expect("it is written");
    let _ = loader.load_mapped(MappedFile { file: &file, pages: &file, threads: 1 }, 0);
});
