//! A whole stream into a machine that has every device.
#![no_main]

#[path = "../src/target.rs"]
mod target;

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use target::Target;

struct Machine {
    system: actix::SystemRunner,
    target: Target,
}

thread_local! {
    static MACHINE: LazyCell<Machine> = LazyCell::new(|| {
        let system = actix::System::new();
        let target = system.block_on(Target::new());
        Machine { system, target }
    });
}

fuzz_target!(|bytes: &[u8]| {
    MACHINE.with(|machine| {
        machine.system.block_on(machine.target.load(bytes));
    });
});
