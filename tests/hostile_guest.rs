//! A guest that tries to break the machine: seeded random CSR writes, random accesses to every
//! device, broken virtqueues, page tables that loop, random code in all modes, on two harts. The
//! process must stay alive and answer its monitor, or end by the finisher.
//!
//! `UNDERSTUDY_HOSTILE_SECONDS` sets how long it tries (default 10), `UNDERSTUDY_HOSTILE_SEED` the
//! first seed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

const BASE: u64 = 0x8000_0000;
/// Steps done, a word a hart.
const COUNTERS: u64 = BASE + 0x1000;
const STEPS: u64 = BASE + 0x1_0000;
const STEP_COUNT: usize = 1 << 12;
const STEP_BYTES: usize = 256;
/// Triples of doublewords: address, value, access; see `script`.
const SCRIPTS: u64 = BASE + 0x20_0000;
const SCRIPT_COUNT: u64 = 1024;
const SCRIPT_ENTRIES: u64 = 24;
/// Random page tables and virtqueues.
const SCRATCH: u64 = BASE + 0x80_0000;
const SCRATCH_BYTES: usize = 0x4_0000;
const FINISHER: u64 = 0x10_0000;
const MTIMECMP: u64 = 0x200_4000;
const MTIME: u64 = 0x200_bff8;
/// Ticks of `mtime` that a step gets.
const STEP_TICKS: i64 = 500;
const MRET: u32 = 0x3020_0073;
const SFENCE_VMA: u32 = 0x1200_0073;

/// Ranges with devices, and some without.
const DEVICES: [(u64, u64); 14] = [
    (0, 0x1000),
    (0x1000, 0xf000),
    (0x10_0000, 0x1000),
    (0x10_1000, 0x1000),
    (0x200_0000, 0x1_0000),
    (0x2f0_0000, 0x4000),
    (0xc00_0000, 0x60_0000),
    (0x1000_0000, 0x100),
    (0x1000_1000, 0x8000),
    (0x1000_8000, 0x1000),
    (0x1010_0000, 0x18),
    (0x2000_0000, 0x800_0000),
    (0x3000_0000, 0x1000_0000),
    (0x8_0000_0000, 1 << 34),
];

/// A small deterministic generator (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    /// Awkward as often as random.
    fn value(&mut self) -> u64 {
        match self.below(5) {
            0 => self.next(),
            1 => self.below(32),
            2 => 1 << self.below(64),
            3 => u64::MAX << self.below(64),
            _ => self.address(),
        }
    }

    fn address(&mut self) -> u64 {
        match self.below(8) {
            0..4 => SCRATCH + self.below(SCRATCH_BYTES as u64),
            4 => BASE + (128 << 20) - self.below(32),
            5 => {
                let (base, size) = DEVICES[self.below(DEVICES.len() as u64) as usize];
                base + self.below(size)
            }
            _ => self.next(),
        }
    }
}

fn assemble(base: u64, code: impl FnOnce(&mut VecAssembler<RiscvRelocation>)) -> Vec<u8> {
    let mut ops = VecAssembler::new(base as usize);
    code(&mut ops);
    ops.finalize().expect("all labels are defined")
}

/// Starts a hart, and is its trap handler: whatever happened, undo it and start the next step in
/// its mode. A timer interrupt ends a step that does not end itself.
fn supervisor() -> Vec<u8> {
    assemble(BASE, |ops| {
        dynasm!(ops
            ; .arch riscv64i
            ; .feature gc
            ; li t0, BASE as i64
            ; csrw 0x305, t0
            ; li t0, -1
            ; csrw 0x3b0, t0
            ; li t0, 0x1f
            ; csrw 0x3a0, t0
            ; csrw 0x302, x0
            ; csrw 0x303, x0
            ; li t0, 0x2000
            ; csrw 0x300, t0
            ; csrw 0x180, x0
            ; .u32 SFENCE_VMA
            ; csrr s0, 0xf14
            ; slli s0, s0, 3
            ; li s1, COUNTERS as i64
            ; add s1, s1, s0
            ; ld s2, [s1, 0]
            ; addi s3, s2, 1
            ; sd s3, [s1, 0]
            ; li t0, STEP_COUNT as i64
            ; bgeu s2, t0, ->done
            ; li t0, MTIME as i64
            ; ld t0, [t0, 0]
            ; addi t0, t0, STEP_TICKS as i32
            ; li t1, MTIMECMP as i64
            ; add t1, t1, s0
            ; sd t0, [t1, 0]
            ; li t0, 0x80
            ; csrw 0x304, t0
            // The second hart goes through the steps from the middle.
            ; slli s0, s0, 8
            ; add s2, s2, s0
            ; li t0, STEP_COUNT as i64 - 1
            ; and s2, s2, t0
            ; slli s2, s2, 8
            ; li t0, STEPS as i64
            ; add s2, s2, t0
            ; addi t0, s2, 8
            ; csrw 0x341, t0
            ; ld t0, [s2, 0]
            ; csrw 0x300, t0
            ; fence.i
            ; .u32 MRET
            ; ->done:
            ; li t0, FINISHER as i64
            ; li t1, 0x5555
            ; sw t1, [t0, 0]
            ; ->stop:
            ; j ->stop
        );
    })
}

/// One step: the `mstatus` it starts with, and code that falls into an environment call.
fn step(random: &mut Random, index: usize) -> Vec<u8> {
    const MPIE: u64 = 1 << 7;
    let at = STEPS + (index * STEP_BYTES) as u64 + 8;
    let mode = [0, 1 << 11, 3 << 11][random.below(3) as usize];
    let (code, mode) = match random.below(10) {
        0..3 => (script_step(at, random), 3 << 11),
        3..5 => (csr_step(at, random), 3 << 11),
        5..7 => (random_code(at, random), mode),
        7 => (translated_access(at, random), 3 << 11),
        _ => (accesses(at, random), mode),
    };
    // Never MIE with MPP = M unset: the timer must get through.
    let status = random.next() & (0x7f << 17 | 3 << 13) | mode | MPIE;
    let mut bytes = status.to_le_bytes().to_vec();
    bytes.extend(code);
    assert!(bytes.len() <= STEP_BYTES - 4, "a step has {} bytes", bytes.len());
    while bytes.len() < STEP_BYTES {
        bytes.extend(0x73u32.to_le_bytes());
    }
    bytes.truncate(STEP_BYTES);
    bytes
}

/// Carry out a script of accesses to devices.
fn script_step(at: u64, random: &mut Random) -> Vec<u8> {
    let script = SCRIPTS + random.below(SCRIPT_COUNT) * SCRIPT_ENTRIES * 24;
    assemble(at, |ops| {
        dynasm!(ops
            ; .arch riscv64i
            ; .feature gc
            ; li s0, script as i64
            ; ->next:
            ; ld a0, [s0, 0]
            ; ld a1, [s0, 8]
            ; ld a2, [s0, 16]
            ; addi s0, s0, 24
            ; bnez a2, ->no_word
            ; sw a1, [a0, 0]
            ; j ->next
            ; ->no_word:
            ; addi a2, a2, -1
            ; bnez a2, ->no_double
            ; sd a1, [a0, 0]
            ; j ->next
            ; ->no_double:
            ; addi a2, a2, -1
            ; bnez a2, ->end
            ; lw a1, [a0, 0]
            ; j ->next
            ; ->end:
            ; ecall
        );
    })
}

/// CSR instructions with any CSR, but for those that would take the machine from the test: `mtvec`
/// and locked PMP entries.
fn csr_step(at: u64, random: &mut Random) -> Vec<u8> {
    assemble(at, |ops| {
        for _ in 0..4 {
            let known: [u64; 12] = [
                0x300, 0x302, 0x303, 0x304, 0x344, 0x180, 0x14d, 0x30a, 0x3a0, 0x3b0, 0x320, 0x7a0,
            ];
            let csr = match random.below(3) {
                0 => known[random.below(12) as usize],
                1 => 0x300 + random.below(0x100),
                _ => random.below(4096),
            };
            if csr == 0x305 {
                continue;
            }
            let pmpcfg = (0x3a0..0x3b0).contains(&csr);
            let value = random.value() & if pmpcfg { 0x7f7f_7f7f_7f7f_7f7f } else { u64::MAX };
            let op = 1 + random.below(3);
            let insn = csr << 20 | 10 << 15 | op << 12 | 11 << 7 | 0x73;
            let value = value as i64;
            dynasm!(ops
                ; .arch riscv64i
                ; .feature gc
                ; li a0, value as i32 as i64
                ; .u32 insn as u32
            );
        }
    })
}

fn random_code(at: u64, random: &mut Random) -> Vec<u8> {
    const OPCODES: [u64; 16] = [
        0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33, 0x3b, 0x53, 0x63, 0x67, 0x6f,
        0x73,
    ];
    let start = random.address() as i64;
    assemble(at, |ops| {
        dynasm!(ops
            ; .arch riscv64i
            ; .feature gc
            ; li a0, start
            ; mv a1, a0
            ; mv s0, a0
        );
        for _ in 0..12 {
            let mut word = random.next() as u32;
            if random.below(4) != 0 {
                word = word & !0x7f | OPCODES[random.below(16) as usize] as u32;
            }
            // Not a CSR instruction: those are another step's.
            if word & 0x7f == 0x73 && word >> 12 & 7 != 0 {
                word &= !0x7000;
            }
            dynasm!(ops ; .u32 word);
        }
    })
}

/// A random `satp`, then loads, stores and a jump through it.
fn translated_access(at: u64, random: &mut Random) -> Vec<u8> {
    const MPRV: i64 = 1 << 17;
    let mode = [8u64, 9, 10][random.below(3) as usize];
    let root = SCRATCH + (random.below(SCRATCH_BYTES as u64) & !0xfff);
    let satp = (mode << 60 | random.below(4) << 44 | root >> 12) as i64;
    let va = (random.next() >> random.below(64)) as i64;
    let privilege = (random.below(2) << 11) as i64;
    assemble(at, |ops| {
        dynasm!(ops
            ; .arch riscv64i
            ; .feature gc
            ; li t0, satp
            ; csrw 0x180, t0
            ; li a0, va
            ; li t0, 3 << 11
            ; csrc 0x300, t0
            ; li t0, MPRV | privilege
            ; csrs 0x300, t0
            ; ld a1, [a0, 0]
            ; sb a1, [a0, 0]
            ; csrw 0x341, a0
            ; .u32 MRET
        );
    })
}

/// A load, a store or an atomic of any width and alignment anywhere.
fn accesses(at: u64, random: &mut Random) -> Vec<u8> {
    assemble(at, |ops| {
        let (address, value) = (random.address() as i64, random.value() as i64);
        let store = (random.below(4) << 12 | 11 << 20 | 10 << 15 | 0x23) as u32;
        let load = (random.below(7) << 12 | 10 << 15 | 12 << 7 | 0x03) as u32;
        let amo = [0u64, 1, 2, 3, 4, 8, 12, 16, 20, 24, 28][random.below(11) as usize];
        let width = 2 + random.below(2);
        let atomic = (amo << 27 | 11 << 20 | 10 << 15 | width << 12 | 13 << 7 | 0x2f) as u32;
        // cbo.inval, cbo.clean, cbo.flush, cbo.zero
        let block = ([0u64, 1, 2, 4][random.below(4) as usize] << 20 | 10 << 15 | 0x200f) as u32;
        let chosen = [store, load, atomic, block][random.below(4) as usize];
        dynasm!(ops
            ; .arch riscv64i
            ; .feature gc
            ; li a0, address
            ; li a1, value
            ; .u32 chosen
            ; .u32 load
        );
    })
}

/// A script: random accesses to one device, or the set-up of a virtio device with queues in the
/// scratch area, where all is random.
fn script(random: &mut Random) -> Vec<u8> {
    const STORE_WORD: u64 = 0;
    const STORE_DOUBLE: u64 = 1;
    const LOAD_WORD: u64 = 2;
    const END: u64 = 3;
    let mut entries: Vec<[u64; 3]> = Vec::new();
    if random.below(3) == 0 {
        let (base, size) = DEVICES[random.below(DEVICES.len() as u64) as usize];
        for _ in 0..SCRIPT_ENTRIES - 1 {
            let offset = random.below(size) & !7;
            // Mostly the first registers.
            let offset = if random.below(2) == 0 { offset % 0x100 } else { offset };
            let access = [STORE_WORD, STORE_DOUBLE, LOAD_WORD][random.below(3) as usize];
            entries.push([base + offset, random.value(), access]);
        }
    } else {
        let device = 0x1000_8000 - random.below(4) * 0x1000;
        let queue = random.below(4);
        let mut put = |offset, value| entries.push([device + offset, value, STORE_WORD]);
        put(0x070, 0);
        put(0x070, 1);
        put(0x070, 3);
        for half in 0..2 {
            put(0x024, half);
            let bits = if random.below(4) == 0 { random.next() & 0xffff_ffff } else { half };
            put(0x020, bits);
        }
        put(0x070, 11);
        put(0x030, queue);
        put(0x038, if random.below(4) == 0 { random.value() } else { 1 << random.below(8) });
        for register in [0x080, 0x090, 0x0a0] {
            let address = if random.below(8) == 0 {
                random.value()
            } else {
                SCRATCH + (random.below(SCRATCH_BYTES as u64) & !0xf)
            };
            put(register, address & 0xffff_ffff);
            put(register + 4, address >> 32);
        }
        put(0x044, 1);
        put(0x070, 15);
        put(0x050, queue);
        put(0x050, if random.below(4) == 0 { random.value() } else { queue });
        put(0x064, 3);
    }
    assert!(entries.len() < SCRIPT_ENTRIES as usize);
    entries.resize(SCRIPT_ENTRIES as usize, [0, 0, END]);
    entries.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
}

/// Words that are page-table entries with the scratch area's own pages, descriptors with `next`
/// that loops, or anything.
fn scratch(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < SCRATCH_BYTES {
        let page = SCRATCH + random.below(SCRATCH_BYTES as u64);
        let words = match random.below(4) {
            0 => [page >> 12 << 10 | random.below(256) | 1, page >> 12 << 10 | 1],
            1 => [page, random.below(1 << 14) | random.below(8) << 32 | random.below(4) << 48],
            2 => [random.value(), random.next()],
            _ => [random.below(8) << 48 | random.below(64), random.below(16)],
        };
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    bytes
}

fn image(seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut image = supervisor();
    let mut put = |at: u64, bytes: &[u8]| {
        image.resize((at - BASE) as usize, 0);
        image.extend(bytes);
    };
    put(COUNTERS, &[0; 16]);
    let steps: Vec<u8> = (0..STEP_COUNT).flat_map(|i| step(&mut random, i)).collect();
    put(STEPS, &steps);
    let scripts: Vec<u8> = (0..SCRIPT_COUNT).flat_map(|_| script(&mut random)).collect();
    put(SCRIPTS, &scripts);
    put(SCRATCH, &scratch(&mut random));
    image
}

fn start(dir: &Path, accelerator: &str) -> Child {
    let path = |name: &str| dir.join(name).display().to_string();
    Command::new(env!("CARGO_BIN_EXE_understudy"))
        .args(["-M", "virt", "-smp", "2", "-m", "128M", "-display", "none", "-cpu", "max"])
        .args(["-accel", accelerator, "-serial", "null", "-monitor", "none"])
        .args(["-bios", &path("image")])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))])
        .args(["-drive", &format!("file={},format=raw,if=none,id=disk", path("disk"))])
        .args(["-device", "virtio-blk-device,drive=disk", "-device", "virtio-rng-device"])
        .args(["-device", "virtio-serial-device", "-chardev", "null,id=console"])
        .args(["-device", "virtconsole,chardev=console"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("stderr")).expect("a file for messages"))
        .spawn()
        .expect("the emulator starts")
}

/// Wait for the process; `None` if it goes on.
fn wait(child: &mut Child, longest: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            return Some(status);
        }
        if started.elapsed() > longest {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ask for the status and to quit.
fn query_and_quit(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    for command in ["qmp_capabilities", "query-status", "quit"] {
        writeln!(stream, "{{\"execute\":\"{command}\"}}")?;
    }
    let mut answers = String::new();
    while let Some(line) = lines.next().transpose()? {
        answers += &line;
        if answers.contains("\"status\"") {
            return Ok(answers);
        }
    }
    Ok(answers)
}

/// True when the guest came to the end of its steps.
fn survives(seed: u64, accelerator: &str) -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("image"), image(seed)).expect("the image is written");
    std::fs::write(dir.path().join("disk"), vec![0; 1 << 20]).expect("the disk is written");
    let mut child = start(dir.path(), accelerator);
    let ended = wait(&mut child, Duration::from_secs(3));
    let mut answers = None;
    let status = ended.or_else(|| {
        answers = Some(query_and_quit(&dir.path().join("qmp")));
        wait(&mut child, Duration::from_secs(10))
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let messages = std::fs::read_to_string(dir.path().join("stderr")).unwrap_or_default();
    let what = format!("seed {seed} on {accelerator}: {status:?}, {answers:?}\n{messages}");
    let status = status.expect(&what);
    assert!(status.code().is_some() && !messages.contains("panicked"), "{what}");
    if let Some(answers) = answers {
        assert!(answers.expect(&what).contains("\"status\""), "{what}");
    }
    ended.is_some_and(|status| status.success())
}

#[test]
fn the_machine_survives() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().map_or(default, |v| v.parse().expect("a number"))
    };
    let longest = Duration::from_secs(number("UNDERSTUDY_HOSTILE_SECONDS", 10));
    let mut seed = number("UNDERSTUDY_HOSTILE_SEED", 1);
    let started = Instant::now();
    let mut finished = 0;
    let mut runs = 0;
    while started.elapsed() < longest {
        for accelerator in ["tcg", "interp"] {
            finished += u32::from(survives(seed, accelerator));
            runs += 1;
        }
        seed += 1;
    }
    eprintln!("{finished} of {runs} guests came to their end");
    assert!(finished > 0, "no guest came to its end: the test tests little");
}
