//! Address translation: the page-table walk of Sv39, Sv48 and Sv57 (Privileged spec 12.3–12.6)
//! with Svnapot, Svpbmt, Svade and Svadu.

use super::csr::bits::{MENVCFG_ADUE, MENVCFG_PBMTE};
use super::hart::{Hart, Trap};
use super::isa::SatpMode;
use super::pmp;
use super::pte::{A, D, G, N, PBMT_SHIFT, PPN_MASK, PPN_SHIFT, R, RESERVED, U, V, W, X};
use super::state::Privilege;
use crate::machine::memory::RamError;

/// What an access is for; decides permissions and the cause of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Fetch,
    Load,
    Store,
}

impl Access {
    /// Cause of an access fault of this kind.
    pub fn access_fault(self) -> u64 {
        match self {
            Self::Fetch => 1,
            Self::Load => 5,
            Self::Store => 7,
        }
    }

    /// Cause of a page fault of this kind.
    pub fn page_fault(self) -> u64 {
        match self {
            Self::Fetch => 12,
            Self::Load => 13,
            Self::Store => 15,
        }
    }
}

/// A translation of one page.
#[derive(Debug, Clone, Copy)]
pub struct Mapping {
    /// Physical address of the byte asked for.
    pub pa: u64,
    /// Size of the leaf, in bytes.
    pub page_size: u64,
    /// Which kinds of access this mapping allows now (`write` only once the D bit is set).
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    /// PMP gives one answer for the whole 4 KiB page, and the flags include it.
    pub pmp_uniform: bool,
    pub global: bool,
}

const PTE_SIZE: u64 = 8;
const PAGE_SHIFT: u32 = 12;
const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
const VPN_BITS: u32 = 9;

/// Translate the access to `va` by `privilege`; `sum` and `mxr` are the bits of `mstatus`. Sets
/// the A and D bits that the access needs, or faults where hardware does not update them.
pub fn translate(
    hart: &mut Hart,
    va: u64,
    access: Access,
    privilege: Privilege,
    sum: bool,
    mxr: bool,
) -> Result<Mapping, Trap> {
    log_start(va, access, privilege, sum);
    let levels = match hart.state.satp >> 60 {
        _ if privilege == Privilege::Machine || !hart.env.isa.mmu => 0,
        8 if hart.env.isa.satp_mode >= SatpMode::Sv39 => 3,
        9 if hart.env.isa.satp_mode >= SatpMode::Sv48 => 4,
        10 if hart.env.isa.satp_mode >= SatpMode::Sv57 => 5,
        _ => 0,
    };
    let mapping = if levels == 0 {
        Mapping {
            pa: va,
            page_size: 1 << PAGE_SHIFT,
            read: true,
            write: true,
            execute: true,
            pmp_uniform: true,
            global: false,
        }
    } else {
        match walk(hart, va, access, privilege, levels, sum, mxr) {
            Ok(mapping) => mapping,
            Err(Fault::Missing { addr, len }) => return Err(hart.misses(addr, len)),
            Err(fault) => {
                log_walk(va, Err(&fault));
                return Err(Trap { cause: fault.cause(access), tval: va });
            }
        }
    };
    log_walk(va, Ok(&mapping));
    let allowed = protect(hart, mapping, access, privilege);
    log_protection(mapping.pa, allowed.as_ref());
    allowed.ok_or(Trap { cause: access.access_fault(), tval: va })
}

/// The lines of `-d mmu`, in QEMU's layout: what is asked for, what the tables say, what PMP says.
fn log_start(va: u64, access: Access, privilege: Privilege, sum: bool) {
    tracing::info!(
        target: "mmu",
        "riscv_cpu_tlb_fill ad {va:x} rw {} mmu_idx {}",
        match access {
            Access::Load => 0,
            Access::Store => 1,
            Access::Fetch => 2,
        },
        match privilege {
            Privilege::User => 0,
            Privilege::Supervisor => 1 + u8::from(sum),
            Privilege::Machine => 3,
        }
    );
}

fn log_walk(va: u64, found: Result<&Mapping, &Fault>) {
    let (ret, pa, allowed) = match found {
        Ok(m) => (0, m.pa, permissions(m)),
        Err(Fault::Page) => (1, 0, 0),
        Err(Fault::Access | Fault::Missing { .. }) => (2, 0, 0),
    };
    tracing::info!(
        target: "mmu",
        "riscv_cpu_tlb_fill address={va:x} ret {ret} physical {pa:016x} prot {allowed}"
    );
}

fn log_protection(pa: u64, found: Option<&Mapping>) {
    let (ret, allowed) = found.map_or((2, 0), |m| (0, permissions(m)));
    let size = if found.is_none_or(|m| m.pmp_uniform) { PAGE_BYTES } else { 1 };
    tracing::info!(
        target: "mmu",
        "riscv_cpu_tlb_fill PMP address={pa:016x} ret {ret} prot {allowed} tlb_size {size}"
    );
}

fn permissions(m: &Mapping) -> u8 {
    u8::from(m.read) | u8::from(m.write) << 1 | u8::from(m.execute) << 2
}

/// Apply PMP to the page of a mapping; `None` when it forbids the access for the whole page.
fn protect(hart: &Hart, mapping: Mapping, access: Access, privilege: Privilege) -> Option<Mapping> {
    let entries = hart.env.isa.pmp_entries;
    let page = mapping.pa & !(PAGE_BYTES - 1);
    let known =
        hart.pmp_below_machine(page, PAGE_BYTES).filter(|_| privilege != Privilege::Machine);
    let page_wide = || pmp::page_permissions(&hart.state, entries, mapping.pa, privilege);
    let Some(allowed) = known.or_else(page_wide) else {
        return Some(Mapping { pmp_uniform: false, ..mapping });
    };
    (allowed & pmp::bit(access) != 0).then_some(Mapping {
        read: mapping.read && allowed & pmp::READ != 0,
        write: mapping.write && allowed & pmp::WRITE != 0,
        execute: mapping.execute && allowed & pmp::EXECUTE != 0,
        ..mapping
    })
}

enum Fault {
    Page,
    /// PMP forbids the walk an entry, or there is no RAM where it should be.
    Access,
    /// An entry is in RAM that has not arrived.
    Missing {
        addr: u64,
        len: u64,
    },
}

impl From<RamError> for Fault {
    fn from(error: RamError) -> Self {
        match error {
            RamError::Missing { addr, len } => Self::Missing { addr, len },
            // Page tables can only be in RAM: elsewhere the walk violates the PMAs (12.3.2, step 2).
            RamError::OutOfRange { .. } | RamError::Host { .. } | RamError::Memory(_) => {
                Self::Access
            }
        }
    }
}

impl Fault {
    fn cause(&self, access: Access) -> u64 {
        match self {
            Self::Page => access.page_fault(),
            Self::Access => access.access_fault(),
            Self::Missing { .. } => Trap::MISSING,
        }
    }
}

fn walk(
    hart: &Hart,
    va: u64,
    access: Access,
    privilege: Privilege,
    levels: u32,
    sum: bool,
    mxr: bool,
) -> Result<Mapping, Fault> {
    let va_bits = PAGE_SHIFT + levels * VPN_BITS;
    let unused = 64 - va_bits;
    if ((va << unused) as i64 >> unused) as u64 != va {
        return Err(Fault::Page);
    }
    // An entry that another hart changes under us is looked up again (step 9 of 12.3.2).
    'again: loop {
        let mut table = (hart.state.satp & PPN_MASK) << PAGE_SHIFT;
        for level in (0..levels).rev() {
            let shift = PAGE_SHIFT + level * VPN_BITS;
            let index = va >> shift & ((1 << VPN_BITS) - 1);
            let address = table + index * PTE_SIZE;
            let pte = read_entry(hart, address)?;
            check_format(hart, pte)?;
            let next = (pte >> PPN_SHIFT & PPN_MASK) << PAGE_SHIFT;
            if pte & (R | X) == 0 {
                // A pointer to the next table: A, D, U, N and PBMT are reserved.
                if pte & (A | D | U | N | 3 << PBMT_SHIFT) != 0 {
                    return Err(Fault::Page);
                }
                table = next;
                continue;
            }
            check_permission(pte, access, privilege, sum, mxr)?;
            let (page_size, base) = leaf(pte, level, next)?;
            let wanted = pte | A | if access == Access::Store { D } else { 0 };
            if wanted != pte && !update(hart, address, pte, wanted)? {
                continue 'again;
            }
            let user_page = pte & U != 0;
            return Ok(Mapping {
                pa: base | va & (page_size - 1),
                page_size,
                read: pte & R != 0 || mxr && pte & X != 0,
                write: pte & W != 0 && wanted & D != 0,
                execute: pte & X != 0 && user_page == (privilege == Privilege::User),
                pmp_uniform: true,
                global: pte & G != 0,
            });
        }
        return Err(Fault::Page);
    }
}

fn read_entry(hart: &Hart, address: u64) -> Result<u64, Fault> {
    let entries = hart.env.isa.pmp_entries;
    let supervisor = Privilege::Supervisor;
    let allowed = match hart.pmp_below_machine(address, PTE_SIZE) {
        Some(allowed) => allowed & pmp::READ != 0,
        None => pmp::check(&hart.state, entries, address, PTE_SIZE, Access::Load, supervisor),
    };
    if !allowed {
        return Err(Fault::Access);
    }
    Ok(hart.env.ram.load_u64(address)?)
}

/// Encodings that fault at any level.
fn check_format(hart: &Hart, pte: u64) -> Result<(), Fault> {
    let svpbmt = hart.env.isa.svpbmt && hart.state.menvcfg & MENVCFG_PBMTE != 0;
    let pbmt = pte >> PBMT_SHIFT & 3;
    let bad = pte & V == 0
        || pte & (R | W) == W
        || pte & RESERVED != 0
        || pte & N != 0 && !hart.env.isa.svnapot
        || pbmt == 3
        || pbmt != 0 && !svpbmt;
    if bad { Err(Fault::Page) } else { Ok(()) }
}

fn check_permission(
    pte: u64,
    access: Access,
    privilege: Privilege,
    sum: bool,
    mxr: bool,
) -> Result<(), Fault> {
    let reachable = match (pte & U != 0, privilege) {
        (true, Privilege::User) => true,
        (true, _) => sum && access != Access::Fetch,
        (false, Privilege::User) => false,
        (false, _) => true,
    };
    let allowed = match access {
        Access::Fetch => pte & X != 0,
        Access::Load => pte & R != 0 || mxr && pte & X != 0,
        Access::Store => pte & W != 0,
    };
    if reachable && allowed { Ok(()) } else { Err(Fault::Page) }
}

/// Size and physical base of the leaf `pte` found at `level`.
fn leaf(pte: u64, level: u32, base: u64) -> Result<(u64, u64), Fault> {
    let page_size = 1u64 << (PAGE_SHIFT + level * VPN_BITS);
    if pte & N != 0 {
        /// The only encoding of Svnapot: 64 KiB, `ppn[3:0]` = 8.
        const NAPOT_64K: u64 = 8;
        if level != 0 || base >> PAGE_SHIFT & 15 != NAPOT_64K {
            return Err(Fault::Page);
        }
        return Ok((0x1_0000, base & !0xffff));
    }
    if base & (page_size - 1) != 0 {
        return Err(Fault::Page);
    }
    Ok((page_size, base))
}

/// Set A and D in the entry at `address`; false when it is no longer `old`.
fn update(hart: &Hart, address: u64, old: u64, new: u64) -> Result<bool, Fault> {
    let isa = &hart.env.isa;
    // `menvcfg.ADUE` exists with Svadu; without either extension QEMU's harts update.
    let hardware = if isa.svadu { hart.state.menvcfg & MENVCFG_ADUE != 0 } else { !isa.svade };
    if !hardware {
        return Err(Fault::Page);
    }
    let supervisor = Privilege::Supervisor;
    if !pmp::check(&hart.state, isa.pmp_entries, address, PTE_SIZE, Access::Store, supervisor) {
        return Err(Fault::Access);
    }
    Ok(hart.env.ram.compare_exchange_u64(address, old, new)?)
}
