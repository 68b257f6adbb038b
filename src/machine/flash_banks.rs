//! The two banks of flash and the drives behind them.

use std::sync::Arc;

use super::build::{Board, BuildError};
use super::drives::{Drives, PluggedDrive};
use super::memory_map as map;
use super::spec::MachineSpec;
use crate::actors::outlet::Outlet;
use crate::block::message::{BlockDone, BlockOp, BlockRequest};
use crate::devices::flash::{BANK_SIZE, Flash, FlashArray, FlashChanged};
use crate::migration::ram::device::DeviceBlock;

/// Put both banks on the bus; a bank without a drive is empty and forgets.
pub(super) fn plug(
    board: &mut Board,
    spec: &MachineSpec,
    drives: &mut Drives,
) -> Result<Vec<PluggedDrive>, BuildError> {
    let mut nodes = Vec::new();
    for (bank, drive) in spec.machine.flash.iter().enumerate() {
        let name = format!("virt.flash{bank}");
        let mut contents = None;
        let mut read_only = false;
        let mut backing = Outlet::Unconnected;
        if let Some(given) = drive {
            let refused =
                |reason: String| BuildError::Device { origin: given.origin.clone(), reason };
            let mut drive = drives.take("cfi.pflash01.drive", &given.drive).map_err(refused)?;
            drive.attach(false).map_err(|e| refused(e.to_string()))?;
            let info = drive.info();
            if info.size != BANK_SIZE {
                return Err(refused(format!(
                    "cfi.pflash01 device '/machine/{name}' requires {BANK_SIZE} bytes, {} block \
                     backend provides {} bytes",
                    given.drive, info.size
                )));
            }
            contents = Some(drive.contents().map_err(|e| refused(e.to_string()))?);
            read_only = info.read_only;
            // Changes of the same bytes must not overtake one another.
            let node = drive.into_ordered_node(board.failure.clone());
            let node = node.map_err(|e| refused(e.to_string()))?;
            backing = written_to(node.requests(), name.clone());
            nodes.push(PluggedDrive {
                id: given.drive.clone(),
                node,
                device: Some(format!("/machine/{name}")),
                may_stop: false,
                thread: None,
            });
        }
        let array = FlashArray::new(contents.as_deref()).map_err(|error| BuildError::Device {
            origin: name.clone(),
            reason: error.to_string(),
        })?;
        let array = Arc::new(array);
        let base = map::FLASH.base + bank as u64 * BANK_SIZE;
        let cell = board.map(&name, base, Flash::new(Arc::clone(&array), read_only, backing));
        board.manage_instance("pflash_cfi01", bank as u32, &cell);
        board.roms.push(DeviceBlock::new(name, base, &array));
    }
    Ok(nodes)
}

/// Changes of a bank as requests to its drive.
fn written_to(requests: Outlet<BlockRequest>, name: String) -> Outlet<FlashChanged> {
    let done = Outlet::fold(move |BlockDone { result, .. }| {
        if let Err(error) = result {
            // As QEMU: the guest is not told, the user is.
            tracing::error!("{name}: could not update the image: {error}");
        }
    });
    Outlet::fold(move |FlashChanged { offset, bytes }| {
        let op = BlockOp::Store { offset, bytes };
        requests.send(BlockRequest { tag: 0, op, done: done.clone() });
    })
}
