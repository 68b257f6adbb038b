//! The drives of the command line while devices take them.

use std::sync::Arc;

use actix::{Actor, Addr};

use super::build::BuildError;
use super::spec::{DriveSpec, MachineSpec};
use crate::actors::message::ActorFailed;
use crate::actors::outlet::Outlet;
use crate::block::image::ImageError;
use crate::block::node::{BlockNode, Drive};
use crate::net::descriptors::Descriptors;
use crate::objects::iothread::IoThread;
use crate::qmp::link::DriveLink;

/// Every drive, open; a device takes it out.
pub(super) struct Drives(Vec<(String, Option<Drive>)>);

/// A drive with its device, or without one.
pub(super) struct PluggedDrive {
    /// Identifier of its `DriveSpec`.
    pub(super) id: String,
    pub(super) node: BlockNode,
    /// The identifier of the device, or its path in the tree of objects.
    pub(super) device: Option<String>,
    /// A failed request may stop the machine.
    pub(super) may_stop: bool,
    /// The thread that the device has for itself.
    pub(super) thread: Option<Arc<IoThread>>,
}

impl PluggedDrive {
    /// Start a drive's actor; how monitors know it.
    pub(super) fn start(self, spec: &MachineSpec) -> (Addr<BlockNode>, DriveLink) {
        let Self { id, node, device, may_stop, thread } = self;
        let node = match &thread {
            None => node.start(),
            Some(thread) => BlockNode::start_in_arbiter(thread.arbiter(), move |_| node),
        };
        let found = spec.drives.iter().find(|drive| drive.id == id);
        let link = DriveLink {
            device: found.filter(|drive| drive.is_back_end).map(|_| id).unwrap_or_default(),
            nodes: found.map(|drive| drive.nodes.clone()).unwrap_or_default(),
            file: found.map(|drive| drive.file.clone()).unwrap_or_default(),
            cache: found.map(|drive| drive.cache).unwrap_or_default(),
            qdev: device,
            stops_the_machine: may_stop,
            query: node.clone().recipient(),
        };
        (node, link)
    }
}

impl Drives {
    /// Open all of them.
    pub(super) fn open(spec: &MachineSpec, descriptors: &Descriptors) -> Result<Self, BuildError> {
        // With -incoming the machine that comes still has the images.
        let active = spec.incoming.is_none();
        let open = |drive| {
            let refused = |error: ImageError, origin: &str| BuildError::Device {
                origin: origin.to_owned(),
                reason: error.to_string(),
            };
            let spec: &DriveSpec = drive;
            Drive::open(spec, active, descriptors)
                .map(|drive| (spec.id.clone(), Some(drive)))
                .map_err(|error| refused(error, &spec.origin))
        };
        spec.drives.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// What no device has taken: it stays open, and locked, as long as the machine.
    pub(super) fn rest(
        self,
        spec: &MachineSpec,
        failure: &Outlet<ActorFailed>,
    ) -> Result<Vec<PluggedDrive>, BuildError> {
        let origin = |id: &str| {
            let found = spec.drives.iter().find(|drive| drive.id == id);
            found.map(|drive| drive.origin.clone()).unwrap_or_default()
        };
        let rest = self.0.into_iter().filter_map(|(id, drive)| Some((id, drive?)));
        let node = |(id, drive): (String, Drive)| match drive.into_node(failure.clone()) {
            Ok(node) => Ok(PluggedDrive { id, node, device: None, may_stop: false, thread: None }),
            Err(error) => {
                Err(BuildError::Device { origin: origin(&id), reason: error.to_string() })
            }
        };
        rest.map(node).collect()
    }

    /// The drive that the property `what` names. The error is a sentence, QEMU's.
    pub(super) fn take(&mut self, what: &str, id: &str) -> Result<Drive, String> {
        let slot = self.0.iter_mut().find(|(known, _)| known == id);
        let (_, slot) = slot.ok_or_else(|| format!("Property '{what}' can't find value '{id}'"))?;
        slot.take().ok_or_else(|| format!("Drive '{id}' is already in use by another device"))
    }
}
