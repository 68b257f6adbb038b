//! Guest-physical memory as somebody outside reaches it: any range, over RAM, devices and holes.
//!
//! A range is split as QEMU splits an access that no hart makes: into the largest naturally aligned
//! powers of two up to eight bytes that a device decodes, four where it decodes no eight. Bytes
//! that nothing answers read as zero, and what is written to them is lost.

use std::cell::RefCell;
use std::sync::Arc;

use crate::actors::message::MmioFault;
use crate::devices::bus::Bus;
use crate::machine::memory::GuestRam;
use crate::machine::message::VmError;

/// The widest access of a device, in bytes.
const WIDEST: u64 = 8;

/// RAM and the bus.
#[derive(Debug, Clone)]
pub struct AddressSpace {
    pub ram: Arc<GuestRam>,
    pub bus: Arc<Bus>,
}

/// What becomes of addresses that nothing answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    Refused,
    Zeros,
}

/// What was read of a range.
struct Collected {
    bytes: Vec<u8>,
    /// Bytes that RAM or a device has answered; the others are zero.
    answered: u64,
}

/// What is at an address, and for how many bytes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Ram(u64),
    Device(u64),
    Hole(u64),
}

impl AddressSpace {
    fn place(&self, addr: u64) -> Place {
        let ram = self.ram.base()..self.ram.base() + self.ram.size();
        if ram.contains(&addr) {
            return Place::Ram(ram.end - addr);
        }
        let regions = self.bus.regions();
        let next = regions.iter().find(|region| addr < region.range.end);
        if let Some(region) = next.filter(|region| region.range.contains(&addr)) {
            return Place::Device(region.range.end - addr);
        }
        let starts = next.map(|region| region.range.start).into_iter().chain([ram.start]);
        let end = starts.filter(|start| *start > addr).min();
        Place::Hole(end.map_or(u64::MAX - addr, |end| end - addr))
    }

    /// Call `ram` and `device` with (address, offset into the range, length) of each piece.
    fn walk(
        &self,
        addr: u64,
        len: u64,
        mut ram: impl FnMut(u64, u64, u64),
        mut device: impl FnMut(u64, u64, u8) -> Result<(), MmioFault>,
    ) {
        let mut done = 0;
        while done < len {
            // Beyond the last address there is nothing.
            let Some(at) = addr.checked_add(done) else { return };
            done += match self.place(at) {
                Place::Ram(room) => {
                    let piece = room.min(len - done);
                    ram(at, done, piece);
                    piece
                }
                Place::Device(room) => {
                    let fits = WIDEST.min(room).min(len - done);
                    let aligned = at & at.wrapping_neg();
                    let width = 1 << fits.ilog2();
                    let width: u64 = if aligned == 0 { width } else { width.min(aligned) };
                    match device(at, done, width as u8) {
                        Err(MmioFault::Width) if width == WIDEST => {
                            // Refused before it had an effect; what nothing decodes is left alone.
                            let _ = device(at, done, 4);
                            let _ = device(at + 4, done + 4, 4);
                        }
                        Ok(()) | Err(_) => {}
                    }
                    width
                }
                Place::Hole(0) => return,
                Place::Hole(room) => room.min(len - done),
            };
        }
    }

    /// During a postcopy: wait for RAM that has not arrived. What is lost reads as a hole does.
    fn await_pages(&self, addr: u64, len: u64) {
        let _ = self.ram.presence().wait(self.ram.pages(addr, len));
    }

    /// `len` bytes from `addr`.
    pub fn read(&self, addr: u64, len: u64) -> Vec<u8> {
        self.collect(addr, len, |at, into| {
            self.await_pages(at, into.len() as u64);
            // In range by `place`; what is lost stays zero.
            let _ = self.ram.read(at, into);
        })
        .bytes
    }

    /// As a monitor looks: nothing is waited for, and RAM that has not arrived is an error. So is an
    /// address that nothing answers, unless it is to read as zero.
    pub fn look(&self, addr: u64, len: u64, absent: Absent) -> Result<Vec<u8>, VmError> {
        let mut missing = None;
        let read = self.collect(addr, len, |at, into| {
            if let Err(error) = self.ram.read(at, into) {
                missing.get_or_insert_with(|| self.ram.unreadable(&error, at));
            }
        });
        match missing {
            Some(error) => Err(error),
            None if read.answered < len && absent == Absent::Refused => {
                Err(VmError(format!("Cannot access memory at address {addr:#x}")))
            }
            None => Ok(read.bytes),
        }
    }

    /// Read a range; `ram` reads what is RAM of it.
    fn collect(&self, addr: u64, len: u64, mut ram: impl FnMut(u64, &mut [u8])) -> Collected {
        let collected = RefCell::new(Collected { bytes: vec![0; len as usize], answered: 0 });
        self.walk(
            addr,
            len,
            |at, offset, piece| {
                let mut collected = collected.borrow_mut();
                collected.answered += piece;
                let range = offset as usize..(offset + piece) as usize;
                if let Some(into) = collected.bytes.get_mut(range) {
                    ram(at, into);
                }
            },
            |at, offset, width| {
                let value = self.bus.read(at, width)?.to_le_bytes();
                let mut collected = collected.borrow_mut();
                collected.answered += u64::from(width);
                let (start, width) = (offset as usize, usize::from(width));
                let into = collected.bytes.get_mut(start..start + width);
                if let (Some(into), Some(from)) = (into, value.get(..width)) {
                    into.copy_from_slice(from);
                }
                Ok(())
            },
        );
        collected.into_inner()
    }

    /// Write all of `data` from `addr` on.
    pub fn write(&self, addr: u64, data: &[u8]) {
        let part = |offset: u64, len: u64| {
            data.get(offset as usize..(offset + len) as usize).unwrap_or_default()
        };
        self.walk(
            addr,
            data.len() as u64,
            |at, offset, piece| {
                self.await_pages(at, piece);
                let _ = self.ram.write(at, part(offset, piece));
            },
            |at, offset, width| {
                let bytes = part(offset, width.into()).iter().rev();
                let value = bytes.fold(0, |value, byte| value << 8 | u64::from(*byte));
                self.bus.write(at, width, value)
            },
        );
    }

    /// Set `len` bytes from `addr` on to `byte`.
    pub fn fill(&self, addr: u64, len: u64, byte: u8) {
        self.walk(
            addr,
            len,
            |at, _, piece| {
                self.await_pages(at, piece);
                let _ = self.ram.fill(at, piece, byte);
            },
            |at, _, width| {
                let value = u64::from_le_bytes([byte; 8]);
                self.bus.write(at, width, value >> (64 - 8 * u32::from(width)))
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::devices::bus::{MmioTarget, Region};

    const RAM: u64 = 0x8000_0000;

    type Seen = Arc<Mutex<Vec<(char, u64, u8, u64)>>>;

    /// Reads as its offset and decodes some widths only.
    struct Mock {
        widths: &'static [u8],
        seen: Seen,
    }

    impl MmioTarget for Mock {
        fn read(&self, offset: u64, width: u8) -> Result<u64, MmioFault> {
            if !self.widths.contains(&width) {
                return Err(MmioFault::Width);
            }
            self.seen.lock().push(('r', offset, width, 0));
            Ok(offset + 1)
        }

        fn write(&self, offset: u64, width: u8, value: u64) -> Result<(), MmioFault> {
            if !self.widths.contains(&width) {
                return Err(MmioFault::Width);
            }
            self.seen.lock().push(('w', offset, width, value));
            Ok(())
        }
    }

    fn space() -> (AddressSpace, Seen) {
        let seen = Seen::default();
        let region = |base: u64, size, widths| Region {
            name: "mock".into(),
            range: base..base + size,
            target: Box::new(Mock { widths, seen: Arc::clone(&seen) }),
        };
        let regions = vec![
            region(0x1000, 0x18, &[1, 2, 4, 8]),
            region(0x2000, 0x100, &[4]),
            region(RAM + 0x1000, 0x10, &[1, 2, 4, 8]),
        ];
        let ram = Arc::new(GuestRam::new(RAM, 0x1000).unwrap());
        (AddressSpace { ram, bus: Arc::new(Bus::new(regions)) }, seen)
    }

    #[test]
    fn accesses_are_split_by_alignment_and_by_what_the_device_decodes() {
        let (space, seen) = space();
        let accesses = |addr, len| {
            let bytes = space.read(addr, len);
            let seen = std::mem::take(&mut *seen.lock());
            (bytes, seen.iter().map(|(_, offset, width, _)| (*offset, *width)).collect::<Vec<_>>())
        };
        assert_eq!(accesses(0x1001, 8).1, [(1, 1), (2, 2), (4, 4), (8, 1)]);
        assert_eq!(accesses(0x1010, 8), (vec![0x11, 0, 0, 0, 0, 0, 0, 0], vec![(0x10, 8)]));
        assert_eq!(accesses(0x2000, 8), (vec![1, 0, 0, 0, 5, 0, 0, 0], vec![(0, 4), (4, 4)]));
        assert_eq!(accesses(0x2000, 2), (vec![0, 0], vec![]));
        // From a hole into a device and out again.
        assert_eq!(accesses(0x0ffc, 4 + 0x18 + 4).1, [(0, 8), (8, 8), (16, 8)]);
        assert_eq!(accesses(u64::MAX, 4), (vec![0; 4], vec![]));
    }

    #[test]
    fn a_look_tells_what_nothing_answers() {
        let (space, _) = space();
        space.write(RAM + 0xffe, &[3, 4]);
        let look = |addr, len| match space.look(addr, len, Absent::Refused) {
            Ok(bytes) => format!("{bytes:?}"),
            Err(error) => error.to_string(),
        };
        for (addr, len, expected) in [
            (0x1000, 2, "[1, 0]"),
            (0x2000, 8, "[1, 0, 0, 0, 5, 0, 0, 0]"),
            (RAM + 0xffe, 4, "[3, 4, 1, 0]"),
            (0x1017, 2, "Cannot access memory at address 0x1017"),
            (0x2000, 2, "Cannot access memory at address 0x2000"),
            (0, 1, "Cannot access memory at address 0x0"),
            (u64::MAX, 2, "Cannot access memory at address 0xffffffffffffffff"),
        ] {
            assert_eq!(look(addr, len), expected, "{addr:#x}");
        }
        assert_eq!(space.look(RAM - 2, 4, Absent::Zeros), Ok(vec![0; 4]));
    }

    #[test]
    fn a_range_covers_ram_devices_and_holes() {
        let (space, seen) = space();
        space.write(RAM - 2, &[9, 9, 1, 2]);
        space.write(RAM + 0xffe, &[3, 4, 5, 6, 7]);
        assert_eq!(space.read(RAM - 1, 4), [0, 1, 2, 0]);
        assert_eq!(space.read(RAM + 0xffe, 2), [3, 4]);
        let writes = std::mem::take(&mut *seen.lock());
        assert_eq!(writes, [('w', 0, 2, 0x0605), ('w', 2, 1, 7)]);
        // Everything there is, with no loop over the holes.
        space.fill(0, u64::MAX, 0xab);
        assert_eq!(space.read(RAM, 3), [0xab; 3]);
        let last = *seen.lock().last().unwrap();
        assert_eq!(last, ('w', 8, 8, 0xabab_abab_abab_abab));
        seen.lock().clear();
        space.fill(0x2004, 4, 0x12);
        assert_eq!(*seen.lock(), [('w', 4, 4, 0x1212_1212)]);
    }
}
