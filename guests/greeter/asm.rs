//! The assembler as the other files use it: macros over dynasm's riscv64 back end, the
//! instructions it has no name for, strings, and the layout of the globals.

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

/// Supervisor instructions without a mnemonic in dynasm (Privileged spec, table 65).
pub(super) const WFI: u32 = 0x1050_0073;
pub(super) const SRET: u32 = 0x1020_0073;

/// `sstatus.SIE`.
pub(super) const SIE: i32 = 1 << 1;
/// `sie`: supervisor timer and external interrupt.
pub(super) const STIE_SEIE: i32 = 1 << 5 | 1 << 9;

/// Offsets of globals from `gp`.
pub(super) mod global {
    pub(crate) const BOOT_HART: i32 = 0;
    pub(crate) const FDT: i32 = 8;
    /// From the device tree: number of harts, memory, ISA string (or 0), timebase in Hz.
    pub(crate) const HARTS: i32 = 16;
    pub(crate) const MEMORY: i32 = 24;
    pub(crate) const MEMORY_SIZE: i32 = 32;
    pub(crate) const ISA: i32 = 40;
    pub(crate) const TIMEBASE: i32 = 48;
    /// Claim register of this hart's PLIC context.
    pub(crate) const PLIC_CLAIM: i32 = 56;
    /// Bytes received: written at head, read at tail; both count up, the ring has 256 places.
    pub(crate) const RX_HEAD: i32 = 64;
    pub(crate) const RX_TAIL: i32 = 72;
    /// The `harts` command: how many to wait for, and the sign to stop.
    pub(crate) const RUNNING: i32 = 80;
    pub(crate) const STOP: i32 = 88;
    pub(crate) const RX_RING: i32 = 256;
    pub(crate) const LINE: i32 = 512;
    pub(crate) const LINE_BYTES: i32 = 256;
    /// What each hart counted to, 8 bytes a hart, `MAX_HARTS` of them.
    pub(crate) const COUNTS: i32 = 1024;
}

/// Harts that have a stack.
pub(super) const MAX_HARTS: i32 = 64;
/// Stacks lie behind the globals, which have this many bytes.
pub(super) const GLOBALS_BYTES: i32 = 4096;
/// `1 << STACK_SHIFT` bytes a hart.
pub(super) const STACK_SHIFT: i32 = 12;
/// Working memory behind the image: globals and stacks.
pub(super) const BSS_BYTES: i32 = GLOBALS_BYTES + (MAX_HARTS << STACK_SHIFT);

/// SBI extensions.
pub(super) mod sbi {
    pub(crate) const BASE: i32 = 0x10;
    pub(crate) const TIME: i32 = 0x5449_4d45;
    pub(crate) const HSM: i32 = 0x0048_534d;
    pub(crate) const SRST: i32 = 0x5352_5354;
}

/// The program as it grows.
pub(super) struct Guest {
    pub(super) ops: VecAssembler<RiscvRelocation>,
    strings: Vec<(DynamicLabel, String)>,
}

/// `asm!(guest ; instructions)`.
macro_rules! asm {
    ($guest:expr ; $($code:tt)*) => {
        dynasmrt::dynasm!($guest.ops
            ; .arch riscv64i
            ; .feature i, m, a, zicsr, zicntr
            ; $($code)*
        )
    };
}
pub(super) use asm;

impl Guest {
    pub(super) fn new() -> Self {
        Self { ops: VecAssembler::new(0), strings: Vec::new() }
    }

    pub(super) fn label(&mut self) -> DynamicLabel {
        self.ops.new_dynamic_label()
    }

    /// The label of a NUL-terminated string.
    pub(super) fn string(&mut self, text: &str) -> DynamicLabel {
        let label = self.label();
        self.strings.push((label, text.into()));
        label
    }

    /// Print a text. Changes `ra`, `a0` and `t` registers.
    pub(super) fn print(&mut self, text: &str) {
        let label = self.string(text);
        asm!(self
            ; la a0, =>label
            ; call ->puts
        );
    }

    /// Start of a function that calls others: `ra` goes on the stack.
    pub(super) fn enter(&mut self) {
        asm!(self
            ; addi sp, sp, -16
            ; sd ra, [sp]
        );
    }

    /// End of a function that began with `enter`.
    pub(super) fn leave(&mut self) {
        asm!(self
            ; ld ra, [sp]
            ; addi sp, sp, 16
            ; ret
        );
    }

    /// Call SBI; arguments are in `a0` to `a5`.
    pub(super) fn sbi(&mut self, extension: i32, function: i32) {
        asm!(self
            ; li.32 a7, extension as _
            ; li.12 a6, function as _
            ; ecall
        );
    }

    /// Append the strings and the globals' label; resolve all labels.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for (label, text) in std::mem::take(&mut self.strings) {
            dynasm!(self.ops
                ; .arch riscv64i
                ; =>label
                ; .bytes text.as_bytes()
                ; .u8 0
            );
        }
        dynasm!(self.ops
            ; .arch riscv64i
            ; .align 4096
            ; ->globals:
        );
        self.ops.finalize().expect("every label of the guest is defined and in reach")
    }
}
