//! Every call against a mocked machine.

use super::hsm::{HartStatus, Hsm};
use super::pmu::FirmwareCounters;
use super::*;

const RAM: std::ops::Range<u64> = 0x8000_0000..0x8001_0000;

/// A machine of three harts with 64 KiB of RAM, which writes down what it is asked for.
struct Mock {
    hsm: Hsm,
    counters: FirmwareCounters,
    log: Vec<String>,
    ram: Vec<u8>,
    input: Vec<u8>,
    /// Bytes the console takes at once.
    console_room: usize,
}

impl Mock {
    fn new() -> Self {
        let hsm = Hsm::new(3);
        hsm.reset(0);
        Self {
            hsm,
            counters: FirmwareCounters::default(),
            log: Vec::new(),
            ram: vec![0; (RAM.end - RAM.start) as usize],
            input: Vec::new(),
            console_room: usize::MAX,
        }
    }

    fn call(&mut self, extension: u64, function: u64, args: &[u64]) -> SbiOutcome {
        let mut a = [0; 8];
        a[..args.len()].copy_from_slice(args);
        a[6] = function;
        a[7] = extension;
        ecall(self, a)
    }

    fn started(mut self, harts: &[u64]) -> Self {
        for &hart in harts {
            self.hsm.request_start(hart, 0, 0).unwrap();
            self.hsm.take_start(hart).unwrap();
        }
        self.log.clear();
        self
    }
}

impl SbiHost for Mock {
    fn hartid(&self) -> u64 {
        0
    }
    fn hart_count(&self) -> u64 {
        3
    }
    fn machine_ids(&self) -> (u64, u64, u64) {
        (11, 12, 13)
    }
    fn hsm(&self) -> &Hsm {
        &self.hsm
    }
    fn counters(&mut self) -> &mut FirmwareCounters {
        &mut self.counters
    }
    fn set_timer(&mut self, deadline: u64) {
        self.log.push(format!("timer {deadline}"));
    }
    fn send_ipi(&mut self, harts: &HartSet) {
        self.log.push(format!("ipi {:?}", harts.iter().collect::<Vec<_>>()));
    }
    fn clear_ipi(&mut self) {
        self.log.push("clear".into());
    }
    fn remote_fence_i(&mut self, harts: &HartSet) {
        self.log.push(format!("fence.i {:?}", harts.iter().collect::<Vec<_>>()));
    }
    fn remote_sfence_vma(&mut self, harts: &HartSet, range: Option<FenceRange>, asid: Option<u16>) {
        let range = range.map(|r| (r.start, r.size));
        self.log.push(format!("sfence {:?} {range:x?} {asid:?}", harts.iter().collect::<Vec<_>>()));
    }
    fn wake_to_start(&mut self, hart: u64) {
        self.log.push(format!("wake {hart}"));
    }
    fn system_reset(&mut self, kind: ResetType, reason: ResetReason) {
        self.log.push(format!("{kind:?} {reason:?}"));
    }
    fn console_write(&mut self, bytes: &[u8]) -> usize {
        let taken = &bytes[..bytes.len().min(self.console_room)];
        self.log.push(format!("out {}", taken.escape_ascii()));
        taken.len()
    }
    fn console_read(&mut self, max: usize) -> Vec<u8> {
        self.input.drain(..max.min(self.input.len())).collect()
    }
    fn is_ram(&self, addr: u64, len: u64) -> bool {
        addr >= RAM.start && addr.checked_add(len).is_some_and(|end| end <= RAM.end)
    }
    fn read_ram(&self, addr: u64, into: &mut [u8]) {
        let at = (addr - RAM.start) as usize;
        into.copy_from_slice(&self.ram[at..at + into.len()]);
    }
    fn write_ram(&mut self, addr: u64, from: &[u8]) {
        let at = (addr - RAM.start) as usize;
        self.ram[at..at + from.len()].copy_from_slice(from);
    }
}

fn ok(value: u64) -> SbiOutcome {
    SbiOutcome::Return { error: 0, value }
}

fn err(error: SbiError) -> SbiOutcome {
    SbiOutcome::Return { error: error as i64, value: 0 }
}

/// Calls, their answers, and what the machine was asked for, on harts 0 and 1 started, 2 stopped.
#[test]
fn calls_and_answers() {
    use SbiError::*;
    const ALL: u64 = u64::MAX;
    let legacy = SbiOutcome::ReturnLegacy;
    type Row<'a> = (u64, u64, &'a [u64], SbiOutcome, &'a [&'a str]);
    let rows: &[Row] = &[
        (EXT_BASE, 0, &[], ok(0x0200_0000), &[]),
        (EXT_BASE, 3, &[EXT_DBCN], ok(1), &[]),
        (EXT_BASE, 3, &[0x4e41_434c], ok(0), &[]),
        (EXT_BASE, 3, &[4], ok(0), &[]),
        (EXT_BASE, 4, &[], ok(11), &[]),
        (EXT_BASE, 5, &[], ok(12), &[]),
        (EXT_BASE, 6, &[], ok(13), &[]),
        (EXT_BASE, 7, &[], err(NotSupported), &[]),
        (0x0b0b_0b0b, 0, &[], err(NotSupported), &[]),
        (u64::MAX, u64::MAX, &[], err(NotSupported), &[]),
        (EXT_TIME, 0, &[77], ok(0), &["timer 77"]),
        (EXT_TIME, 1, &[77], err(NotSupported), &[]),
        (EXT_IPI, 0, &[0b11, 0], ok(0), &["ipi [0, 1]"]),
        (EXT_IPI, 0, &[0b1, 1], ok(0), &["ipi [1]"]),
        (EXT_IPI, 0, &[0, ALL], ok(0), &["ipi [0, 1]"]),
        (EXT_IPI, 0, &[0b100, 0], ok(0), &["ipi []"]),
        (EXT_IPI, 0, &[0b1000, 0], err(InvalidParam), &[]),
        (EXT_IPI, 0, &[0, 3], err(InvalidParam), &[]),
        (EXT_IPI, 0, &[ALL, ALL - 1], err(InvalidParam), &[]),
        (EXT_IPI, 1, &[1, 0], err(NotSupported), &[]),
        (EXT_RFENCE, 0, &[0b10, 0], ok(0), &["fence.i [1]"]),
        (EXT_RFENCE, 1, &[1, 0, 0, 0], ok(0), &["sfence [0] None None"]),
        (EXT_RFENCE, 1, &[1, 0, 0x1000, ALL], ok(0), &["sfence [0] None None"]),
        (EXT_RFENCE, 1, &[1, 0, 0x1000, 0x2000], ok(0), &["sfence [0] Some((1000, 2000)) None"]),
        (EXT_RFENCE, 1, &[1, 0, ALL - 1, 0x2000], err(InvalidAddress), &[]),
        (EXT_RFENCE, 2, &[1, 0, 0, 0, 5], ok(0), &["sfence [0] None Some(5)"]),
        (EXT_RFENCE, 2, &[1, 0, 0, 0, 0x1_0000], err(InvalidParam), &[]),
        (EXT_RFENCE, 2, &[8, 0, 0, 0, 5], err(InvalidParam), &[]),
        (EXT_RFENCE, 3, &[1, 0, 0, 0, 5], err(NotSupported), &[]),
        (EXT_HSM, 0, &[1, RAM.start, 9], err(AlreadyAvailable), &[]),
        (EXT_HSM, 0, &[3, RAM.start, 9], err(InvalidParam), &[]),
        (EXT_HSM, 0, &[ALL, RAM.start, 9], err(InvalidParam), &[]),
        (EXT_HSM, 0, &[2, RAM.end, 9], err(InvalidAddress), &[]),
        (EXT_HSM, 0, &[2, RAM.start + 1, 9], err(InvalidAddress), &[]),
        (EXT_HSM, 2, &[1], ok(0), &[]),
        (EXT_HSM, 2, &[2], ok(1), &[]),
        (EXT_HSM, 2, &[3], err(InvalidParam), &[]),
        (EXT_HSM, 3, &[0], SbiOutcome::Wait, &[]),
        (EXT_HSM, 3, &[1], err(InvalidParam), &[]),
        (EXT_HSM, 3, &[0x1_0000_0000], err(InvalidParam), &[]),
        (EXT_HSM, 3, &[0x8000_0000, 2, 3], err(InvalidAddress), &[]),
        (EXT_HSM, 4, &[], err(NotSupported), &[]),
        (EXT_SRST, 0, &[0, 1], SbiOutcome::SystemReset, &["Shutdown SystemFailure"]),
        (EXT_SRST, 0, &[1, 0], SbiOutcome::SystemReset, &["ColdReboot None"]),
        (
            EXT_SRST,
            0,
            &[2, 0xe000_0001],
            SbiOutcome::SystemReset,
            &["WarmReboot Specific(3758096385)"],
        ),
        (EXT_SRST, 0, &[3, 0], err(InvalidParam), &[]),
        (EXT_SRST, 0, &[0xf000_0000, 0], err(NotSupported), &[]),
        (EXT_SRST, 0, &[0, 2], err(InvalidParam), &[]),
        (EXT_SRST, 0, &[0, ALL], err(InvalidParam), &[]),
        (EXT_SRST, 1, &[0, 0], err(NotSupported), &[]),
        (EXT_SUSP, 0, &[0, RAM.start, 0], err(Denied), &[]),
        (EXT_SUSP, 0, &[1, RAM.start, 0], err(InvalidParam), &[]),
        (EXT_SUSP, 0, &[0, 0, 0], err(InvalidAddress), &[]),
        (EXT_DBCN, 0, &[3, RAM.start, 0], ok(3), &["out abc"]),
        (EXT_DBCN, 0, &[0, RAM.start, 0], ok(0), &["out "]),
        (EXT_DBCN, 0, &[3, RAM.start, 1], err(InvalidParam), &[]),
        (EXT_DBCN, 0, &[2, RAM.end - 1, 0], err(InvalidParam), &[]),
        (EXT_DBCN, 0, &[ALL, RAM.start, 0], err(InvalidParam), &[]),
        (EXT_DBCN, 2, &[0x158], ok(0), &["out X"]),
        (EXT_DBCN, 3, &[], err(NotSupported), &[]),
        (0, 0, &[88], legacy(0), &["timer 88"]),
        (1, 0, &[0x41], legacy(0), &["out A"]),
        (2, 0, &[], legacy(i64::from(b'i')), &[]),
        (3, 0, &[], legacy(0), &["clear"]),
        (4, 0, &[], legacy(NotSupported as i64), &[]),
        (8, 0, &[], SbiOutcome::SystemReset, &["Shutdown None"]),
    ];
    for (extension, function, args, answer, log) in rows {
        let mut mock = Mock::new().started(&[1]);
        mock.ram[..3].copy_from_slice(b"abc");
        mock.input = b"in".to_vec();
        let got = mock.call(*extension, *function, args);
        assert_eq!(got, *answer, "{extension:#x} {function} {args:x?}");
        assert_eq!(mock.log, *log, "{extension:#x} {function} {args:x?}");
    }
}

#[test]
fn a_hart_starts_stops_and_starts_again() {
    let mut mock = Mock::new();
    for round in 0..2 {
        assert_eq!(mock.call(EXT_HSM, 0, &[2, RAM.start + 4, 9 + round]), ok(0));
        assert_eq!(mock.log.pop().as_deref(), Some("wake 2"));
        assert_eq!(mock.call(EXT_HSM, 2, &[2]), ok(HartStatus::StartPending as u64));
        assert_eq!(
            mock.call(EXT_HSM, 0, &[2, RAM.start, 0]),
            err(SbiError::AlreadyAvailable),
            "a second caller neither wins nor changes the address"
        );
        assert_eq!(mock.hsm.take_start(2), Some((RAM.start + 4, 9 + round)));
        assert_eq!(mock.hsm.take_start(2), None);
        mock.hsm.stop(2);
    }
    assert_eq!(mock.call(EXT_HSM, 1, &[]), SbiOutcome::Stopped);
    assert_eq!(mock.hsm.status(0), Some(HartStatus::Stopped));
}

#[test]
fn suspended_harts_resume_at_their_address() {
    let mut mock = Mock::new();
    let suspended = SbiOutcome::WaitThenRestart { resume: RAM.start, opaque: 5 };
    assert_eq!(mock.call(EXT_HSM, 3, &[0x8000_0000, RAM.start, 5]), suspended);
    assert_eq!(mock.call(EXT_HSM, 2, &[0]), ok(HartStatus::Suspended as u64));
    assert_eq!(mock.call(EXT_IPI, 0, &[1, 0]), ok(0));
    assert_eq!(mock.log, ["ipi [0]"], "a suspended hart gets interrupts");
    mock.hsm.resumed(0);
    assert_eq!(mock.call(EXT_HSM, 2, &[0]), ok(0));
    // Harts 1 and 2 are stopped, so the machine may sleep.
    assert_eq!(mock.call(EXT_SUSP, 0, &[0, RAM.start, 5]), suspended);
}

#[test]
fn debug_console_is_bounded_and_counts_what_was_taken() {
    let mut mock = Mock::new();
    mock.console_room = 2;
    mock.ram[..3].copy_from_slice(b"xyz");
    assert_eq!(mock.call(EXT_DBCN, 0, &[3, RAM.start, 0]), ok(2));
    mock.console_room = 0;
    assert_eq!(mock.call(EXT_DBCN, 2, &[65]), err(SbiError::Failed));
    mock.console_room = usize::MAX;
    assert_eq!(mock.call(EXT_DBCN, 0, &[0x1_0000, RAM.start, 0]), ok(CONSOLE_CHUNK));
    mock.input = b"hello".to_vec();
    assert_eq!(mock.call(EXT_DBCN, 1, &[3, RAM.start + 8, 0]), ok(3));
    assert_eq!(&mock.ram[8..12], b"hel\0");
    assert_eq!(mock.call(EXT_DBCN, 1, &[9, RAM.start + 8, 0]), ok(2));
    assert_eq!(mock.call(EXT_DBCN, 1, &[9, RAM.start + 8, 0]), ok(0));
}

#[test]
fn firmware_counters_count() {
    use SbiError::*;
    const SET_TIMER: u64 = 0xf_0005;
    let mut mock = Mock::new();
    let pmu = |mock: &mut Mock, function, args: &[u64]| mock.call(EXT_PMU, function, args);
    assert_eq!(pmu(&mut mock, 0, &[]), ok(16));
    assert_eq!(pmu(&mut mock, 1, &[15]), ok(1 << 63));
    assert_eq!(pmu(&mut mock, 1, &[16]), err(InvalidParam));
    // Counter 3, event set_timer, not started; then hardware cycles, which are not here.
    assert_eq!(pmu(&mut mock, 2, &[3, 0b11, 0, SET_TIMER]), ok(3));
    assert_eq!(pmu(&mut mock, 2, &[0, 1, 0, 1]), err(NotSupported));
    assert_eq!(pmu(&mut mock, 2, &[u64::MAX, 2, 0, SET_TIMER]), err(InvalidParam));
    assert_eq!(pmu(&mut mock, 2, &[0, 0, 0, SET_TIMER]), err(InvalidParam));
    mock.call(EXT_TIME, 0, &[1]);
    assert_eq!(pmu(&mut mock, 5, &[3]), ok(0), "configured, not started");
    assert_eq!(pmu(&mut mock, 3, &[3, 1, 1, 100]), ok(0));
    assert_eq!(pmu(&mut mock, 3, &[3, 1, 0, 0]), err(AlreadyStarted));
    assert_eq!(pmu(&mut mock, 3, &[4, 1, 0, 0]), err(InvalidParam), "never configured");
    mock.call(EXT_TIME, 0, &[1]);
    mock.call(EXT_IPI, 0, &[1, 0]);
    assert_eq!(pmu(&mut mock, 5, &[3]), ok(101));
    assert_eq!(pmu(&mut mock, 4, &[3, 1, 1]), ok(0));
    assert_eq!(pmu(&mut mock, 4, &[3, 1, 0]), err(InvalidParam), "its event was reset");
    assert_eq!(pmu(&mut mock, 7, &[0]), err(NotSupported));
}
