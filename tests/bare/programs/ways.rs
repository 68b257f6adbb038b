//! The way into a machine, and out of it.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use super::{A0, A1};
use crate::program::{Machine, Program, note, run};

#[test]
fn the_finisher_sets_the_exit_status() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let elf = dir.path().join("program");
    let path = elf.display().to_string();
    // What is written, with what width, and the status; a width that is not decoded faults, and
    // the program then passes.
    for (value, width, expected) in [
        (0x5555, 4, 0),
        (0x5555, 2, 0),
        (0x1_3333, 4, 1),
        (0x2a_3333, 4, 42),
        (0x3333, 2, 0),
        (0x0100_3333, 4, 0),
        (0x7_5555, 4, 7),
        (0x7777, 4, 0),
        (0x5_3333, 1, 0),
        (0x5_3333, 8, 0),
    ] {
        let program = Program::new("finisher").steps(&[
            &|ops| {
                code!(ops ; li t0, 0x10_0000 ; li t1, value);
                match width {
                    1 => code!(ops ; sb t1, [t0, 0]),
                    2 => code!(ops ; sh t1, [t0, 0]),
                    4 => code!(ops ; sw t1, [t0, 0]),
                    _ => code!(ops ; sd t1, [t0, 0]),
                }
                if !matches!(width, 1 | 8) {
                    code!(ops ; ->wait: ; j ->wait);
                }
            },
            &|_| {},
        ]);
        std::fs::write(&elf, program.elf()).expect("the program is written");
        for machine in [Machine::Translator, Machine::Interpreter, Machine::Qemu] {
            let Some((status, serial)) = run(machine, &elf, &["-bios", &path], &program) else {
                continue;
            };
            assert_eq!(status, Some(expected), "{value:#x} in {width} bytes on {machine:?}");
            assert_eq!(serial.len(), if matches!(width, 1 | 8) { 24 } else { 0 });
        }
    }
}

#[test]
fn a_program_may_come_as_firmware_as_kernel_or_through_the_loader() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let elf = dir.path().join("program");
    let path = elf.display().to_string();
    let program = Program::new("ways in").steps(&[&|ops| {
        code!(ops ; csrr a0, 0xf14 ; li a1, 0x1234);
        note(ops, A0);
        note(ops, A1);
    }]);
    std::fs::write(&elf, program.elf()).expect("the program is written");
    let loader = format!("loader,file={path}");
    let loader_and_start = format!("loader,file={path},cpu-num=0");
    let expected: Vec<u8> = [0u64, 0x1234].iter().flat_map(|w| w.to_le_bytes()).collect();
    for how in [
        &["-bios", &path][..],
        &["-bios", "none", "-kernel", &path],
        &["-bios", "none", "-device", &loader],
        &["-bios", "none", "-device", &loader_and_start],
    ] {
        for machine in [Machine::Translator, Machine::Qemu] {
            let Some(found) = run(machine, &elf, how, &program) else { continue };
            assert_eq!(found, (Some(0), expected.clone()), "{how:?} on {machine:?}");
        }
    }
    // A 32-bit program is refused in words.
    let mut narrow = program.elf();
    narrow[4] = 1;
    std::fs::write(&elf, narrow).expect("the program is written");
    for how in [&["-bios", &path][..], &["-bios", "none", "-kernel", &path]] {
        let (status, serial) =
            run(Machine::Translator, &elf, how, &program).expect("ours is always there");
        assert_eq!((status, serial.len()), (Some(1), 0), "{how:?}");
    }
}
