//! The bus: which device answers at a physical address. Owned by the vCPUs; the only caller of
//! device cells.

use std::fmt;
use std::ops::Range;

use crate::actors::message::MmioFault;
use crate::trace;

/// A device as the bus sees it: `actors::cell::DeviceCell` implements this for every actor that
/// handles `MmioRead` and `MmioWrite`.
pub trait MmioTarget: Send + Sync {
    fn read(&self, offset: u64, width: u8) -> Result<u64, MmioFault>;
    fn write(&self, offset: u64, width: u8, value: u64) -> Result<(), MmioFault>;
}

/// One mapped range.
pub struct Region {
    /// The name `info mtree` shows.
    pub name: String,
    pub range: Range<u64>,
    pub target: Box<dyn MmioTarget>,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#x}..{:#x}", self.name, self.range.start, self.range.end)
    }
}

/// An immutable address map, built once by `machine::build`.
#[derive(Debug, Default)]
pub struct Bus {
    regions: Vec<Region>,
}

impl Bus {
    /// Build a bus. Regions must not overlap.
    pub fn new(mut regions: Vec<Region>) -> Self {
        regions.sort_by_key(|r| r.range.start);
        debug_assert!(regions.windows(2).all(|w| w[0].range.end <= w[1].range.start));
        Self { regions }
    }

    /// The mapped ranges, by address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn find(&self, addr: u64, width: u8) -> Result<(&Region, u64), MmioFault> {
        let i = self.regions.partition_point(|r| r.range.end <= addr);
        let region = self.regions.get(i).ok_or(MmioFault::Unmapped)?;
        let end = addr.checked_add(u64::from(width)).ok_or(MmioFault::Unmapped)?;
        if addr < region.range.start || end > region.range.end {
            return Err(MmioFault::Unmapped);
        }
        Ok((region, addr - region.range.start))
    }

    /// Read `width` bytes (1, 2, 4, 8) at physical address `addr`.
    pub fn read(&self, addr: u64, width: u8) -> Result<u64, MmioFault> {
        let read = self.find(addr, width).and_then(|(region, at)| {
            let value = region.target.read(at, width)?;
            trace::memory_region_ops_read(addr, value, width, &region.name);
            Ok(value)
        });
        read.inspect_err(|fault| self.log_refusal("read", addr, width, *fault))
    }

    /// Write the low `width` bytes (1, 2, 4, 8) of `value` at physical address `addr`.
    pub fn write(&self, addr: u64, width: u8, value: u64) -> Result<(), MmioFault> {
        let written = self.find(addr, width).and_then(|(region, at)| {
            trace::memory_region_ops_write(addr, value, width, &region.name);
            region.target.write(at, width, value)
        });
        written.inspect_err(|fault| self.log_refusal("write", addr, width, *fault))
    }

    /// An access that nothing answers, for `-d invalid_mem`: at an offset where there is a region.
    #[cold]
    fn log_refusal(&self, what: &str, addr: u64, width: u8, fault: MmioFault) {
        let (region, at) = match self.find(addr, width) {
            Ok((region, at)) => (region.name.as_str(), at),
            Err(_) => ("(null)", addr),
        };
        let reason = match fault {
            MmioFault::Unmapped => "rejected".to_owned(),
            _ => fault.to_string(),
        };
        tracing::info!(
            target: "invalid_mem",
            "Invalid {what} at addr 0x{at:X}, size {width}, region '{region}', reason: {reason}"
        );
    }
}
