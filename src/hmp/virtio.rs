//! Virtio devices: `info virtio` and what is in them.

use std::fmt::Write;

use super::command::Call;
use crate::qmp::command::Command;
use crate::qmp::commands::virtio::{
    VirtioDeviceFeatures, XQueryVirtio, XQueryVirtioQueueElement, XQueryVirtioQueueStatus,
    XQueryVirtioStatus, XQueryVirtioVhostQueueStatus,
};
use crate::qmp::error::QmpError;

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

fn path(call: &Call) -> String {
    call.arguments.text("path").unwrap_or_default().to_owned()
}

/// The queue that a line names; QEMU takes the lower half of the number.
fn queue(call: &Call) -> u16 {
    call.arguments.number("queue").unwrap_or_default() as u16
}

pub(super) async fn list(call: &mut Call) -> Outcome {
    for device in (XQueryVirtio {}).run(&call.services).await? {
        let _ = writeln!(call.out, "{} [{}]", device.path, device.name);
    }
    Ok(())
}

/// Sentences on lines of their own, and the end of the last.
fn sentences(out: &mut String, list: &[String]) {
    let list: Vec<String> = list.iter().map(|sentence| format!("\t{sentence}")).collect();
    let _ = writeln!(out, "{}", list.join(",\n"));
}

fn features(out: &mut String, heading: &str, features: &VirtioDeviceFeatures) {
    let _ = writeln!(out, "  {heading} features:");
    sentences(out, &features.transports);
    if let Some(of_device) = features.dev_features.as_deref().filter(|list| !list.is_empty()) {
        sentences(out, of_device);
    }
    if let Some(bits) = features.unknown_dev_features {
        let _ = writeln!(out, "  unknown-features(0x{bits:016x})");
    }
}

pub(super) async fn status(call: &mut Call) -> Outcome {
    let path = path(call);
    let status = XQueryVirtioStatus { path: path.clone() }.run(&call.services).await?;
    let out = &mut call.out;
    let _ = writeln!(out, "{path}:");
    // A space follows the name, where QEMU names vhost.
    let rows = [
        ("device_name", format!("{} ", status.name)),
        ("device_id", status.device_id.to_string()),
        ("vhost_started", status.vhost_started.to_string()),
        ("bus_name", "(null)".to_owned()),
        ("broken", status.broken.to_string()),
        ("disabled", status.disabled.to_string()),
        ("disable_legacy_check", status.disable_legacy_check.to_string()),
        ("started", status.started.to_string()),
        ("use_started", status.use_started.to_string()),
        ("start_on_kick", status.start_on_kick.to_string()),
        ("use_guest_notifier_mask", status.use_guest_notifier_mask.to_string()),
        ("vm_running", status.vm_running.to_string()),
        ("num_vqs", status.num_vqs.to_string()),
        ("queue_sel", status.queue_sel.to_string()),
        ("isr", status.isr.to_string()),
        ("endianness", status.device_endian),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "  {:<25}{value}", format!("{name}:"));
    }
    out.push_str("  status:\n");
    sentences(out, &status.status.statuses);
    if let Some(bits) = status.status.unknown_statuses {
        let _ = writeln!(out, "  unknown-statuses(0x{bits:016x})");
    }
    features(out, "Guest", &status.guest_features);
    features(out, "Host", &status.host_features);
    features(out, "Backend", &status.backend_features);
    Ok(())
}

pub(super) async fn queue_status(call: &mut Call) -> Outcome {
    let (path, queue) = (path(call), queue(call));
    let request = XQueryVirtioQueueStatus { path: path.clone(), queue };
    let status = request.run(&call.services).await?;
    let out = &mut call.out;
    let _ = writeln!(out, "{path}:");
    let mut rows = vec![
        ("device_name", status.name),
        ("queue_index", status.queue_index.to_string()),
        ("inuse", status.inuse.to_string()),
        ("used_idx", status.used_idx.to_string()),
        ("signalled_used", status.signalled_used.to_string()),
        ("signalled_used_valid", status.signalled_used_valid.to_string()),
    ];
    let indices =
        [("last_avail_idx", status.last_avail_idx), ("shadow_avail_idx", status.shadow_avail_idx)];
    let known = indices.into_iter().filter_map(|(name, index)| Some((name, index?.to_string())));
    rows.extend(known);
    for (name, value) in rows {
        let _ = writeln!(out, "  {:<22}{value}", format!("{name}:"));
    }
    out.push_str("  VRing:\n");
    for (name, value) in [
        ("num", status.vring_num.to_string()),
        ("num_default", status.vring_num_default.to_string()),
        ("align", status.vring_align.to_string()),
        ("desc", format!("0x{:016x}", status.vring_desc)),
        ("avail", format!("0x{:016x}", status.vring_avail)),
        ("used", format!("0x{:016x}", status.vring_used)),
    ] {
        let _ = writeln!(out, "    {:<14}{value}", format!("{name}:"));
    }
    Ok(())
}

pub(super) async fn vhost_queue_status(call: &mut Call) -> Outcome {
    let request = XQueryVirtioVhostQueueStatus { path: path(call), queue: queue(call) };
    request.run(&call.services).await.map(drop)
}

pub(super) async fn queue_element(call: &mut Call) -> Outcome {
    let (path, queue) = (path(call), queue(call));
    let index = call.arguments.number("index").map(|index| index as i32);
    // As QEMU has it, -1 is none.
    let index = index.filter(|index| *index != -1).map(|index| index as u16);
    let request = XQueryVirtioQueueElement { path: path.clone(), queue, index };
    let element = request.run(&call.services).await?;
    let out = &mut call.out;
    let _ = writeln!(out, "{path}:\n  device_name: {}", element.name);
    let _ = writeln!(out, "  index:   {}\n  desc:\n    descs:", element.index);
    let line = |descriptor: &crate::qmp::commands::virtio::VirtioRingDesc| {
        let flags = match descriptor.flags.is_empty() {
            true => String::new(),
            false => format!(" ({})", descriptor.flags.join(", ")),
        };
        format!("        addr 0x{:x} len {}{flags}", descriptor.addr, descriptor.len as i32)
    };
    let lines: Vec<String> = element.descs.iter().map(line).collect();
    let (avail, used) = (element.avail, element.used);
    let _ = writeln!(out, "{}", lines.join(",\n"));
    let _ = writeln!(out, "  avail:\n    flags: {}\n    idx:   {}", avail.flags, avail.idx);
    let _ = writeln!(out, "    ring:  {}", avail.ring);
    let _ = writeln!(out, "  used:\n    flags: {}\n    idx:   {}", used.flags, used.idx);
    Ok(())
}
