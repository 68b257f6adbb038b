//! Where a migration goes to or comes from, as a URI.
#![no_main]

use libfuzzer_sys::fuzz_target;
use understudy::migration::channel::Address;

fuzz_target!(|uri: &str| {
    let _ = Address::parse(uri);
});
