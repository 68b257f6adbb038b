//! Flash end to end: a program that runs from the first bank programs and erases the second, here
//! and on QEMU; the images must come out alike.
#![allow(clippy::useless_conversion)]

mod oracle;

use std::path::Path;
use std::process::{Command, Stdio};

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

const BANK: usize = 32 << 20;
const FIRST: usize = 0x2000_0000;
const SECTOR: usize = 256 << 10;

/// Programs a word and a buffer of three, erases a sector, and ends with what it then reads in
/// the exit code: 32 if all is well.
fn program() -> Vec<u8> {
    let mut ops: VecAssembler<RiscvRelocation> = VecAssembler::new(FIRST);
    let second = (FIRST + BANK) as i64;
    let erased = second + 3 * SECTOR as i64;
    dynasm!(ops
        ; .arch riscv64i
        ; .feature gc
        ; la t0, ->ended
        ; csrw 0x305, t0
        ; li s0, second
        ; li s1, erased
        ; li s2, 0xff00ff
        ; li s3, 0xd000d0
        ; li s4, 1
        // A word.
        ; li t1, 0x400040
        ; sw t1, [s0, 0x100]
        ; li t1, 0x12345678
        ; sw t1, [s0, 0x100]
        ; lw t2, [s0, 0]
        ; sw s2, [s0, 0]
        ; lw t3, [s0, 0x100]
        ; bne t1, t3, ->ended
        ; li t1, 0x800080
        ; bne t1, t2, ->ended
        ; addi s4, s4, 1
        // A buffer.
        ; li t1, 0xe800e8
        ; sw t1, [s0, 0x200]
        ; li t1, 0x20002
        ; sw t1, [s0, 0x200]
        ; sw s0, [s0, 0x200]
        ; sw s1, [s0, 0x204]
        ; sw s2, [s0, 0x208]
        ; sw s3, [s0, 0x200]
        ; sw s2, [s0, 0]
        ; lwu t3, [s0, 0x208]
        ; bne t3, s2, ->ended
        ; addi s4, s4, 1
        // A sector.
        ; li t1, 0x200020
        ; sw t1, [s1, 0]
        ; sw s3, [s1, 0]
        ; sw s2, [s1, 0]
        ; ld t3, [s1, 0x400]
        ; li t1, -1
        ; bne t1, t3, ->ended
        ; addi s4, s4, 1
        // The first bank is read-only: its status says so, and it stays as it is.
        ; la t4, ->in_ram
        ; li t5, 0x80001000
        ; la t6, ->in_ram_end
        ; ->copy:
        ; ld t0, [t4, 0]
        ; sd t0, [t5, 0]
        ; addi t4, t4, 8
        ; addi t5, t5, 8
        ; bltu t4, t6, ->copy
        ; fence.i
        ; li t5, 0x80001000
        ; jr t5
        ; .align 8
        // While the bank shows its status, nothing can run from it.
        ; ->in_ram:
        ; li t5, 0x20000000
        ; li t0, 0x400040
        ; sw t0, [t5, 0x700]
        ; sw t0, [t5, 0x700]
        ; lwu t1, [t5, 0]
        ; sw s2, [t5, 0]
        ; li t0, 0x900090
        ; lwu t2, [t5, 0x700]
        ; bne t1, t0, >failed
        ; bnez t2, >failed
        ; addi s4, s4, 28
        ; failed:
        ; li t0, 0x100000
        ; slli s4, s4, 16
        ; li t1, 0x3333
        ; or t1, t1, s4
        ; sw t1, [t0, 0]
        ; rest:
        ; j <rest
        ; .align 8
        ; ->in_ram_end:
        ; ->ended:
        ; li t0, 0x100000
        ; slli s4, s4, 16
        ; li t1, 0x3333
        ; or t1, t1, s4
        ; sw t1, [t0, 0]
        ; ->rest:
        ; j ->rest
    );
    ops.finalize().expect("all labels are defined")
}

fn run(mut emulator: Command, dir: &Path, options: &[String]) -> (Option<i32>, Vec<u8>) {
    let mut code = program();
    code.resize(BANK, 0);
    std::fs::write(dir.join("code"), code).expect("the code is written");
    let data: Vec<u8> = (0..BANK / 4).flat_map(|word| (word as u32).to_le_bytes()).collect();
    std::fs::write(dir.join("data"), data).expect("the data is written");
    let status = emulator
        .args(["-display", "none", "-serial", "none", "-monitor", "none", "-bios", "none"])
        .args(options)
        .stdin(Stdio::null())
        .current_dir(dir)
        .status()
        .expect("the emulator starts");
    (status.code(), std::fs::read(dir.join("data")).expect("the data is read"))
}

#[test]
fn a_program_in_flash_changes_flash() {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let drives = words(
        "-M virt -drive if=pflash,format=raw,unit=0,file=code,readonly=on \
         -drive if=pflash,format=raw,unit=1,file=data",
    );
    let nodes = words(
        "-blockdev driver=file,filename=code,node-name=f,read-only=on \
         -blockdev driver=raw,file=f,node-name=c,read-only=on \
         -blockdev driver=raw,file.driver=file,file.filename=data,node-name=d \
         -M virt,pflash0=c,pflash1=d",
    );
    let dir = tempfile::tempdir().expect("a directory");
    let ours = || Command::new(env!("CARGO_BIN_EXE_understudy"));
    let (code, image) = run(ours(), dir.path(), &drives);
    assert_eq!(code, Some(32));
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((word(0x100), word(0x104), word(0x208)), (0x1234_5678, 0x41, 0xff_00ff));
    assert!(image[3 * SECTOR..4 * SECTOR].iter().all(|byte| *byte == 0xff));
    assert_eq!(word(4 * SECTOR), SECTOR as u32);
    assert!((code, image.clone()) == run(ours(), dir.path(), &nodes), "by -blockdev");
    let interpreted = [drives.as_slice(), &words("-accel interp")].concat();
    assert!((code, image.clone()) == run(ours(), dir.path(), &interpreted), "interpreted");
    let Some(qemu) = oracle::qemu() else { return };
    assert!((code, image) == run(qemu, dir.path(), &drives), "QEMU's image is another");
}

#[test]
fn drives_that_cannot_be_flash() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("small"), vec![0; 1 << 20]).expect("a file is written");
    for (options, sentence) in [
        ("-M virt,pflash0=x", "Property 'cfi.pflash01.drive' can't find value 'x'"),
        (
            "-M virt -drive if=pflash,format=raw,file=small",
            "cfi.pflash01 device '/machine/virt.flash0' requires 33554432 bytes, pflash0 block \
             backend provides 1048576 bytes",
        ),
        (
            "-M virt,pflash0=a -drive if=none,id=a,format=raw,file=small",
            "cfi.pflash01 device '/machine/virt.flash0' requires 33554432 bytes, a block backend \
             provides 1048576 bytes",
        ),
        (
            "-M virt -drive if=pflash,format=raw,unit=2,file=small",
            "machine type does not support if=pflash,bus=0,unit=2",
        ),
        (
            "-M virt,pflash0=a -drive if=none,id=a,format=raw,file=small -drive \
             if=pflash,format=raw,file=small",
            "clashes with -machine",
        ),
    ] {
        let said = |mut emulator: Command| {
            let output = emulator
                .args(["-display", "none", "-serial", "none", "-monitor", "none", "-S"])
                .args(options.split_whitespace())
                .current_dir(dir.path())
                .output()
                .expect("the emulator starts");
            assert_eq!(output.status.code(), Some(1), "{options}");
            String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
        };
        let ours = said(Command::new(env!("CARGO_BIN_EXE_understudy")));
        assert!(ours.ends_with(sentence), "{ours}");
        let Some(qemu) = oracle::qemu() else { continue };
        let theirs = said(qemu);
        assert!(theirs.ends_with(sentence), "{theirs}");
    }
}
