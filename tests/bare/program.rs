//! Programs of our own, run by the real binary with `-bios ELF`: what a program finds out it notes
//! in a log, which it writes to the serial port before it ends the machine through the finisher.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

use crate::oracle;
use crate::prologue::open_up;

pub type Assembler = VecAssembler<RiscvRelocation>;

pub const BASE: u64 = 0x8000_0000;
/// Where a program starts, with open PMP, on hart 0; s11 is the log.
pub const MAIN: u64 = BASE + 0x1000;
/// Where the other harts start; s11 is memory of their own.
pub const OTHERS: u64 = BASE + 0x4000;
const HANDLER: u64 = BASE + 0x200;
/// A program jumps here when it is done.
pub const DONE: u64 = BASE + 0x400;
const LOG: u64 = BASE + 0x8000;
/// Privileged instructions, which dynasm does not know.
pub const MRET: u32 = 0x3020_0073;
pub const SRET: u32 = 0x1020_0073;
pub const WFI: u32 = 0x1050_0073;
pub const SFENCE_VMA: u32 = 0x1200_0073;

const STEP_SIZE: u64 = 0x180;

/// Where a step begins.
pub fn step_at(i: usize) -> u64 {
    MAIN + STEP_SIZE * i as u64
}

/// Note register `r` (not t5 or t6 across a trap).
pub fn note(ops: &mut Assembler, r: u8) {
    dynasm!(ops ; .arch riscv64i ; .feature gc ; sd X(r), [s11, 0] ; addi s11, s11, 8);
}

/// Go to `at` in the mode that `mpp` encodes.
pub fn enter(ops: &mut Assembler, mpp: i64, at: u64) {
    dynasm!(ops
        ; .arch riscv64i
        ; .feature gc
        ; li t0, 3 << 11
        ; csrc 0x300, t0
        ; li t0, mpp << 11
        ; csrs 0x300, t0
        ; li t0, at as i64
        ; csrw 0x341, t0
        ; .u32 MRET
    );
}

/// What one entry of the log is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Is(u64),
    /// Where QEMU is known to leave the spec, or the spec a choice.
    Ours(u64),
    Any,
}

/// A program: code and data at addresses, and what it has to note.
#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    pub harts: u32,
    pub image: Vec<u8>,
    pub expect: Vec<Expect>,
}

impl Program {
    pub fn new(name: &'static str) -> Self {
        Self { name, harts: 1, image: Vec::new(), expect: Vec::new() }.with_runtime()
    }

    pub fn harts(mut self, harts: u32) -> Self {
        self.harts = harts;
        self
    }

    pub fn bytes(mut self, at: u64, bytes: &[u8]) -> Self {
        let start = (at - BASE) as usize;
        if self.image.len() < start + bytes.len() {
            self.image.resize(start + bytes.len(), 0);
        }
        self.image[start..start + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn words(self, at: u64, words: &[u64]) -> Self {
        self.bytes(at, &words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn code(self, at: u64, code: impl FnOnce(&mut Assembler)) -> Self {
        let mut ops = Assembler::new(at as usize);
        code(&mut ops);
        self.bytes(at, &ops.finalize().expect("all labels are defined"))
    }

    pub fn expect(mut self, values: &[u64]) -> Self {
        self.expect.extend(values.iter().map(|v| Expect::Is(*v)));
        self
    }

    /// M-mode code in steps: a trap in one, or below it, goes on with the next.
    pub fn steps(mut self, steps: &[&dyn Fn(&mut Assembler)]) -> Self {
        for (i, step) in steps.iter().enumerate() {
            let next = if i + 1 == steps.len() { DONE } else { step_at(i + 1) };
            self = self.code(step_at(i), |ops| {
                dynasm!(ops ; .arch riscv64i ; .feature gc ; li s10, next as i64);
                step(ops);
                dynasm!(ops ; .arch riscv64i ; .feature gc ; jr s10);
                let size = ops.offset().0 as u64;
                assert!(size <= STEP_SIZE, "step {i} is too long");
            });
        }
        self
    }

    /// Cause, `mepc` and `mtval` of a trap.
    pub fn trap(self, cause: u64, epc: u64, tval: u64) -> Self {
        self.expect(&[cause, epc, tval])
    }

    pub fn expect_each(mut self, values: &[Expect]) -> Self {
        self.expect.extend(values);
        self
    }

    fn with_runtime(self) -> Self {
        let start = |ops: &mut Assembler| {
            open_up(ops, HANDLER);
            dynasm!(ops
                ; .arch riscv64i
                ; .feature gc
                // No timer interrupt: mtimecmp is zero at reset.
                ; csrr t1, 0xf14
                ; slli t1, t1, 3
                ; li t2, 0x0200_4000
                ; add t2, t2, t1
                ; li t0, -1
                ; sd t0, [t2, 0]
                ; li s11, LOG as i64
                ; csrr t0, 0xf14
                ; beqz t0, ->first
                ; li s11, (LOG + 0x4000) as i64
                ; li t0, OTHERS as i64
                ; jr t0
                ; ->first:
                ; li t0, MAIN as i64
                ; jr t0
            );
        };
        // Note the trap and go on in M-mode at s10. t5 and t6 are lost.
        let handler = |ops: &mut Assembler| {
            dynasm!(ops
                ; .arch riscv64i
                ; .feature gc
                ; csrr t5, 0x342
                ; sd t5, [s11, 0]
                ; csrr t5, 0x341
                ; sd t5, [s11, 8]
                ; csrr t5, 0x343
                ; sd t5, [s11, 16]
                ; addi s11, s11, 24
                ; csrw 0x341, s10
                ; li t5, 0x1800
                ; csrs 0x300, t5
                // Neither MPRV nor, after the return, interrupts.
                ; li t5, 0x2_0080
                ; csrc 0x300, t5
                ; .u32 MRET
            );
        };
        let done = |ops: &mut Assembler| {
            dynasm!(ops
                ; .arch riscv64i
                ; .feature gc
                ; csrw 0x304, x0
                ; li t0, LOG as i64
                ; li t1, 0x1000_0000
                ; ->next:
                ; bgeu t0, s11, ->written
                ; ->wait:
                ; lbu t2, [t1, 5]
                ; andi t2, t2, 0x20
                ; beqz t2, ->wait
                ; lbu t2, [t0, 0]
                ; sb t2, [t1, 0]
                ; addi t0, t0, 1
                ; j ->next
                ; ->written:
                ; li t0, 0x10_0000
                ; li t1, 0x5555
                ; sw t1, [t0, 0]
                ; ->stop:
                ; j ->stop
            );
        };
        self.code(BASE, start).code(HANDLER, handler).code(DONE, done)
    }

    /// The program as an ELF file that is entered at `BASE`.
    pub fn elf(&self) -> Vec<u8> {
        const HEADERS: u64 = 64 + 56;
        let size = self.image.len() as u64;
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        let half = |elf: &mut Vec<u8>, values: &[u16]| {
            elf.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        };
        half(&mut elf, &[2, 243]);
        elf.extend(1u32.to_le_bytes());
        elf.extend([BASE, 64, 0].iter().flat_map(|v| v.to_le_bytes()));
        elf.extend(0u32.to_le_bytes());
        half(&mut elf, &[64, 56, 1, 0, 0, 0]);
        elf.extend([1u32, 7].iter().flat_map(|v| v.to_le_bytes()));
        // Zeroes follow the file's bytes in memory.
        let words = [HEADERS, BASE, BASE, size, size + 0x1000, 8];
        elf.extend(words.iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(elf.len() as u64, HEADERS);
        elf.extend(&self.image);
        elf
    }
}

/// What runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    Translator,
    Interpreter,
    Qemu,
}

/// Run `elf` and return the exit status and what it wrote to the serial port; `None` where there
/// is no such machine.
pub fn run(
    machine: Machine,
    elf: &Path,
    how: &[&str],
    program: &Program,
) -> Option<(Option<i32>, Vec<u8>)> {
    const LONGEST: Duration = Duration::from_secs(60);
    let serial = elf.with_extension(format!("{machine:?}"));
    let cpu = if machine == Machine::Qemu { "rv64,h=off" } else { "rv64" };
    let mut command = match machine {
        Machine::Qemu => oracle::qemu()?,
        _ => Command::new(env!("CARGO_BIN_EXE_understudy")),
    };
    if machine == Machine::Interpreter {
        command.args(["-accel", "interp"]);
    }
    let mut child = command
        .args(["-M", "virt", "-display", "none", "-monitor", "none", "-no-reboot", "-m", "64M"])
        .args(["-smp", &program.harts.to_string(), "-cpu", cpu, "-serial"])
        .arg(format!("file:{}", serial.display()))
        .args(how)
        .stdin(Stdio::null())
        .spawn()
        .expect("the machine starts");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if started.elapsed() > LONGEST {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{} does not end on {machine:?}", program.name);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Some((status.code(), std::fs::read(serial).unwrap_or_default()))
}

/// Run the program on every machine and compare its log with what it has to be.
pub fn check(program: &Program) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let elf = dir.path().join("program");
    std::fs::write(&elf, program.elf()).expect("the program is written");
    for machine in [Machine::Translator, Machine::Interpreter, Machine::Qemu] {
        let path = elf.display().to_string();
        let Some((status, serial)) = run(machine, &elf, &["-bios", &path], program) else {
            continue;
        };
        let log: Vec<u64> =
            serial.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
        let fits = |(expect, found): (&Expect, &u64)| match expect {
            Expect::Is(value) => value == found,
            Expect::Ours(value) => machine == Machine::Qemu || value == found,
            Expect::Any => true,
        };
        let first = program.expect.iter().zip(&log).position(|pair| !fits(pair));
        let same = first.is_none() && log.len() == program.expect.len() && status == Some(0);
        assert!(
            same,
            "{} on {machine:?} ended with {status:?}; entry {first:?} of the log differs\n\
             expected {:x?}\n   found {log:x?}",
            program.name, program.expect
        );
    }
}
