//! The decoder and the interpreter against QEMU, on bare metal: which encodings are legal, and
//! what every computing instruction makes of random operands. Where QEMU is not installed there
//! is nothing to compare with, and the tests say so.
#![allow(clippy::print_stdout)]

mod oracle;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use understudy::actors::outlet::Outlet;
use understudy::cpu::decode::decode;
use understudy::cpu::hart::{Hart, HartEnv};
use understudy::cpu::inbox::Peers;
use understudy::cpu::insn::{Group, Insn, Op};
use understudy::cpu::interpret::execute;
use understudy::cpu::isa::IsaConfig;
use understudy::machine::memory::{GuestRam, PAGE_SIZE, RAM_BASE};

/// The `-cpu` option of both emulators.
const CPU: &str = "rv64,h=off,v=off,zfh=on,zfa=on,zbc=on,zbkb=on,zbkc=on,zbkx=on,zknd=on,zkne=on,\
                   zknh=on,zksed=on,zksh=on,zicond=on,zacas=on,zawrs=on,zicbom=on,zicboz=on,\
                   zicbop=on,svinval=on";

/// Another, in which one of two extensions that share instructions is missing, or a part.
const SMALLER_CPU: &str = "rv64,h=off,v=off,zfhmin=on,zfa=off,zba=off,zbb=off,zbkb=on,zbc=off,\
                           zbkc=on,zbs=off,zkne=on,zawrs=off,zicbom=off,zicboz=off";

fn isa(cpu: &str) -> IsaConfig {
    IsaConfig::from_cpu_option(cpu).expect("the option is valid").1
}

/// Deterministic 64-bit generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// An integer, often a special one.
    fn integer(&mut self) -> u64 {
        let bits = self.next();
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (bits & 63),
            3 => bits as i32 as u64,
            4 => bits & 0xff,
            5 => bits as i8 as u64,
            _ => bits,
        }
    }

    /// An IEEE value: NaN, infinity, zero, subnormal, near one, near the ends, anything.
    fn float(&mut self, exponent_bits: u32, fraction_bits: u32) -> u64 {
        let bits = self.next();
        let top = (1 << exponent_bits) - 1;
        let (bias, some) = (top >> 1, self.next());
        let fraction = bits & ((1 << fraction_bits) - 1);
        let (exponent, fraction) = match self.below(10) {
            0 => (top, fraction),
            1 => (top, 0),
            2 => (0, 0),
            3 => (0, fraction),
            4 => (some, 0),
            5 | 6 => (bias - 12 + some % 40, fraction),
            7 => (top - 1 - some % 2, fraction),
            8 => (some % 3, fraction),
            _ => (some, fraction),
        };
        let sign = bits >> 63 << (exponent_bits + fraction_bits);
        sign | (exponent & top) << fraction_bits | fraction
    }

    /// A register for an operation on `format` ('s', 'd', 'h'); at times not a boxed value.
    fn register(&mut self, format: u8) -> u64 {
        match (self.below(32), format) {
            (0, _) => self.next(),
            (_, b's') => self.float(8, 23) | 0xffff_ffff_0000_0000,
            (_, b'h') => self.float(5, 10) | 0xffff_ffff_ffff_0000,
            _ => self.float(11, 52),
        }
    }
}

/// Run `program` on `cpu` at the start of RAM, with `input` 16 MiB further on, until it powers off;
/// what it wrote to the serial port. `None` where there is no QEMU to compare with.
fn qemu(cpu: &str, program: &[u8], input: &[u8]) -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("program"), program).expect("room for the program");
    std::fs::write(path("input"), input).expect("room for the input");
    let loader =
        |name: &str, addr: u64| format!("loader,file={},addr={addr:#x},force-raw=on", path(name));
    let mut child = oracle::qemu()?
        .args(["-M", "virt", "-m", "256M", "-bios", "none", "-cpu", cpu, "-display", "none"])
        .args(["-monitor", "none", "-serial", &format!("file:{}", path("output"))])
        .args(["-device", &loader("program", RAM_BASE), "-device", &loader("input", INPUT)])
        .stdin(Stdio::null())
        .spawn()
        .expect("QEMU starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while child.try_wait().expect("QEMU can be waited for").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("QEMU can be killed");
            child.wait().expect("QEMU ends");
            panic!("QEMU did not power off");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(std::fs::read(path("output")).expect("QEMU made the serial file"))
}

// Addresses that the programs below spell out.
const INPUT: u64 = RAM_BASE + 0x100_0000;
const CODE: u64 = RAM_BASE + 0x10_0800;

macro_rules! program {
    ($($code:tt)*) => {{
        let mut ops = VecAssembler::<RiscvRelocation>::new(RAM_BASE as usize);
        dynasm!(ops ; .arch riscv64i ; .feature gc $($code)*
            // Send what s2 has passed since 0x88000000, then power off through the finisher.
            ; send:
            ; li s0, 0x88000000
            ; li t2, 0x10000000
            ; byte:
            ; lb t0, [s0, 0]
            ; sb t0, [t2, 0]
            ; addi s0, s0, 1
            ; bltu s0, s2, <byte
            ; li t0, 0x100000
            ; li t1, 0x5555
            ; sw t1, [t0, 0]
            ; stop:
            ; j <stop
        );
        ops.finalize().expect("all labels are defined")
    }};
}

/// Runs each word of the input in U-mode with registers zero, on a page that only it can execute
/// and filled with `ebreak`, and answers with the character '0' + mcause.
fn legality_program() -> Vec<u8> {
    program!(
        ; la t0, >trap
        ; csrw 0x305, t0
        // Cache-block instructions in every mode.
        ; li t0, 0xf0
        ; csrw 0x30a, t0
        ; csrw 0x10a, t0
        // PMP entry 0: the page at 0x80100000, execute only.
        ; li t0, 0x200401ff
        ; csrw 0x3b0, t0
        ; li t0, 0x1c
        ; csrw 0x3a0, t0
        ; li t0, 0x80100000
        ; li t1, 0x80101000
        ; li t2, 0x90029002
        ; fill:
        ; sw t2, [t0, 0]
        ; addi t0, t0, 4
        ; bltu t0, t1, <fill
        ; li s0, 0x81000000
        ; li s2, 0x88000000
        ; lwu s1, [s0, 0]
        ; addi s0, s0, 8
        ; slli s1, s1, 2
        ; add s1, s1, s0
        ; next:
        ; bgeu s0, s1, >send
        ; lw t0, [s0, 0]
        ; li t1, 0x80100800
        ; sw t0, [t1, 0]
        ; fence.i
        ; csrw 0x341, t1
        ; li t1, 0x80102000
        ; sd s0, [t1, 0]
        ; sd s1, [t1, 8]
        ; sd s2, [t1, 16]
        // FS dirty, MPP user.
        ; li t0, 0x6000
        ; csrw 0x300, t0
        ; mv ra, zero ; mv sp, zero ; mv gp, zero ; mv tp, zero ; mv t0, zero ; mv t1, zero
        ; mv t2, zero ; mv s0, zero ; mv s1, zero ; mv a0, zero ; mv a1, zero ; mv a2, zero
        ; mv a3, zero ; mv a4, zero ; mv a5, zero ; mv a6, zero ; mv a7, zero ; mv s2, zero
        ; mv s3, zero ; mv s4, zero ; mv s5, zero ; mv s6, zero ; mv s7, zero ; mv s8, zero
        ; mv s9, zero ; mv s10, zero ; mv s11, zero ; mv t3, zero ; mv t4, zero ; mv t5, zero
        ; mv t6, zero
        // mret
        ; .u32 0x30200073
        ; .align 4
        ; trap:
        ; li t1, 0x80102000
        ; ld s0, [t1, 0]
        ; ld s1, [t1, 8]
        ; ld s2, [t1, 16]
        ; csrr t0, 0x342
        ; addi t0, t0, 48
        ; sb t0, [s2, 0]
        ; addi s2, s2, 1
        ; addi s0, s0, 4
        ; j <next
    )
}

#[test]
fn legal_encodings() {
    agrees_on_legality(CPU);
}

#[test]
fn legal_encodings_with_fewer_extensions() {
    agrees_on_legality(SMALLER_CPU);
}

fn agrees_on_legality(cpu: &str) {
    let isa = isa(cpu);
    let mut words: Vec<u32> = (0..0x1_0000)
        .filter(|half| half & 3 != 3)
        // Followed by c.ebreak.
        .map(|half| half | 0x9002_0000)
        .collect();
    let mut random = Random(1);
    for opcode in 0..32u32 {
        for funct3 in 0..8 {
            for funct7 in 0..128 {
                // Two values of the rs2 field, which is an opcode as often as not.
                for rs2 in [random.below(6) as u32, random.below(32) as u32] {
                    let registers = 10 << 7 | 12 << 15 | rs2 << 20;
                    words.push(3 | opcode << 2 | funct3 << 12 | funct7 << 25 | registers);
                }
            }
        }
    }
    words.extend((0..150_000).map(|_| random.next() as u32 | 3));
    words.retain(|&word| {
        let insn = decode(word, &isa);
        // SYSTEM acts on the machine that watches; jumps to themselves or into themselves loop.
        let jumps = insn.op.group() == Group::Control && insn.op != Op::Jalr;
        word & 0x7f != 0x73 && !(jumps && matches!(insn.imm, 0 | 2))
    });
    let mut input = (words.len() as u64).to_le_bytes().to_vec();
    input.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let Some(output) = qemu(cpu, &legality_program(), &input) else { return };
    assert_eq!(output.len(), words.len());
    let differences: Vec<String> = words
        .iter()
        .zip(output)
        .map(|(&word, cause)| (decode(word, &isa), cause))
        .filter(|(insn, cause)| (insn.op == Op::Illegal) != (*cause == b'2'))
        .map(|(insn, cause)| format!("{:08x}: {:?}, cause {}", insn.raw, insn.op, cause as char))
        .take(40)
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Input and output of one computation.
#[derive(Debug)]
struct Case {
    word: u32,
    frm: u32,
    /// a2, a3, fa2, fa3, fa4.
    operands: [u64; 5],
}

/// Runs each case in M-mode and answers with a0, fa0 and fflags, all three zero before.
fn value_program() -> Vec<u8> {
    program!(
        ; li t0, 0x6000
        ; csrw 0x300, t0
        ; li s0, 0x81000000
        ; li s2, 0x88000000
        ; lwu s1, [s0, 0]
        ; addi s0, s0, 8
        ; li t0, 48
        ; mul s1, s1, t0
        ; add s1, s1, s0
        ; next:
        ; bgeu s0, s1, >send
        ; lw t0, [s0, 0]
        ; li t1, 0x80100800
        ; sw t0, [t1, 0]
        // ret
        ; li t0, 0x8067
        ; sw t0, [t1, 4]
        ; fence.i
        ; lw t0, [s0, 4]
        ; csrw 2, t0
        ; csrw 1, zero
        ; ld a2, [s0, 8]
        ; ld a3, [s0, 16]
        ; fld fa2, [s0, 24]
        ; fld fa3, [s0, 32]
        ; fld fa4, [s0, 40]
        ; mv a0, zero
        ; fmv.d.x fa0, zero
        ; jalr ra, t1, 0
        ; sd a0, [s2, 0]
        ; fsd fa0, [s2, 8]
        ; csrr t0, 1
        ; sd t0, [s2, 16]
        ; addi s2, s2, 24
        ; addi s0, s0, 48
        ; j <next
    )
}

/// Every computing operation with some of its immediates and rounding modes and with random
/// operands, registers being those of `Case`.
fn cases(isa: &IsaConfig) -> Vec<Case> {
    const IMMEDIATES: usize = 16;
    const PER_OPERATION: usize = 192;
    let mut encodings: BTreeMap<u16, Vec<Insn>> = BTreeMap::new();
    for fields in 0..32 * 8 * 4096u32 {
        let (opcode, funct3, funct12) = (fields & 31, fields >> 5 & 7, fields >> 8);
        let word = 3 | opcode << 2 | 10 << 7 | funct3 << 12 | 12 << 15 | funct12 << 20;
        let insn = decode(word, isa);
        let computes = match insn.op.group() {
            Group::Integer | Group::Bitmanip | Group::Crypto => true,
            Group::Float => !matches!(opcode, 0b00001 | 0b01001),
            _ => false,
        };
        if computes {
            encodings.entry(insn.op as u16).or_default().push(insn);
        }
    }
    assert_eq!(encodings.len(), 225, "an operation is missing, or new");
    let mut random = Random(2);
    let mut cases = Vec::new();
    for mut insns in encodings.into_values() {
        let reads = |f: fn(&Insn) -> bool| insns.iter().any(f);
        let (rs2, rs3) = (reads(|insn| insn.rs2 != 0), reads(|insn| insn.rs3 != 0));
        insns.retain(|insn| (!rs2 || insn.rs2 == 13) && (!rs3 || insn.rs3 == 14));
        while insns.len() > IMMEDIATES {
            insns.swap_remove(random.below(insns.len()));
        }
        for i in 0..PER_OPERATION {
            let insn = &insns[i % insns.len()];
            let format = *insn.op.mnemonic().as_bytes().last().expect("mnemonics are not empty");
            let operands = [
                random.integer(),
                random.integer(),
                random.register(format),
                random.register(format),
                random.register(format),
            ];
            cases.push(Case { word: insn.raw, frm: random.below(5) as u32, operands });
        }
    }
    cases
}

fn hart(isa: &IsaConfig) -> Hart {
    let ram = GuestRam::new(RAM_BASE, PAGE_SIZE).expect("a page of memory");
    let mut hart = Hart::new(HartEnv {
        hartid: 0,
        isa: Arc::new(isa.clone()),
        ram: Arc::new(ram),
        bus: Arc::default(),
        irq: Arc::default(),
        clock: Arc::default(),
        inbox: Arc::default(),
        peers: Peers::new(1),
        stimer: Outlet::Unconnected,
        random: Default::default(),
    });
    hart.state.mstatus = 0x6000;
    hart
}

#[test]
fn values_and_flags() {
    let isa = isa(CPU);
    let cases = cases(&isa);
    let mut input = (cases.len() as u64).to_le_bytes().to_vec();
    for case in &cases {
        input.extend(case.word.to_le_bytes());
        input.extend(case.frm.to_le_bytes());
        input.extend(case.operands.iter().flat_map(|operand| operand.to_le_bytes()));
    }
    let Some(output) = qemu(CPU, &value_program(), &input) else { return };
    assert_eq!(output.len(), 24 * cases.len());
    let mut hart = hart(&isa);
    for (case, theirs) in cases.iter().zip(output.chunks_exact(24)) {
        let insn = decode(case.word, &isa);
        let [a2, a3, fa2, fa3, fa4] = case.operands;
        (hart.state.pc, hart.state.frm) = (CODE, case.frm as u8);
        (hart.state.x[10], hart.state.x[12], hart.state.x[13]) = (0, a2, a3);
        (hart.state.f[10], hart.state.f[12], hart.state.f[13], hart.state.f[14]) =
            (0, fa2, fa3, fa4);
        hart.set_fflags(0);
        execute(&mut hart, &insn).expect("computations do not trap");
        let flags = hart.fflags().into();
        let ours: Vec<u8> = [hart.state.x[10], hart.state.f[10], flags]
            .iter()
            .flat_map(|value: &u64| value.to_le_bytes())
            .collect();
        assert_eq!(ours, theirs, "{} of {case:x?}", insn.op.mnemonic());
    }
}
