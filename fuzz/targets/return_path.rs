//! What a destination says to its source.
#![no_main]

use libfuzzer_sys::fuzz_target;
use understudy::migration::return_path::ReturnMessage;

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut rest = bytes;
    runtime.block_on(async {
        while let Ok(Some(_)) = ReturnMessage::read(&mut rest, 1 << 16).await {}
    });
});
