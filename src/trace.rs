//! Trace events: points in the program that can be watched, each by a name, switched at any time by
//! `-trace`, `trace-event-set-state` and the human monitor's `trace-event`. Those that QEMU has too
//! have its names and words. What is on goes to the log (`machine::log`).
//!
//! An event that is off costs a load and a branch where it stands: `tracing` knows at the call site.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use crate::machine::message::{RunState, ShutdownCause};
use crate::migration::status::MigrationStatus;
use crate::objects::authz::glob;

/// Target of all events in `tracing`.
pub const TARGET: &str = "trace";

macro_rules! trace_events {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $format:literal;)*) => {
        $(
            $(#[$doc])*
            #[inline]
            pub fn $name($($argument: $type),*) {
                tracing::trace!(
                    name: stringify!($name),
                    target: TARGET,
                    "{} {}",
                    stringify!($name),
                    format_args!($format)
                );
            }
        )*

        /// The name of every event.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

trace_events! {
    /// A client's QMP command is about to be executed.
    handle_qmp_command(command: &str) "req: {command}";
    /// A line of the human monitor is about to be executed.
    handle_hmp_command(line: &str) "cmdline: {line}";
    /// An event is about to be sent to the clients.
    monitor_protocol_event_emit(event: &str) "event={event}";
    /// The machine's run state changes.
    runstate_set(current: RunState, new: RunState) "current_run_state {current:?} new_state {new:?}";
    /// The machine is asked to shut down.
    qemu_system_shutdown_request(reason: ShutdownCause) "reason={reason:?}";
    /// The guest is asked to power down.
    qemu_system_powerdown_request() "";
    /// The state of a migration changes.
    migrate_set_state(state: MigrationStatus) "new state {state:?}";
    /// A hart takes a trap.
    riscv_trap(hart: u64, interrupt: bool, cause: u64, epc: u64, tval: u64, name: &str)
        "hart:{hart}, async:{interrupt}, cause:{cause}, epc:0x{epc:x}, tval:0x{tval:x}, desc={name}";
    /// A hart reads a device's register.
    memory_region_ops_read(addr: u64, value: u64, size: u8, region: &str)
        "addr 0x{addr:x} value 0x{value:x} size {size} name '{region}'";
    /// A hart writes a device's register.
    memory_region_ops_write(addr: u64, value: u64, size: u8, region: &str)
        "addr 0x{addr:x} value 0x{value:x} size {size} name '{region}'";
    /// The driver of a virtio device changes its status.
    virtio_set_status(device: &str, status: u8) "vdev {device} val {status}";
    /// The driver of a virtio device has put something into a queue.
    virtio_queue_notify(device: &str, queue: usize) "vdev {device} n {queue}";
    /// A virtio device gives a request back.
    virtqueue_fill(device: &str, head: u16, len: u32) "vdev {device} elem {head} len {len}";
    /// A virtio-serial bus tells the driver something.
    virtio_serial_send_control_event(port: u32, event: u16, value: u16)
        "port {port}, event {event}, value {value}";
    /// The driver tells a virtio-serial bus something.
    virtio_serial_handle_control_message(port: u32, event: u16, value: u16)
        "port {port}, event {event}, value {value}";
}

/// Which events are on. Theirs is the process, as the log is.
static ENABLED: [AtomicBool; NAMES.len()] = [const { AtomicBool::new(false) }; NAMES.len()];

/// There is no event of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown event \"{0}\"")]
pub struct UnknownEvent(pub String);

fn matching(pattern: &str) -> Result<Vec<usize>, UnknownEvent> {
    let matches = |name: &str| match pattern.contains('*') {
        true => glob(pattern, name),
        false => name == pattern,
    };
    let found: Vec<_> = (0..NAMES.len()).filter(|&event| matches(NAMES[event])).collect();
    match found.is_empty() && !pattern.contains('*') {
        true => Err(UnknownEvent(pattern.to_owned())),
        false => Ok(found),
    }
}

/// The events that a name or a pattern (with `*`) means, and whether they are on.
pub fn states(pattern: &str) -> Result<Vec<(&'static str, bool)>, UnknownEvent> {
    let state = |event: usize| (NAMES[event], ENABLED[event].load(Ordering::Relaxed));
    Ok(matching(pattern)?.into_iter().map(state).collect())
}

/// Switch the events that a name or a pattern means.
pub fn switch(pattern: &str, on: bool) -> Result<(), UnknownEvent> {
    for event in matching(pattern)? {
        ENABLED[event].store(on, Ordering::Relaxed);
    }
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// Whether an event is on.
pub fn is_on(name: &str) -> bool {
    let found = NAMES.iter().position(|event| *event == name);
    found.is_some_and(|event| ENABLED[event].load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, as the switches are the process'.
    #[test]
    fn names_and_patterns() {
        let names = |pattern: &str| -> Vec<_> {
            states(pattern).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names("handle_*"), ["handle_qmp_command", "handle_hmp_command"]);
        assert_eq!(names("no*such"), [""; 0]);
        assert_eq!(names("*").len(), NAMES.len());
        assert_eq!(states("nope"), Err(UnknownEvent("nope".into())));
        assert_eq!(switch("nope", true).unwrap_err().to_string(), "unknown event \"nope\"");
        switch("*_ops_read", true).unwrap();
        assert!(is_on("memory_region_ops_read") && !is_on("memory_region_ops_write"));
        switch("memory_region_ops_read", false).unwrap();
        assert!(!is_on("memory_region_ops_read"));
    }

    /// Every event is told of somewhere.
    #[test]
    fn every_event_has_a_place() {
        fn sources(dir: &std::path::Path, text: &mut String) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => sources(&path, text),
                    false => text.push_str(&std::fs::read_to_string(&path).unwrap()),
                }
            }
        }
        let mut text = String::new();
        sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
        for name in NAMES {
            assert!(text.contains(&format!("trace::{name}(")), "{name}");
        }
    }
}
