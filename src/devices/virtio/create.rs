//! From the properties of `-device` to a device in its slot: first a checked description, which
//! names the back ends, then the actor, once the caller has found them.

use std::sync::Arc;

use super::blk::{Blk, BlkOptions, ZONE_SECTORS_MAX};
use super::console::{Console, PortOptions};
use super::entropy::EntropyWanted;
use super::properties::{BLK, CONSOLE_PORT, DeviceError, RNG, SERIAL, SERIAL_PORT, Values};
use super::queue::QUEUE_SIZE_MAX;
use super::rng::{Quota, Rng};
use super::transport::{MmioSlot, RingOptions, VirtioMmio};
use crate::actors::outlet::Outlet;
use crate::actors::timer::ArmTimer;
use crate::block::accounting::BlockAccount;
use crate::block::message::{BlockFailed, BlockInfo, BlockRequest};
use crate::chardev::message::{CharBackend, PortOpened};
use crate::machine::clock::VirtualClock;
use crate::machine::spec::ErrorAction;

const AUTO_QUEUES: u16 = u16::MAX;
const NO_LIMIT: u64 = i64::MAX as u64;
const AUTO_PORT: u32 = u32::MAX;
const PORTS_MAX: u32 = 511;

/// Properties as they were given, in order.
pub type Properties = [(String, String)];

fn refused<T>(sentence: impl Into<String>) -> Result<T, DeviceError> {
    Err(DeviceError::Refused(sentence.into()))
}

fn rings(values: &Values) -> RingOptions {
    RingOptions {
        indirect_desc: values.is_on("indirect_desc"),
        event_idx: values.is_on("event_idx"),
        notify_on_empty: values.is_on("notify_on_empty"),
        any_layout: values.is_on("any_layout"),
        queue_reset: values.is_on("queue_reset"),
    }
}

/// A checked `virtio-blk-device`.
#[derive(Debug)]
pub struct BlkDevice {
    /// Identifier of its drive.
    pub drive: String,
    /// Others may write to the image, too.
    pub share_write: bool,
    /// Place in the boot order.
    pub boot_index: Option<i32>,
    /// Identifier of the thread that it has.
    pub iothread: Option<String>,
    options: BlkOptions,
    rings: RingOptions,
    write_cache: Option<bool>,
    write_error: Option<ErrorAction>,
    read_error: Option<ErrorAction>,
}

/// Check the properties of a `virtio-blk-device`.
pub fn blk(properties: &Properties) -> Result<BlkDevice, DeviceError> {
    let values = BLK.parse(properties)?;
    let number = |name| values.number::<u32>(name).unwrap_or(0);
    let Some(drive) = values.text("drive").filter(|id| !id.is_empty()) else {
        return refused("drive property not set");
    };
    let num_queues = match values.number("num-queues").unwrap_or(AUTO_QUEUES) {
        0 => return refused("num-queues property must be larger than 0"),
        AUTO_QUEUES => 1,
        n if n > QUEUE_SIZE_MAX => {
            return refused(format!("num-queues property must be at most {QUEUE_SIZE_MAX}"));
        }
        n => n,
    };
    let queue_size: u16 = values.number("queue-size").unwrap_or(0);
    if queue_size <= 2 {
        return refused(format!("invalid queue-size property ({queue_size}), must be > 2"));
    }
    if !queue_size.is_power_of_two() || queue_size > QUEUE_SIZE_MAX {
        return refused(format!(
            "invalid queue-size property ({queue_size}), must be a power of 2 (max {QUEUE_SIZE_MAX})"
        ));
    }
    let (logical, physical) = block_sizes(&values)?;
    let discard_granularity = number("discard_granularity");
    let options = BlkOptions {
        serial: values.text("serial").unwrap_or("").as_bytes().to_vec(),
        num_queues,
        queue_size,
        seg_max_adjust: values.is_on("seg-max-adjust"),
        config_wce: values.is_on("config-wce"),
        discard: values.is_on("discard"),
        write_zeroes: values.is_on("write-zeroes"),
        max_discard_sectors: zone_limit(&values, "discard", "max-discard-sectors")?,
        max_write_zeroes_sectors: zone_limit(&values, "write-zeroes", "max-write-zeroes-sectors")?,
        discard_granularity: Some(discard_granularity)
            .filter(|&n| n != u32::MAX && values.is_on("report-discard-granularity")),
        logical_block_size: logical,
        physical_block_size: physical,
        min_io_size: number("min_io_size"),
        opt_io_size: number("opt_io_size"),
        geometry: geometry(&values)?,
        writeback: true,
        write_error: ErrorAction::Report,
        read_error: ErrorAction::Report,
    };
    Ok(BlkDevice {
        drive: drive.to_owned(),
        share_write: values.is_on("share-rw"),
        boot_index: values.number("bootindex"),
        iothread: values.text("iothread").map(str::to_owned),
        options,
        rings: rings(&values),
        write_cache: match values.text("write-cache") {
            Some("on") => Some(true),
            Some("off") => Some(false),
            _ => None,
        },
        write_error: error_action(&values, "werror"),
        read_error: error_action(&values, "rerror"),
    })
}

fn error_action(values: &Values, name: &str) -> Option<ErrorAction> {
    match values.text(name)? {
        "report" => Some(ErrorAction::Report),
        "ignore" => Some(ErrorAction::Ignore),
        "stop" => Some(ErrorAction::Stop),
        "enospc" => Some(ErrorAction::Enospc),
        _ => None,
    }
}

fn zone_limit(values: &Values, feature: &str, name: &str) -> Result<u32, DeviceError> {
    let sectors = values.number(name).unwrap_or(0);
    if values.is_on(feature) && !(1..=ZONE_SECTORS_MAX).contains(&sectors) {
        return refused(format!(
            "invalid {name} property ({sectors}), must be between 1 and {ZONE_SECTORS_MAX}"
        ));
    }
    Ok(sectors)
}

/// Logical and physical block size.
fn block_sizes(values: &Values) -> Result<(u32, u32), DeviceError> {
    let size = |name: &str| match values.number::<u32>(name).unwrap_or(0) {
        0 => Ok(512),
        n if n.is_power_of_two() && (512..=2 << 20).contains(&n) => Ok(n),
        _ => refused(format!("parameter {name} must be a power of 2 between 512 and 2097152")),
    };
    let (logical, physical) = (size("logical_block_size")?, size("physical_block_size")?);
    if logical > physical {
        return refused("logical_block_size > physical_block_size not supported");
    }
    for name in ["min_io_size", "opt_io_size", "discard_granularity"] {
        let n = values.number::<u32>(name).unwrap_or(0);
        if n != u32::MAX && !n.is_multiple_of(logical) {
            return refused(format!("{name} must be a multiple of logical_block_size"));
        }
    }
    Ok((logical, physical))
}

fn geometry(values: &Values) -> Result<Option<(u16, u8, u8)>, DeviceError> {
    let [cyls, heads, secs] =
        ["cyls", "heads", "secs"].map(|name| values.number::<u32>(name).unwrap_or(0));
    if (cyls, heads, secs) == (0, 0, 0) {
        return Ok(None);
    }
    for (name, value, max) in [("cyls", cyls, 65535), ("heads", heads, 255), ("secs", secs, 255)] {
        if !(1..=max).contains(&value) {
            return refused(format!("{name} must be between 1 and {max}"));
        }
    }
    Ok(Some((cyls as u16, heads as u8, secs as u8)))
}

/// What a block device is connected to.
#[derive(Debug)]
pub struct BlkConnections {
    /// The drive.
    pub requests: Outlet<BlockRequest>,
    /// Where the drive counts.
    pub account: Outlet<BlockAccount>,
    /// The machine, which is told of failed requests.
    pub failures: Outlet<BlockFailed>,
    /// What is said of every failure.
    pub name: BlockFailed,
}

impl BlkDevice {
    /// Properties that depend on the drive, or were left to the device, as they are now.
    pub fn resolved(&self, info: &BlockInfo) -> Vec<(&'static str, serde_json::Value)> {
        let options = &self.options;
        let (cylinders, heads, sectors) = options.geometry(info.size);
        vec![
            ("num-queues", options.num_queues.into()),
            ("logical_block_size", options.logical_block_size.into()),
            ("physical_block_size", options.physical_block_size.into()),
            ("cyls", cylinders.into()),
            ("heads", heads.into()),
            ("secs", sectors.into()),
            ("bootindex", self.boot_index.unwrap_or(-1).into()),
        ]
    }

    /// Whether a failed request may stop the machine.
    pub fn may_stop(&self, info: &BlockInfo) -> bool {
        self.write_error.unwrap_or(info.write_error).may_stop()
            || self.read_error.unwrap_or(info.read_error).may_stop()
    }

    /// Plug the device in; `info` is its drive's.
    pub fn plug(
        self,
        info: BlockInfo,
        connections: BlkConnections,
        slot: MmioSlot,
    ) -> Result<VirtioMmio<Blk>, DeviceError> {
        let on_write = self.write_error.unwrap_or(info.write_error);
        let on_read = self.read_error.unwrap_or(info.read_error);
        let options = BlkOptions {
            writeback: self.write_cache.unwrap_or(info.writeback),
            write_error: on_write,
            read_error: on_read,
            ..self.options
        };
        let BlkConnections { requests, account, failures, name } = connections;
        let mut blk = Blk::new(options, info, requests);
        blk.tell_failures(failures, name);
        blk.tell_account(account);
        Ok(VirtioMmio::new(blk, self.rings, slot))
    }
}

/// A checked `virtio-rng-device`.
#[derive(Debug)]
pub struct RngDevice {
    /// Identifier of its source; `None` for the built-in one.
    pub source: Option<String>,
    /// Bytes a period of nanoseconds, if the guest is limited.
    limit: Option<(u64, u64)>,
    rings: RingOptions,
}

/// Check the properties of a `virtio-rng-device`.
pub fn rng(properties: &Properties) -> Result<RngDevice, DeviceError> {
    let values = RNG.parse(properties)?;
    let period: u32 = values.number("period").unwrap_or(0);
    if period == 0 {
        return refused("'period' parameter expects a positive integer");
    }
    let max_bytes: u64 = values.number("max-bytes").unwrap_or(0);
    if !(1..=NO_LIMIT).contains(&max_bytes) {
        return refused("'max-bytes' parameter must be positive, and less than 2^63");
    }
    let period_ns = u64::from(period) * 1_000_000;
    Ok(RngDevice {
        source: values.text("rng").map(str::to_owned),
        limit: (max_bytes != NO_LIMIT).then_some((max_bytes, period_ns)),
        rings: rings(&values),
    })
}

impl RngDevice {
    /// The device needs a timer slot: after making its cell, register the cell's `TimerFired`
    /// recipient and send the slot to it as `rng::AssignTimer`.
    pub fn needs_timer(&self) -> bool {
        self.limit.is_some()
    }

    /// Plug the device in.
    pub fn plug(
        self,
        source: Outlet<EntropyWanted>,
        clock: Arc<VirtualClock>,
        arm: Outlet<ArmTimer>,
        slot: MmioSlot,
    ) -> VirtioMmio<Rng> {
        let quota =
            self.limit.map(|(max_bytes, period_ns)| Quota { max_bytes, period_ns, clock, arm });
        VirtioMmio::new(Rng::new(source, quota), self.rings, slot)
    }
}

/// A checked `virtio-serial-device`, to which ports are added.
#[derive(Debug)]
pub struct SerialDevice {
    max_ports: u32,
    emergency_write: bool,
    rings: RingOptions,
    ports: Vec<PortOptions>,
}

/// Check the properties of a `virtio-serial-device`.
pub fn serial(properties: &Properties) -> Result<SerialDevice, DeviceError> {
    let values = SERIAL.parse(properties)?;
    let max_ports: u32 = values.number("max_ports").unwrap_or(0);
    if max_ports == 0 {
        return refused("Maximum number of serial ports not specified");
    }
    if max_ports > PORTS_MAX {
        return refused(format!("maximum ports supported: {PORTS_MAX}"));
    }
    Ok(SerialDevice {
        max_ports,
        emergency_write: values.is_on("emergency-write"),
        rings: rings(&values),
        ports: Vec::new(),
    })
}

/// A checked `virtconsole` or `virtserialport`.
#[derive(Debug)]
pub struct PortDevice {
    /// Identifier of its character device.
    pub chardev: Option<String>,
    console: bool,
    name: String,
    nr: u32,
}

/// Check the properties of a `virtconsole` (`console`) or `virtserialport`.
pub fn port(console: bool, properties: &Properties) -> Result<PortDevice, DeviceError> {
    let values = if console { CONSOLE_PORT } else { SERIAL_PORT }.parse(properties)?;
    Ok(PortDevice {
        chardev: values.text("chardev").map(str::to_owned),
        console,
        name: values.text("name").unwrap_or("").to_owned(),
        nr: values.number("nr").unwrap_or(AUTO_PORT),
    })
}

impl PortDevice {
    /// Decide its number, below `max_ports`, beside the ports that are there.
    pub(super) fn place(
        self,
        others: &[(u32, &str)],
        max_ports: u32,
        backend: Option<CharBackend>,
        announce: Option<(String, Outlet<PortOpened>)>,
    ) -> Result<PortOptions, DeviceError> {
        let Self { console, name, nr, .. } = self;
        let is_taken = |nr: u32| others.iter().any(|(other, _)| *other == nr);
        if is_taken(nr) {
            return refused(format!("virtio-serial-bus: A port already exists at id {nr}"));
        }
        if !name.is_empty() && others.iter().any(|(_, other)| *other == name) {
            return refused(format!("virtio-serial-bus: A port already exists by name {name}"));
        }
        let nr = if nr == AUTO_PORT {
            let first = if console { 0 } else { 1 };
            match (first..max_ports).find(|nr| !is_taken(*nr)) {
                Some(nr) => nr,
                None => {
                    return refused(
                        "virtio-serial-bus: Maximum port limit for this device reached",
                    );
                }
            }
        } else {
            nr
        };
        if nr >= max_ports {
            let max = max_ports - 1;
            return refused(format!(
                "virtio-serial-bus: Out-of-range port id specified, max. allowed: {max}"
            ));
        }
        if nr == 0 && !console {
            return refused(
                "Port number 0 on virtio-serial devices reserved for virtconsole devices for \
                 backward compatibility.",
            );
        }
        Ok(PortOptions { nr, console, name, backend, announce })
    }
}

impl SerialDevice {
    /// Add a port, with the back end that its `chardev` names, and who announces what the guest does
    /// with it. Its number.
    pub fn add(
        &mut self,
        port: PortDevice,
        backend: Option<CharBackend>,
        announce: Option<(String, Outlet<PortOpened>)>,
    ) -> Result<u32, DeviceError> {
        let others: Vec<_> = self.ports.iter().map(|port| (port.nr, port.name.as_str())).collect();
        let options = port.place(&others, self.max_ports, backend, announce)?;
        let nr = options.nr;
        self.ports.push(options);
        Ok(nr)
    }

    /// Plug the device in.
    pub fn plug(self, slot: MmioSlot) -> VirtioMmio<Console> {
        let console = Console::new(self.max_ports, self.emergency_write, self.ports);
        VirtioMmio::new(console, self.rings, slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(text: &str) -> Vec<(String, String)> {
        text.split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn refusals_are_qemus() {
        let blk_cases = [
            ("", "drive property not set"),
            ("drive=d0,num-queues=0", "num-queues property must be larger than 0"),
            ("drive=d0,queue-size=1", "invalid queue-size property (1), must be > 2"),
            (
                "drive=d0,queue-size=2000",
                "invalid queue-size property (2000), must be a power of 2 (max 1024)",
            ),
            (
                "drive=d0,logical_block_size=100",
                "parameter logical_block_size must be a power of 2 between 512 and 2097152",
            ),
            (
                "drive=d0,logical_block_size=4096",
                "logical_block_size > physical_block_size not supported",
            ),
            ("drive=d0,min_io_size=100", "min_io_size must be a multiple of logical_block_size"),
            ("drive=d0,cyls=8,heads=20", "secs must be between 1 and 255"),
            (
                "drive=d0,max-discard-sectors=0",
                "invalid max-discard-sectors property (0), must be between 1 and 4194303",
            ),
        ];
        for (given, message) in blk_cases {
            assert_eq!(blk(&properties(given)).unwrap_err().to_string(), message, "{given}");
        }
        for (given, message) in [
            ("period=0", "'period' parameter expects a positive integer"),
            ("max-bytes=0", "'max-bytes' parameter must be positive, and less than 2^63"),
        ] {
            assert_eq!(rng(&properties(given)).unwrap_err().to_string(), message);
        }
        let error = serial(&properties("max_ports=512")).unwrap_err().to_string();
        assert_eq!(error, "maximum ports supported: 511");
    }

    #[test]
    fn ports_find_their_numbers() {
        let mut bus = serial(&properties("max_ports=3")).unwrap();
        let mut add = |console, given: &str| {
            let port = port(console, &properties(given)).unwrap();
            bus.add(port, None, None).map_err(|e| e.to_string())
        };
        add(false, "name=a").unwrap();
        add(true, "").unwrap();
        assert_eq!(
            add(true, "nr=0").unwrap_err(),
            "virtio-serial-bus: A port already exists at id 0"
        );
        assert_eq!(
            add(true, "nr=40").unwrap_err(),
            "virtio-serial-bus: Out-of-range port id specified, max. allowed: 2"
        );
        assert_eq!(
            add(false, "name=a").unwrap_err(),
            "virtio-serial-bus: A port already exists by name a"
        );
        assert!(add(false, "nr=0").unwrap_err().ends_with("A port already exists at id 0"));
        let mut empty = serial(&properties("")).unwrap();
        let first = port(false, &properties("nr=0")).unwrap();
        let refusal = empty.add(first, None, None).unwrap_err().to_string();
        assert!(refusal.starts_with("Port number 0 on virtio-serial"), "{refusal}");
        add(true, "").unwrap();
        assert!(add(true, "").unwrap_err().ends_with("Maximum port limit for this device reached"));
        assert_eq!(bus.ports.iter().map(|port| port.nr).collect::<Vec<_>>(), [1, 0, 2]);
    }
}
