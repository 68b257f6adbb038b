//! What is asked of the machine or the emulator as a whole, a command each.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as WordError, StrDeserializer};

use super::command::Call;
use crate::machine::memory::PAGE_SIZE;
use crate::machine::spec::WatchdogAction;
use crate::qmp::command::Command as _;
use crate::qmp::commands::machine::QueryHotpluggableCpus;
use crate::qmp::commands::preconfig::XExitPreconfig;
use crate::qmp::commands::stats::{
    OfProviders, OfVcpus, QueryStats, StatsFilter, StatsProvider, StatsRequest,
};
use crate::qmp::commands::status::{InjectNmi, SystemWakeup, WatchdogSetAction};
use crate::qmp::commands::tpm::QueryTpm;
use crate::qmp::commands::trace::{TraceEventGetState, TraceEventSetState, TraceEventState};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;
use crate::trace;

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

pub(super) async fn nmi(call: &mut Call) -> Outcome {
    (InjectNmi {}).run(&call.services).await.map(drop)
}

pub(super) async fn system_wakeup(call: &mut Call) -> Outcome {
    (SystemWakeup {}).run(&call.services).await.map(drop)
}

/// What a watchdog can do.
pub(super) async fn watchdog_actions(_: &Arc<Services>) -> Vec<String> {
    let names = ["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"];
    names.map(str::to_owned).into()
}

pub(super) async fn watchdog_action(call: &mut Call) -> Outcome {
    let word = call.arguments.text("action").unwrap_or_default();
    let text: StrDeserializer<'_, WordError> = word.into_deserializer();
    match WatchdogAction::deserialize(text) {
        Ok(action) => WatchdogSetAction { action }.run(&call.services).await.map(drop),
        Err(_) => Err(QmpError::generic(format!("invalid parameter value: {word}"))),
    }
}

pub(super) async fn hotpluggable_cpus(call: &mut Call) -> Outcome {
    (QueryHotpluggableCpus {}).run(&call.services).await.map(drop)
}

pub(super) async fn tpm(call: &mut Call) -> Outcome {
    (QueryTpm {}).run(&call.services).await.map(drop)
}

/// None of these boards counts interrupts.
pub(super) async fn irq(_: &mut Call) -> Outcome {
    Ok(())
}

/// Nor has an interrupt controller that shows itself here.
pub(super) async fn pic(_: &mut Call) -> Outcome {
    Ok(())
}

pub(super) async fn boot_set(call: &mut Call) -> Outcome {
    call.out.push_str("no function defined to set boot device list for this architecture\n");
    Ok(())
}

pub(super) async fn exit_preconfig(call: &mut Call) -> Outcome {
    (XExitPreconfig {}).run(&call.services).await.map(drop)
}

/// Memory is not divided among nodes.
pub(super) async fn numa(call: &mut Call) -> Outcome {
    call.out.push_str("0 nodes\n");
    Ok(())
}

/// Names of providers, and of none in particular.
fn provider(name: &str) -> Option<StatsProvider> {
    match name {
        "kvm" => Some(StatsProvider::Kvm),
        "cryptodev" => Some(StatsProvider::Cryptodev),
        _ => None,
    }
}

pub(super) async fn stats(call: &mut Call) -> Outcome {
    let target = call.arguments.text("target").unwrap_or_default().to_owned();
    let names = call.arguments.text("names").filter(|names| *names != "*");
    let names = names.map(|names| names.split(',').map(str::to_owned).collect());
    let providers = match call.arguments.text("provider") {
        None => None,
        Some(name) => match provider(name) {
            Some(provider) => Some(vec![StatsRequest { provider, names }]),
            None => {
                let _ = writeln!(call.out, "invalid stats provider {name}");
                return Ok(());
            }
        },
    };
    let filter = match target.as_str() {
        "vm" => StatsFilter::Vm(OfProviders { providers }),
        "vcpu" => StatsFilter::Vcpu(OfVcpus { providers, vcpus: None }),
        "cryptodev" => StatsFilter::Cryptodev(OfProviders { providers }),
        _ => {
            let _ = writeln!(call.out, "invalid stats target {target}");
            return Ok(());
        }
    };
    QueryStats(filter).run(&call.services).await.map(drop)
}

pub(super) async fn trace_event(call: &mut Call) -> Outcome {
    let name = call.arguments.text("name").unwrap_or_default().to_owned();
    let enable = call.arguments.switch("option").unwrap_or_default();
    let request = TraceEventSetState { name, enable, ignore_unavailable: Some(true) };
    if let Err(error) = request.run(&call.services).await {
        let _ = writeln!(call.out, "{error}");
    }
    Ok(())
}

pub(super) async fn trace_events(call: &mut Call) -> Outcome {
    let name = call.arguments.text("name").unwrap_or("*").to_owned();
    match (TraceEventGetState { name }).run(&call.services).await {
        Ok(events) => {
            for event in events {
                let state = u32::from(event.state == TraceEventState::Enabled);
                let _ = writeln!(call.out, "{} : state {state}", event.name);
            }
        }
        Err(error) => {
            let _ = writeln!(call.out, "{error}");
        }
    }
    Ok(())
}

/// Trace events, for completion.
pub(super) async fn trace_names(_: &Arc<Services>) -> Vec<String> {
    trace::NAMES.iter().map(|name| (*name).to_owned()).collect()
}

pub(super) async fn ramblock(call: &mut Call) -> Outcome {
    let _ = writeln!(
        call.out,
        "{:>24} {:>8}  {:>18} {:>18} {:>18} {:>18} {:>3}",
        "Block Name", "PSize", "Offset", "Used", "Total", "HVA", "RO"
    );
    let blocks = Arc::clone(&call.services.info.ram_blocks);
    let mut offset = 0;
    for block in blocks.iter() {
        let (size, host) = (block.size, block.host.unwrap_or(0));
        let page = format!("{} KiB", PAGE_SIZE >> 10);
        let access = if block.read_only { "ro" } else { "rw" };
        let _ = writeln!(
            call.out,
            "{:>24} {page:>8}  0x{offset:016x} 0x{size:016x} 0x{size:016x} 0x{host:016x} {access:>3}",
            block.name
        );
        offset += size;
    }
    Ok(())
}
