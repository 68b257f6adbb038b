//! CSR numbers (Privileged spec 2.2) and names.

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal,)*) => {
        $($(#[$doc])* pub const $name: u16 = $number;)*
        const NAMES: &[(u16, &str)] = &[$(($number, $text)),*];
    };
}

numbers! {
    FFLAGS = 0x001 "fflags",
    FRM = 0x002 "frm",
    FCSR = 0x003 "fcsr",
    SEED = 0x015 "seed",
    SSTATUS = 0x100 "sstatus",
    SIE = 0x104 "sie",
    STVEC = 0x105 "stvec",
    SCOUNTEREN = 0x106 "scounteren",
    SENVCFG = 0x10a "senvcfg",
    SSTATEEN0 = 0x10c "sstateen0",
    SSTATEEN3 = 0x10f "sstateen3",
    SSCRATCH = 0x140 "sscratch",
    SEPC = 0x141 "sepc",
    SCAUSE = 0x142 "scause",
    STVAL = 0x143 "stval",
    SIP = 0x144 "sip",
    STIMECMP = 0x14d "stimecmp",
    SISELECT = 0x150 "siselect",
    SATP = 0x180 "satp",
    MSTATUS = 0x300 "mstatus",
    MISA = 0x301 "misa",
    MEDELEG = 0x302 "medeleg",
    MIDELEG = 0x303 "mideleg",
    MIE = 0x304 "mie",
    MTVEC = 0x305 "mtvec",
    MCOUNTEREN = 0x306 "mcounteren",
    MENVCFG = 0x30a "menvcfg",
    MSTATEEN0 = 0x30c "mstateen0",
    MSTATEEN3 = 0x30f "mstateen3",
    MCOUNTINHIBIT = 0x320 "mcountinhibit",
    MHPMEVENT3 = 0x323 "mhpmevent3",
    MHPMEVENT31 = 0x33f "mhpmevent31",
    MSCRATCH = 0x340 "mscratch",
    MEPC = 0x341 "mepc",
    MCAUSE = 0x342 "mcause",
    MTVAL = 0x343 "mtval",
    MIP = 0x344 "mip",
    MISELECT = 0x350 "miselect",
    PMPCFG0 = 0x3a0 "pmpcfg0",
    PMPCFG2 = 0x3a2 "pmpcfg2",
    PMPADDR0 = 0x3b0 "pmpaddr0",
    PMPADDR15 = 0x3bf "pmpaddr15",
    MSECCFG = 0x747 "mseccfg",
    TSELECT = 0x7a0 "tselect",
    TDATA1 = 0x7a1 "tdata1",
    TDATA2 = 0x7a2 "tdata2",
    TDATA3 = 0x7a3 "tdata3",
    TINFO = 0x7a4 "tinfo",
    MCONTEXT = 0x7a8 "mcontext",
    MCYCLE = 0xb00 "mcycle",
    MINSTRET = 0xb02 "minstret",
    MHPMCOUNTER3 = 0xb03 "mhpmcounter3",
    MHPMCOUNTER31 = 0xb1f "mhpmcounter31",
    CYCLE = 0xc00 "cycle",
    TIME = 0xc01 "time",
    INSTRET = 0xc02 "instret",
    HPMCOUNTER3 = 0xc03 "hpmcounter3",
    HPMCOUNTER31 = 0xc1f "hpmcounter31",
    SCOUNTOVF = 0xda0 "scountovf",
    MVENDORID = 0xf11 "mvendorid",
    MARCHID = 0xf12 "marchid",
    MIMPID = 0xf13 "mimpid",
    MHARTID = 0xf14 "mhartid",
    MCONFIGPTR = 0xf15 "mconfigptr",
}

/// The name in assembly of a CSR that some hart of ours can have.
pub fn name(csr: u16) -> Option<String> {
    if let Some((_, name)) = NAMES.iter().find(|(number, _)| *number == csr) {
        return Some((*name).into());
    }
    let numbered =
        |base: &str, first: u16, start: u16| Some(format!("{base}{}", start + csr - first));
    match csr {
        SSTATEEN0..=SSTATEEN3 => numbered("sstateen", SSTATEEN0, 0),
        MSTATEEN0..=MSTATEEN3 => numbered("mstateen", MSTATEEN0, 0),
        MHPMEVENT3..=MHPMEVENT31 => numbered("mhpmevent", MHPMEVENT3, 3),
        PMPADDR0..=PMPADDR15 => numbered("pmpaddr", PMPADDR0, 0),
        MHPMCOUNTER3..=MHPMCOUNTER31 => numbered("mhpmcounter", MHPMCOUNTER3, 3),
        HPMCOUNTER3..=HPMCOUNTER31 => numbered("hpmcounter", HPMCOUNTER3, 3),
        _ => None,
    }
}
