//! Architectural state of one hart, as plain data. Translated code addresses it through one base
//! register, so the layout is `repr(C)` and the hot fields come first.

/// Privilege levels, with the encodings of `mstatus.MPP` (Privileged spec 1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Privilege {
    User = 0,
    Supervisor = 1,
    Machine = 3,
}

/// Number of PMP entries (QEMU's `virt` harts have 16).
pub const PMP_ENTRIES: usize = 16;
/// Number of `mhpmcounter3..31`.
pub const HPM_COUNTERS: usize = 29;

/// Everything a hart is, apart from its pending interrupts (see `irq::HartIrq`) and caches.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct HartState {
    pub jit: JitLinks,
    /// Integer registers; `x[0]` stays zero.
    pub x: [u64; 32],
    /// FP registers, NaN-boxed.
    pub f: [u64; 32],
    pub pc: u64,
    pub exit: JitExit,
    /// Accrued exception flags (NV DZ OF UF NX = 16 8 4 2 1) that are not in the host's MXCSR.
    pub fflags: u8,
    /// Dynamic rounding mode, 3 bits, any value.
    pub frm: u8,
    pub privilege: Privilege,
    /// In `wfi`, and no interrupt pending that would end it.
    pub waiting: bool,
    pub mstatus: u64,
    pub misa: u64,
    pub mie: u64,
    pub medeleg: u64,
    pub mideleg: u64,
    pub mtvec: u64,
    pub mscratch: u64,
    pub mepc: u64,
    pub mcause: u64,
    pub mtval: u64,
    pub mcounteren: u64,
    pub mcountinhibit: u64,
    pub menvcfg: u64,
    pub mseccfg: u64,
    pub stvec: u64,
    pub sscratch: u64,
    pub sepc: u64,
    pub scause: u64,
    pub stval: u64,
    pub scounteren: u64,
    pub senvcfg: u64,
    pub satp: u64,
    /// Sstc compare value in `time` ticks.
    pub stimecmp: u64,
    /// Which registers `mireg` and `sireg` would be.
    pub miselect: u64,
    pub siselect: u64,
    pub mstateen: [u64; 4],
    pub sstateen: [u64; 4],
    pub pmpcfg: [u8; PMP_ENTRIES],
    pub pmpaddr: [u64; PMP_ENTRIES],
    /// What is added to the free-running host counter to get `mcycle` / `minstret`.
    pub mcycle_offset: u64,
    pub minstret_offset: u64,
    pub mhpmcounter: [u64; HPM_COUNTERS],
    pub mhpmevent: [u64; HPM_COUNTERS],
    /// `mhpmcounter3..31` that went past their end since they were last set, a bit each at the
    /// counter's number.
    pub hpm_wrapped: u32,
    pub tselect: u64,
    pub tdata: [[u64; 3]; 2],
    pub mcontext: u64,
    /// LR reservation: physical address (`NO_RESERVATION` when none) and value seen.
    pub reservation: u64,
    pub reservation_value: u64,
}

impl Default for HartState {
    fn default() -> Self {
        Self {
            jit: JitLinks::default(),
            x: [0; 32],
            f: [0; 32],
            pc: 0,
            exit: JitExit::default(),
            fflags: 0,
            frm: 0,
            privilege: Privilege::Machine,
            waiting: false,
            mstatus: 0,
            misa: 0,
            mie: 0,
            medeleg: 0,
            mideleg: 0,
            mtvec: 0,
            mscratch: 0,
            mepc: 0,
            mcause: 0,
            mtval: 0,
            mcounteren: 0,
            mcountinhibit: 0,
            menvcfg: 0,
            mseccfg: 0,
            stvec: 0,
            sscratch: 0,
            sepc: 0,
            scause: 0,
            stval: 0,
            scounteren: 0,
            senvcfg: 0,
            satp: 0,
            stimecmp: 0,
            miselect: 0,
            siselect: 0,
            mstateen: [0; 4],
            sstateen: [0; 4],
            pmpcfg: [0; PMP_ENTRIES],
            pmpaddr: [0; PMP_ENTRIES],
            mcycle_offset: 0,
            minstret_offset: 0,
            mhpmcounter: [0; HPM_COUNTERS],
            mhpmevent: [0; HPM_COUNTERS],
            hpm_wrapped: 0,
            tselect: 0,
            tdata: [[0; 3]; 2],
            mcontext: 0,
            reservation: NO_RESERVATION,
            reservation_value: 0,
        }
    }
}

/// `HartState::reservation` when there is none.
pub const NO_RESERVATION: u64 = u64::MAX;

/// What translated code needs in reach of a short displacement. Owned by `jit` and `cpu::tlb`;
/// no architectural meaning but for the FP flags and rounding mode mirrored in `guest_mxcsr`.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct JitLinks {
    /// Virtual address of the page that runs.
    pub page_va: u64,
    /// Base and byte mask of the current data TLB.
    pub tlb: usize,
    pub tlb_mask: u64,
    /// Base of the current jump cache.
    pub jump_cache: usize,
    /// Address of the `AtomicU32` that asks this hart to leave translated code.
    pub exit_flag: usize,
    /// Offset in the page of the instruction that called a helper.
    pub pc_offset: u64,
    /// Non-zero when FP instructions may run inline: FS is not Off and frm is valid and not RMM.
    pub fp_inline: u32,
    /// MXCSR while guest code runs: the guest's rounding mode and sticky flags.
    pub guest_mxcsr: u32,
    /// Non-zero when `cbo.zero` is allowed in this mode.
    pub cbo_zero: u32,
    pub reserved: u32,
    /// The `Hart` that helpers are called with.
    pub hart: usize,
}

/// How translated code was left.
#[repr(C)]
#[derive(Debug, Clone, Default)]
pub struct JitExit {
    pub reason: u64,
    pub data: u64,
    /// MXCSR of the host while guest code runs.
    pub host_mxcsr: u32,
    pub reserved: u32,
}

impl Default for JitLinks {
    fn default() -> Self {
        Self {
            page_va: 0,
            tlb: 0,
            tlb_mask: 0,
            jump_cache: 0,
            exit_flag: 0,
            pc_offset: 0,
            fp_inline: 0,
            guest_mxcsr: 0x1f80,
            cbo_zero: 0,
            reserved: 0,
            hart: 0,
        }
    }
}
