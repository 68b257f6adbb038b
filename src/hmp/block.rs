//! `info block`, `info blockstats`.

use std::fmt::Write;
use std::sync::Arc;

use super::command::Call;
use crate::block::accounting::IoStatus;
use crate::qmp::command::Command;
use crate::qmp::commands::block::{
    BlockDeviceInfo, BlockInfo, QueryBlock, QueryBlockstats, QueryNamedBlockNodes,
};
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

/// Names of drives.
pub(super) async fn devices(services: &Arc<Services>) -> Vec<String> {
    let names = services.info.drives.iter().map(|drive| drive.device.clone());
    names.filter(|name| !name.is_empty()).collect()
}

pub(super) async fn block(call: &mut Call) -> Outcome {
    let wanted = call.arguments.text("device").map(str::to_owned);
    let (nodes, verbose) = (call.arguments.flag("nodes"), call.arguments.flag("verbose"));
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    let mut printed = false;
    if !nodes {
        let all = (QueryBlock {}).run(&call.services).await?;
        for (number, info) in all.iter().enumerate() {
            if is_wanted(&info.device) {
                call.out.push_str(if number > 0 { "\n" } else { "" });
                print(&mut call.out, Some(info), &info.inserted, verbose);
                printed = true;
            }
        }
    }
    if printed || (wanted.is_none() && !nodes) {
        return Ok(());
    }
    let all = (QueryNamedBlockNodes { flat: None }).run(&call.services).await?;
    for (number, node) in all.iter().enumerate() {
        if is_wanted(&node.node_name) {
            call.out.push_str(if number > 0 { "\n" } else { "" });
            print(&mut call.out, None, node, verbose);
        }
    }
    Ok(())
}

fn print(out: &mut String, info: Option<&BlockInfo>, inserted: &BlockDeviceInfo, verbose: bool) {
    let node = &inserted.node_name;
    let _ = match info.map(|info| info.device.as_str()) {
        None | Some("") => write!(out, "{node}"),
        Some(device) => write!(out, "{device} ({node})"),
    };
    let read_only = if inserted.ro { ", read-only" } else { "" };
    let inactive = if inserted.active { "" } else { ", inactive" };
    let _ = writeln!(out, ": {} ({}{read_only}{inactive})", inserted.file, inserted.drv);
    if let Some(info) = info {
        if let Some(qdev) = &info.qdev {
            let _ = writeln!(out, "    Attached to:      {qdev}");
        }
        let trouble = match info.io_status {
            None | Some(IoStatus::Ok) => None,
            Some(IoStatus::Failed) => Some("failed"),
            Some(IoStatus::Nospace) => Some("nospace"),
        };
        if let Some(trouble) = trouble {
            let _ = writeln!(out, "    I/O status:       {trouble}");
        }
        if info.removable {
            out.push_str("    Removable device: not locked, tray closed\n");
        }
    }
    let cache = &inserted.cache;
    let _ = writeln!(
        out,
        "    Cache mode:       {}{}{}",
        if cache.writeback { "writeback" } else { "writethrough" },
        if cache.direct { ", direct" } else { "" },
        if cache.no_flush { ", ignore flushes" } else { "" },
    );
    if verbose {
        let image = &inserted.image;
        let size = image.virtual_size.cast_unsigned();
        let _ = writeln!(out, "\nImages:\nimage: {}", image.filename);
        let _ = writeln!(out, "file format: {}", image.format);
        let _ = writeln!(out, "virtual size: {} ({size} bytes)", scaled(size));
        if let Some(allocated) = image.actual_size {
            let _ = writeln!(out, "disk size: {}", scaled(allocated.cast_unsigned()));
        }
    }
}

/// A size with three significant digits and its unit. A unit begins at 1000 of the one below.
pub(super) fn scaled(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text} {}", UNITS[unit])
}

pub(super) async fn blockstats(call: &mut Call) -> Outcome {
    for entry in (QueryBlockstats { query_nodes: None }).run(&call.services).await? {
        let stats = entry.stats;
        let _ = writeln!(
            call.out,
            "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} \
             wr_total_time_ns={} rd_total_time_ns={} flush_total_time_ns={} rd_merged={} \
             wr_merged={} idle_time_ns={}",
            entry.device.unwrap_or_default(),
            stats.rd_bytes,
            stats.wr_bytes,
            stats.rd_operations,
            stats.wr_operations,
            stats.flush_operations,
            stats.wr_total_time_ns,
            stats.rd_total_time_ns,
            stats.flush_total_time_ns,
            stats.rd_merged,
            stats.wr_merged,
            stats.idle_time_ns.unwrap_or(0),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::scaled;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (200_704, "196 KiB"),
            (1_572_864, "1.5 MiB"),
            (12_897_484, "12.3 MiB"),
            (64 << 20, "64 MiB"),
            (5 << 40, "5 TiB"),
        ] {
            assert_eq!(scaled(bytes), text, "{bytes}");
        }
    }
}
