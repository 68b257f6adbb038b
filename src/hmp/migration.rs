//! Migration: the commands, and `info migrate`.

use std::fmt::Write;

use serde_json::Value;

use super::command::{Call, Terminal};
use super::migration_settings;
use crate::migration::cache::MigrationInfo;
use crate::migration::capability::Capability;
use crate::migration::message::{RamStats, XbzrleStats};
use crate::migration::status::MigrationStatus;
use crate::qmp::command::Command;
use crate::qmp::commands::migration::{
    AnnounceSelf, MigrateCancel, MigrateContinue, MigratePause, MigrateStartPostcopy, QueryMigrate,
};
use crate::qmp::commands::migration_start::{self, Migrate, MigrateIncoming, MigrateRecover};
use crate::qmp::error::QmpError;

type Outcome = Result<(), QmpError>;

/// log2 of the pages whose dirty bits are cleared together in the host's kernel: QEMU's default.
/// Dirty bits are not in the kernel here, so it changes nothing.
const CLEAR_BITMAP_SHIFT: u32 = 18;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

/// The migration that has been started: wait for it, or say that this terminal cannot.
fn started(call: &mut Call) {
    match call.terminal {
        Terminal::Waits => call.awaits_migration = true,
        Terminal::CannotWait => call
            .out
            .push_str("terminal does not allow synchronous migration, continuing detached\n"),
    }
}

pub(super) async fn migrate(call: &mut Call) -> Outcome {
    let uri = call.arguments.text("uri").unwrap_or_default();
    Migrate::to(uri, call.arguments.flag("resume")).run(&call.services).await?;
    if !call.arguments.flag("detach") {
        started(call);
    }
    Ok(())
}

pub(super) async fn incoming(call: &mut Call) -> Outcome {
    let uri = call.arguments.text("uri").unwrap_or_default().to_owned();
    // What is wrong with it is said before what else is wrong.
    migration_start::parse(&uri)?;
    MigrateIncoming { uri: Some(uri), ..Default::default() }.run(&call.services).await.map(drop)
}

pub(super) async fn recover(call: &mut Call) -> Outcome {
    let uri = call.arguments.text("uri").unwrap_or_default().to_owned();
    MigrateRecover { uri }.run(&call.services).await.map(drop)
}

pub(super) async fn cancel(call: &mut Call) -> Outcome {
    MigrateCancel {}.run(&call.services).await.map(drop)
}

pub(super) async fn pause(call: &mut Call) -> Outcome {
    MigratePause {}.run(&call.services).await.map(drop)
}

pub(super) async fn start_postcopy(call: &mut Call) -> Outcome {
    MigrateStartPostcopy {}.run(&call.services).await.map(drop)
}

pub(super) async fn go_on(call: &mut Call) -> Outcome {
    let name = call.arguments.text("state").unwrap_or_default();
    let Ok(state) = serde_json::from_value::<MigrationStatus>(name.into()) else {
        return Err(QmpError::generic(format!("invalid parameter value: {name}")));
    };
    MigrateContinue { state }.run(&call.services).await.map(drop)
}

/// With the migration parameters' intervals; `interfaces` is a list with commas.
pub(super) async fn announce_self(call: &mut Call) -> Outcome {
    let parameters = call.services.migration.settings().parameters;
    let interfaces = call.arguments.text("interfaces");
    let interfaces = interfaces.map(|list| list.split(',').map(str::to_owned).collect());
    let id = call.arguments.text("id").map(str::to_owned);
    AnnounceSelf::new(&parameters, interfaces, id).run(&call.services).await.map(drop)
}

pub(super) async fn info(call: &mut Call) -> Outcome {
    let info = QueryMigrate {}.run(&call.services).await?;
    let settings = call.services.migration.settings();
    let switches: Vec<String> = Capability::ALL
        .into_iter()
        .map(|capability| {
            let state = if settings.capabilities.has(capability) { "on" } else { "off" };
            format!("{}: {state}", capability.name())
        })
        .collect();
    let _ = writeln!(call.out, "capabilities: {}", switches.join(" "));
    render(&mut call.out, &info);
    if call.arguments.flag("all") {
        globals(&mut call.out, call.services.info.only_migratable);
        migration_settings::render(&mut call.out, &settings.parameters);
    }
    Ok(())
}

/// What holds for every migration of this machine. The stream always has its configuration section,
/// footers and the start of the switchover in it.
fn globals(out: &mut String, only_migratable: bool) {
    let only_migratable = if only_migratable { "on" } else { "off" };
    out.push_str("globals:\n");
    let _ = writeln!(out, "store-global-state: on");
    let _ = writeln!(out, "only-migratable: {only_migratable}");
    let _ = writeln!(out, "send-configuration: on");
    let _ = writeln!(out, "send-section-footer: on");
    let _ = writeln!(out, "send-switchover-start: on");
    let _ = writeln!(out, "clear-bitmap-shift: {CLEAR_BITMAP_SHIFT}");
}

/// Everything of `info` that there is, in QEMU's order.
fn render(out: &mut String, info: &MigrationInfo) {
    if let Some(reasons) = &info.blocked_reasons {
        out.push_str("Outgoing migration blocked:\n");
        reasons.iter().for_each(|reason| out.push_str(&format!("  {reason}\n")));
    }
    let Some(status) = info.status else { return };
    let _ = write!(out, "Migration status: {status}");
    if let Some(reason) = &info.error_desc {
        let _ = write!(out, " ({reason})");
    }
    out.push('\n');
    let times = [
        ("total time", Some(info.total_time.unwrap_or(0))),
        ("expected downtime", info.expected_downtime),
        ("downtime", info.downtime),
        ("setup", info.setup_time),
        ("age of the last progress", info.stalled),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            let _ = writeln!(out, "{name}: {time} milliseconds");
        }
    }
    if let Some(ram) = &info.ram {
        render_ram(out, ram);
    }
    if let Some(cache) = &info.xbzrle_cache {
        render_xbzrle(out, cache);
    }
    if let Some(percent) = info.cpu_throttle_percentage {
        let _ = writeln!(out, "cpu throttle percentage: {percent}");
    }
    if let Some(time) = info.postcopy_blocktime {
        let _ = writeln!(out, "postcopy blocktime: {time}");
    }
    if let Some(times) = &info.postcopy_vcpu_blocktime {
        let times: Vec<String> = times.iter().map(u32::to_string).collect();
        let _ = writeln!(out, "postcopy vcpu blocktime: {}", times.join(","));
    }
    if let Some(time) = info.dirty_limit_throttle_time_per_round {
        let _ = writeln!(out, "dirty-limit throttle time: {time} us");
    }
    if let Some(time) = info.dirty_limit_ring_full_time {
        let _ = writeln!(out, "dirty-limit ring full time: {time} us");
    }
    if let Some(addresses) = &info.socket_address {
        out.push_str("socket address: [\n");
        addresses.iter().for_each(|address| out.push_str(&format!("\t{}\n", place(address))));
        out.push_str("]\n");
    }
}

fn render_ram(out: &mut String, ram: &RamStats) {
    let kbytes = |bytes: u64| bytes >> 10;
    let _ = writeln!(out, "transferred ram: {} kbytes", kbytes(ram.transferred));
    let _ = writeln!(out, "throughput: {:.2} mbps", ram.mbps);
    let _ = writeln!(out, "remaining ram: {} kbytes", kbytes(ram.remaining));
    let _ = writeln!(out, "total ram: {} kbytes", kbytes(ram.total));
    let _ = writeln!(out, "duplicate: {} pages", ram.duplicate);
    let _ = writeln!(out, "normal: {} pages", ram.normal);
    let _ = writeln!(out, "normal bytes: {} kbytes", kbytes(ram.normal_bytes));
    let _ = writeln!(out, "dirty sync count: {}", ram.dirty_sync_count);
    let _ = writeln!(out, "page size: {} kbytes", kbytes(ram.page_size));
    let _ = writeln!(out, "multifd bytes: {} kbytes", kbytes(ram.multifd_bytes));
    let _ = writeln!(out, "pages-per-second: {}", ram.pages_per_second);
    if ram.dirty_pages_rate > 0 {
        let _ = writeln!(out, "dirty pages rate: {} pages", ram.dirty_pages_rate);
    }
    if ram.postcopy_requests > 0 {
        let _ = writeln!(out, "postcopy request count: {}", ram.postcopy_requests);
    }
    let phases = [
        ("precopy", ram.precopy_bytes),
        ("downtime", ram.downtime_bytes),
        ("postcopy", ram.postcopy_bytes),
    ];
    for (name, bytes) in phases {
        if bytes > 0 {
            let _ = writeln!(out, "{name} ram: {} kbytes", kbytes(bytes));
        }
    }
}

fn render_xbzrle(out: &mut String, cache: &XbzrleStats) {
    let _ = writeln!(out, "cache size: {} bytes", cache.cache_size);
    let _ = writeln!(out, "xbzrle transferred: {} kbytes", cache.bytes >> 10);
    let _ = writeln!(out, "xbzrle pages: {} pages", cache.pages);
    let _ = writeln!(out, "xbzrle cache miss: {} pages", cache.cache_miss);
    let _ = writeln!(out, "xbzrle cache miss rate: {:.2}", cache.cache_miss_rate);
    let _ = writeln!(out, "xbzrle encoding rate: {:.2}", cache.encoding_rate);
    let _ = writeln!(out, "xbzrle overflow: {}", cache.overflow);
}

/// A QAPI `SocketAddress` as a URI.
fn place(address: &Value) -> String {
    let member = |name: &str| address[name].as_str().unwrap_or_default();
    match member("type") {
        "inet" if member("host").contains(':') => {
            format!("tcp:[{}]:{}", member("host"), member("port"))
        }
        "inet" => format!("tcp:{}:{}", member("host"), member("port")),
        "unix" => format!("unix:{}", member("path")),
        "vsock" => format!("vsock:{}:{}", member("cid"), member("port")),
        _ => format!("fd:{}", member("str")),
    }
}
