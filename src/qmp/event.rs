//! Events: what the machine announces, as QMP sends it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix::Message;
use serde_json::{Value, json};

use crate::machine::message::VmEvent;
use crate::machine::spec::ErrorAction;
use crate::migration::message::MigrationEvent;

/// Monitor → sessions: a finished event, shared by all of them.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Event(pub Arc<Value>);

/// The event that announces what the machine told, if clients are told of it at all.
pub fn of(event: &VmEvent) -> Option<Event> {
    let (name, data) = match event {
        VmEvent::Stop => ("STOP", None),
        VmEvent::Resume => ("RESUME", None),
        VmEvent::Reset { cause } => {
            ("RESET", Some(json!({"guest": cause.by_guest(), "reason": cause})))
        }
        VmEvent::Shutdown { cause } => {
            ("SHUTDOWN", Some(json!({"guest": cause.by_guest(), "reason": cause})))
        }
        VmEvent::Powerdown => ("POWERDOWN", None),
        VmEvent::GuestPanicked { action } => ("GUEST_PANICKED", Some(json!({"action": action}))),
        VmEvent::BlockIoError(failed) => {
            let action = match failed.action {
                ErrorAction::Ignore => "ignore",
                ErrorAction::Stop => "stop",
                ErrorAction::Report | ErrorAction::Enospc => "report",
            };
            let data = json!({
                "qom-path": failed.qom_path,
                "device": failed.drive,
                "operation": if failed.write { "write" } else { "read" },
                "action": action,
                "nospace": failed.error.is_no_space(),
                "reason": failed.error.to_string(),
            });
            ("BLOCK_IO_ERROR", Some(data))
        }
        VmEvent::DeviceFailed { .. } | VmEvent::Exit { .. } => return None,
    };
    Some(stamped(name, data, SystemTime::now()))
}

/// The event that announces what a migration actor told. These are sent only with the capability
/// `events`.
pub fn of_migration(event: &MigrationEvent) -> Option<Event> {
    let (name, data) = match event {
        MigrationEvent::State { state, .. } => ("MIGRATION", json!({"status": state.status()})),
        MigrationEvent::Pass(pass) => ("MIGRATION_PASS", json!({"pass": pass})),
        MigrationEvent::Progress(_) | MigrationEvent::Listening(_) => return None,
    };
    Some(stamped(name, Some(data), SystemTime::now()))
}

fn stamped(name: &str, data: Option<Value>, at: SystemTime) -> Event {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut event = json!({
        "timestamp": {"seconds": since.as_secs(), "microseconds": since.subsec_micros()},
        "event": name,
    });
    if let Some(data) = data {
        event["data"] = data;
    }
    Event(Arc::new(event))
}
