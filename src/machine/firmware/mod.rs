//! The built-in firmware: RISC-V SBI 2.0, answered by the emulator when S-mode executes `ecall`.
//! [`ecall`] is the whole interface; what it needs of the machine comes through [`SbiHost`].
//! Section numbers are those of the SBI specification, version 2.0.

pub mod csrs;
pub mod hsm;
pub mod pmu;

#[cfg(test)]
mod tests;

use hsm::{HartStatus, Hsm};
use pmu::{FirmwareCounters, FirmwareEvent};

/// SBI error codes (3.1), as they appear in `a0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(i64)]
pub enum SbiError {
    #[error("SBI_ERR_FAILED")]
    Failed = -1,
    #[error("SBI_ERR_NOT_SUPPORTED")]
    NotSupported = -2,
    #[error("SBI_ERR_INVALID_PARAM")]
    InvalidParam = -3,
    #[error("SBI_ERR_DENIED")]
    Denied = -4,
    #[error("SBI_ERR_INVALID_ADDRESS")]
    InvalidAddress = -5,
    #[error("SBI_ERR_ALREADY_AVAILABLE")]
    AlreadyAvailable = -6,
    #[error("SBI_ERR_ALREADY_STARTED")]
    AlreadyStarted = -7,
    #[error("SBI_ERR_ALREADY_STOPPED")]
    AlreadyStopped = -8,
}

/// What the hart does after an `ecall`. Unless said otherwise it goes on behind the `ecall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SbiOutcome {
    /// Write `a0` and `a1`.
    Return { error: i64, value: u64 },
    /// Legacy calls write `a0` only.
    ReturnLegacy(i64),
    /// Write `a0 = 0`, `a1 = 0`, then wait as `wfi` does; registers are kept.
    Wait,
    /// Wait as `wfi` does, then start over in S-mode at `resume` with `a0 = hartid`,
    /// `a1 = opaque`, `satp = 0`, `sstatus.SIE = 0`; call [`Hsm::resumed`] first.
    WaitThenRestart { resume: u64, opaque: u64 },
    /// The hart stopped: it runs again when [`Hsm::take_start`] gives it an address.
    Stopped,
    /// The machine is going down or restarting: the hart does not go on.
    SystemReset,
}

/// `reset_type` of `sbi_system_reset` (10.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetType {
    Shutdown,
    ColdReboot,
    WarmReboot,
}

/// `reset_reason` of `sbi_system_reset` (10.1); platform and vendor reasons are as they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    None,
    SystemFailure,
    Specific(u32),
}

/// Harts that a call names: all of them are in the machine and none is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HartSet(Vec<u64>);

impl HartSet {
    /// Hart ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }
}

/// The address range of a remote fence, in bytes; `None` in its place means everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FenceRange {
    pub start: u64,
    pub size: u64,
}

/// What the firmware needs of the hart that calls it and of the machine around it.
pub trait SbiHost {
    /// The calling hart.
    fn hartid(&self) -> u64;
    /// Number of harts; their ids are `0..hart_count`.
    fn hart_count(&self) -> u64;
    /// (`mvendorid`, `marchid`, `mimpid`) of the calling hart.
    fn machine_ids(&self) -> (u64, u64, u64);
    /// Which harts run. Shared by all harts.
    fn hsm(&self) -> &Hsm;
    /// The calling hart's firmware counters.
    fn counters(&mut self) -> &mut FirmwareCounters;
    /// Clear STIP and raise it when `time` reaches `deadline` (ticks; `u64::MAX`: never).
    fn set_timer(&mut self, deadline: u64);
    /// Raise SSIP of each.
    fn send_ipi(&mut self, harts: &HartSet);
    /// Clear SSIP of the calling hart.
    fn clear_ipi(&mut self);
    /// Each executes `fence.i`, before the caller goes on.
    fn remote_fence_i(&mut self, harts: &HartSet);
    /// Each executes `sfence.vma` over the range, before the caller goes on.
    fn remote_sfence_vma(&mut self, harts: &HartSet, range: Option<FenceRange>, asid: Option<u16>);
    /// Have a hart look at its `Hsm` state: it is to start.
    fn wake_to_start(&mut self, hart: u64);
    /// Reset or shut the machine down.
    fn system_reset(&mut self, kind: ResetType, reason: ResetReason);
    /// Put bytes on the console; the number taken, which may be less than given.
    fn console_write(&mut self, bytes: &[u8]) -> usize;
    /// Bytes that wait on the console, at most `max`.
    fn console_read(&mut self, max: usize) -> Vec<u8>;
    /// True when `addr..addr+len` is RAM.
    fn is_ram(&self, addr: u64, len: u64) -> bool;
    /// Read RAM; the range was checked with `is_ram`.
    fn read_ram(&self, addr: u64, into: &mut [u8]);
    /// Write RAM; the range was checked with `is_ram`.
    fn write_ram(&mut self, addr: u64, from: &[u8]);
}

/// SBI specification version (4.1): 2.0.
const SPEC_VERSION: u64 = 2 << 24;
/// Implementation ID (4.2). The registered ones are small numbers; this is "UNDS".
const IMPLEMENTATION_ID: u64 = 0x554e_4453;

const EXT_BASE: u64 = 0x10;
const EXT_TIME: u64 = 0x5449_4d45;
const EXT_IPI: u64 = 0x0073_5049;
const EXT_RFENCE: u64 = 0x5246_4e43;
const EXT_HSM: u64 = 0x0048_534d;
const EXT_SRST: u64 = 0x5352_5354;
const EXT_PMU: u64 = 0x0050_4d55;
const EXT_DBCN: u64 = 0x4442_434e;
const EXT_SUSP: u64 = 0x5355_5350;

const LEGACY_SET_TIMER: u64 = 0;
const LEGACY_PUTCHAR: u64 = 1;
const LEGACY_GETCHAR: u64 = 2;
const LEGACY_CLEAR_IPI: u64 = 3;
const LEGACY_SHUTDOWN: u64 = 8;

/// Largest piece of guest memory copied at once for the debug console. Longer requests are
/// answered with a short count, which the specification allows.
const CONSOLE_CHUNK: u64 = 4096;

type Answer = Result<u64, SbiError>;

/// Answer an `ecall` from S-mode. `a` is `a0` to `a7`: arguments, function ID, extension ID.
pub fn ecall(host: &mut dyn SbiHost, a: [u64; 8]) -> SbiOutcome {
    let (function, extension) = (a[6], a[7]);
    let answer = match extension {
        LEGACY_SET_TIMER..=LEGACY_SHUTDOWN => return legacy(host, extension, a[0]),
        EXT_BASE => base(host, function, a[0]),
        EXT_TIME => time(host, function, a[0]),
        EXT_IPI => ipi(host, function, a[0], a[1]),
        EXT_RFENCE => rfence(host, function, &a),
        EXT_HSM => return hart_state(host, function, &a),
        EXT_SRST => return system_reset(host, function, a[0], a[1]),
        EXT_SUSP => return system_suspend(host, function, &a),
        EXT_DBCN => debug_console(host, function, &a),
        EXT_PMU => pmu::call(host, function, &a),
        _ => {
            tracing::debug!(target: "unimp", "no SBI extension {extension:#x}");
            Err(SbiError::NotSupported)
        }
    };
    outcome(answer)
}

fn outcome(answer: Answer) -> SbiOutcome {
    match answer {
        Ok(value) => SbiOutcome::Return { error: 0, value },
        Err(error) => SbiOutcome::Return { error: error as i64, value: 0 },
    }
}

/// Chapter 4.
fn base(host: &dyn SbiHost, function: u64, a0: u64) -> Answer {
    let (vendor, arch, implementation) = host.machine_ids();
    Ok(match function {
        0 => SPEC_VERSION,
        1 => IMPLEMENTATION_ID,
        2 => implementation_version(),
        3 => u64::from(probe(a0)),
        4 => vendor,
        5 => arch,
        6 => implementation,
        _ => return Err(SbiError::NotSupported),
    })
}

/// Our version, as `major << 16 | minor`.
fn implementation_version() -> u64 {
    let part = |text: &str| text.parse::<u64>().unwrap_or(0);
    part(env!("CARGO_PKG_VERSION_MAJOR")) << 16 | part(env!("CARGO_PKG_VERSION_MINOR"))
}

fn probe(extension: u64) -> bool {
    matches!(
        extension,
        LEGACY_SET_TIMER
            | LEGACY_PUTCHAR
            | LEGACY_GETCHAR
            | LEGACY_CLEAR_IPI
            | LEGACY_SHUTDOWN
            | EXT_BASE
            | EXT_TIME
            | EXT_IPI
            | EXT_RFENCE
            | EXT_HSM
            | EXT_SRST
            | EXT_PMU
            | EXT_DBCN
            | EXT_SUSP
    )
}

/// Chapter 5. The calls that take a pointer to a hart mask in virtual memory (4 to 7) are not
/// here: whoever used them has long used IPI and RFENCE.
fn legacy(host: &mut dyn SbiHost, extension: u64, a0: u64) -> SbiOutcome {
    SbiOutcome::ReturnLegacy(match extension {
        LEGACY_SET_TIMER => {
            set_timer(host, a0);
            0
        }
        LEGACY_PUTCHAR => match host.console_write(&[a0 as u8]) {
            0 => SbiError::Failed as i64,
            _ => 0,
        },
        LEGACY_GETCHAR => host.console_read(1).first().map_or(-1, |&byte| i64::from(byte)),
        LEGACY_CLEAR_IPI => {
            host.clear_ipi();
            0
        }
        LEGACY_SHUTDOWN => {
            host.system_reset(ResetType::Shutdown, ResetReason::None);
            return SbiOutcome::SystemReset;
        }
        _ => SbiError::NotSupported as i64,
    })
}

/// Chapter 6.
fn time(host: &mut dyn SbiHost, function: u64, deadline: u64) -> Answer {
    match function {
        0 => {
            set_timer(host, deadline);
            Ok(0)
        }
        _ => Err(SbiError::NotSupported),
    }
}

fn set_timer(host: &mut dyn SbiHost, deadline: u64) {
    host.counters().count(FirmwareEvent::SetTimer);
    host.set_timer(deadline);
}

/// The harts of `hart_mask` and `hart_mask_base` (3.2). Stopped ones are valid and left out: they
/// have no state that the call could change.
fn harts(host: &dyn SbiHost, mask: u64, base: u64) -> Result<HartSet, SbiError> {
    let count = host.hart_count();
    let named: Vec<u64> = if base == u64::MAX {
        (0..count).collect()
    } else {
        let named = (0..64).filter(|bit| mask >> bit & 1 != 0).map(|bit| base.checked_add(bit));
        let named: Option<Vec<u64>> = named.map(|id| id.filter(|&id| id < count)).collect();
        // A base out of range is wrong even when it names nobody.
        named.filter(|_| base < count).ok_or(SbiError::InvalidParam)?
    };
    let hsm = host.hsm();
    let running = |&id: &u64| {
        matches!(
            hsm.status(id),
            Some(HartStatus::Started | HartStatus::Suspended | HartStatus::ResumePending)
        )
    };
    Ok(HartSet(named.into_iter().filter(running).collect()))
}

/// Chapter 7.
fn ipi(host: &mut dyn SbiHost, function: u64, mask: u64, base: u64) -> Answer {
    if function != 0 {
        return Err(SbiError::NotSupported);
    }
    let harts = harts(host, mask, base)?;
    host.counters().count(FirmwareEvent::IpiSent);
    host.send_ipi(&harts);
    Ok(0)
}

/// Chapter 8. The fences for the hypervisor extension (3 to 6) are not supported, like H.
fn rfence(host: &mut dyn SbiHost, function: u64, a: &[u64; 8]) -> Answer {
    if function > 2 {
        return Err(SbiError::NotSupported);
    }
    let harts = harts(host, a[0], a[1])?;
    // 8: everything when both are 0, or the size is all ones.
    let (start, size) = (a[2], a[3]);
    let everything = (start == 0 && size == 0) || size == u64::MAX;
    if !everything && start.checked_add(size).is_none() {
        return Err(SbiError::InvalidAddress);
    }
    let range = (!everything).then_some(FenceRange { start, size });
    match function {
        0 => {
            host.counters().count(FirmwareEvent::FenceISent);
            host.remote_fence_i(&harts);
        }
        1 => {
            host.counters().count(FirmwareEvent::SfenceVmaSent);
            host.remote_sfence_vma(&harts, range, None);
        }
        _ => {
            let asid = u16::try_from(a[4]).map_err(|_| SbiError::InvalidParam)?;
            host.counters().count(FirmwareEvent::SfenceVmaAsidSent);
            host.remote_sfence_vma(&harts, range, Some(asid));
        }
    }
    Ok(0)
}

/// An address at which a hart can start: even, and in RAM.
fn start_address(host: &dyn SbiHost, addr: u64) -> Result<u64, SbiError> {
    if addr & 1 == 0 && host.is_ram(addr, 2) { Ok(addr) } else { Err(SbiError::InvalidAddress) }
}

/// Chapter 9.
fn hart_state(host: &mut dyn SbiHost, function: u64, a: &[u64; 8]) -> SbiOutcome {
    match function {
        0 => outcome(hart_start(host, a[0], a[1], a[2])),
        1 => {
            host.hsm().stop(host.hartid());
            SbiOutcome::Stopped
        }
        2 => outcome(host.hsm().status(a[0]).map(|s| s as u64).ok_or(SbiError::InvalidParam)),
        3 => hart_suspend(host, a[0], a[1], a[2]).unwrap_or_else(|e| outcome(Err(e))),
        _ => outcome(Err(SbiError::NotSupported)),
    }
}

fn hart_start(host: &mut dyn SbiHost, hart: u64, addr: u64, opaque: u64) -> Answer {
    if hart >= host.hart_count() {
        return Err(SbiError::InvalidParam);
    }
    let addr = start_address(host, addr)?;
    host.hsm().request_start(hart, addr, opaque)?;
    host.wake_to_start(hart);
    Ok(0)
}

/// 9.4 and table 5. Both default types are there; reserved and platform types are not.
fn hart_suspend(
    host: &dyn SbiHost,
    kind: u64,
    resume: u64,
    opaque: u64,
) -> Result<SbiOutcome, SbiError> {
    match kind {
        0 => Ok(SbiOutcome::Wait),
        0x8000_0000 => {
            let resume = start_address(host, resume)?;
            host.hsm().suspend(host.hartid());
            Ok(SbiOutcome::WaitThenRestart { resume, opaque })
        }
        _ => Err(SbiError::InvalidParam),
    }
}

/// Chapter 10.
fn system_reset(host: &mut dyn SbiHost, function: u64, kind: u64, reason: u64) -> SbiOutcome {
    let parsed = || {
        if function != 0 {
            return Err(SbiError::NotSupported);
        }
        let reason = match u32::try_from(reason).map_err(|_| SbiError::InvalidParam)? {
            0 => ResetReason::None,
            1 => ResetReason::SystemFailure,
            specific @ 0xe000_0000.. => ResetReason::Specific(specific),
            _ => return Err(SbiError::InvalidParam),
        };
        let kind = match kind {
            0 => ResetType::Shutdown,
            1 => ResetType::ColdReboot,
            2 => ResetType::WarmReboot,
            // Vendor and platform types that nobody defined.
            0xf000_0000..=0xffff_ffff => return Err(SbiError::NotSupported),
            _ => return Err(SbiError::InvalidParam),
        };
        Ok((kind, reason))
    };
    match parsed() {
        Ok((kind, reason)) => {
            host.system_reset(kind, reason);
            SbiOutcome::SystemReset
        }
        Err(error) => outcome(Err(error)),
    }
}

/// Chapter 13: the calling hart sleeps, when it is the only one left; an interrupt wakes it.
fn system_suspend(host: &dyn SbiHost, function: u64, a: &[u64; 8]) -> SbiOutcome {
    let suspend = || {
        if function != 0 {
            return Err(SbiError::NotSupported);
        }
        if a[0] != 0 {
            return Err(SbiError::InvalidParam);
        }
        let resume = start_address(host, a[1])?;
        let me = host.hartid();
        let stopped = |id| id == me || host.hsm().status(id) == Some(HartStatus::Stopped);
        if !(0..host.hart_count()).all(stopped) {
            return Err(SbiError::Denied);
        }
        host.hsm().suspend(me);
        Ok(SbiOutcome::WaitThenRestart { resume, opaque: a[2] })
    };
    suspend().unwrap_or_else(|error| outcome(Err(error)))
}

/// The RAM, as address and length, that the call with these `a0` to `a7` accesses if it is legal.
pub fn memory_of(a: &[u64; 8]) -> Option<(u64, u64)> {
    let console = a[7] == EXT_DBCN && a[6] <= 1 && a[2] == 0;
    console.then(|| (a[1], a[0].min(CONSOLE_CHUNK)))
}

/// Chapter 12.
fn debug_console(host: &mut dyn SbiHost, function: u64, a: &[u64; 8]) -> Answer {
    match function {
        0 | 1 => {
            let (len, addr, high) = (a[0], a[1], a[2]);
            if high != 0 || !host.is_ram(addr, len) {
                return Err(SbiError::InvalidParam);
            }
            let len = len.min(CONSOLE_CHUNK) as usize;
            if function == 0 {
                let mut bytes = vec![0; len];
                host.read_ram(addr, &mut bytes);
                Ok(host.console_write(&bytes) as u64)
            } else {
                let mut bytes = host.console_read(len);
                bytes.truncate(len);
                host.write_ram(addr, &bytes);
                Ok(bytes.len() as u64)
            }
        }
        2 => match host.console_write(&[a[0] as u8]) {
            0 => Err(SbiError::Failed),
            _ => Ok(0),
        },
        _ => Err(SbiError::NotSupported),
    }
}
