//! Events: what the machine announces, as QMP sends it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix::Message;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::schema::{Schema, TypeName};
use crate::machine::core_dump::DumpQueryResult;
use crate::machine::message::{ShutdownCause, VmEvent};
use crate::machine::spec::ErrorAction;
use crate::migration::message::MigrationEvent;
use crate::migration::status::MigrationStatus;

/// Monitor → sessions: a finished event, shared by all of them.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Event(pub Arc<Value>);

/// The data of an event.
trait Announce: Serialize + JsonSchema {
    const NAME: &'static str;
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:literal $event:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Serialize, JsonSchema)]
            #[serde(rename_all = "kebab-case")]
            struct $event { $($(#[$attribute])* $field: $type,)* }

            impl Announce for $event {
                const NAME: &'static str = $name;
            }
        )*

        /// Every event: its name, and how its data is described.
        pub const ALL: &[(&str, fn(&mut Schema) -> TypeName)] =
            &[$(($name, |schema| schema.sent::<$event>()),)*];
    };
}

events! {
    "STOP" Stop {}
    "RESUME" Resume {}
    "RESET" Reset { guest: bool, reason: ShutdownCause, }
    "SHUTDOWN" Shutdown { guest: bool, reason: ShutdownCause, }
    "POWERDOWN" Powerdown {}
    "DEVICE_DELETED" DeviceDeleted {
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        path: String,
    }
    "BLOCK_IO_ERROR" BlockIoError {
        qom_path: String,
        device: String,
        node_name: String,
        operation: IoOperation,
        action: BlockErrorAction,
        nospace: bool,
        reason: String,
    }
    "DUMP_COMPLETED" DumpCompleted {
        result: DumpQueryResult,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }
    "VSERPORT_CHANGE" VserportChange { id: String, open: bool, }
    "MIGRATION" Migration { status: MigrationStatus, }
    "MIGRATION_PASS" MigrationPass { pass: u64, }
}

/// QAPI `IoOperationType`.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum IoOperation {
    Read,
    Write,
}

/// QAPI `BlockErrorAction`.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum BlockErrorAction {
    Ignore,
    Report,
    Stop,
}

/// The event that announces what the machine told, if clients are told of it at all.
pub fn of(event: &VmEvent) -> Option<Event> {
    Some(match event {
        VmEvent::Stop => announce(Stop {}),
        VmEvent::Resume => announce(Resume {}),
        VmEvent::Reset { cause } => announce(Reset { guest: cause.by_guest(), reason: *cause }),
        VmEvent::Shutdown { cause } => {
            announce(Shutdown { guest: cause.by_guest(), reason: *cause })
        }
        VmEvent::Powerdown => announce(Powerdown {}),
        VmEvent::DeviceDeleted { device, path } => {
            announce(DeviceDeleted { device: device.clone(), path: path.clone() })
        }
        VmEvent::BlockIoError(failed) => announce(BlockIoError {
            qom_path: failed.qom_path.clone(),
            device: failed.drive.clone(),
            node_name: failed.node_name.clone(),
            operation: if failed.write { IoOperation::Write } else { IoOperation::Read },
            action: match failed.action {
                ErrorAction::Ignore => BlockErrorAction::Ignore,
                ErrorAction::Stop => BlockErrorAction::Stop,
                ErrorAction::Report | ErrorAction::Enospc => BlockErrorAction::Report,
            },
            nospace: failed.error.is_no_space(),
            reason: failed.error.to_string(),
        }),
        VmEvent::DumpCompleted { result, error } => {
            announce(DumpCompleted { result: *result, error: error.clone() })
        }
        VmEvent::PortOpened(port) => {
            announce(VserportChange { id: port.id.clone(), open: port.open })
        }
        VmEvent::DeviceFailed { .. } | VmEvent::Exit { .. } => return None,
    })
}

/// The event that announces what a migration actor told. These are sent only with the capability
/// `events`.
pub fn of_migration(event: &MigrationEvent) -> Option<Event> {
    match event {
        MigrationEvent::State { state, .. } => Some(announce(Migration { status: state.status() })),
        MigrationEvent::Pass(pass) => Some(announce(MigrationPass { pass: *pass })),
        MigrationEvent::Progress(_) | MigrationEvent::Listening(_) => None,
    }
}

/// The event as it is sent; one without data has no such member.
fn announce<A: Announce>(event: A) -> Event {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut message = json!({
        "timestamp": {"seconds": since.as_secs(), "microseconds": since.subsec_micros()},
        "event": A::NAME,
    });
    if let Ok(Value::Object(data)) = serde_json::to_value(event)
        && !data.is_empty()
    {
        message["data"] = Value::Object(data);
    }
    Event(Arc::new(message))
}
