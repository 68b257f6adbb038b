use super::*;

fn entry(page: u64, pa: u64) -> TlbEntry {
    TlbEntry { read: page, write: page, addend: 0, pa }
}

#[test]
fn spaces_keep_their_entries_across_switches_and_fences_are_selective() {
    let mut t = TlbSet::new(1024);
    let (a, b) = (8 << 60 | 1 << 44, 8 << 60 | 2 << 44);
    for satp in [a, b] {
        t.select(satp, DataMode::User, Privilege::User);
        t.insert(0x5000, 4096, entry(0x5000, 0x8000_0000), 0);
    }
    t.select(a, DataMode::User, Privilege::User);
    assert_eq!(t.table().entry(0x5123).read, 0x5000);
    t.fence(None, Some(2));
    assert_eq!(t.table().entry(0x5123).read, 0x5000);
    t.select(b, DataMode::User, Privilege::User);
    assert_eq!(t.table().entry(0x5123).read, INVALID_TAG);
    t.select(a, DataMode::User, Privilege::User);
    t.fence(Some(0x5fff), None);
    assert_eq!(t.table().entry(0x5123).read, INVALID_TAG);
}

#[test]
fn a_page_fence_inside_a_superpage_drops_all_its_pieces() {
    let mut t = TlbSet::new(1024);
    t.select(8 << 60, DataMode::Supervisor, Privilege::Supervisor);
    t.insert(0x20_0000, 0x20_0000, entry(0x20_0000, 0x8000_0000), 0);
    t.insert(0x20_1000, 0x20_0000, entry(0x20_1000, 0x8000_1000), 1);
    t.fence(Some(0x20_1000), None);
    assert_eq!(t.table().entry(0x20_0000).read, INVALID_TAG);
}

#[test]
fn protecting_a_page_leaves_it_readable() {
    let mut t = TlbSet::new(1024);
    t.insert(0x8000_3000, 4096, entry(0x8000_3000, 0x8000_3000), 3);
    t.protect(0x8000_3000, 3);
    let e = t.table().entry(0x8000_3000);
    assert_eq!((e.read, e.write), (0x8000_3000, INVALID_TAG));
}

#[test]
fn a_protected_range_ends_where_it_says_in_every_space() {
    let mut t = TlbSet::new(1024);
    for satp in [0, 8 << 60] {
        t.select(satp, DataMode::Supervisor, Privilege::Supervisor);
        for page in [0x8000_2000, 0x8000_3000, 0x8000_4000, 0x8000_5000] {
            t.insert(page, 4096, entry(page, page), 3);
        }
    }
    t.protect_range(0x8000_3000..0x8000_5000);
    for satp in [0, 8 << 60] {
        t.select(satp, DataMode::Supervisor, Privilege::Supervisor);
        let write = |page| t.table().entry(page).write;
        let protected = [0x8000_3000, 0x8000_4000].map(write);
        assert_eq!(protected, [INVALID_TAG; 2]);
        assert_eq!(write(0x8000_2000), 0x8000_2000);
        assert_eq!(write(0x8000_5000), 0x8000_5000);
    }
}

#[test]
fn a_thrashing_table_grows_and_keeps_what_it_holds() {
    let mut t = TlbSet::new(1 << 20);
    let mut moved = false;
    for round in 0..4u64 {
        for page in 0..512u64 {
            let va = page << 12;
            moved |= t.insert(va, 4096, entry(va, va + (round << 40)), page);
        }
    }
    assert!(moved);
    assert_eq!(t.table().entry(511 << 12).read, 511 << 12);
    assert_eq!(t.table().entry(0).read, 0);
}

#[test]
fn a_space_applies_the_fences_it_missed() {
    let mut t = TlbSet::new(1024);
    let (a, b) = (8 << 60 | 1 << 44, 8 << 60 | 2 << 44);
    let user = |t: &mut TlbSet, satp| t.select(satp, DataMode::User, Privilege::User);
    user(&mut t, a);
    for page in [0x5000, 0x6000, 0x7000] {
        t.insert(page, 4096, entry(page, 0x8000_0000), 0);
    }
    t.jump_cache_mut().insert_fetch(0x6010, 0x8000_0000, 4096);
    user(&mut t, b);
    t.fence(Some(0x5000), None);
    t.fence(Some(0x6000), Some(1));
    t.fence(Some(0x7000), Some(9));
    user(&mut t, a);
    let hits = |t: &TlbSet, va: u64| t.table().entry(va).read == va;
    assert_eq!((hits(&t, 0x5000), hits(&t, 0x6000), hits(&t, 0x7000)), (false, false, true));
    assert_eq!(t.jump_cache().fetch(0x6010), None);
    user(&mut t, b);
    for i in 0..1000u64 {
        t.fence(Some(i << 20), Some(9));
    }
    user(&mut t, a);
    assert!(!hits(&t, 0x7000), "a space that missed too many fences is flushed");
    user(&mut t, b);
    t.fence(None, Some(1));
    t.insert(0x5000, 4096, entry(0x5000, 0x8000_0000), 0);
    user(&mut t, a);
    assert!(!hits(&t, 0x5000));
    user(&mut t, b);
    assert!(hits(&t, 0x5000));
}
