//! `-drive` and its short forms: block back ends.

use super::opts::Opts;
use super::{CliError, OptionError, refused, value};
use crate::machine::spec::{
    CacheMode, DeviceSpec, DriveFormat, DriveInterface, DriveSpec, ErrorAction, FlashSpec,
    MachineSpec, NodeNames,
};

/// Formats of QEMU that cannot be opened here.
const UNAVAILABLE_FORMATS: [&str; 10] =
    ["bochs", "cloop", "dmg", "luks", "parallels", "qcow", "qcow2", "qed", "vdi", "vmdk"];

/// Interfaces of QEMU that the machine has not.
const UNAVAILABLE_INTERFACES: [&str; 6] = ["ide", "scsi", "floppy", "mtd", "sd", "xen"];

/// The drives so far.
#[derive(Debug, Default)]
pub struct Disks {
    drives: Vec<DriveSpec>,
    /// Nodes that have got a name so far because they had none.
    nameless_nodes: u32,
}

impl Disks {
    /// `-hda` to `-hdd`, or a bare file name.
    pub fn image(&mut self, index: u32, file: &str, origin: &str) -> Result<(), OptionError> {
        let mut opts = Opts::default();
        opts.items.push(("file".into(), file.into()));
        opts.items.push(("index".into(), index.to_string()));
        self.add(opts, origin)
    }

    /// `-drive`.
    pub fn drive(
        &mut self,
        text: &str,
        origin: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(), OptionError> {
        let mut opts = Opts::parse(text, None);
        warnings.extend(opts.warnings.drain(..).map(|warning| format!("{origin}: {warning}")));
        self.add(opts, origin)
    }

    /// `-pflash`.
    pub fn flash(&mut self, file: &str, origin: &str) -> Result<(), OptionError> {
        let mut opts = Opts::default();
        opts.items.push(("if".into(), "pflash".into()));
        opts.items.push(("file".into(), file.into()));
        self.add(opts, origin)
    }

    /// `-blockdev`: a node of a raw image; one on another node is that image by another name.
    pub fn blockdev(&mut self, text: &str, origin: &str) -> Result<(), OptionError> {
        let mut opts = Opts::parse_or_json(text, "driver")?;
        let driver = opts.take("driver").ok_or(OptionError::Missing { name: "driver".into() })?;
        let id = match opts.take("node-name") {
            Some(name) => value::identifier(&name)?,
            None => return refused("'node-name' must be specified for the root node"),
        };
        if self.drives.iter().any(|drive| drive.id == id) {
            return refused(format!("Duplicate nodes with node-name='{id}'"));
        }
        let (prefix, base) = match (driver.as_str(), opts.take("file")) {
            ("file", None) => ("", None),
            ("raw", None) => ("file.", None),
            ("raw", Some(node)) => {
                let base = self.drives.iter().find(|drive| drive.id == node);
                let unknown = || {
                    let sentence = format!("Cannot find device='' nor node-name='{node}'");
                    OptionError::Refused(sentence)
                };
                ("", Some(base.ok_or_else(unknown)?.clone()))
            }
            (name, _) if UNAVAILABLE_FORMATS.contains(&name) => {
                return refused(format!("format '{name}' is not available (valid: raw)"));
            }
            _ => return refused(format!("Unknown driver '{driver}' (valid: raw, file)")),
        };
        if prefix == "file." {
            match opts.take("file.driver").as_deref() {
                Some("file") => {}
                None => return Err(OptionError::Missing { name: "file.driver".into() }),
                Some(other) => {
                    return refused(format!("Unknown driver '{other}' (valid: file)"));
                }
            }
        }
        let file = match &base {
            Some(base) => base.file.clone(),
            None => match opts.take(&format!("{prefix}filename")) {
                Some(file) => file.into(),
                None => {
                    return Err(OptionError::Missing { name: format!("{prefix}filename") });
                }
            },
        };
        let nodes = match &base {
            Some(base) => NodeNames { format: Some(id.clone()), file: base.id.clone() },
            None if driver == "file" => NodeNames { format: None, file: id.clone() },
            None => {
                let file = self.node_name(opts.take("file.node-name"))?;
                NodeNames { format: Some(id.clone()), file }
            }
        };
        let read_only = opts.take_switch("read-only")?.unwrap_or(false)
            || base.as_ref().is_some_and(|base| base.read_only);
        let mut auto_read_only = base.as_ref().is_some_and(|base| base.auto_read_only);
        for name in ["auto-read-only", "file.auto-read-only"] {
            auto_read_only |= opts.take_switch(name)?.unwrap_or(false);
        }
        let mut cache = base.as_ref().map(|base| base.cache).unwrap_or_default();
        for name in ["cache.direct", "file.cache.direct"] {
            cache.direct |= opts.take_switch(name)?.unwrap_or(false);
        }
        for name in ["cache.no-flush", "file.cache.no-flush"] {
            cache.no_flush |= opts.take_switch(name)?.unwrap_or(false);
        }
        let not_accepted = |name: &str, value: &str, allowed: &str| OptionError::NotAccepted {
            name: name.into(),
            value: value.into(),
            allowed: allowed.into(),
        };
        let mut discard = base.is_some_and(|base| base.discard);
        for name in ["file.discard", "discard"] {
            discard = match opts.take(name).as_deref() {
                None => discard,
                Some("ignore") => false,
                Some("unmap") => true,
                Some(other) => return Err(not_accepted(name, other, "ignore, unmap")),
            };
        }
        for name in ["aio", "file.aio"] {
            match opts.take(name).as_deref() {
                None | Some("threads") => {}
                Some(kind @ ("native" | "io_uring")) => {
                    return refused(format!("{name}={kind} is not available (valid: threads)"));
                }
                Some(other) => return Err(not_accepted(name, other, "threads")),
            }
        }
        if let Some((name, _)) = opts.items.first() {
            return Err(OptionError::Unexpected { name: name.clone() });
        }
        self.drives.push(DriveSpec {
            id,
            is_back_end: false,
            nodes,
            interface: DriveInterface::None,
            index: u32::MAX,
            file,
            format: Some(DriveFormat::Raw),
            read_only,
            auto_read_only,
            cache,
            discard,
            write_error: ErrorAction::Enospc,
            read_error: ErrorAction::Report,
            origin: origin.into(),
        });
        Ok(())
    }

    fn add(&mut self, mut opts: Opts, origin: &str) -> Result<(), OptionError> {
        let interface = match opts.take("if").as_deref() {
            None | Some("virtio") => DriveInterface::Virtio,
            Some("none") => DriveInterface::None,
            Some("pflash") => DriveInterface::Pflash,
            Some(name) if UNAVAILABLE_INTERFACES.contains(&name) => {
                return refused(format!(
                    "machine type does not support if={name} (valid: none, virtio, pflash)"
                ));
            }
            Some(name) => {
                return refused(format!(
                    "unsupported bus type '{name}' (valid: none, virtio, pflash)"
                ));
            }
        };
        match opts.take("media").as_deref() {
            None | Some("disk") => {}
            Some("cdrom") => return refused("media=cdrom: the machine has no CD-ROM drive"),
            Some(other) => return refused(format!("'{other}' invalid media (valid: disk)")),
        }
        let index = self.index(interface, &mut opts)?;
        if interface == DriveInterface::Pflash && index >= 2 {
            return refused(format!("machine type does not support if=pflash,bus=0,unit={index}"));
        }
        let id = match opts.take("id") {
            Some(id) => value::identifier(&id)?,
            None if interface == DriveInterface::Virtio => format!("virtio{index}"),
            None if interface == DriveInterface::Pflash => format!("pflash{index}"),
            None => format!("none{index}"),
        };
        if self.drives.iter().any(|drive| drive.id == id) {
            return Err(OptionError::DuplicateId { id, what: "drive" });
        }
        let read_only = match opts.take_switch("readonly") {
            Ok(on) => on.or(opts.take_switch("read-only")?).unwrap_or(false),
            Err(_) => return Err(OptionError::ExpectsOnOff { name: "read-only".into() }),
        };
        let auto_read_only = opts.take_switch("auto-read-only")?.unwrap_or(true);
        let cache = cache_mode(&mut opts)?;
        for (name, why) in [
            ("snapshot", "temporary overlays are not available"),
            ("copy-on-read", "there are no backing files"),
        ] {
            if opts.take_switch(name)?.unwrap_or(false) {
                return refused(format!("{name}=on: {why}"));
            }
        }
        match opts.take("aio").as_deref() {
            None | Some("threads") => {}
            Some(name @ ("native" | "io_uring")) => {
                return refused(format!("aio={name} is not available (valid: threads)"));
            }
            Some(_) => return refused("invalid aio option (valid: threads)"),
        }
        let discard = match opts.take("discard").as_deref() {
            None | Some("ignore" | "off") => false,
            Some("unmap" | "on") => true,
            Some(_) => return refused("Invalid discard option (valid: ignore, unmap)"),
        };
        match opts.take("detect-zeroes").as_deref() {
            None | Some("off") => {}
            Some(name @ ("on" | "unmap")) => {
                return refused(format!("detect-zeroes={name} is not available (valid: off)"));
            }
            Some(name) => return refused(format!("invalid parameter value: {name} (valid: off)")),
        }
        let write_error =
            error_action("write", opts.take("werror"), true)?.unwrap_or(ErrorAction::Enospc);
        let read_error =
            error_action("read", opts.take("rerror"), false)?.unwrap_or(ErrorAction::Report);
        let format = match opts.take("format").or_else(|| opts.take("driver")).as_deref() {
            None => None,
            Some("raw") => Some(DriveFormat::Raw),
            Some(name) if UNAVAILABLE_FORMATS.contains(&name) => {
                return refused(format!("format '{name}' is not available (valid: raw)"));
            }
            Some(name) => return refused(format!("Unknown driver '{name}' (valid: raw)")),
        };
        let file = match opts.take("file").or_else(|| opts.take("file.filename")) {
            Some(file) if !file.is_empty() => file.into(),
            _ => return refused("Must specify either driver or file"),
        };
        let format_node = self.node_name(opts.take("node-name"))?;
        let file_node = self.node_name(opts.take("file.node-name"))?;
        let nodes = NodeNames { format: Some(format_node), file: file_node };
        if let Some((name, _)) = opts.items.first() {
            return refused(format!("Block format 'raw' does not support the option '{name}'"));
        }
        self.drives.push(DriveSpec {
            id,
            is_back_end: true,
            nodes,
            interface,
            index,
            file,
            format,
            read_only,
            auto_read_only,
            cache,
            discard,
            write_error,
            read_error,
            origin: origin.into(),
        });
        Ok(())
    }

    /// The name of a node: the user's, or one that no user can give.
    fn node_name(&mut self, given: Option<String>) -> Result<String, OptionError> {
        let Some(name) = given else {
            self.nameless_nodes += 1;
            return Ok(format!("#block{:03}", self.nameless_nodes));
        };
        let name = match value::identifier(&name) {
            Ok(name) if name.len() < 32 => name,
            _ => return refused(format!("Invalid node-name: '{name}'")),
        };
        let is_taken = |drive: &DriveSpec| {
            drive.nodes.format.as_ref() == Some(&name) || drive.nodes.file == name
        };
        match self.drives.iter().any(is_taken) {
            true => refused(format!("Duplicate nodes with node-name='{name}'")),
            false => Ok(name),
        }
    }

    /// The drive's place among those of its interface: as given, or the first that is free.
    fn index(&self, interface: DriveInterface, opts: &mut Opts) -> Result<u32, OptionError> {
        let bus = opts.take_number("bus")?;
        let unit = opts.take_number("unit")?;
        let index = opts.take_number("index")?;
        if index.is_some() && (bus.is_some() || unit.is_some()) {
            return refused("index cannot be used with bus and unit");
        }
        if bus.unwrap_or(0) != 0 {
            return refused("bus: the interface has one bus, 0");
        }
        let taken = |index: u32| {
            self.drives.iter().any(|drive| drive.interface == interface && drive.index == index)
        };
        match index.or(unit) {
            None => Ok((0..u32::MAX).find(|index| !taken(*index)).unwrap_or(u32::MAX)),
            Some(given) => match u32::try_from(given) {
                Ok(index) if taken(index) => {
                    refused(format!("drive with bus=0, unit={index} (index={index}) exists"))
                }
                Ok(index) => Ok(index),
                Err(_) => {
                    Err(OptionError::OutOfRange { name: "index".into(), value: given.to_string() })
                }
            },
        }
    }

    /// Hand the drives over; those of the virtio interface get their device.
    pub fn finish(&mut self, spec: &mut MachineSpec) -> Result<(), CliError> {
        spec.drives = std::mem::take(&mut self.drives);
        for drive in &spec.drives {
            if drive.interface == DriveInterface::Pflash
                && let Some(bank) = spec.machine.flash.get_mut(drive.index as usize)
            {
                if bank.is_some() {
                    let clash = OptionError::Refused("clashes with -machine".into());
                    return Err(clash.at(&drive.origin));
                }
                *bank = Some(FlashSpec { drive: drive.id.clone(), origin: drive.origin.clone() });
            }
            if drive.interface == DriveInterface::Virtio {
                spec.devices.push(DeviceSpec {
                    driver: "virtio-blk-device".into(),
                    id: None,
                    bus: None,
                    props: vec![("drive".into(), drive.id.clone())],
                    origin: drive.origin.clone(),
                });
            }
        }
        Ok(())
    }
}

fn cache_mode(opts: &mut Opts) -> Result<CacheMode, OptionError> {
    let mode = |writeback, direct, no_flush| CacheMode { writeback, direct, no_flush };
    let mut cache = match opts.take("cache").as_deref() {
        None | Some("writeback") => mode(true, false, false),
        Some("none" | "off") => mode(true, true, false),
        Some("writethrough") => mode(false, false, false),
        Some("directsync") => mode(false, true, false),
        Some("unsafe") => mode(true, false, true),
        Some(_) => {
            return refused(
                "invalid cache option (valid: none, writeback, writethrough, directsync, unsafe)",
            );
        }
    };
    if let Some(on) = opts.take_switch("cache.writeback")? {
        cache.writeback = on;
    }
    if let Some(on) = opts.take_switch("cache.direct")? {
        cache.direct = on;
    }
    if let Some(on) = opts.take_switch("cache.no-flush")? {
        cache.no_flush = on;
    }
    Ok(cache)
}

fn error_action(
    direction: &str,
    text: Option<String>,
    enospc: bool,
) -> Result<Option<ErrorAction>, OptionError> {
    Ok(match text.as_deref() {
        None => None,
        Some("ignore") => Some(ErrorAction::Ignore),
        Some("stop") => Some(ErrorAction::Stop),
        Some("report") => Some(ErrorAction::Report),
        Some("enospc") if enospc => Some(ErrorAction::Enospc),
        Some(other) => {
            let more = if enospc { ", enospc" } else { "" };
            return refused(format!(
                "'{other}' invalid {direction} error action (valid: ignore, stop, report{more})"
            ));
        }
    })
}
