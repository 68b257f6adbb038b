//! Which extensions exist: decides decoding, CSRs, `misa` and the ISA string in the device tree.
//! The `-cpu` option that chooses them is `cpu_model`.

/// The widest address-translation scheme a hart offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SatpMode {
    Bare,
    Sv39,
    Sv48,
    Sv57,
}

impl SatpMode {
    /// The value of `satp.MODE` (Privileged spec 12.1.11).
    pub fn encoding(self) -> u64 {
        match self {
            Self::Bare => 0,
            Self::Sv39 => 8,
            Self::Sv48 => 9,
            Self::Sv57 => 10,
        }
    }

    /// The `mmu-type` of the device tree's cpu node.
    pub fn mmu_type(self) -> &'static str {
        match self {
            Self::Bare => "riscv,none",
            Self::Sv39 => "riscv,sv39",
            Self::Sv48 => "riscv,sv48",
            Self::Sv57 => "riscv,sv57",
        }
    }
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
            /// Cache-block size of Zicboz, in bytes: a power of two.
            pub cbo_size: u64,
            /// Cache-block size of Zicbom, in bytes: a power of two.
            pub cbom_size: u64,
            /// Cache-block size of Zicbop, in bytes: a power of two.
            pub cbop_size: u64,
            /// Which of `mhpmcounter3..31` exist, a bit each at the counter's number.
            pub pmu_mask: u32,
            /// `mvendorid`.
            pub mvendorid: u32,
            /// `marchid`.
            pub marchid: u64,
            /// `mimpid`.
            pub mimpid: u64,
        }

        impl IsaConfig {
            /// Nothing but RV64I in M-mode.
            pub(super) const fn rv64i() -> Self {
                Self {
                    $($field: false,)*
                    satp_mode: SatpMode::Bare,
                    pmp_entries: 0,
                    cbo_size: 64,
                    cbom_size: 64,
                    cbop_size: 64,
                    pmu_mask: DEFAULT_PMU_MASK,
                    mvendorid: 0,
                    marchid: 0,
                    mimpid: 0,
                }
            }

            /// Whether it has the extension that QEMU's property of this name is for, if it is one
            /// that we know.
            pub(super) fn has(&self, name: &str) -> Option<bool> {
                match name {
                    $(stringify!($field) => Some(self.$field),)*
                    _ => None,
                }
            }

            /// The switch that QEMU's property of this name turns, if it is one we have.
            pub(super) fn switch(&mut self, name: &str) -> Option<&mut bool> {
                match name {
                    $(stringify!($field) => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

isa! {
    m, a, f, d, c, s, u,
    /// Zba, Zbb and Zbs together, announced as `misa.B`.
    b,
    zicsr, zifencei, zicntr, zihpm, zicond, zicbom, zicbop, zicboz,
    zihintpause, zihintntl, zmmul, zaamo, zalrsc, zawrs, zacas, zfh, zfhmin, zfa, zca, zcd,
    zba, zbb, zbc, zbs, zbkb, zbkc, zbkx,
    zk, zkn, zks, zknd, zkne, zknh, zkr, zkt, zksed, zksh,
    svinval, svnapot, svpbmt, svade, svadu, svvptc, sstc, sscofpmf, smstateen, smepmp,
    /// Selectors of registers behind CSRs. There is nothing behind any of them yet.
    smcsrind, sscsrind,
    xventanacondops,
    /// Address translation exists at all.
    mmu,
    /// The trigger CSRs (`tselect`, `tdata1..3`, `tinfo`, `mcontext`) exist.
    debug,
}

/// `mhpmcounter3..18`, QEMU's default.
pub(super) const DEFAULT_PMU_MASK: u32 = 0x0007_fff8;

type Test = fn(&IsaConfig) -> bool;

/// Names of the extensions beyond the single letters, in the order of the device tree (the order
/// of the unprivileged spec's naming chapter, as QEMU prints it), and whether a hart has them.
const MULTI_LETTER: &[(&str, Test)] = &[
    ("zic64b", |i| i.cbo_size == 64 && i.cbom_size == 64 && i.cbop_size == 64),
    ("zicbom", |i| i.zicbom),
    ("zicbop", |i| i.zicbop),
    ("zicboz", |i| i.zicboz),
    ("ziccamoa", |i| i.a),
    ("ziccif", |_| true),
    ("zicclsm", |_| true),
    ("ziccrse", |i| i.a),
    ("zicond", |i| i.zicond),
    ("zicntr", |i| i.zicntr),
    ("zicsr", |i| i.zicsr),
    ("zifencei", |i| i.zifencei),
    ("zihintntl", |i| i.zihintntl),
    ("zihintpause", |i| i.zihintpause),
    ("zihpm", |i| i.zihpm),
    ("zmmul", |i| i.zmmul),
    ("za64rs", |i| i.a),
    ("zaamo", |i| i.zaamo),
    ("zacas", |i| i.zacas),
    ("zalrsc", |i| i.zalrsc),
    ("zawrs", |i| i.zawrs),
    ("zfa", |i| i.zfa),
    ("zfh", |i| i.zfh),
    ("zfhmin", |i| i.zfhmin),
    ("zca", |i| i.zca),
    ("zcd", |i| i.zcd),
    ("zba", |i| i.zba),
    ("zbb", |i| i.zbb),
    ("zbc", |i| i.zbc),
    ("zbkb", |i| i.zbkb),
    ("zbkc", |i| i.zbkc),
    ("zbkx", |i| i.zbkx),
    ("zbs", |i| i.zbs),
    ("zk", |i| i.zk),
    ("zkn", |i| i.zkn),
    ("zknd", |i| i.zknd),
    ("zkne", |i| i.zkne),
    ("zknh", |i| i.zknh),
    ("zkr", |i| i.zkr),
    ("zks", |i| i.zks),
    ("zksed", |i| i.zksed),
    ("zksh", |i| i.zksh),
    ("zkt", |i| i.zkt),
    ("smcsrind", |i| i.smcsrind),
    ("smepmp", |i| i.smepmp),
    ("smstateen", |i| i.smstateen),
    ("ssccptr", |_| true),
    ("sscofpmf", |i| i.sscofpmf),
    ("sscounterenw", |_| true),
    ("sscsrind", |i| i.sscsrind),
    ("ssstateen", |i| i.smstateen),
    ("sstc", |i| i.sstc),
    ("sstvala", |_| true),
    ("sstvecd", |_| true),
    ("ssu64xl", |_| true),
    ("svade", |i| i.svade),
    ("svadu", |i| i.svadu),
    ("svinval", |i| i.svinval),
    ("svnapot", |i| i.svnapot),
    ("svpbmt", |i| i.svpbmt),
    ("svvptc", |i| i.svvptc),
    ("xventanacondops", |i| i.xventanacondops),
];

impl IsaConfig {
    /// RV64GC with supervisor and user mode and the unprivileged counters, to which models add.
    fn rv64gc() -> Self {
        Self {
            m: true,
            a: true,
            f: true,
            d: true,
            c: true,
            s: true,
            u: true,
            zicsr: true,
            zifencei: true,
            zicntr: true,
            zihpm: true,
            ..Self::rv64i()
        }
    }

    /// QEMU's `rv64` model without H, which we lack.
    pub fn rv64() -> Self {
        let mut isa = Self {
            zicbom: true,
            zicbop: true,
            zicboz: true,
            zihintpause: true,
            zihintntl: true,
            zawrs: true,
            zfa: true,
            zba: true,
            zbb: true,
            zbc: true,
            zbs: true,
            svadu: true,
            svvptc: true,
            sstc: true,
            mmu: true,
            debug: true,
            satp_mode: SatpMode::Sv57,
            pmp_entries: super::state::PMP_ENTRIES,
            ..Self::rv64gc()
        };
        isa.complete(|_| false);
        isa
    }

    /// Everything that is implemented.
    pub fn max() -> Self {
        let mut isa = Self {
            b: true,
            zicond: true,
            zacas: true,
            zfh: true,
            zk: true,
            zks: true,
            svinval: true,
            svnapot: true,
            svpbmt: true,
            sscofpmf: true,
            smstateen: true,
            smepmp: true,
            smcsrind: true,
            sscsrind: true,
            ..Self::rv64()
        };
        isa.complete(|_| false);
        isa
    }

    /// QEMU's `veyron-v1`, as far as its extensions are here. Of Smaia and Ssaia it has the selectors
    /// alone, and it has no H.
    pub fn veyron_v1() -> Self {
        let mut isa = Self {
            zicbom: true,
            zicboz: true,
            zba: true,
            zbb: true,
            zbc: true,
            zbs: true,
            svinval: true,
            svnapot: true,
            svpbmt: true,
            sstc: true,
            sscofpmf: true,
            smstateen: true,
            smcsrind: true,
            sscsrind: true,
            xventanacondops: true,
            mmu: true,
            debug: true,
            satp_mode: SatpMode::Sv48,
            pmp_entries: super::state::PMP_ENTRIES,
            mvendorid: 0x61f,
            marchid: 1 << 63 | 0x1_0000,
            mimpid: 0x111,
            ..Self::rv64gc()
        };
        isa.complete(|_| false);
        isa
    }

    /// Turn on what the enabled extensions contain, except what was set by hand.
    pub(super) fn complete(&mut self, set_by_hand: impl Fn(&str) -> bool) {
        let d = self.d;
        let rules: [(&str, &[&str]); 9] = [
            ("m", &["zmmul"]),
            ("a", &["zaamo", "zalrsc"]),
            ("c", if d { &["zca", "zcd"] } else { &["zca"] }),
            ("b", &["zba", "zbb", "zbs"]),
            ("zfh", &["zfhmin"]),
            ("zk", &["zkn", "zkr", "zkt"]),
            ("zkn", &["zbkb", "zbkc", "zbkx", "zknd", "zkne", "zknh"]),
            ("zks", &["zbkb", "zbkc", "zbkx", "zksed", "zksh"]),
            ("zacas", &["zaamo"]),
        ];
        for (whole, parts) in rules {
            if !self.switch(whole).is_some_and(|on| *on) {
                continue;
            }
            for part in parts.iter().filter(|part| !set_by_hand(part)) {
                if let Some(switch) = self.switch(part) {
                    *switch = true;
                }
            }
        }
    }

    /// The reset value of `misa` (Privileged spec 3.1.1): MXL = 2 and a bit a letter.
    pub fn misa(&self) -> u64 {
        let letter = |on: bool, letter: u8| u64::from(on) << (letter - b'a');
        (2 << 62)
            | letter(true, b'i')
            | letter(self.m, b'm')
            | letter(self.a, b'a')
            | letter(self.f, b'f')
            | letter(self.d, b'd')
            | letter(self.c, b'c')
            | letter(self.b, b'b')
            | letter(self.s, b's')
            | letter(self.u, b'u')
    }

    /// `riscv,isa-base` of the device tree.
    pub fn isa_base(&self) -> &'static str {
        "rv64i"
    }

    fn single_letters(&self) -> impl Iterator<Item = &'static str> {
        let letters = [
            ("i", true),
            ("m", self.m),
            ("a", self.a),
            ("f", self.f),
            ("d", self.d),
            ("c", self.c),
            ("b", self.b),
        ];
        letters.into_iter().filter(|(_, on)| *on).map(|(name, _)| name)
    }

    /// `riscv,isa-extensions` of the device tree.
    pub fn isa_extensions(&self) -> Vec<&'static str> {
        let multi = MULTI_LETTER.iter().filter(|(_, has)| has(self)).map(|(name, _)| *name);
        self.single_letters().chain(multi).collect()
    }

    /// `riscv,isa` of the device tree.
    pub fn isa_string(&self) -> String {
        let mut isa = String::from("rv64");
        isa.extend(self.single_letters());
        for (name, _) in MULTI_LETTER.iter().filter(|(_, has)| has(self)) {
            isa.push('_');
            isa.push_str(name);
        }
        isa
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rv64_announces_what_qemu_announces() {
        assert_eq!(
            IsaConfig::rv64().isa_string(),
            "rv64imafdc_zic64b_zicbom_zicbop_zicboz_ziccamoa_ziccif_zicclsm_ziccrse_zicntr_zicsr_\
             zifencei_zihintntl_zihintpause_zihpm_zmmul_za64rs_zaamo_zalrsc_zawrs_zfa_zca_zcd_zba_\
             zbb_zbc_zbs_ssccptr_sscounterenw_sstc_sstvala_sstvecd_ssu64xl_svadu_svvptc"
        );
        assert_eq!(IsaConfig::rv64().misa(), 0x8000_0000_0014_112d);
    }

    #[test]
    fn the_list_and_the_string_agree() {
        let isa = IsaConfig::max();
        let list = isa.isa_extensions();
        let (single, multi): (Vec<&str>, Vec<&str>) = list.iter().partition(|n| n.len() == 1);
        assert_eq!(isa.isa_string(), format!("rv64{}_{}", single.concat(), multi.join("_")));
        for contained in ["zkn", "zbkx", "zksh", "zkr", "zfhmin", "b"] {
            assert!(list.contains(&contained), "{contained}");
        }
    }
}
