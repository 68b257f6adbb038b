//! What the guest finds in fw_cfg, as QEMU's `virt` provides it.

use super::boot_order;
use super::build::BuildError;
use super::spec::{Firmware, FwCfgContent, MachineSpec};
use crate::devices::fw_cfg::{FwCfgBuilder, key};

/// The items that follow from the command line.
pub(super) fn builder(spec: &MachineSpec) -> Result<FwCfgBuilder, BuildError> {
    let mut items = FwCfgBuilder::new();
    let nographic = u16::from(spec.process.nographic);
    items.add_bytes(key::NB_CPUS, (spec.smp.cpus as u16).to_le_bytes().to_vec())?;
    items.add_bytes(key::NOGRAPHIC, nographic.to_le_bytes().to_vec())?;
    items.add_bytes(key::UUID, spec.uuid.unwrap_or_default().to_vec())?;
    let menu = u16::from(spec.boot.menu.unwrap_or(false));
    items.add_bytes(key::BOOT_MENU, menu.to_le_bytes().to_vec())?;
    let wait = spec.boot.reboot_timeout.map_or(u32::MAX, |wait| wait.as_millis() as u32);
    items.add_file("etc/boot-fail-wait", wait.to_le_bytes().to_vec())?;
    if let Some(wait) = spec.boot.splash_time {
        items.add_file("etc/boot-menu-wait", wait.to_le_bytes().to_vec())?;
    }
    items.add_file("bootorder", boot_order::content(spec)?)?;
    items.add_file("bios-geometry", Vec::new())?;
    // Firmware in RAM gets the kernel in RAM; QEMU offers it here too.
    if let (Firmware::File(_), Some(append)) = (&spec.firmware, &spec.append) {
        let mut text = append.clone().into_bytes();
        text.push(0);
        items.add_bytes(key::CMDLINE_SIZE, (text.len() as u32).to_le_bytes().to_vec())?;
        items.add_bytes(key::CMDLINE_DATA, text)?;
    }
    for item in &spec.fw_cfg {
        let bytes = match &item.content {
            FwCfgContent::String(text) => text.clone().into_bytes(),
            FwCfgContent::File(path) => std::fs::read(path).map_err(|error| {
                let reason = format!("can't load {}: {error}", path.display());
                BuildError::FwCfg { origin: item.origin.clone(), reason }
            })?,
        };
        items.add_file(&item.name, bytes)?;
    }
    Ok(items)
}
