//! How virtio devices stand: their registers, queues and requests, in words.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::{VIRTIO_ID_BLOCK, VIRTIO_ID_CONSOLE, VIRTIO_ID_RNG};

use super::features;
use super::qom;
use super::status::QueryStatus;
use crate::devices::virtio::inspect::{
    Inspect, InspectElement, QueueReport, VirtioLink, VirtioReport,
};
use crate::devices::virtio::queue::ElementDescriptor;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::Services;
use crate::qom::Node;

/// What a device of this ID is called.
fn device_name(id: u32) -> &'static str {
    match id {
        VIRTIO_ID_BLOCK => "virtio-blk",
        VIRTIO_ID_CONSOLE => "virtio-serial",
        VIRTIO_ID_RNG => "virtio-rng",
        _ => "virtio",
    }
}

/// The device at a path, whole or the end of one.
fn find<'s>(services: &'s Services, path: &str, what: &str) -> Result<&'s VirtioLink, QmpError> {
    let tree = qom::tree(services);
    let found = tree.resolve(path).ok();
    let at = |link: &&VirtioLink| found.as_ref().is_some_and(|found| found.path == link.path);
    let link = services.info.virtio.iter().find(at);
    link.ok_or_else(|| QmpError::generic(format!("Path {path} is not a {what}")))
}

/// How the device at a path stands.
pub async fn report(services: &Services, link: &VirtioLink) -> Result<VirtioReport, QmpError> {
    services.answer(&link.inspect, "a virtio device", Inspect).await
}

/// QAPI `VirtioInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct VirtioInfo {
    pub path: String,
    pub name: String,
}

/// `x-query-virtio`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct XQueryVirtio {}

impl Command for XQueryVirtio {
    const NAME: &'static str = "x-query-virtio";
    type Return = Vec<VirtioInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<VirtioInfo>, QmpError> {
        let tree = qom::tree(services);
        let mut paths = Vec::new();
        if let Ok(root) = tree.resolve("/") {
            collect(&root.node, "", &mut paths);
        }
        let mut devices = Vec::new();
        for path in paths {
            let Some(link) = services.info.virtio.iter().find(|link| link.path == path) else {
                continue;
            };
            let name = device_name(report(services, link).await?.id).to_owned();
            devices.push(VirtioInfo { path, name });
        }
        match devices.is_empty() {
            true => Err(QmpError::generic("No virtio devices found")),
            false => Ok(devices),
        }
    }
}

/// The paths of virtio devices below an object, in the order in which lists show its children.
fn collect(node: &Node, path: &str, into: &mut Vec<String>) {
    for property in node.properties() {
        if let Some(child) = node.child(&property.name) {
            let path = format!("{path}/{}", property.name);
            collect(child, &path, into);
            if child.of().is("virtio-device") {
                into.push(path);
            }
        }
    }
}

/// QAPI `VirtioDeviceStatus`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioDeviceStatus {
    pub statuses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_statuses: Option<u8>,
}

/// QAPI `VirtioDeviceFeatures`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioDeviceFeatures {
    pub transports: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_dev_features: Option<u64>,
}

/// QAPI `VirtioStatus`, without what there is of vhost.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioStatus {
    pub name: String,
    pub device_id: u16,
    pub vhost_started: bool,
    pub device_endian: String,
    pub guest_features: VirtioDeviceFeatures,
    pub host_features: VirtioDeviceFeatures,
    pub backend_features: VirtioDeviceFeatures,
    pub num_vqs: i64,
    pub status: VirtioDeviceStatus,
    pub isr: u8,
    pub queue_sel: u16,
    pub vm_running: bool,
    pub broken: bool,
    pub disabled: bool,
    pub use_started: bool,
    pub started: bool,
    pub start_on_kick: bool,
    pub disable_legacy_check: bool,
    pub bus_name: String,
    pub use_guest_notifier_mask: bool,
}

/// `x-query-virtio-status`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct XQueryVirtioStatus {
    pub path: String,
}

impl Command for XQueryVirtioStatus {
    const NAME: &'static str = "x-query-virtio-status";
    type Return = VirtioStatus;

    async fn run(self, services: &Arc<Services>) -> Result<VirtioStatus, QmpError> {
        let link = find(services, &self.path, "realized VirtIODevice")?;
        let report = report(services, link).await?;
        let vm_running = (QueryStatus {}).run(services).await?.running;
        let features = |bits| features::features(report.id, bits);
        Ok(VirtioStatus {
            name: device_name(report.id).to_owned(),
            device_id: report.id as u16,
            vhost_started: false,
            device_endian: "little".to_owned(),
            guest_features: features(report.accepted),
            host_features: features(report.offered),
            backend_features: features(0),
            num_vqs: report.queues.len() as i64,
            status: features::status(report.status),
            isr: report.isr,
            queue_sel: report.queue_sel,
            vm_running,
            broken: report.broken,
            // What can only be so here.
            disabled: false,
            use_started: true,
            started: report.started,
            start_on_kick: report.start_on_kick,
            disable_legacy_check: false,
            bus_name: String::new(),
            use_guest_notifier_mask: true,
        })
    }
}

/// QAPI `VirtQueueStatus`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VirtQueueStatus {
    pub name: String,
    pub queue_index: u16,
    pub inuse: u32,
    pub vring_num: u32,
    pub vring_num_default: u32,
    pub vring_align: u32,
    pub vring_desc: u64,
    pub vring_avail: u64,
    pub vring_used: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_avail_idx: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_avail_idx: Option<u16>,
    pub used_idx: u16,
    pub signalled_used: u16,
    pub signalled_used_valid: bool,
}

/// `x-query-virtio-queue-status`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct XQueryVirtioQueueStatus {
    pub path: String,
    pub queue: u16,
}

impl Command for XQueryVirtioQueueStatus {
    const NAME: &'static str = "x-query-virtio-queue-status";
    type Return = VirtQueueStatus;

    async fn run(self, services: &Arc<Services>) -> Result<VirtQueueStatus, QmpError> {
        let link = find(services, &self.path, "VirtIODevice")?;
        let report = report(services, link).await?;
        let Some(&queue) = report.queues.get(usize::from(self.queue)) else {
            let sentence = format!("Invalid virtqueue number {}", self.queue);
            return Err(QmpError::generic(sentence));
        };
        let QueueReport { in_flight, used_index, signalled, last_avail, seen_avail, .. } = queue;
        Ok(VirtQueueStatus {
            name: device_name(report.id).to_owned(),
            queue_index: self.queue,
            inuse: in_flight.into(),
            vring_num: queue.size.into(),
            vring_num_default: queue.preferred.into(),
            vring_align: queue.align as u32,
            vring_desc: queue.desc,
            vring_avail: queue.avail,
            vring_used: queue.used,
            last_avail_idx: Some(last_avail),
            shadow_avail_idx: Some(seen_avail),
            used_idx: used_index,
            signalled_used: signalled.unwrap_or_default(),
            signalled_used_valid: signalled.is_some(),
        })
    }
}

/// QAPI `VirtVhostQueueStatus`: of a device whose queues the host's kernel or another process
/// serves. There are none.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VirtVhostQueueStatus {
    pub name: String,
    pub kick: i64,
    pub call: i64,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub num: i64,
    pub desc_phys: u64,
    pub desc_size: u32,
    pub avail_phys: u64,
    pub avail_size: u32,
    pub used_phys: u64,
    pub used_size: u32,
}

/// `x-query-virtio-vhost-queue-status`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct XQueryVirtioVhostQueueStatus {
    pub path: String,
    /// Whichever it is: none has started.
    pub queue: u16,
}

impl Command for XQueryVirtioVhostQueueStatus {
    const NAME: &'static str = "x-query-virtio-vhost-queue-status";
    type Return = VirtVhostQueueStatus;

    async fn run(self, services: &Arc<Services>) -> Result<VirtVhostQueueStatus, QmpError> {
        find(services, &self.path, "VirtIODevice")?;
        Err(QmpError::generic("Error: vhost device has not started yet"))
    }
}

/// QAPI `VirtioRingDesc`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct VirtioRingDesc {
    pub addr: u64,
    pub len: u32,
    pub flags: Vec<String>,
}

/// QAPI `VirtioRingAvail`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct VirtioRingAvail {
    pub flags: u16,
    pub idx: u16,
    pub ring: u16,
}

/// QAPI `VirtioRingUsed`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct VirtioRingUsed {
    pub flags: u16,
    pub idx: u16,
}

/// QAPI `VirtioQueueElement`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct VirtioQueueElement {
    pub name: String,
    pub index: u32,
    pub descs: Vec<VirtioRingDesc>,
    pub avail: VirtioRingAvail,
    pub used: VirtioRingUsed,
}

/// `x-query-virtio-queue-element`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct XQueryVirtioQueueElement {
    pub path: String,
    pub queue: u16,
    pub index: Option<u16>,
}

impl Command for XQueryVirtioQueueElement {
    const NAME: &'static str = "x-query-virtio-queue-element";
    type Return = VirtioQueueElement;

    async fn run(self, services: &Arc<Services>) -> Result<VirtioQueueElement, QmpError> {
        let Self { path, queue, index } = self;
        let link = find(services, &path, "VirtIO device")?;
        let id = report(services, link).await?.id;
        let request = InspectElement { queue, index };
        let element = services.answer(&link.element, "a virtio device", request).await?;
        let element = element.map_err(|error| QmpError::generic(error.to_string()))?;
        let shown = |descriptor: &ElementDescriptor| {
            let mut flags: Vec<_> = descriptor.flag_names().map(str::to_owned).collect();
            flags.reverse();
            VirtioRingDesc { addr: descriptor.addr, len: descriptor.len, flags }
        };
        // Lists begin with what QEMU comes upon last.
        let descs = element.descriptors.iter().rev().map(shown).collect();
        Ok(VirtioQueueElement {
            name: device_name(id).to_owned(),
            index: element.head.into(),
            descs,
            avail: VirtioRingAvail {
                flags: element.avail_flags,
                idx: element.avail_index,
                ring: element.head,
            },
            used: VirtioRingUsed { flags: element.used_flags, idx: element.used_index },
        })
    }
}
