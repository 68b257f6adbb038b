//! virtio-blk (virtio 1.2 §5.2). A doorbell turns every waiting chain into a request to the block
//! node; the node's threads move the data, and their answers come back through the actor's
//! mailbox, where the used ring is written.
//!
//! Long because the protocol has one decoder for all requests, and its answers depend on the same
//! options as the configuration space.

use std::sync::Arc;

use actix::{Addr, Handler};
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::device::{DeviceState, VirtioDevice, VirtioState, guest_error};
use super::queue::Chain;
use super::transport::VirtioMmio;
use crate::actors::outlet::Outlet;
use crate::block::accounting::{BlockAccount, Kind};
use crate::block::message::{BlockDone, BlockFailed, BlockInfo, BlockOp, BlockRequest};
use crate::devices::dma::{DmaGate, GuestBuffer, Segment, gather, scatter, total_len};
use crate::devices::shell::Shell;
use crate::machine::spec::ErrorAction;
use crate::migration::vmstate::{Fields, StateError, Vmsd};

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
    /// What becomes of a failed write, and of a failed read.
    pub write_error: ErrorAction,
    pub read_error: ErrorAction,
}

impl BlkOptions {
    /// Cylinders, heads and sectors: as given, or as QEMU makes them up for a disk of `size` bytes
    /// without a partition table.
    pub fn geometry(&self, size: u64) -> (u16, u8, u8) {
        self.geometry.unwrap_or_else(|| {
            let cylinders = (size / SECTOR / (16 * 63)).clamp(2, 16383);
            (cylinders as u16, 16, 63)
        })
    }
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
            write_error: ErrorAction::Report,
            read_error: ErrorAction::Report,
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
    write: bool,
    /// The chain as it came, to be begun again should the request fail.
    chain: Option<Chain>,
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
    /// Chains whose requests stopped the machine, with their queues: begun again when it goes on.
    stopped: Vec<(usize, Chain)>,
    /// Told of every failed request, as this with the particulars filled in.
    failures: Outlet<BlockFailed>,
    name: BlockFailed,
    /// Told of what is to be counted and does not become a request.
    account: Outlet<BlockAccount>,
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
            stopped: Vec::new(),
            failures: Outlet::Unconnected,
            name: BlockFailed::of_device(String::new(), String::new(), String::new()),
            account: Outlet::Unconnected,
        }
    }

    /// Have failed requests told of, as `name` with the particulars filled in.
    pub fn tell_failures(&mut self, to: Outlet<BlockFailed>, name: BlockFailed) {
        self.failures = to;
        self.name = name;
    }

    /// Have counted what does not become a request.
    pub fn tell_account(&mut self, to: Outlet<BlockAccount>) {
        self.account = to;
    }

    /// The answer to a request outside the drive.
    fn invalid(&self, kind: Kind) -> u32 {
        self.account.send(BlockAccount::Invalid(kind));
        VIRTIO_BLK_S_IOERR
    }

    /// A failure may stop the machine.
    fn may_stop(&self) -> bool {
        self.options.write_error.may_stop() || self.options.read_error.may_stop()
    }

    fn sectors(&self) -> u64 {
        self.info.size / SECTOR
    }

    /// A range of the drive in bytes, if it is one.
    fn range(&self, sector: u64, len: u64) -> Option<u64> {
        let block = u64::from(self.options.logical_block_size);
        let offset = sector.checked_mul(SECTOR)?;
        let fits = offset.checked_add(len)? <= self.info.size;
        (fits && len <= REQUEST_MAX && offset.is_multiple_of(block) && len.is_multiple_of(block))
            .then_some(offset)
    }

    fn buffer(&self, state: &VirtioState, queue: usize, segments: Vec<Segment>) -> GuestBuffer {
        let gate = self.gates.get(queue).cloned().unwrap_or_default();
        GuestBuffer::new(Arc::clone(state.ram()), segments, gate.lease())
    }

    /// Begin a chain; `pending` is recorded if the back end gets it.
    fn begin(&mut self, mut chain: Chain, queue: usize, state: &mut VirtioState) -> Start {
        let ram = Arc::clone(state.ram());
        let mut raw = [0; HEADER_LEN];
        let whole = chain.clone();
        let Some(status) = chain.writable.last_mut() else {
            return Start::Broken("virtio-blk missing headers");
        };
        status.len -= 1;
        let pending = Pending {
            queue,
            head: chain.head,
            written: 0,
            status: status.addr + u64::from(status.len),
            write: true,
            chain: self.may_stop().then_some(whole),
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

    /// Begin a chain and, if the back end does not get it, answer it.
    fn start(&mut self, chain: Chain, queue: usize, state: &mut VirtioState) {
        let head = chain.head;
        let status = chain.writable.last().map(|s| s.addr + u64::from(s.len) - 1);
        let written = u32::try_from(chain.writable_len()).unwrap_or(u32::MAX);
        match (self.begin(chain, queue, state), status) {
            (Start::Sent, _) => (),
            (Start::Answer(code), Some(status)) => {
                let answered = Answered { queue, head, written, status };
                answer(&answered, code, state);
            }
            (Start::Answer(_), None) => state.fail(&"virtio-blk missing headers"),
            (Start::Broken(reason), _) => state.fail(&reason),
        }
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
                let offset = self.range(header.sector, len);
                let offset = offset.ok_or_else(|| self.invalid(Kind::Read))?;
                pending.write = false;
                BlockOp::Read { offset, into: self.buffer(state, queue, writable) }
            }
            VIRTIO_BLK_T_OUT => {
                let len = total_len(&payload);
                let offset = self.range(header.sector, len);
                let offset = offset.ok_or_else(|| self.invalid(Kind::Write))?;
                let from = self.buffer(state, queue, payload);
                BlockOp::Write { offset, from, fua: !self.writeback }
            }
            VIRTIO_BLK_T_FLUSH => BlockOp::Flush,
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
                let zone = self.zone(sector, sectors, self.options.max_discard_sectors);
                let (offset, len) = zone.ok_or_else(|| self.invalid(Kind::Unmap))?;
                if flags != 0 {
                    return Err(VIRTIO_BLK_S_UNSUPP);
                }
                BlockOp::Discard { offset, len }
            }
            VIRTIO_BLK_T_WRITE_ZEROES if self.options.write_zeroes && !self.info.read_only => {
                let (sector, sectors, flags) = match read_range(state, &payload)? {
                    Some(range) => range,
                    None => return Ok(Start::Broken("virtio-blk write zeroes header too short")),
                };
                let zone = self.zone(sector, sectors, self.options.max_write_zeroes_sectors);
                let (offset, len) = zone.ok_or_else(|| self.invalid(Kind::Write))?;
                if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
                    return Err(VIRTIO_BLK_S_UNSUPP);
                }
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
    fn zone(&self, sector: u64, sectors: u32, max: u32) -> Option<(u64, u64)> {
        let len = u64::from(sectors) * SECTOR;
        let offset = self.range(sector, len).filter(|_| sectors <= max);
        offset.map(|offset| (offset, len))
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
        let Err(error) = done.result else {
            answer(&pending.answered(), VIRTIO_BLK_S_OK, state);
            return Vec::new();
        };
        let wanted = if pending.write { self.options.write_error } else { self.options.read_error };
        let action = match wanted {
            ErrorAction::Enospc if error.is_no_space() => ErrorAction::Stop,
            ErrorAction::Enospc => ErrorAction::Report,
            other => other,
        };
        if action == ErrorAction::Stop {
            self.account.send(BlockAccount::Stopped { no_space: error.is_no_space() });
        }
        self.failures.send(BlockFailed {
            write: pending.write,
            action,
            error,
            ..self.name.clone()
        });
        match (action, pending.chain.clone()) {
            (ErrorAction::Stop, Some(chain)) => self.stopped.push((pending.queue, chain)),
            (ErrorAction::Ignore, _) => answer(&pending.answered(), VIRTIO_BLK_S_OK, state),
            _ => answer(&pending.answered(), VIRTIO_BLK_S_IOERR, state),
        }
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

/// What the driver gets back of a chain.
struct Answered {
    queue: usize,
    head: u16,
    written: u32,
    status: u64,
}

impl Pending {
    fn answered(&self) -> Answered {
        let Self { queue, head, written, status, .. } = *self;
        Answered { queue, head, written, status }
    }
}

fn answer(pending: &Answered, status: u32, state: &mut VirtioState) {
    let stored = state.ram().write(pending.status, &[status as u8]);
    if state.unless_outside(stored).is_some() {
        state.push(pending.queue, pending.head, pending.written);
    }
}

/// Requests that a source holds back after an error (`werror=stop`); here there are none.
#[derive(Debug)]
pub struct HeldRequests;

impl DeviceState for HeldRequests {
    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let mut another = 0;
        f.u8("request", &mut another)?;
        if another != 0 {
            let reason = "requests that the source holds back cannot be taken over".to_owned();
            return Err(f.refuse("request", reason));
        }
        Ok(())
    }
}

impl VirtioDevice for Blk {
    const NAME: &'static str = "virtio-blk";
    const VMSD: Vmsd = Vmsd::new("virtio-blk", 2);
    type State = HeldRequests;
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
        let (cylinders, heads, sectors) = self.options.geometry(self.info.size);
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

    fn started(&mut self, address: Addr<Shell<VirtioMmio<Self>>>) {
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
            self.start(chain, queue, state);
        }
    }

    fn resumed(&mut self, state: &mut VirtioState) {
        for (queue, chain) in std::mem::take(&mut self.stopped) {
            self.start(chain, queue, state);
        }
    }

    fn queue_reset(&mut self, queue: usize) {
        if let Some(gate) = self.gates.get(queue) {
            gate.revoke();
        }
        self.disown(|pending| pending.queue == queue);
        self.stopped.retain(|(of, _)| *of != queue);
    }

    fn reset(&mut self, _: &mut VirtioState) {
        self.gates.iter().for_each(|gate| gate.revoke());
        self.disown(|_| true);
        self.waiting.clear();
        self.stopped.clear();
        self.writeback = self.options.writeback;
    }

    /// The drive is drained when the machine has stopped.
    fn save(&self, _: &VirtioState) -> Result<HeldRequests, StateError> {
        let pending = self.pending.iter().flatten().filter(|request| !request.orphan).count();
        match pending + self.stopped.len() {
            0 => Ok(HeldRequests),
            n => Err(StateError::Busy {
                name: Self::VMSD.name,
                reason: format!("{n} requests are under way"),
            }),
        }
    }

    fn load(
        &mut self,
        _: HeldRequests,
        config: &[u8],
        state: &mut VirtioState,
    ) -> Result<(), StateError> {
        // A source that has not shown its configuration space sends zeroes.
        if config.iter().any(|&byte| byte != 0) {
            self.writeback = config.get(CONFIG_WCE).is_some_and(|byte| byte & 1 != 0);
        } else if state.is_driver_ok() {
            self.driver_ok(state);
        }
        Ok(())
    }
}

impl Handler<BlockDone> for Shell<VirtioMmio<Blk>> {
    type Result = ();

    fn handle(&mut self, done: BlockDone, _: &mut Self::Context) {
        let (device, state) = self.0.parts();
        for queue in device.complete(done, state) {
            self.0.notify(queue);
        }
    }
}

#[cfg(test)]
mod tests;
