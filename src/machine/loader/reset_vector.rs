//! The ROM in which harts come out of reset: six instructions that load `a0` = hart id, `a1` =
//! device tree, `a2` = the structure for OpenSBI's fw_dynamic, and jump to the firmware.

/// Bytes of code and its two addresses; the fw_dynamic structure follows.
pub(super) const CODE_BYTES: u64 = 0x28;

const CODE: [u32; 6] = [
    0x0000_0297, // auipc t0, 0
    0x0282_8613, // addi  a2, t0, 0x28
    0xf140_2573, // csrr  a0, mhartid
    0x0202_b583, // ld    a1, 0x20(t0)
    0x0182_b283, // ld    t0, 0x18(t0)
    0x0002_8067, // jr    t0
];

/// `struct fw_dynamic_info` (OpenSBI docs/firmware/fw_dynamic.md).
const FW_DYNAMIC_MAGIC: u64 = 0x4942_534f;
const FW_DYNAMIC_VERSION: u64 = 2;
const NEXT_MODE_S: u64 = 1;

/// The ROM's content. `kernel` is 0 when there is none.
pub(super) fn bytes(entry: u64, fdt: u64, kernel: u64) -> Vec<u8> {
    // next_addr, next_mode, options, boot_hart.
    let words = [entry, fdt, FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, kernel, NEXT_MODE_S, 0, 0];
    CODE.iter()
        .flat_map(|instruction| instruction.to_le_bytes())
        .chain(words.iter().flat_map(|word| word.to_le_bytes()))
        .collect()
}
