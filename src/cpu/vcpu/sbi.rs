//! The built-in firmware on a vCPU: how `machine::firmware` reaches the hart and its peers.

use std::sync::Arc;

use super::Vcpu;
use crate::actors::outlet::Outlet;
use crate::cpu::csr::counters::update_stimer;
use crate::cpu::hart::Hart;
use crate::cpu::inbox::CacheRequest;
use crate::cpu::irq::{SSIP, STIP};
use crate::cpu::state::Privilege;
use crate::machine::firmware::csrs::initial_csrs;
use crate::machine::firmware::hsm::Hsm;
use crate::machine::firmware::pmu::FirmwareCounters;
use crate::machine::firmware::{
    self, FenceRange, HartSet, ResetReason, ResetType, SbiHost, SbiOutcome,
};
use crate::machine::memory::RamError;
use crate::machine::memory_map::UART;
use crate::machine::message::{RequestReset, RequestShutdown, ShutdownCause};

/// Length of `ecall`, in bytes.
const ECALL_LEN: u64 = 4;

/// What the harts share of the built-in firmware, and what is this hart's own.
#[derive(Debug, Clone)]
pub struct BuiltinFirmware {
    pub hsm: Arc<Hsm>,
    pub counters: FirmwareCounters,
    pub shutdown: Outlet<RequestShutdown>,
    pub reset: Outlet<RequestReset>,
}

impl Vcpu {
    /// Machine-level CSRs as the firmware sets them up.
    pub(super) fn firmware_reset(&mut self) {
        let csrs = initial_csrs(&self.hart.env.isa);
        let s = &mut self.hart.state;
        s.mstatus = csrs.mstatus;
        s.medeleg = csrs.medeleg;
        s.mideleg = csrs.mideleg;
        s.mcounteren = csrs.mcounteren;
        s.scounteren = csrs.scounteren;
        s.menvcfg = csrs.menvcfg;
        s.mstateen[0] = csrs.mstateen0;
        s.pmpcfg[0] = csrs.pmpcfg0;
        s.pmpaddr[0] = csrs.pmpaddr0;
        s.privilege = Privilege::Supervisor;
        s.stimecmp = u64::MAX;
        if let Some(firmware) = &mut self.firmware {
            firmware.counters = FirmwareCounters::default();
        }
        self.hart.translations_changed();
        self.hart.context_changed();
    }

    /// Start in S-mode with translation off.
    pub(super) fn enter_supervisor(&mut self, pc: u64, opaque: u64) {
        const SIE: u64 = 1 << 1;
        let s = &mut self.hart.state;
        s.pc = pc;
        s.x[10] = self.hart.env.hartid;
        s.x[11] = opaque;
        s.satp = 0;
        s.mstatus &= !SIE;
        s.privilege = Privilege::Supervisor;
        s.waiting = false;
        self.stopped = false;
        self.hart.context_changed();
    }

    /// A stopped hart looks whether it is to start.
    pub(super) fn try_start(&mut self) -> bool {
        let start = self
            .firmware
            .as_ref()
            .and_then(|firmware| firmware.hsm.take_start(self.hart.env.hartid));
        if let Some((pc, opaque)) = start {
            self.enter_supervisor(pc, opaque);
        }
        start.is_some()
    }

    /// Answer the `ecall` at the pc.
    pub(super) fn firmware_call(&mut self) {
        let Some(firmware) = &mut self.firmware else { return };
        let mut arguments = [0; 8];
        arguments.copy_from_slice(&self.hart.state.x[10..18]);
        if let Some((addr, len)) = firmware::memory_of(&arguments)
            && let Err(RamError::Missing { addr, len }) = self.hart.env.ram.host(addr, len)
        {
            // The call is made again when it is there.
            self.hart.missing = Some((addr, len));
            return;
        }
        let outcome = firmware::ecall(&mut Host { hart: &mut self.hart, firmware }, arguments);
        let s = &mut self.hart.state;
        match outcome {
            SbiOutcome::Return { error, value } => {
                s.x[10] = error as u64;
                s.x[11] = value;
            }
            SbiOutcome::ReturnLegacy(value) => s.x[10] = value as u64,
            SbiOutcome::Wait => {
                s.x[10] = 0;
                s.x[11] = 0;
                s.waiting = true;
            }
            SbiOutcome::WaitThenRestart { resume, opaque } => {
                s.waiting = true;
                self.restart = Some((resume, opaque));
            }
            SbiOutcome::Stopped | SbiOutcome::SystemReset => self.stopped = true,
        }
        s.pc = s.pc.wrapping_add(ECALL_LEN);
    }
}

/// Make STIP what the supervisor timer says. Without Sstc the firmware's timer is the only one,
/// and it compares with the same register.
pub(super) fn timer_changed(hart: &mut Hart) {
    if hart.env.isa.sstc {
        update_stimer(hart);
        return;
    }
    let due = hart.env.clock.ticks() >= hart.state.stimecmp;
    hart.env.irq.set_lines(STIP, due);
    hart.arm_stimer(if due { u64::MAX } else { hart.state.stimecmp });
}

/// The calling hart, as the firmware sees it.
struct Host<'a> {
    hart: &'a mut Hart,
    firmware: &'a mut BuiltinFirmware,
}

impl Host<'_> {
    /// Have other harts do `request`, and this one if it is named, before going on.
    fn remote(&mut self, harts: &HartSet, request: CacheRequest) {
        let me = self.hart.env.hartid;
        let peers = self.hart.env.peers.clone();
        let mut tickets = Vec::new();
        for hart in harts.iter() {
            let Some(peer) = peers.0.get(hart as usize) else { continue };
            let number = peer.inbox.post(request);
            if hart != me && !peer.inbox.is_done(number) {
                peer.irq.request_exit();
                tickets.push((hart as usize, number));
            }
        }
        self.hart.drain_inbox();
        while !peers.all_done(&tickets) {
            // The others may wait for this hart in turn.
            self.hart.drain_inbox();
            std::thread::yield_now();
        }
    }
}

impl SbiHost for Host<'_> {
    fn hartid(&self) -> u64 {
        self.hart.env.hartid
    }

    fn hart_count(&self) -> u64 {
        self.hart.env.peers.0.len() as u64
    }

    fn machine_ids(&self) -> (u64, u64, u64) {
        (0, 0, 0)
    }

    fn hsm(&self) -> &Hsm {
        &self.firmware.hsm
    }

    fn counters(&mut self) -> &mut FirmwareCounters {
        &mut self.firmware.counters
    }

    fn set_timer(&mut self, deadline: u64) {
        self.hart.state.stimecmp = deadline;
        timer_changed(self.hart);
    }

    fn send_ipi(&mut self, harts: &HartSet) {
        for hart in harts.iter() {
            if let Some(peer) = self.hart.env.peers.0.get(hart as usize) {
                peer.irq.set_soft(SSIP, true);
            }
        }
    }

    fn clear_ipi(&mut self) {
        self.hart.env.irq.set_soft(SSIP, false);
    }

    fn remote_fence_i(&mut self, harts: &HartSet) {
        self.remote(harts, CacheRequest::FenceI);
    }

    fn remote_sfence_vma(&mut self, harts: &HartSet, range: Option<FenceRange>, asid: Option<u16>) {
        let range = range.map(|r| (r.start, r.size));
        self.remote(harts, CacheRequest::FenceVma { range, asid });
    }

    fn wake_to_start(&mut self, hart: u64) {
        if let Some(peer) = self.hart.env.peers.0.get(hart as usize) {
            peer.irq.kick();
        }
    }

    fn system_reset(&mut self, kind: ResetType, _reason: ResetReason) {
        match kind {
            ResetType::Shutdown => {
                let cause = ShutdownCause::GuestShutdown;
                self.firmware.shutdown.send(RequestShutdown { cause, exit_code: 0 });
            }
            ResetType::ColdReboot | ResetType::WarmReboot => {
                self.firmware.reset.send(RequestReset { cause: ShutdownCause::GuestReset });
            }
        }
    }

    /// Through the UART, as firmware on `virt` does it.
    fn console_write(&mut self, bytes: &[u8]) -> usize {
        const THR: u64 = UART.base;
        const LSR: u64 = UART.base + 5;
        const THRE: u64 = 1 << 5;
        let bus = &self.hart.env.bus;
        let ready = || bus.read(LSR, 1).is_ok_and(|lsr| lsr & THRE != 0);
        bytes.iter().take_while(|&&b| ready() && bus.write(THR, 1, u64::from(b)).is_ok()).count()
    }

    fn console_read(&mut self, max: usize) -> Vec<u8> {
        const RBR: u64 = UART.base;
        const LSR: u64 = UART.base + 5;
        const DATA_READY: u64 = 1;
        let bus = &self.hart.env.bus;
        let mut bytes = Vec::new();
        while bytes.len() < max && bus.read(LSR, 1).is_ok_and(|lsr| lsr & DATA_READY != 0) {
            match bus.read(RBR, 1) {
                Ok(byte) => bytes.push(byte as u8),
                Err(_) => break,
            }
        }
        bytes
    }

    fn is_ram(&self, addr: u64, len: u64) -> bool {
        self.hart.env.ram.contains(addr, len)
    }

    fn read_ram(&self, addr: u64, into: &mut [u8]) {
        if self.hart.env.ram.read(addr, into).is_err() {
            into.fill(0);
        }
    }

    fn write_ram(&mut self, addr: u64, from: &[u8]) {
        // The firmware checked the range; a range that is not RAM leaves memory as it is.
        let _ = self.hart.env.ram.write(addr, from);
    }
}
