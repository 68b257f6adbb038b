//! Physical memory protection (Privileged spec 3.7) with Smepmp.

use super::mmu::Access;
use super::state::{HartState, PMP_ENTRIES, Privilege};

/// `pmpcfg` fields.
pub const READ: u8 = 1 << 0;
pub const WRITE: u8 = 1 << 1;
pub const EXECUTE: u8 = 1 << 2;
const MODE_SHIFT: u32 = 3;
/// Locked until reset; binds M-mode too.
pub const LOCK: u8 = 1 << 7;

/// `pmpcfg.A`: off, top of range, naturally aligned four bytes, naturally aligned power of two.
const OFF: u8 = 0;
pub(super) const TOR: u8 = 1;
const NA4: u8 = 2;

/// `mseccfg` bits (Smepmp): M-mode lockdown, M-mode whitelist policy, rule-locking bypass.
pub const MML: u64 = 1 << 0;
pub const MMWP: u64 = 1 << 1;
pub const RLB: u64 = 1 << 2;

/// `pmpaddr` holds bits 55:2 of an address.
pub const ADDR_MASK: u64 = (1 << 54) - 1;

const RWX: u8 = READ | WRITE | EXECUTE;

/// `pmpcfg.A` of a configuration byte.
pub(super) fn mode(cfg: u8) -> u8 {
    cfg >> MODE_SHIFT & 3
}

/// First and last byte that entry `i` matches, `None` when it matches nothing.
fn range(state: &HartState, i: usize) -> Option<(u64, u64)> {
    let addr = state.pmpaddr[i] & ADDR_MASK;
    match mode(state.pmpcfg[i]) {
        OFF => None,
        TOR => {
            let start = if i == 0 { 0 } else { (state.pmpaddr[i - 1] & ADDR_MASK) << 2 };
            let end = addr << 2;
            (start < end).then(|| (start, end - 1))
        }
        NA4 => Some((addr << 2, addr << 2 | 3)),
        _ => {
            // The trailing ones and the zero above them are the mask.
            let mask = addr ^ (addr + 1);
            Some(((addr & !mask) << 2, (addr | mask) << 2 | 3))
        }
    }
}

/// What the matching entry `cfg` allows (Smepmp table in Privileged spec 3.7.1 under MML).
fn permissions(state: &HartState, cfg: u8, privilege: Privilege) -> u8 {
    let machine = privilege == Privilege::Machine;
    let locked = cfg & LOCK != 0;
    if state.mseccfg & MML == 0 {
        return if machine && !locked { RWX } else { cfg & RWX };
    }
    // Without R, W marks a region shared between M-mode and the others.
    match (locked, cfg & RWX) {
        (false, WRITE) => READ | if machine { WRITE } else { 0 },
        (false, bits) if bits == WRITE | EXECUTE => READ | WRITE,
        (true, WRITE) => EXECUTE,
        (true, bits) if bits == WRITE | EXECUTE => EXECUTE | if machine { READ } else { 0 },
        (true, RWX) => READ,
        (locked, bits) if locked == machine => bits,
        _ => 0,
    }
}

/// What an access that no entry matches may do.
fn unmatched(state: &HartState, privilege: Privilege) -> u8 {
    if state.mseccfg & MMWP != 0 || privilege != Privilege::Machine {
        0
    } else if state.mseccfg & MML != 0 {
        READ | WRITE
    } else {
        RWX
    }
}

pub(super) fn bit(access: Access) -> u8 {
    match access {
        Access::Fetch => EXECUTE,
        Access::Load => READ,
        Access::Store => WRITE,
    }
}

/// May `privilege` do `access` to the `len` bytes at `pa`? The entry with the lowest number that
/// matches any of the bytes decides, and must match all of them. `entries` is 0 without PMP.
pub fn check(
    state: &HartState,
    entries: usize,
    pa: u64,
    len: u64,
    access: Access,
    privilege: Privilege,
) -> bool {
    if entries == 0 {
        return true;
    }
    let last = pa.saturating_add(len.saturating_sub(1));
    for i in 0..entries.min(PMP_ENTRIES) {
        if let Some((start, end)) = range(state, i)
            && pa <= end
            && last >= start
        {
            return start <= pa
                && last <= end
                && permissions(state, state.pmpcfg[i], privilege) & bit(access) != 0;
        }
    }
    unmatched(state, privilege) & bit(access) != 0
}

/// The permissions (`READ`, `WRITE`, `EXECUTE`) that hold for every byte of the 4 KiB page at
/// `page`, or `None` when an entry's bound lies inside it.
pub fn page_permissions(
    state: &HartState,
    entries: usize,
    page: u64,
    privilege: Privilege,
) -> Option<u8> {
    if entries == 0 {
        return Some(RWX);
    }
    let (page, last) = (page & !0xfff, page | 0xfff);
    for i in 0..entries.min(PMP_ENTRIES) {
        if let Some((start, end)) = range(state, i)
            && page <= end
            && last >= start
        {
            let whole = start <= page && last <= end;
            return whole.then(|| permissions(state, state.pmpcfg[i], privilege));
        }
    }
    Some(unmatched(state, privilege))
}

/// Addresses around a byte for which PMP gives one answer below M-mode.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    start: u64,
    last: u64,
    allowed: u8,
}

impl Window {
    /// A window that holds nothing.
    pub const EMPTY: Self = Self { start: 1, last: 0, allowed: 0 };

    /// The widest window around `pa`.
    pub fn around(state: &HartState, entries: usize, pa: u64) -> Self {
        if entries == 0 {
            return Self { start: 0, last: u64::MAX, allowed: RWX };
        }
        let mut window =
            Self { start: 0, last: u64::MAX, allowed: unmatched(state, Privilege::Supervisor) };
        for i in 0..entries.min(PMP_ENTRIES) {
            let Some((start, end)) = range(state, i) else { continue };
            if end < pa {
                window.start = window.start.max(end + 1);
            } else if start > pa {
                window.last = window.last.min(start - 1);
            } else {
                window.start = window.start.max(start);
                window.last = window.last.min(end);
                window.allowed = permissions(state, state.pmpcfg[i], Privilege::Supervisor);
                break;
            }
        }
        window
    }

    /// True when all of `pa..pa+len` is in the window.
    pub fn holds(&self, pa: u64, len: u64) -> bool {
        pa >= self.start && pa <= self.last && len - 1 <= self.last - pa
    }

    /// The permissions (`READ`, `WRITE`, `EXECUTE`) in the window.
    pub fn allowed(&self) -> u8 {
        self.allowed
    }
}

/// True when some entry is in use (QEMU lets nothing below M-mode run before one is).
pub fn any_rule(state: &HartState) -> bool {
    state.pmpcfg.iter().any(|cfg| mode(*cfg) != OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: Privilege = Privilege::Machine;
    const S: Privilege = Privilege::Supervisor;
    const U: Privilege = Privilege::User;
    const NAPOT: u8 = 3 << 3;

    fn state(entries: &[(u8, u64)]) -> HartState {
        let mut state = HartState::default();
        for (i, (cfg, addr)) in entries.iter().enumerate() {
            state.pmpcfg[i] = *cfg;
            state.pmpaddr[i] = *addr;
        }
        state
    }

    #[test]
    fn matching() {
        let tor = TOR << 3;
        let na4 = NA4 << 3;
        // Entries, address, length, access, mode, allowed.
        type Case<'a> = (&'a [(u8, u64)], u64, u64, Access, Privilege, bool);
        let cases: &[Case<'_>] = &[
            // Nothing configured: M alone.
            (&[], 0x8000_0000, 8, Access::Load, M, true),
            (&[], 0x8000_0000, 8, Access::Load, S, false),
            // TOR from zero; its top is exclusive.
            (&[(tor | RWX, 0x1000 >> 2)], 0xffc, 4, Access::Store, U, true),
            (&[(tor | RWX, 0x1000 >> 2)], 0x1000, 4, Access::Store, U, false),
            (&[(tor | RWX, 0x1000 >> 2)], 0xffc, 8, Access::Store, U, false),
            // An empty TOR range matches nothing.
            (&[(0, 0x800), (tor | RWX, 0x400)], 0x1800, 4, Access::Load, S, false),
            (&[(na4 | READ, 0x1000 >> 2)], 0x1000, 4, Access::Load, S, true),
            (&[(na4 | READ, 0x1000 >> 2)], 0x1000, 4, Access::Store, S, false),
            // Straddling fails for M too, lock or not.
            (&[(na4 | READ, 0x1000 >> 2)], 0x1000, 8, Access::Load, M, false),
            (&[(na4 | READ, 0x1000 >> 2)], 0x1000, 4, Access::Store, M, true),
            (&[(na4 | READ | LOCK, 0x1000 >> 2)], 0x1000, 4, Access::Store, M, false),
            (&[(NAPOT | EXECUTE, 0x1000 >> 2 | 0x1ff)], 0x1ffe, 2, Access::Fetch, U, true),
            (&[(NAPOT | EXECUTE, 0x1000 >> 2 | 0x1ff)], 0x2000, 2, Access::Fetch, U, false),
            (&[(NAPOT | RWX, ADDR_MASK)], 0xff_ffff_ffff_fff8, 8, Access::Load, U, true),
            // The lowest number wins.
            (&[(na4, 0x400), (NAPOT | RWX, ADDR_MASK)], 0x1000, 4, Access::Load, S, false),
            (&[(na4, 0x400), (NAPOT | RWX, ADDR_MASK)], 0x1004, 4, Access::Load, S, true),
        ];
        for (entries, pa, len, access, privilege, allowed) in cases {
            assert_eq!(
                check(&state(entries), PMP_ENTRIES, *pa, *len, *access, *privilege),
                *allowed,
                "{entries:x?} {pa:#x}+{len} {access:?} {privilege:?}"
            );
        }
        assert!(check(&state(&[]), 0, 0, 8, Access::Store, U));
    }

    #[test]
    fn smepmp_table() {
        // (L R W X) -> (M, S/U), Privileged spec 3.7.1.
        let table = [
            (0b0000, 0, 0),
            (0b0001, 0, EXECUTE),
            (0b0010, READ | WRITE, READ),
            (0b0011, READ | WRITE, READ | WRITE),
            (0b0100, 0, READ),
            (0b0101, 0, READ | EXECUTE),
            (0b0110, 0, READ | WRITE),
            (0b0111, 0, RWX),
            (0b1000, 0, 0),
            (0b1001, EXECUTE, 0),
            (0b1010, EXECUTE, EXECUTE),
            (0b1011, READ | EXECUTE, EXECUTE),
            (0b1100, READ, 0),
            (0b1101, READ | EXECUTE, 0),
            (0b1110, READ | WRITE, 0),
            (0b1111, READ, READ),
        ];
        let mut state = state(&[]);
        state.mseccfg = MML;
        for (lrwx, machine, user) in table {
            let flag = |i: u32, to: u8| if lrwx >> i & 1 != 0 { to } else { 0 };
            let cfg = flag(3, LOCK) | flag(2, READ) | flag(1, WRITE) | flag(0, EXECUTE);
            assert_eq!(permissions(&state, cfg, M), machine, "{lrwx:04b} M");
            assert_eq!(permissions(&state, cfg, S), user, "{lrwx:04b} S");
        }
        assert_eq!(unmatched(&state, M), READ | WRITE);
        state.mseccfg = MMWP;
        assert_eq!(unmatched(&state, M), 0);
    }

    #[test]
    fn a_page_is_uniform_unless_a_bound_is_inside() {
        let s = state(&[(NA4 << 3, 0x1800 >> 2), (NAPOT | READ, ADDR_MASK)]);
        assert_eq!(page_permissions(&s, PMP_ENTRIES, 0x1000, U), None);
        assert_eq!(page_permissions(&s, PMP_ENTRIES, 0x2000, U), Some(READ));
        assert_eq!(page_permissions(&s, PMP_ENTRIES, 0x2000, M), Some(RWX));
    }
}
