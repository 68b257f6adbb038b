//! virtio-blk (virtio 1.2 §5.2). A doorbell turns every waiting chain into a request to the block
//! node; the node's threads move the data, and their answers come back through the actor's
//! mailbox, where the used ring is written.

use std::sync::Arc;

use actix::{Addr, Handler};
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::device::{VirtioDevice, VirtioState, guest_error};
use super::queue::Chain;
use super::transport::VirtioMmio;
use crate::actors::outlet::Outlet;
use crate::block::message::{BlockDone, BlockInfo, BlockOp, BlockRequest, IoFailed};
use crate::devices::dma::{DmaGate, GuestBuffer, Segment, gather, scatter, total_len};

/// Units of every sector number in the protocol.
const SECTOR: u64 = 512;
/// Largest transfer of one request, in bytes (QEMU's `BDRV_REQUEST_MAX_BYTES`).
const REQUEST_MAX: u64 = (i32::MAX as u64) & !(SECTOR - 1);
/// Sectors that one discard or write-zeroes request may cover at most.
pub const ZONE_SECTORS_MAX: u32 = (REQUEST_MAX / SECTOR) as u32;
const HEADER_LEN: usize = 16;
const RANGE_LEN: usize = 16;
/// Bytes of the answer to GET_ID.
const ID_LEN: usize = 20;

/// Offsets in `struct virtio_blk_config`.
const CONFIG_WCE: usize = 0x20;
const CONFIG_LEN_BASE: usize = 0x24;
const CONFIG_LEN_DISCARD: usize = 0x30;
const CONFIG_LEN_WRITE_ZEROES: usize = 0x39;

/// How the device looks to its driver and what it does on errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkOptions {
    pub serial: Vec<u8>,
    pub num_queues: u16,
    pub queue_size: u16,
    pub seg_max_adjust: bool,
    pub config_wce: bool,
    pub discard: bool,
    pub write_zeroes: bool,
    pub max_discard_sectors: u32,
    pub max_write_zeroes_sectors: u32,
    /// Bytes; `None` for one logical block.
    pub discard_granularity: Option<u32>,
    /// Bytes.
    pub logical_block_size: u32,
    /// Bytes.
    pub physical_block_size: u32,
    /// Bytes.
    pub min_io_size: u32,
    /// Bytes.
    pub opt_io_size: u32,
    /// Cylinders, heads, sectors; `None` derives them from the size.
    pub geometry: Option<(u16, u8, u8)>,
    /// The device shows a volatile write cache.
    pub writeback: bool,
    /// A failed write is reported as done.
    pub ignore_write_errors: bool,
    /// A failed read is reported as done.
    pub ignore_read_errors: bool,
}

impl Default for BlkOptions {
    fn default() -> Self {
        Self {
            serial: Vec::new(),
            num_queues: 1,
            queue_size: 256,
            seg_max_adjust: true,
            config_wce: true,
            discard: true,
            write_zeroes: true,
            max_discard_sectors: ZONE_SECTORS_MAX,
            max_write_zeroes_sectors: ZONE_SECTORS_MAX,
            discard_granularity: None,
            logical_block_size: 512,
            physical_block_size: 512,
            min_io_size: 0,
            opt_io_size: 0,
            geometry: None,
            writeback: true,
            ignore_write_errors: false,
            ignore_read_errors: false,
        }
    }
}

/// A request at the back end.
#[derive(Debug)]
struct Pending {
    queue: usize,
    head: u16,
    /// What the used ring will say was written.
    written: u32,
    /// Where the status byte goes.
    status: u64,
    ignore_errors: bool,
    /// The driver took the queue away: nothing is given back.
    orphan: bool,
}

/// The block device.
#[derive(Debug)]
pub struct Blk {
    options: BlkOptions,
    info: BlockInfo,
    requests: Outlet<BlockRequest>,
    done: Outlet<BlockDone>,
    writeback: bool,
    /// By tag.
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    /// Ends the back end's access to guest memory when a queue is reset; one a queue.
    gates: Vec<Arc<DmaGate>>,
    /// Orphans still at the back end. New requests wait for them, so that a late write of the
    /// guest before a reset cannot overtake one of the guest after it.
    orphans: usize,
    /// Queues notified meanwhile.
    waiting: Vec<usize>,
}

/// What a chain asks for.
#[derive(Debug)]
struct Header {
    kind: u32,
    sector: u64,
}

/// What becomes of a chain at once.
enum Start {
    /// The back end has it.
    Sent,
    /// It is answered with this status.
    Answer(u32),
    /// It breaks the protocol, and the device with it.
    Broken(&'static str),
}

impl Blk {
    /// A device for the drive described by `info`, whose requests go to `requests`.
    pub fn new(options: BlkOptions, info: BlockInfo, requests: Outlet<BlockRequest>) -> Self {
        let gates = (0..options.num_queues).map(|_| Arc::default()).collect();
        Self {
            writeback: options.writeback,
            options,
            info,
            requests,
            done: Outlet::Unconnected,
            pending: Vec::new(),
            free: Vec::new(),
            gates,
            orphans: 0,
            waiting: Vec::new(),
        }
    }

    fn sectors(&self) -> u64 {
        self.info.size / SECTOR
    }

    /// Cylinders, heads and sectors as QEMU makes them up for a disk without a partition table.
    fn geometry(&self) -> (u16, u8, u8) {
        self.options.geometry.unwrap_or_else(|| {
            let cylinders = (self.sectors() / (16 * 63)).clamp(2, 16383);
            (cylinders as u16, 16, 63)
        })
    }

    /// A range of the drive in bytes, if it is one.
    fn range(&self, sector: u64, len: u64) -> Option<u64> {
        let block = u64::from(self.options.logical_block_size);
        let offset = sector.checked_mul(SECTOR)?;
        let fits = offset.checked_add(len)? <= self.info.size;
        (fits && len <= REQUEST_MAX && offset % block == 0 && len % block == 0).then_some(offset)
    }

    fn buffer(&self, state: &VirtioState, queue: usize, segments: Vec<Segment>) -> GuestBuffer {
        let gate = self.gates.get(queue).cloned().unwrap_or_default();
        GuestBuffer::new(Arc::clone(state.ram()), segments, gate.lease())
    }

    /// Begin a chain; `pending` is recorded if the back end gets it.
    fn begin(&mut self, mut chain: Chain, queue: usize, state: &mut VirtioState) -> Start {
        let ram = Arc::clone(state.ram());
        let mut raw = [0; HEADER_LEN];
        let Some(status) = chain.writable.last_mut() else {
            return Start::Broken("virtio-blk missing headers");
        };
        status.len -= 1;
        let pending = Pending {
            queue,
            head: chain.head,
            written: 0,
            status: status.addr + u64::from(status.len),
            ignore_errors: false,
            orphan: false,
        };
        chain.writable.retain(|segment| segment.len > 0);
        match gather(&ram, &chain.readable, 0, &mut raw) {
            Ok(HEADER_LEN) => (),
            _ => return Start::Broken("virtio-blk request outhdr too short"),
        }
        let (kind, sector) = raw.split_at(8);
        let header = Header {
            kind: u32::from_le_bytes([kind[0], kind[1], kind[2], kind[3]]),
            sector: u64::from_le_bytes(sector.try_into().unwrap_or_default()),
        };
        let payload = skip(&chain.readable, HEADER_LEN as u64);
        let written = total_len(&chain.writable) + 1;
        let pending = Pending { written: u32::try_from(written).unwrap_or(u32::MAX), ..pending };
        let answer = self.dispatch(&header, chain.writable, payload, pending, state);
        answer.unwrap_or_else(Start::Answer)
    }

    fn dispatch(
        &mut self,
        header: &Header,
        writable: Vec<Segment>,
        payload: Vec<Segment>,
        mut pending: Pending,
        state: &mut VirtioState,
    ) -> Result<Start, u32> {
        let queue = pending.queue;
        let op = match header.kind & !VIRTIO_BLK_T_BARRIER {
            VIRTIO_BLK_T_IN => {
                let len = total_len(&writable);
                let offset = self.range(header.sector, len).ok_or(VIRTIO_BLK_S_IOERR)?;
                pending.ignore_errors = self.options.ignore_read_errors;
                BlockOp::Read { offset, into: self.buffer(state, queue, writable) }
            }
            VIRTIO_BLK_T_OUT => {
                let len = total_len(&payload);
                let offset = self.range(header.sector, len).ok_or(VIRTIO_BLK_S_IOERR)?;
                pending.ignore_errors = self.options.ignore_write_errors;
                let from = self.buffer(state, queue, payload);
                BlockOp::Write { offset, from, fua: !self.writeback }
            }
            VIRTIO_BLK_T_FLUSH => {
                pending.ignore_errors = self.options.ignore_write_errors;
                BlockOp::Flush
            }
            VIRTIO_BLK_T_GET_ID => {
                let mut id = self.options.serial.clone();
                id.push(0);
                id.truncate(ID_LEN);
                let copied = scatter(state.ram(), &writable, 0, &id);
                state.unless_outside(copied);
                return Err(VIRTIO_BLK_S_OK);
            }
            VIRTIO_BLK_T_DISCARD if self.options.discard && !self.info.read_only => {
                let (sector, sectors, flags) = match read_range(state, &payload)? {
                    Some(range) => range,
                    None => return Ok(Start::Broken("virtio-blk discard header too short")),
                };
                let (offset, len) = self.zone(sector, sectors, self.options.max_discard_sectors)?;
                if flags != 0 {
                    return Err(VIRTIO_BLK_S_UNSUPP);
                }
                pending.ignore_errors = self.options.ignore_write_errors;
                BlockOp::Discard { offset, len }
            }
            VIRTIO_BLK_T_WRITE_ZEROES if self.options.write_zeroes && !self.info.read_only => {
                let (sector, sectors, flags) = match read_range(state, &payload)? {
                    Some(range) => range,
                    None => return Ok(Start::Broken("virtio-blk write zeroes header too short")),
                };
                let (offset, len) =
                    self.zone(sector, sectors, self.options.max_write_zeroes_sectors)?;
                if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
                    return Err(VIRTIO_BLK_S_UNSUPP);
                }
                pending.ignore_errors = self.options.ignore_write_errors;
                BlockOp::WriteZeroes { offset, len, may_unmap: flags != 0 }
            }
            kind => {
                guest_error!("virtio-blk: request type {kind} not supported");
                return Err(VIRTIO_BLK_S_UNSUPP);
            }
        };
        let tag = self.remember(pending);
        let request = BlockRequest { tag: tag as u64, op, done: self.done.clone() };
        if !self.requests.send(request) {
            self.forget(tag);
            return Err(VIRTIO_BLK_S_IOERR);
        }
        Ok(Start::Sent)
    }

    /// The bytes that a discard or write-zeroes request covers.
    fn zone(&self, sector: u64, sectors: u32, max: u32) -> Result<(u64, u64), u32> {
        let len = u64::from(sectors) * SECTOR;
        let offset = self.range(sector, len).filter(|_| sectors <= max);
        offset.map(|offset| (offset, len)).ok_or(VIRTIO_BLK_S_IOERR)
    }

    fn remember(&mut self, pending: Pending) -> usize {
        match self.free.pop() {
            Some(tag) => {
                self.pending[tag] = Some(pending);
                tag
            }
            None => {
                self.pending.push(Some(pending));
                self.pending.len() - 1
            }
        }
    }

    fn forget(&mut self, tag: usize) -> Option<Pending> {
        let pending = self.pending.get_mut(tag)?.take()?;
        self.free.push(tag);
        Some(pending)
    }

    fn disown(&mut self, mut which: impl FnMut(&Pending) -> bool) {
        for pending in self.pending.iter_mut().flatten().filter(|p| !p.orphan) {
            if which(pending) {
                pending.orphan = true;
                self.orphans += 1;
            }
        }
    }

    /// The back end is done with a request; returns the queues that may go on now.
    fn complete(&mut self, done: BlockDone, state: &mut VirtioState) -> Vec<usize> {
        let Some(pending) = self.forget(done.tag as usize) else { return Vec::new() };
        if pending.orphan {
            self.orphans -= 1;
            let resumed = self.orphans == 0;
            return if resumed { std::mem::take(&mut self.waiting) } else { Vec::new() };
        }
        let status = match done.result {
            Err(IoFailed(errno)) if !pending.ignore_errors => {
                tracing::warn!(target: "block", errno, "block request failed");
                VIRTIO_BLK_S_IOERR
            }
            _ => VIRTIO_BLK_S_OK,
        };
        answer(&pending, status, state);
        Vec::new()
    }
}

/// The segments without their first `skip` bytes.
fn skip(segments: &[Segment], mut skip: u64) -> Vec<Segment> {
    let mut rest = Vec::with_capacity(segments.len());
    for segment in segments {
        let cut = skip.min(u64::from(segment.len)) as u32;
        skip -= u64::from(cut);
        if segment.len > cut {
            rest.push(Segment { addr: segment.addr + u64::from(cut), len: segment.len - cut });
        }
    }
    rest
}

/// `struct virtio_blk_discard_write_zeroes`: sector, sectors, flags; `None` if it is cut short.
fn read_range(state: &VirtioState, payload: &[Segment]) -> Result<Option<(u64, u32, u32)>, u32> {
    // One range a request, as the configuration space says.
    if total_len(payload) > RANGE_LEN as u64 {
        return Err(VIRTIO_BLK_S_UNSUPP);
    }
    let mut raw = [0; RANGE_LEN];
    if !matches!(gather(state.ram(), payload, 0, &mut raw), Ok(RANGE_LEN)) {
        return Ok(None);
    }
    let value = u128::from_le_bytes(raw);
    Ok(Some((value as u64, (value >> 64) as u32, (value >> 96) as u32)))
}

fn answer(pending: &Pending, status: u32, state: &mut VirtioState) {
    let stored = state.ram().write(pending.status, &[status as u8]);
    if state.unless_outside(stored).is_some() {
        state.push(pending.queue, pending.head, pending.written);
    }
}

impl VirtioDevice for Blk {
    const NAME: &'static str = "virtio-blk";
    const ID: u32 = VIRTIO_ID_BLOCK;
    /// As QEMU: SCSI requests, which only legacy knows, have a fixed layout.
    const ANY_LAYOUT: bool = false;

    fn features(&self) -> u64 {
        let o = &self.options;
        let writable = !self.info.read_only;
        [
            (VIRTIO_BLK_F_SEG_MAX, true),
            (VIRTIO_BLK_F_GEOMETRY, true),
            (VIRTIO_BLK_F_TOPOLOGY, true),
            (VIRTIO_BLK_F_BLK_SIZE, true),
            (VIRTIO_BLK_F_FLUSH, true),
            (VIRTIO_BLK_F_RO, self.info.read_only),
            (VIRTIO_BLK_F_CONFIG_WCE, o.config_wce),
            (VIRTIO_BLK_F_MQ, o.num_queues > 1),
            (VIRTIO_BLK_F_DISCARD, o.discard && writable),
            (VIRTIO_BLK_F_WRITE_ZEROES, o.write_zeroes && writable),
        ]
        .into_iter()
        .fold(0, |features, (bit, on)| features | u64::from(on) << bit)
    }

    fn legacy_features(&self) -> u64 {
        1 << VIRTIO_BLK_F_SCSI
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.options.queue_size; usize::from(self.options.num_queues)]
    }

    /// `struct virtio_blk_config`.
    fn config(&self) -> Vec<u8> {
        let o = &self.options;
        let block = o.logical_block_size;
        let (cylinders, heads, sectors) = self.geometry();
        let seg_max = if o.seg_max_adjust { u32::from(o.queue_size) - 2 } else { 126 };
        let ratio = (o.physical_block_size / block).max(1);
        let min_io = u16::try_from(o.min_io_size / block).unwrap_or(u16::MAX);
        let granularity = o.discard_granularity.unwrap_or(block);
        let mut c = Vec::with_capacity(CONFIG_LEN_WRITE_ZEROES);
        c.extend(self.sectors().to_le_bytes());
        c.extend(0u32.to_le_bytes()); // size_max
        c.extend(seg_max.to_le_bytes());
        c.extend(cylinders.to_le_bytes());
        c.extend([heads, sectors]);
        c.extend(block.to_le_bytes());
        c.extend([ratio.ilog2() as u8, 0]); // physical_block_exp, alignment_offset
        c.extend(min_io.to_le_bytes());
        c.extend((o.opt_io_size / block).to_le_bytes());
        c.extend([u8::from(self.writeback), 0]); // wce, unused
        c.extend(o.num_queues.to_le_bytes());
        let len = match (o.discard, o.write_zeroes) {
            (_, true) => CONFIG_LEN_WRITE_ZEROES,
            (true, false) => CONFIG_LEN_DISCARD,
            (false, false) => CONFIG_LEN_BASE,
        };
        let writable = !self.info.read_only;
        if o.discard && writable {
            c.extend(o.max_discard_sectors.to_le_bytes());
            c.extend(1u32.to_le_bytes()); // max_discard_seg
            c.extend((granularity / SECTOR as u32).to_le_bytes());
        } else {
            c.resize(CONFIG_LEN_DISCARD, 0);
        }
        if o.write_zeroes && writable {
            c.extend(o.max_write_zeroes_sectors.to_le_bytes());
            c.extend(1u32.to_le_bytes()); // max_write_zeroes_seg
            c.push(1); // write_zeroes_may_unmap
        }
        c.resize(len, 0);
        c
    }

    fn write_config(&mut self, offset: usize, bytes: &[u8], _: &mut VirtioState) {
        if self.options.config_wce
            && let Some(byte) = CONFIG_WCE.checked_sub(offset).and_then(|i| bytes.get(i))
        {
            self.writeback = byte & 1 != 0;
        }
    }

    fn started(&mut self, address: Addr<VirtioMmio<Self>>) {
        self.done = address.recipient().into();
    }

    /// A driver that can neither flush nor switch the cache needs every write to be stable.
    fn driver_ok(&mut self, state: &mut VirtioState) {
        if !state.has_feature(VIRTIO_BLK_F_CONFIG_WCE) {
            self.writeback = state.has_feature(VIRTIO_BLK_F_FLUSH);
        }
    }

    fn notify(&mut self, queue: usize, state: &mut VirtioState) {
        if self.orphans > 0 {
            if !self.waiting.contains(&queue) {
                self.waiting.push(queue);
            }
            return;
        }
        while let Some(chain) = state.pop(queue) {
            let head = chain.head;
            let status = chain.writable.last().map(|s| s.addr + u64::from(s.len) - 1);
            let written = u32::try_from(chain.writable_len()).unwrap_or(u32::MAX);
            match (self.begin(chain, queue, state), status) {
                (Start::Sent, _) => (),
                (Start::Answer(code), Some(status)) => {
                    let ignore_errors = false;
                    let orphan = false;
                    let done = Pending { queue, head, written, status, ignore_errors, orphan };
                    answer(&done, code, state);
                }
                (Start::Answer(_), None) => state.fail(&"virtio-blk missing headers"),
                (Start::Broken(reason), _) => state.fail(&reason),
            }
        }
    }

    fn queue_reset(&mut self, queue: usize) {
        if let Some(gate) = self.gates.get(queue) {
            gate.revoke();
        }
        self.disown(|pending| pending.queue == queue);
    }

    fn reset(&mut self, _: &mut VirtioState) {
        self.gates.iter().for_each(|gate| gate.revoke());
        self.disown(|_| true);
        self.waiting.clear();
        self.writeback = self.options.writeback;
    }
}

impl Handler<BlockDone> for VirtioMmio<Blk> {
    type Result = ();

    fn handle(&mut self, done: BlockDone, _: &mut Self::Context) {
        let (device, state) = self.parts();
        for queue in device.complete(done, state) {
            self.notify(queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_driver::{DATA, Driver, WRITE};
    use super::*;
    use crate::actors::message::{Pause, Resume};
    use crate::actors::probe::Probe;
    use crate::block::node::Drive;
    use crate::machine::spec::{CacheMode, DriveInterface, DriveSpec, ErrorAction};

    const EVENT_IDX: u64 = 1 << 29;
    const VERSION_1: u64 = 1 << 32;
    const HEADER: u64 = DATA;
    const STATUS: u64 = DATA + 0x40;
    const BUFFER: u64 = DATA + 0x1000;

    fn info(size: u64) -> BlockInfo {
        BlockInfo {
            size,
            read_only: false,
            writeback: true,
            write_error: ErrorAction::Report,
            read_error: ErrorAction::Report,
        }
    }

    fn mocked(legacy: bool, info: BlockInfo) -> (Driver<Blk>, Probe<BlockRequest>) {
        let node = Probe::new();
        let options = BlkOptions { serial: b"serial-0".to_vec(), ..BlkOptions::default() };
        (Driver::new(legacy, Blk::new(options, info, node.outlet())), node)
    }

    /// Put a request into queue 0; request `n` has its own header and status byte.
    fn request(
        driver: &mut Driver<Blk>,
        n: u64,
        kind: u32,
        sector: u64,
        data: &[(u64, u32, u16)],
    ) -> u16 {
        let (header, status) = (HEADER + n * 0x80, STATUS + n * 0x80);
        driver.ram.store_u64(header, u64::from(kind)).unwrap();
        driver.ram.store_u64(header + 8, sector).unwrap();
        driver.ram.fill(status, 1, 0xee).unwrap();
        let mut chain = vec![(header, 16, 0)];
        chain.extend(data);
        chain.push((status, 1, WRITE));
        driver.offer(0, &chain)
    }

    fn status(driver: &Driver<Blk>, n: u64) -> u8 {
        driver.bytes(STATUS + n * 0x80, 1)[0]
    }

    #[test]
    fn looks_like_qemus() {
        // Captured from QEMU 10.0 with a drive of 4 MiB.
        for (legacy, features) in [(true, 0x3100_6ed4), (false, 0x101_3000_6e54)] {
            let (mut driver, _) = mocked(legacy, info(4 << 20));
            assert_eq!(driver.start(0), features);
            assert_eq!(driver.read_sized(0x120, 1), 0, "a driver that cannot flush has no cache");
            driver.write(0x70, 0);
            let config: String =
                (0..0x3c).map(|i| format!("{:02x}", driver.read_sized(0x100 + i, 1))).collect();
            let expected = "002000000000000000000000fe000000\
                            0800103f000200000000000000000000\
                            01000100ffff3f000100000001000000\
                            ffff3f000100000001ffffff";
            assert_eq!(config, expected);
            assert_eq!(driver.read_sized(0x100, 8), 0x2000);
            assert_eq!(driver.read(0x138), u32::MAX, "an access across the end");
        }
    }

    #[test]
    fn requests_in_flight_complete_out_of_order() {
        for legacy in [true, false] {
            let (mut driver, node) = mocked(legacy, info(1 << 20));
            driver.start(EVENT_IDX | if legacy { 0 } else { VERSION_1 } | 1 << 9);
            driver.levels();
            let first = request(&mut driver, 0, VIRTIO_BLK_T_IN, 8, &[(BUFFER, 1024, WRITE)]);
            let second = request(&mut driver, 1, VIRTIO_BLK_T_FLUSH, 0, &[]);
            driver.kick(0);
            let mut requests = node.take();
            assert_eq!(requests.len(), 2);
            assert!(matches!(requests[1].op, BlockOp::Flush));
            assert!(
                matches!(&requests[0].op, BlockOp::Read { offset: 4096, into } if into.len() == 1024)
            );
            assert_eq!(driver.used_now(0), []);
            let flush = requests.pop().unwrap();
            flush.done.send(BlockDone { tag: flush.tag, result: Ok(()) });
            assert_eq!(driver.used_now(0), [(second, 1)]);
            assert_eq!((status(&driver, 0), status(&driver, 1)), (0xee, 0));
            assert_eq!(driver.levels(), [true]);
            driver.write(0x64, 1);
            let read = requests.pop().unwrap();
            read.done.send(BlockDone { tag: read.tag, result: Err(IoFailed(5)) });
            assert_eq!(driver.used_now(0), [(first, 1025)]);
            assert_eq!(status(&driver, 0), 1);
            assert_eq!(driver.levels(), [false], "used_event is still 0: only the first");
        }
    }

    #[test]
    fn requests_answered_at_once() {
        let (mut driver, node) = mocked(true, info(1 << 20));
        driver.start(0);
        let range = |driver: &Driver<Blk>, sector: u64, sectors: u32, flags: u32| {
            driver.ram.store_u64(BUFFER, sector).unwrap();
            driver.ram.store_u32(BUFFER + 8, sectors).unwrap();
            driver.ram.store_u32(BUFFER + 12, flags).unwrap();
        };
        range(&driver, 2040, 16, 0);
        let ioerr = VIRTIO_BLK_S_IOERR as u8;
        let unsupp = VIRTIO_BLK_S_UNSUPP as u8;
        let cases: &[(&str, u32, u64, &[(u64, u32, u16)], u8)] = &[
            ("read past the end", VIRTIO_BLK_T_IN, 2047, &[(BUFFER, 1024, WRITE)], ioerr),
            ("read far past", VIRTIO_BLK_T_IN, u64::MAX, &[(BUFFER, 512, WRITE)], ioerr),
            ("half a sector", VIRTIO_BLK_T_OUT, 0, &[(BUFFER, 256, 0)], ioerr),
            ("unknown", 77, 0, &[], unsupp),
            ("scsi", VIRTIO_BLK_T_SCSI_CMD, 0, &[], unsupp),
            ("discard past the end", VIRTIO_BLK_T_DISCARD, 0, &[(BUFFER, 16, 0)], ioerr),
            ("two ranges", VIRTIO_BLK_T_WRITE_ZEROES, 0, &[(BUFFER, 32, 0)], unsupp),
            ("id", VIRTIO_BLK_T_GET_ID, 0, &[(BUFFER + 64, 20, WRITE)], 0),
        ];
        for (name, kind, sector, data, expected) in cases {
            let head = request(&mut driver, 0, *kind, *sector, data);
            driver.kick(0);
            let written: u32 = data.iter().filter(|d| d.2 == WRITE).map(|d| d.1).sum();
            assert_eq!(driver.used_now(0), [(head, written + 1)], "{name}");
            assert_eq!(status(&driver, 0), *expected, "{name}");
        }
        assert_eq!(driver.bytes(BUFFER + 64, 10), b"serial-0\0\0");
        range(&driver, 0, 8, 2);
        request(&mut driver, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, &[(BUFFER, 16, 0)]);
        driver.kick(0);
        driver.used_now(0);
        assert_eq!(status(&driver, 0), unsupp, "unknown flag");
        assert!(node.take().is_empty());
        range(&driver, 8, 8, 1);
        request(&mut driver, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, &[(BUFFER, 16, 0)]);
        driver.kick(0);
        let op = node.take().remove(0).op;
        assert!(matches!(op, BlockOp::WriteZeroes { offset: 4096, len: 4096, may_unmap: true }));
    }

    #[test]
    fn protocol_violations_need_a_reset() {
        let cases: &[(&str, &[(u64, u32, u16)])] = &[
            ("no status", &[(HEADER, 16, 0)]),
            ("no header", &[(STATUS, 1, WRITE)]),
            ("short header", &[(HEADER, 15, 0), (STATUS, 1, WRITE)]),
            ("outside RAM", &[(HEADER, 16, 0), (0x1000, 512, WRITE), (STATUS, 1, WRITE)]),
        ];
        for (name, chain) in cases {
            let (mut driver, node) = mocked(false, info(1 << 20));
            driver.start(VERSION_1);
            driver.offer(0, chain);
            driver.kick(0);
            assert_eq!(driver.read(0x70), 0x4f, "{name}: NEEDS_RESET");
            assert_eq!(driver.read(0x60), 3, "{name}");
            request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
            driver.kick(0);
            assert!(node.take().is_empty(), "{name}: nothing moves");
            driver.start(VERSION_1);
            request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
            driver.kick(0);
            assert_eq!(node.take().len(), 1, "{name}: works again");
        }
    }

    #[test]
    fn a_reset_disowns_requests_and_new_ones_wait_for_them() {
        let (mut driver, node) = mocked(true, info(1 << 20));
        driver.start(0);
        request(&mut driver, 0, VIRTIO_BLK_T_IN, 0, &[(BUFFER, 512, WRITE)]);
        driver.kick(0);
        let old = node.take().remove(0);
        driver.start(0);
        let BlockOp::Read { into, .. } = &old.op else { panic!("not a read") };
        assert!(into.scatter(0, &[1; 512]).is_err(), "no DMA after the reset");
        let head = request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
        driver.kick(0);
        assert!(node.take().is_empty());
        old.done.send(BlockDone { tag: old.tag, result: Ok(()) });
        assert_eq!(driver.used_now(0), []);
        let new = node.take().remove(0);
        new.done.send(BlockDone { tag: new.tag, result: Ok(()) });
        assert_eq!(driver.used_now(0), [(head, 1)]);
    }

    #[test]
    fn a_paused_device_starts_nothing() {
        let (mut driver, node) = mocked(true, info(1 << 20));
        driver.start(0);
        driver.cell.call(Pause).unwrap();
        request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
        driver.kick(0);
        assert!(node.take().is_empty());
        driver.cell.call(Resume).unwrap();
        assert_eq!(node.take().len(), 1);
    }

    #[test]
    fn the_write_cache_is_the_drivers_choice() {
        let (mut driver, node) = mocked(true, info(1 << 20));
        for (features, wce, expected) in [
            (0, None, true),
            (1 << 9, None, false),
            (1 << 11, Some(0), true),
            (1 << 11, None, false),
        ] {
            driver.start(features);
            if let Some(value) = wce {
                driver
                    .cell
                    .call(crate::actors::message::MmioWrite { offset: 0x120, width: 1, value })
                    .unwrap()
                    .unwrap();
            }
            request(&mut driver, 0, VIRTIO_BLK_T_OUT, 0, &[(BUFFER, 512, 0)]);
            driver.kick(0);
            let request = node.take().remove(0);
            assert!(matches!(request.op, BlockOp::Write { fua, .. } if fua == expected));
            request.done.send(BlockDone { tag: request.tag, result: Ok(()) });
            driver.used_now(0);
        }
    }

    fn spec(path: &std::path::Path) -> DriveSpec {
        DriveSpec {
            id: "d0".to_owned(),
            interface: DriveInterface::None,
            index: 0,
            file: path.to_owned(),
            format: None,
            read_only: false,
            cache: CacheMode::default(),
            discard: true,
            write_error: ErrorAction::Report,
            read_error: ErrorAction::Report,
            origin: String::new(),
        }
    }

    /// Random writes, zeroes and discards of many requests at a time against a model in memory.
    #[test]
    fn a_file_holds_what_the_guest_wrote() {
        const SIZE: usize = 1 << 20;
        for legacy in [true, false] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(SIZE as u64).unwrap();
            let mut drive = Drive::open(&spec(file.path())).unwrap();
            drive.attach(false).unwrap();
            let info = drive.info();
            let node = drive.into_node(Outlet::Unconnected).unwrap();
            let blk = Blk::new(BlkOptions::default(), info, node.requests());
            let mut driver = Driver::new(legacy, blk);
            driver.start(EVENT_IDX | if legacy { 0 } else { VERSION_1 } | 1 << 9);
            let mut model = vec![0u8; SIZE];
            let mut seed = 1u64;
            let mut random = |below: u64| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) % below
            };
            for round in 0..40u64 {
                // Four requests at once, each in its own quarter of the drive.
                for n in 0..4u64 {
                    let sectors = 1 + random(500);
                    let sector = n * 512 + random(512 - sectors);
                    let (at, len) = (sector as usize * 512, sectors as usize * 512);
                    let buffer = BUFFER + n * 0x4_1000;
                    if random(4) == 0 {
                        driver.ram.store_u64(buffer, sector).unwrap();
                        driver.ram.store_u32(buffer + 8, sectors as u32).unwrap();
                        driver.ram.store_u32(buffer + 12, random(2) as u32).unwrap();
                        model[at..at + len].fill(0);
                        let kind = VIRTIO_BLK_T_WRITE_ZEROES;
                        request(&mut driver, n, kind, 0, &[(buffer, 16, 0)]);
                    } else {
                        let bytes: Vec<u8> =
                            (0..len).map(|i| (i as u64 * 31 + round * 7 + n) as u8).collect();
                        driver.ram.write(buffer, &bytes).unwrap();
                        model[at..at + len].copy_from_slice(&bytes);
                        // In two pieces, the first of them odd.
                        let cut = 1 + random(len as u64 - 1);
                        let rest = (len as u64 - cut) as u32;
                        let data = [(buffer, cut as u32, 0), (buffer + cut, rest, 0)];
                        request(&mut driver, n, VIRTIO_BLK_T_OUT, sector, &data);
                    }
                }
                driver.kick(0);
                driver.used_within(0, 4);
                assert!((0..4).all(|n| status(&driver, n) == 0));
            }
            request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
            driver.kick(0);
            driver.used_within(0, 1);
            assert!(std::fs::read(file.path()).unwrap() == model, "the file differs");
            driver.ram.fill(BUFFER, SIZE as u64, 0xff).unwrap();
            request(&mut driver, 0, VIRTIO_BLK_T_IN, 0, &[(BUFFER, SIZE as u32, WRITE)]);
            driver.kick(0);
            assert_eq!(driver.used_within(0, 1)[0].1, SIZE as u32 + 1);
            assert!(driver.bytes(BUFFER, SIZE) == model, "the guest reads something else");
        }
    }

    #[test]
    fn an_image_of_odd_size_ends_in_zeroes_and_read_only_stays() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 1000]).unwrap();
        let drive = Drive::open(&DriveSpec { read_only: true, ..spec(file.path()) }).unwrap();
        let info = drive.info();
        assert_eq!(info.size, 1024);
        let node = drive.into_node(Outlet::Unconnected).unwrap();
        let blk = Blk::new(BlkOptions::default(), info, node.requests());
        let mut driver = Driver::new(true, blk);
        assert_eq!(driver.start(0) & 0x6020, 0x20, "RO, neither DISCARD nor WRITE_ZEROES");
        request(&mut driver, 0, VIRTIO_BLK_T_IN, 1, &[(BUFFER, 512, WRITE)]);
        driver.kick(0);
        driver.used_within(0, 1);
        let mut expected = vec![7; 488];
        expected.resize(512, 0);
        assert_eq!(driver.bytes(BUFFER, 512), expected);
        request(&mut driver, 0, VIRTIO_BLK_T_OUT, 0, &[(BUFFER, 512, 0)]);
        driver.kick(0);
        driver.used_within(0, 1);
        assert_eq!(status(&driver, 0), VIRTIO_BLK_S_IOERR as u8);
    }
}
