//! A channel beside the main one: greeting and packets, in every way of compression.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use understudy::migration::parameters::MultifdCompression;
use understudy::migration::ram::block::{Bytes, RamBlock};
use understudy::migration::ram::loader::{LoadOptions, RamLoader};
use understudy::migration::ram::multifd::{MultifdReceiver, read_greeting};
use understudy::migration::stream::Input;

fuzz_target!(|bytes: &[u8]| {
    use MultifdCompression::{None, Zlib, Zstd};
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let compression = [None, Zlib, Zstd][usize::from(kind % 3)];
    let memory = Arc::new(Bytes::new(Vec::new(), 64 << 12));
    let block = RamBlock { name: "ram".to_owned(), address: 0, memory };
    let loader = RamLoader::new(vec![block], LoadOptions::default()).expect("memory is cleared");
    let mut input = Input::new(bytes);
    let Ok(channel) = read_greeting(&mut input, Option::None, 8) else { return };
    let Ok(mut receiver) = MultifdReceiver::new(channel, loader.incoming(), compression) else {
        return;
    };
    while receiver.receive(&mut input).is_ok() {}
});
