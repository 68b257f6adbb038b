//! Which extensions exist: decides decoding, CSRs, `misa` and the ISA string in the device tree.

/// The widest address-translation scheme a hart offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SatpMode {
    Bare,
    Sv39,
    Sv48,
    Sv57,
}

macro_rules! isa {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// The extensions of a hart.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct IsaConfig {
            $($(#[$doc])* pub $field: bool,)*
            /// Widest supported translation mode.
            pub satp_mode: SatpMode,
            /// Number of PMP entries: 0 or 16.
            pub pmp_entries: usize,
            /// Cache-block size of Zicbom/Zicbop/Zicboz, in bytes.
            pub cbo_size: u64,
        }
    };
}

isa! {
    m, a, f, d, c, s, u, zicsr, zifencei, zicntr, zihpm, zicond, zicbom, zicbop, zicboz,
    zihintpause, zihintntl, zawrs, zacas, zfh, zfhmin, zfa, zba, zbb, zbc, zbs, zbkb, zbkc, zbkx,
    zknd, zkne, zknh, zkr, zkt, zksed, zksh, svinval, svnapot, svpbmt, svade, svadu, sstc,
    sscofpmf, smstateen, smepmp,
}
