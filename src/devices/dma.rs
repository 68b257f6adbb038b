//! Direct memory access by back ends: which guest bytes a request moves, and the right to move
//! them, which ends when the guest resets the device.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::machine::memory::{GuestRam, RamError};

/// A run of guest-physical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub addr: u64,
    pub len: u32,
}

/// Total bytes of a list of segments.
pub fn total_len(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.len)).sum()
}

/// Call `f(addr, range of the caller's buffer)` for each piece of `len` bytes that start `offset`
/// bytes into the segments; false when the segments end before.
fn pieces(
    segments: &[Segment],
    mut offset: u64,
    len: usize,
    mut f: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), RamError>,
) -> Result<usize, RamError> {
    let mut done = 0;
    for segment in segments {
        if done == len {
            break;
        }
        let seg_len = u64::from(segment.len);
        if offset >= seg_len {
            offset -= seg_len;
            continue;
        }
        let n = (seg_len - offset).min((len - done) as u64) as usize;
        f(segment.addr.wrapping_add(offset), done..done + n)?;
        done += n;
        offset = 0;
    }
    Ok(done)
}

/// Copy guest bytes that start `offset` bytes into `segments`; returns how many there were.
pub fn gather(
    ram: &GuestRam,
    segments: &[Segment],
    offset: u64,
    into: &mut [u8],
) -> Result<usize, RamError> {
    pieces(segments, offset, into.len(), |addr, range| {
        into.get_mut(range).map_or(Ok(()), |piece| ram.read(addr, piece))
    })
}

/// Copy `from` to the guest bytes that start `offset` bytes into `segments`; returns how many
/// fitted.
pub fn scatter(
    ram: &GuestRam,
    segments: &[Segment],
    offset: u64,
    from: &[u8],
) -> Result<usize, RamError> {
    pieces(segments, offset, from.len(), |addr, range| {
        from.get(range).map_or(Ok(()), |piece| ram.write(addr, piece))
    })
}

/// Hands out leases on guest memory, and ends them all at once.
///
/// A revocation waits for the copies that run at that moment (each is one chunk of a request, some
/// tens of microseconds), never for I/O.
#[derive(Debug, Default)]
pub struct DmaGate {
    epoch: RwLock<u64>,
}

impl DmaGate {
    /// The right to move guest bytes until the next `revoke`.
    pub fn lease(self: &Arc<Self>) -> DmaLease {
        DmaLease { epoch: *self.epoch.read(), gate: Arc::clone(self) }
    }

    /// End every lease: when this returns, no holder moves guest bytes any more.
    pub fn revoke(&self) {
        *self.epoch.write() += 1;
    }
}

/// A right to move guest bytes.
#[derive(Debug, Clone)]
pub struct DmaLease {
    gate: Arc<DmaGate>,
    epoch: u64,
}

impl DmaLease {
    fn run<R>(&self, copy: impl FnOnce() -> Result<R, RamError>) -> Result<R, DmaError> {
        let epoch = self.gate.epoch.read();
        if *epoch != self.epoch {
            return Err(DmaError::Revoked);
        }
        Ok(copy()?)
    }
}

/// Why guest bytes could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    #[error("the device was reset")]
    Revoked,
    #[error(transparent)]
    Ram(#[from] RamError),
}

/// Guest bytes that a back end fills or takes.
#[derive(Debug, Clone)]
pub struct GuestBuffer {
    ram: Arc<GuestRam>,
    segments: Vec<Segment>,
    lease: DmaLease,
}

impl GuestBuffer {
    /// The bytes of `segments`, in order, under `lease`.
    pub fn new(ram: Arc<GuestRam>, segments: Vec<Segment>, lease: DmaLease) -> Self {
        Self { ram, segments, lease }
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        total_len(&self.segments)
    }

    /// True when there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Take bytes from the guest.
    pub fn gather(&self, offset: u64, into: &mut [u8]) -> Result<usize, DmaError> {
        self.lease.run(|| gather(&self.ram, &self.segments, offset, into))
    }

    /// Give bytes to the guest.
    pub fn scatter(&self, offset: u64, from: &[u8]) -> Result<usize, DmaError> {
        self.lease.run(|| scatter(&self.ram, &self.segments, offset, from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::RAM_BASE;

    #[test]
    fn pieces_of_a_scattered_buffer() {
        let ram = Arc::new(GuestRam::new(RAM_BASE, 0x4000).unwrap());
        let at = |offset: u64, len| Segment { addr: RAM_BASE + offset, len };
        let segments = vec![at(0x1000, 3), at(0x10, 1), at(0x2000, 4)];
        let gate = Arc::new(DmaGate::default());
        let buffer = GuestBuffer::new(Arc::clone(&ram), segments, gate.lease());
        assert_eq!(buffer.len(), 8);
        assert_eq!(buffer.scatter(2, b"abcdefgh").unwrap(), 6, "only six fit");
        let mut back = [0; 8];
        assert_eq!(buffer.gather(0, &mut back).unwrap(), 8);
        assert_eq!(&back, b"\0\0abcdef");
        let mut byte = [0; 1];
        ram.read(RAM_BASE + 0x10, &mut byte).unwrap();
        assert_eq!(&byte, b"b");
        gate.revoke();
        assert!(matches!(buffer.scatter(0, b"x"), Err(DmaError::Revoked)));
    }
}
