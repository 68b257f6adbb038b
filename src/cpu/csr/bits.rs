//! Fields of `mstatus`, `menvcfg`, `mseccfg` and `mstateen0`.

/// `mstatus` (Privileged spec 3.1.6).
pub const SIE: u64 = 1 << 1;
pub const MIE: u64 = 1 << 3;
pub const SPIE: u64 = 1 << 5;
pub const MPIE: u64 = 1 << 7;
pub const SPP: u64 = 1 << 8;
pub const MPP_SHIFT: u32 = 11;
pub const MPP: u64 = 3 << MPP_SHIFT;
pub const FS: u64 = 3 << 13;
pub const MPRV: u64 = 1 << 17;
pub const SUM: u64 = 1 << 18;
pub const MXR: u64 = 1 << 19;
pub const TVM: u64 = 1 << 20;
pub const TW: u64 = 1 << 21;
pub const TSR: u64 = 1 << 22;
pub const UXL: u64 = 3 << 32;
pub const UXL_64: u64 = 2 << 32;
pub const SXL_64: u64 = 2 << 34;
pub const SD: u64 = 1 << 63;

/// `menvcfg` (Privileged spec 3.1.18); `senvcfg` has the low four.
pub const ENVCFG_FIOM: u64 = 1 << 0;
pub const ENVCFG_CBIE: u64 = 3 << 4;
pub const ENVCFG_CBCFE: u64 = 1 << 6;
pub const ENVCFG_CBZE: u64 = 1 << 7;
/// Writable in QEMU also without Smcdeleg, and then without effect.
pub const MENVCFG_CDE: u64 = 1 << 60;
pub const MENVCFG_ADUE: u64 = 1 << 61;
pub const MENVCFG_PBMTE: u64 = 1 << 62;
pub const MENVCFG_STCE: u64 = 1 << 63;

/// `mseccfg`: access to `seed` from U-mode and from S-mode (Zkr); its low three bits are Smepmp's.
pub const MSECCFG_USEED: u64 = 1 << 8;
pub const MSECCFG_SSEED: u64 = 1 << 9;

/// `mstateen0..3`: access to the `sstateen` of that number.
pub const STATEEN_SE: u64 = 1 << 63;
/// `mstateen0`: access to `senvcfg`.
pub const STATEEN0_ENVCFG: u64 = 1 << 62;
/// `mstateen0`: access to `siselect`.
pub const STATEEN0_CSRIND: u64 = 1 << 60;
/// `miselect`, `siselect`: what can be selected.
pub const ISELECT_MASK: u64 = 0xfff;
/// `mstateen0`: Ssp1p13's state, of which there is none here.
pub const STATEEN0_P1P13: u64 = 1 << 56;
