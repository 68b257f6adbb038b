//! `-d`, `-D` and `-dfilter` end to end: the same program, the same options, and what ours writes
//! against what QEMU writes.
#![allow(clippy::useless_conversion)]

mod oracle;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

const BASE: usize = 0x8000_0000;
const CPU: &str = "rv64,h=off,v=off";

/// A loop, floating point, a read of nothing, an environment call, and the end.
fn program() -> Vec<u8> {
    let mut ops: VecAssembler<RiscvRelocation> = VecAssembler::new(BASE);
    dynasm!(ops
        ; .arch riscv64i
        ; .feature gc
        ; la t0, ->unread
        ; csrw 0x305, t0
        ; li t0, 0x2000
        ; csrs 0x300, t0
        ; li a0, 3
        ; ->again:
        ; addi a0, a0, -1
        ; bnez a0, ->again
        ; li t1, 3
        ; fcvt.d.l fa0, t1, rne
        ; fcvt.d.l fa1, a0, rne
        ; fdiv.d fa1, fa0, fa1, rne
        ; li t1, 0x30000
        ; ld t2, [t1, 0]
        ; .align 4
        ; ->unread:
        ; la t0, ->called
        ; csrw 0x305, t0
        ; ecall
        ; .align 4
        ; ->called:
        ; j ->end
        // How far the hart gets once the end is asked for is not part of what is compared.
        ; .align 0x800
        ; ->end:
        ; li t1, 0x100000
        ; li t2, 0x5555
        ; sw t2, [t1, 0]
        ; ->rest:
        ; j ->rest
    );
    ops.finalize().expect("all labels are defined")
}

fn run(mut emulator: Command, image: &Path, log: &Path, options: &[&str]) -> String {
    let status = emulator
        .args(["-M", "virt", "-display", "none", "-serial", "none", "-monitor", "none"])
        .args(["-cpu", CPU, "-bios"])
        .arg(image)
        .arg("-D")
        .arg(log)
        .args(options)
        .stdin(Stdio::null())
        .status()
        .expect("the emulator starts");
    assert!(status.success(), "{options:?}: {status}");
    std::fs::read_to_string(log).expect("there is a log")
}

fn ours() -> Command {
    Command::new(env!("CARGO_BIN_EXE_understudy"))
}

/// The log without what is the emulators' own: addresses of code, and flags.
fn neutral(log: &str) -> Vec<String> {
    let line = |line: &str| match line.strip_prefix("Trace ") {
        Some(rest) => {
            let fields: Vec<&str> = rest.split('/').collect();
            format!("Trace {} {}", &rest[..1], fields[1])
        }
        None => line.trim_end().to_owned(),
    };
    log.lines().map(line).collect()
}

#[test]
fn what_is_logged_is_what_qemu_logs() {
    const ONE: [&str; 2] = ["-accel", "tcg,one-insn-per-tb=on"];
    const RAM: [&str; 2] = ["-dfilter", "0x80000000+0x800"];
    let dir = tempfile::tempdir().expect("a directory");
    let (image, log) = (dir.path().join("image"), dir.path().join("log"));
    std::fs::write(&image, program()).expect("the image is written");
    let whole: Vec<&[&str]> = vec![
        &["-d", "exec,int", ONE[0], ONE[1], RAM[0], RAM[1]],
        &["-d", "cpu,fpu,nochain", ONE[0], ONE[1], RAM[0], RAM[1]],
        &["-d", "exec,cpu", ONE[0], ONE[1], "-dfilter", "0x80000012-0x8"],
        &["-d", "int,invalid_mem"],
        &["-d", "fpu,page,pcall,strace"],
    ];
    for options in whole {
        let found = neutral(&run(ours(), &image, &log, options));
        let silent = options[1] == "fpu,page,pcall,strace";
        assert_eq!(found.is_empty(), silent, "{options:?}");
        let Some(qemu) = oracle::qemu() else { continue };
        let expected = neutral(&run(qemu, &image, &log, options));
        for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(a, b, "{options:?}, line {i}");
        }
        assert_eq!(found.len(), expected.len(), "{options:?}");
    }
    // The order and number of these are each emulator's.
    for (options, mark) in
        [(["-d", "mmu"], "riscv_cpu_tlb_fill "), (["-d", "cpu_reset"], "CPU Reset")]
    {
        // Of RAM: how often the reset vector is fetched from is not the point.
        let of_ram = |line: &String| options[1] != "mmu" || line.contains("80000");
        let lines = |log: String| -> BTreeSet<String> {
            neutral(&log).into_iter().filter(of_ram).collect()
        };
        let found = lines(run(ours(), &image, &log, &options));
        assert!(found.iter().any(|line| line.starts_with(mark)), "{options:?}: {found:?}");
        let Some(qemu) = oracle::qemu() else { continue };
        let expected = lines(run(qemu, &image, &log, &options));
        let unknown: Vec<_> = found.difference(&expected).collect();
        assert!(unknown.is_empty() || options[1] == "cpu_reset", "{options:?}: {unknown:?}");
    }
}

/// Blocks are whole and in order however they are cut, and by whichever accelerator.
#[test]
fn every_block_is_traced() {
    let dir = tempfile::tempdir().expect("a directory");
    let (image, log) = (dir.path().join("image"), dir.path().join("log"));
    std::fs::write(&image, program()).expect("the image is written");
    let traces = |options: &[&str]| -> Vec<String> {
        let filter = ["-d", "exec", "-dfilter", "0x80000000..0x800007ff"];
        let all: Vec<&str> = filter.iter().chain(options).copied().collect();
        neutral(&run(ours(), &image, &log, &all))
    };
    let single = traces(&["-accel", "tcg,one-insn-per-tb=on"]);
    assert_eq!(traces(&["-accel", "interp"]), single);
    let blocks = traces(&[]);
    let mut rest = single.iter();
    assert!(blocks.iter().all(|block| rest.any(|insn| insn == block)), "{blocks:?}");
    let again = blocks.iter().max_by_key(|pc| blocks.iter().filter(|b| b == pc).count());
    assert!(blocks.iter().filter(|block| Some(*block) == again).count() >= 2, "{blocks:?}");
    assert!(blocks.len() < single.len(), "{blocks:?}");
    assert!(dir.path().join("log").exists());
    let numbered = dir.path().join("log-%d");
    let mut child = ours();
    child.args(["-M", "virt", "-display", "none", "-serial", "none", "-bios"]).arg(&image);
    child.args(["-d", "int", "-D"]).arg(&numbered);
    let mut child = child.stdin(Stdio::null()).spawn().expect("the emulator starts");
    assert!(child.wait().expect("it ends").success());
    let name = dir.path().join(format!("log-{}", child.id()));
    let text = std::fs::read_to_string(name).expect("the log bears the process's number");
    assert!(text.contains("desc=machine_ecall"), "{text}");
}
