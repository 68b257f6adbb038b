//! The split virtqueue (virtio 1.2 §2.7) as the device sees it. Everything in it is written by the
//! guest and may be nonsense: each walk is bounded by the size of the queue, each address is
//! checked, and nonsense is an error that breaks the device, never more.

use std::sync::atomic::{Ordering, fence};

use crate::devices::dma::{Segment, total_len};
use crate::machine::memory::{GuestRam, RamError};

/// Largest queue size, and most descriptors in one chain (QEMU's `VIRTQUEUE_MAX_SIZE`).
pub const QUEUE_SIZE_MAX: u16 = 1024;

const DESC_LEN: u64 = 16;
const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// How the driver broke the rules of the ring.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("guest moved avail index from {from} to {to} in a queue of {size}")]
    AvailIndex { from: u16, to: u16, size: u16 },
    #[error("guest says index {head} is available in a queue of {size}")]
    Head { head: u16, size: u16 },
    #[error("more requests in flight than the queue's size, {size}")]
    InFlight { size: u16 },
    #[error("descriptor chain from {head} is longer than {limit} or loops")]
    Loop { head: u16, limit: u32 },
    #[error("descriptor's next is {next} in a table of {len}")]
    Next { next: u16, len: u32 },
    #[error("invalid size {len} for indirect buffer table")]
    IndirectSize { len: u32 },
    #[error("descriptor at {addr:#x}: indirect table inside an indirect table")]
    NestedIndirect { addr: u64 },
    #[error("descriptor at {addr:#x}: zero sized buffers are not allowed")]
    Empty { addr: u64 },
    #[error("descriptor at {addr:#x}: device-readable after device-writable")]
    Order { addr: u64 },
    #[error(transparent)]
    Ram(#[from] RamError),
}

/// A request: a chain of descriptors taken from the available ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Index of its first descriptor, which names it in the used ring.
    pub head: u16,
    /// Bytes that the device reads, all of them in RAM.
    pub readable: Vec<Segment>,
    /// Bytes that the device writes, all of them in RAM.
    pub writable: Vec<Segment>,
}

impl Chain {
    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u64 {
        total_len(&self.writable)
    }

    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u64 {
        total_len(&self.readable)
    }
}

/// Ring features the driver negotiated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingFeatures {
    pub event_idx: bool,
    /// Legacy: interrupt when the available ring runs empty, whatever the driver's flags say.
    pub notify_on_empty: bool,
}

/// One virtqueue.
#[derive(Debug, Clone, Default)]
pub struct Virtqueue {
    /// Descriptors in the table, 1..=1024.
    pub size: u16,
    /// The driver has laid it out.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring.
    pub avail: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    next_avail: u16,
    /// The driver's index as last read.
    seen_avail: u16,
    next_used: u16,
    in_flight: u16,
    /// `next_used` when the driver was last interrupted, or considered for it.
    signalled: Option<u16>,
}

/// A request as it is in memory, for who looks at it from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Index of its first descriptor.
    pub head: u16,
    /// Its chain as far as it goes, or that of its indirect table.
    pub descriptors: Vec<ElementDescriptor>,
    pub avail_flags: u16,
    pub avail_index: u16,
    pub used_flags: u16,
    pub used_index: u16,
}

/// A descriptor of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementDescriptor {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
}

impl ElementDescriptor {
    /// What its flags are called.
    pub fn flag_names(self) -> impl Iterator<Item = &'static str> {
        let names = [(DESC_F_NEXT, "next"), (DESC_F_WRITE, "write"), (DESC_F_INDIRECT, "indirect")];
        names.into_iter().filter(move |(flag, _)| self.flags & flag != 0).map(|(_, name)| name)
    }
}

/// Why there is no request to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElementError {
    #[error("Region caches not initialized")]
    NotLaidOut,
    #[error("Cannot map descriptor ring")]
    Descriptors,
    #[error("Cannot map indirect buffer")]
    Indirect,
}

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn load(ram: &GuestRam, addr: u64) -> Result<Self, RamError> {
        let mut raw = [0u8; DESC_LEN as usize];
        ram.read(addr, &mut raw)?;
        let value = u128::from_le_bytes(raw);
        Ok(Self {
            addr: value as u64,
            len: (value >> 64) as u32,
            flags: (value >> 96) as u16,
            next: (value >> 112) as u16,
        })
    }
}

impl Virtqueue {
    /// A queue of the device's preferred size that the driver has not laid out.
    pub fn new(size: u16) -> Self {
        Self { size, ..Self::default() }
    }

    /// Requests taken and not yet given back.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Forget the layout and every index, keeping the size.
    pub fn reset(&mut self, size: u16) {
        *self = Self::new(size);
    }

    /// Lay the legacy interface's contiguous queue out at `base` (virtio 1.2 §2.7.2).
    pub fn lay_out(&mut self, base: u64, align: u64) {
        let size = u64::from(self.size);
        let align = align.max(1);
        self.desc = base;
        self.avail = base.wrapping_add(DESC_LEN * size);
        let end = self.avail.wrapping_add(6 + 2 * size);
        self.used = end.wrapping_add(align - 1) & !(align - 1);
    }

    fn avail_slot(&self, index: u16) -> u64 {
        self.avail.wrapping_add(4 + 2 * u64::from(index % self.size.max(1)))
    }

    fn used_slot(&self, index: u16) -> u64 {
        self.used.wrapping_add(4 + 8 * u64::from(index % self.size.max(1)))
    }

    fn avail_index(&mut self, ram: &GuestRam) -> Result<u16, RamError> {
        self.seen_avail = ram.load_u16(self.avail.wrapping_add(2))?;
        Ok(self.seen_avail)
    }

    /// Take the next request. When there is none, the driver is asked to notify the next one.
    pub fn pop(
        &mut self,
        ram: &GuestRam,
        features: RingFeatures,
    ) -> Result<Option<Chain>, QueueError> {
        if !self.ready {
            return Ok(None);
        }
        let mut index = self.avail_index(ram)?;
        if index == self.next_avail && features.event_idx {
            let avail_event = self.used.wrapping_add(4 + 8 * u64::from(self.size));
            ram.store_u16(avail_event, self.next_avail)?;
            // The driver adds, then reads `avail_event`; we write it, then look again: one of the
            // two sees the other's store.
            fence(Ordering::SeqCst);
            index = self.avail_index(ram)?;
        }
        if index == self.next_avail {
            return Ok(None);
        }
        let size = self.size;
        if index.wrapping_sub(self.next_avail) > size {
            return Err(QueueError::AvailIndex { from: self.next_avail, to: index, size });
        }
        if self.in_flight >= size {
            return Err(QueueError::InFlight { size });
        }
        let head = ram.load_u16(self.avail_slot(self.next_avail))?;
        if head >= size {
            return Err(QueueError::Head { head, size });
        }
        let chain = self.walk(ram, head)?;
        self.is_here(ram, &chain)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.in_flight += 1;
        Ok(Some(chain))
    }

    /// The chain from `head`, which a migration brings along as taken.
    pub fn chain_at(&self, ram: &GuestRam, head: u16) -> Result<Chain, QueueError> {
        if head >= self.size {
            return Err(QueueError::Head { head, size: self.size });
        }
        let chain = self.walk(ram, head)?;
        self.is_here(ram, &chain)?;
        Ok(chain)
    }

    /// During a postcopy: whether all that the request needs until it is given back has arrived. A
    /// chain once taken is never stopped by a missing page.
    fn is_here(&self, ram: &GuestRam, chain: &Chain) -> Result<(), RamError> {
        if !ram.presence().is_on() {
            return Ok(());
        }
        let size = u64::from(self.size);
        let rings = [(self.avail, 6 + 2 * size), (self.used, 6 + 8 * size)];
        let buffers = chain.readable.iter().chain(&chain.writable);
        let buffers = buffers.map(|segment| (segment.addr, u64::from(segment.len)));
        for (addr, len) in rings.into_iter().chain(buffers) {
            // A ring outside RAM is an error when it is used.
            if let Err(missing @ RamError::Missing { .. }) = ram.host(addr, len) {
                return Err(missing);
            }
        }
        Ok(())
    }

    /// The driver's index as the device read it last.
    pub fn seen_avail(&self) -> u16 {
        self.seen_avail
    }

    /// Index of the next entry of the used ring.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// That index when the driver was last interrupted, or considered for it.
    pub fn signalled(&self) -> Option<u16> {
        self.signalled
    }

    /// The request that entry `index` of the available ring names (the next to take, without an
    /// index), as it is laid out in memory, right or wrong.
    pub fn element(&self, ram: &GuestRam, index: Option<u16>) -> Result<Element, ElementError> {
        if !self.ready {
            return Err(ElementError::NotLaidOut);
        }
        let unmapped = |_| ElementError::Descriptors;
        let head = ram.load_u16(self.avail_slot(index.unwrap_or(self.next_avail)));
        let head = head.map_err(unmapped)?;
        let mut next = Descriptor::load(ram, self.descriptor(u64::from(head))).map_err(unmapped)?;
        let (mut table, mut count) = (self.desc, u32::from(self.size));
        if next.flags & DESC_F_INDIRECT != 0 {
            if !ram.contains(next.addr, u64::from(next.len)) {
                return Err(ElementError::Indirect);
            }
            (table, count) = (next.addr, next.len / DESC_LEN as u32);
            next = Descriptor::load(ram, table).map_err(|_| ElementError::Indirect)?;
        }
        let mut descriptors = Vec::new();
        // One that goes in circles is shown once round.
        for _ in 0..count.min(u32::from(QUEUE_SIZE_MAX)) {
            let Descriptor { addr, len, flags, next: index } = next;
            descriptors.push(ElementDescriptor { addr, len, flags });
            if flags & DESC_F_NEXT == 0 || u32::from(index) >= count {
                break;
            }
            let at = table.wrapping_add(DESC_LEN * u64::from(index));
            let Ok(after) = Descriptor::load(ram, at) else { break };
            next = after;
        }
        let word = |at: u64| ram.load_u16(at).map_err(unmapped);
        Ok(Element {
            head,
            descriptors,
            avail_flags: word(self.avail)?,
            avail_index: word(self.avail.wrapping_add(2))?,
            used_flags: word(self.used)?,
            used_index: word(self.used.wrapping_add(2))?,
        })
    }

    fn descriptor(&self, index: u64) -> u64 {
        self.desc.wrapping_add(DESC_LEN * index)
    }

    /// Index of the next request to take.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Go on with request `next_avail`, from the used index that is in memory. Whether that can
    /// be: no more requests are out than the queue has room for.
    pub fn resume_at(&mut self, ram: &GuestRam, next_avail: u16) -> Result<bool, RamError> {
        self.next_avail = next_avail;
        self.avail_index(ram)?;
        self.signalled = None;
        let used = ram.load_u16(self.used.wrapping_add(2))?;
        self.next_used = used;
        self.in_flight = next_avail.wrapping_sub(used);
        Ok(self.in_flight <= self.size)
    }

    fn walk(&self, ram: &GuestRam, head: u16) -> Result<Chain, QueueError> {
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let (mut table, mut len, mut index) = (self.desc, u32::from(self.size), head);
        let mut indirect = false;
        let mut seen = 0;
        loop {
            let limit = len.min(u32::from(QUEUE_SIZE_MAX));
            if seen == limit {
                return Err(QueueError::Loop { head, limit });
            }
            seen += 1;
            let at = table.wrapping_add(DESC_LEN * u64::from(index));
            let d = Descriptor::load(ram, at)?;
            if d.flags & DESC_F_INDIRECT != 0 {
                if indirect {
                    return Err(QueueError::NestedIndirect { addr: at });
                }
                if d.len == 0 || !u64::from(d.len).is_multiple_of(DESC_LEN) {
                    return Err(QueueError::IndirectSize { len: d.len });
                }
                (table, len, index) = (d.addr, d.len / DESC_LEN as u32, 0);
                indirect = true;
                seen = 0;
                continue;
            }
            if d.len == 0 {
                return Err(QueueError::Empty { addr: at });
            }
            if !ram.contains(d.addr, u64::from(d.len)) {
                return Err(RamError::OutOfRange { addr: d.addr, len: u64::from(d.len) }.into());
            }
            let segment = Segment { addr: d.addr, len: d.len };
            if d.flags & DESC_F_WRITE != 0 {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(QueueError::Order { addr: at });
            }
            if d.flags & DESC_F_NEXT == 0 {
                return Ok(chain);
            }
            if u32::from(d.next) >= len {
                return Err(QueueError::Next { next: d.next, len });
            }
            index = d.next;
        }
    }

    /// Give a request back, `written` bytes of its writable part filled.
    pub fn push(&mut self, ram: &GuestRam, head: u16, written: u32) -> Result<(), QueueError> {
        if !self.ready {
            return Ok(());
        }
        let slot = self.used_slot(self.next_used);
        ram.store_u32(slot, u32::from(head))?;
        ram.store_u32(slot.wrapping_add(4), written)?;
        self.next_used = self.next_used.wrapping_add(1);
        // A release store: the driver that sees the index sees the element and the data.
        ram.store_u16(self.used.wrapping_add(2), self.next_used)?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call
    /// (virtio 1.2 §2.7.7.2).
    pub fn should_interrupt(
        &mut self,
        ram: &GuestRam,
        features: RingFeatures,
    ) -> Result<bool, QueueError> {
        if !self.ready {
            return Ok(false);
        }
        // The used index must be visible before the driver's wish is read, or both sides could
        // decide that the other will act.
        fence(Ordering::SeqCst);
        if features.notify_on_empty
            && self.in_flight == 0
            && self.avail_index(ram)? == self.next_avail
        {
            return Ok(true);
        }
        if !features.event_idx {
            return Ok(ram.load_u16(self.avail)? & AVAIL_F_NO_INTERRUPT == 0);
        }
        let new = self.next_used;
        let Some(old) = self.signalled.replace(new) else { return Ok(true) };
        let used_event = self.avail.wrapping_add(4 + 2 * u64::from(self.size));
        let event = ram.load_u16(used_event)?;
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::RAM_BASE;

    const DESC: u64 = RAM_BASE + 0x1000;
    const AVAIL: u64 = RAM_BASE + 0x2000;
    const USED: u64 = RAM_BASE + 0x3000;
    const TABLE: u64 = RAM_BASE + 0x4000;
    const DATA: u64 = RAM_BASE + 0x8000;
    const SIZE: u16 = 8;
    const EVENT_IDX: RingFeatures = RingFeatures { event_idx: true, notify_on_empty: false };

    type Desc = (u64, u32, u16, u16);

    fn rig() -> (GuestRam, Virtqueue) {
        let ram = GuestRam::new(RAM_BASE, 0x1_0000).unwrap();
        let mut queue = Virtqueue::new(SIZE);
        (queue.desc, queue.avail, queue.used, queue.ready) = (DESC, AVAIL, USED, true);
        (ram, queue)
    }

    fn lay(ram: &GuestRam, table: u64, descriptors: &[Desc]) {
        for (i, &(addr, len, flags, next)) in descriptors.iter().enumerate() {
            let at = table + 16 * i as u64;
            ram.store_u64(at, addr).unwrap();
            ram.store_u32(at + 8, len).unwrap();
            ram.store_u16(at + 12, flags).unwrap();
            ram.store_u16(at + 14, next).unwrap();
        }
    }

    fn offer(ram: &GuestRam, heads: &[u16]) {
        for (i, &head) in heads.iter().enumerate() {
            ram.store_u16(AVAIL + 4 + 2 * i as u64, head).unwrap();
        }
        ram.store_u16(AVAIL + 2, heads.len() as u16).unwrap();
    }

    #[test]
    fn chains_direct_and_indirect() {
        let (ram, mut queue) = rig();
        lay(&ram, DESC, &[(DATA, 16, 1, 2), (TABLE, 48, 4, 0), (DATA + 64, 512, 2, 0)]);
        lay(&ram, TABLE, &[(DATA, 8, 1, 2), (DATA + 32, 1, 2, 0), (DATA + 8, 4, 3, 1)]);
        offer(&ram, &[0, 1]);
        let seg = |addr, len| Segment { addr, len };
        assert_eq!(
            queue.pop(&ram, EVENT_IDX).unwrap().unwrap(),
            Chain { head: 0, readable: vec![seg(DATA, 16)], writable: vec![seg(DATA + 64, 512)] }
        );
        assert_eq!(
            queue.pop(&ram, EVENT_IDX).unwrap().unwrap(),
            Chain {
                head: 1,
                readable: vec![seg(DATA, 8)],
                writable: vec![seg(DATA + 8, 4), seg(DATA + 32, 1)],
            }
        );
        assert_eq!(queue.pop(&ram, EVENT_IDX).unwrap(), None);
        assert_eq!(ram.load_u16(USED + 4 + 8 * 8).unwrap(), 2, "avail_event asks for the third");
        assert_eq!(queue.in_flight(), 2);
        queue.push(&ram, 1, 5).unwrap();
        assert_eq!(ram.load_u64(USED + 4).unwrap(), 5 << 32 | 1);
        assert_eq!(ram.load_u16(USED + 2).unwrap(), 1);
    }

    #[test]
    fn a_request_is_shown_as_it_is_in_memory() {
        let (ram, mut queue) = rig();
        lay(&ram, DESC, &[(DATA, 16, 1, 2), (TABLE, 32, 4, 0), (DATA + 64, 512, 3, 0)]);
        lay(&ram, TABLE, &[(DATA, 8, 1, 1), (1, 0, 2, 9)]);
        offer(&ram, &[0, 1, 7]);
        let shown = |queue: &Virtqueue, index| match queue.element(&ram, index) {
            Err(error) => error.to_string(),
            Ok(element) => {
                let one = |d: &ElementDescriptor| {
                    let flags: Vec<_> = d.flag_names().collect();
                    format!("{:x}+{}{}", d.addr, d.len, flags.concat())
                };
                let list: Vec<String> = element.descriptors.iter().map(one).collect();
                let Element { head, avail_index, used_index, .. } = element;
                format!("{head} of {avail_index}, {used_index}: {}", list.join(" "))
            }
        };
        let loops = "0 of 3, 0: 80008000+16next 80008040+512nextwrite 80008000+16next \
                     80008040+512nextwrite 80008000+16next 80008040+512nextwrite \
                     80008000+16next 80008040+512nextwrite";
        assert_eq!(shown(&queue, None), loops);
        assert_eq!(shown(&queue, Some(0x1009)), "1 of 3, 0: 80008000+8next 1+0write");
        assert_eq!(shown(&queue, Some(2)), "7 of 3, 0: 0+0");
        lay(&ram, DESC, &[(DATA, 16, 1, 8)]);
        assert_eq!(shown(&queue, None), "0 of 3, 0: 80008000+16next");
        lay(&ram, DESC, &[(0x1000, 16, 4, 0)]);
        assert_eq!(shown(&queue, None), "Cannot map indirect buffer");
        queue.used = 0x1000;
        lay(&ram, DESC, &[(DATA, 16, 0, 0)]);
        assert_eq!(shown(&queue, None), "Cannot map descriptor ring");
        queue.ready = false;
        assert_eq!(shown(&queue, None), "Region caches not initialized");
    }

    #[test]
    fn a_request_is_taken_when_all_of_it_has_arrived() {
        let (ram, mut queue) = rig();
        lay(&ram, DESC, &[(DATA, 16, 1, 1), (DATA + 0x1ff0, 32, 2, 0)]);
        offer(&ram, &[0]);
        // Rings, table and the three pages of the buffers, the last of them first.
        let needed: Vec<u64> = [DESC, AVAIL, USED, DATA, DATA + 0x1000, DATA + 0x2000].to_vec();
        let pages: Vec<u64> = needed.iter().map(|addr| (addr - RAM_BASE) / 0x1000).collect();
        let content: Vec<Vec<u8>> = needed
            .iter()
            .map(|&addr| {
                let mut page = vec![0; 0x1000];
                ram.read(addr, &mut page).unwrap();
                page
            })
            .collect();
        ram.presence().begin(16, pages.iter().map(|&p| p..p + 1), 1, std::sync::Arc::new(|_| ()));
        for (i, addr) in needed.iter().enumerate().rev() {
            let popped = queue.pop(&ram, EVENT_IDX);
            // DATA + 0x1000 belongs to no buffer but to the second one's first bytes.
            let missing = matches!(popped, Err(QueueError::Ram(RamError::Missing { .. })));
            assert!(missing && queue.in_flight() == 0, "{i}: {popped:?}");
            assert!(ram.place(*addr, Some(&content[i])).unwrap());
        }
        assert_eq!(queue.pop(&ram, EVENT_IDX).unwrap().unwrap().head, 0);
    }

    #[test]
    fn interrupts_as_the_driver_wishes() {
        let (ram, mut queue) = rig();
        let none = RingFeatures::default();
        assert!(queue.should_interrupt(&ram, none).unwrap());
        ram.store_u16(AVAIL, AVAIL_F_NO_INTERRUPT).unwrap();
        assert!(!queue.should_interrupt(&ram, none).unwrap());
        let on_empty = RingFeatures { notify_on_empty: true, ..none };
        assert!(queue.should_interrupt(&ram, on_empty).unwrap());

        // With EVENT_IDX: the first time always, then only when `used_event` is passed, also
        // across the wrap of the index.
        queue.next_used = 0xfffe;
        assert!(queue.should_interrupt(&ram, EVENT_IDX).unwrap());
        ram.store_u16(AVAIL + 4 + 2 * 8, 0).unwrap();
        let wanted: Vec<bool> = (0..4)
            .map(|i| {
                queue.push(&ram, i, 0).unwrap();
                queue.should_interrupt(&ram, EVENT_IDX).unwrap()
            })
            .collect();
        assert_eq!(wanted, [false, false, true, false]);
    }

    #[test]
    fn hostile_rings_are_errors() {
        let ring = u64::from(u32::MAX);
        let long: Vec<Desc> = (0..1100).map(|i| (DATA, 1, 1, i + 1)).collect();
        let cases: &[(&str, &[Desc], &[Desc], &str)] = &[
            ("self loop", &[(DATA, 1, 1, 0)], &[], "longer than 8 or loops"),
            ("pair loop", &[(DATA, 1, 1, 1), (DATA, 1, 1, 0)], &[], "longer than 8 or loops"),
            ("next out of table", &[(DATA, 1, 1, 8)], &[], "next is 8 in a table of 8"),
            ("outside RAM", &[(ring, 1, 0, 0)], &[], "outside RAM"),
            ("device space", &[(0x1000_1000, 4, 2, 0)], &[], "outside RAM"),
            ("huge", &[(DATA, u32::MAX, 2, 0)], &[], "outside RAM"),
            ("wraps", &[(u64::MAX, u32::MAX, 0, 0)], &[], "outside RAM"),
            ("empty", &[(DATA, 0, 0, 0)], &[], "zero sized"),
            ("order", &[(DATA, 1, 3, 1), (DATA, 1, 0, 0)], &[], "readable after"),
            ("indirect of 0", &[(TABLE, 0, 4, 0)], &[], "invalid size 0"),
            ("indirect of 17", &[(TABLE, 17, 4, 0)], &[], "invalid size 17"),
            ("indirect nowhere", &[(0, 16, 4, 0)], &[], "outside RAM"),
            ("nested", &[(TABLE, 16, 4, 0)], &[(TABLE, 16, 4, 0)], "inside an indirect table"),
            ("indirect loop", &[(TABLE, 32, 4, 0)], &[(DATA, 1, 1, 0)], "longer than 2 or loops"),
            ("huge table", &[(TABLE, 0xffff_fff0, 4, 0)], &long, "longer than 1024 or loops"),
        ];
        for (name, direct, indirect, message) in cases {
            let (ram, mut queue) = rig();
            lay(&ram, TABLE, indirect);
            lay(&ram, DESC, direct);
            offer(&ram, &[0]);
            let error = queue.pop(&ram, EVENT_IDX).expect_err(name).to_string();
            assert!(error.contains(message), "{name}: {error}");
        }
    }

    #[test]
    fn hostile_indices_and_layouts_are_errors() {
        let (ram, mut queue) = rig();
        lay(&ram, DESC, &[(DATA, 1, 0, 0)]);
        ram.store_u16(AVAIL + 2, SIZE + 1).unwrap();
        assert!(matches!(queue.pop(&ram, EVENT_IDX), Err(QueueError::AvailIndex { .. })));
        ram.store_u16(AVAIL + 2, 1).unwrap();
        ram.store_u16(AVAIL + 4, SIZE).unwrap();
        assert!(matches!(queue.pop(&ram, EVENT_IDX), Err(QueueError::Head { head: 8, .. })));
        // The same head eight times over, then a ninth without anything given back.
        offer(&ram, &[0; 8]);
        for _ in 0..8 {
            assert!(queue.pop(&ram, EVENT_IDX).unwrap().is_some());
        }
        ram.store_u16(AVAIL + 2, 9).unwrap();
        assert!(matches!(queue.pop(&ram, EVENT_IDX), Err(QueueError::InFlight { size: 8 })));
        for field in 0..3 {
            let (ram, mut queue) = rig();
            offer(&ram, &[0]);
            *[&mut queue.desc, &mut queue.avail, &mut queue.used][field] = u64::MAX - 3;
            let popped = queue.pop(&ram, EVENT_IDX);
            let pushed = queue.push(&ram, 0, 0);
            assert!(popped.is_err() || pushed.is_err(), "field {field}");
        }
    }

    #[test]
    fn legacy_layout() {
        let mut queue = Virtqueue::new(256);
        queue.lay_out(RAM_BASE, 4096);
        assert_eq!((queue.avail, queue.used), (RAM_BASE + 0x1000, RAM_BASE + 0x2000));
        queue.lay_out(u64::MAX, 0);
    }
}
