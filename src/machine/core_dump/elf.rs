//! A core file: ELF-64 with a `PT_NOTE` (one `NT_PRSTATUS` a hart) and a `PT_LOAD` for every piece of
//! memory. The sections are there for a number of segments that ELF's header has no room for, which
//! no machine of ours has; tools expect their order as QEMU writes it.

use std::fs::File;
use std::io::Write as _;

use super::{Core, DumpError, DumpState, Registers, write_counted};

/// Bytes of `Elf64_Ehdr`, `Elf64_Shdr`, `Elf64_Phdr`.
const HEADER: u64 = 64;
const SECTION: u64 = 64;
const SEGMENT: u64 = 56;
/// The null section and that of the section names.
const SECTIONS: u64 = 2;
/// What they are called.
const NAMES: &[u8] = b"\0.shstrtab\0";
const ET_CORE: u16 = 4;
const EM_RISCV: u16 = 243;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_STRTAB: u32 = 3;
const NT_PRSTATUS: u32 = 1;
/// `struct elf_prstatus` of 64-bit RISC-V, and where `pr_pid` and `pr_reg` are in it.
const PRSTATUS: usize = 376;
const PR_PID: usize = 32;
const PR_REG: usize = 112;
/// `Elf64_Nhdr`, and the name `CORE` with its padding.
const NOTE_HEAD: usize = 20;

/// The notes: each hart's registers.
pub(super) fn notes(harts: &[Registers]) -> Vec<u8> {
    let mut out = Vec::with_capacity(harts.len() * (NOTE_HEAD + PRSTATUS));
    for (pid, registers) in (1_u32..).zip(harts) {
        for word in [b"CORE\0".len() as u32, PRSTATUS as u32, NT_PRSTATUS] {
            out.extend(word.to_le_bytes());
        }
        out.extend(b"CORE\0\0\0\0");
        let mut status = [0; PRSTATUS];
        status[PR_PID..PR_PID + 4].copy_from_slice(&pid.to_le_bytes());
        let values = registers.iter().flat_map(|value| value.to_le_bytes());
        status[PR_REG..].iter_mut().zip(values).for_each(|(byte, value)| *byte = value);
        out.extend(status);
    }
    out
}

fn header(segments: u64) -> Vec<u8> {
    // 64 bits, little-endian, version 1.
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend(ET_CORE.to_le_bytes());
    out.extend(EM_RISCV.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    // No entry; the segments' headers follow those of the sections, which follow this.
    for offset in [0, HEADER + SECTION * SECTIONS, HEADER] {
        out.extend(offset.to_le_bytes());
    }
    out.extend(0_u32.to_le_bytes());
    // QEMU gives the size of a pointer for that of this header, and readers take it.
    for half in [8, SEGMENT, segments, SECTION, SECTIONS, SECTIONS - 1] {
        out.extend((half as u16).to_le_bytes());
    }
    out
}

fn sections(names_at: u64) -> Vec<u8> {
    let mut out = vec![0; SECTION as usize];
    // The name is after the null section's, which is empty.
    out.extend(1_u32.to_le_bytes());
    out.extend(SHT_STRTAB.to_le_bytes());
    for field in [0, 0, names_at, NAMES.len() as u64, 0, 0, 0] {
        out.extend(field.to_le_bytes());
    }
    out
}

fn segment(out: &mut Vec<u8>, kind: u32, offset: u64, address: u64, len: u64) {
    out.extend(kind.to_le_bytes());
    // No flags.
    out.extend(0_u32.to_le_bytes());
    for field in [offset, address, address, len, len, 0] {
        out.extend(field.to_le_bytes());
    }
}

pub(super) fn write(core: &Core, to: &mut File, state: &DumpState) -> Result<(), DumpError> {
    let notes = notes(&core.harts);
    let segments = 1 + core.segments.len() as u64;
    let notes_at = HEADER + SECTION * SECTIONS + SEGMENT * segments;
    let memory_at = notes_at + notes.len() as u64;
    let mut heads = Vec::new();
    segment(&mut heads, PT_NOTE, notes_at, 0, notes.len() as u64);
    let mut offset = memory_at;
    for piece in &core.segments {
        segment(&mut heads, PT_LOAD, offset, piece.address(), piece.len);
        offset += piece.len;
    }
    let failed = |step| move |source| DumpError::Write { step, source };
    to.write_all(&header(segments)).map_err(failed("write elf header"))?;
    to.write_all(&sections(offset)).map_err(failed("write section headers"))?;
    to.write_all(&heads).map_err(failed("write program header table"))?;
    to.write_all(&notes).map_err(|_| DumpError::Failed("write elf notes"))?;
    for piece in &core.segments {
        let failed = failed("save memory");
        piece.each(|bytes| write_counted(to, bytes, state).map_err(failed))?;
    }
    to.write_all(NAMES).map_err(failed("write string table data"))
}
