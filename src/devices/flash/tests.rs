use super::*;
use crate::actors::cell::DeviceCell;
use crate::actors::message::MmioFault;
use crate::actors::message::{LoadState, Resume, SaveState};
use crate::actors::probe::Probe;
use crate::devices::bus::MmioTarget;
use crate::devices::shell::Shell;
use crate::migration::ram::block::{BlockMemory, DirtyPages};
use crate::migration::vmstate::tests::assert_described_as_qemus;

fn rig(read_only: bool) -> (DeviceCell<Shell<Flash>>, Probe<FlashChanged>) {
    let changed = Probe::new();
    let mut contents = vec![0; BANK_SIZE as usize];
    contents[0x100..0x104].copy_from_slice(&[1, 2, 3, 4]);
    let array = Arc::new(FlashArray::new(Some(&contents)).unwrap());
    let flash = Flash::new(array, read_only, changed.outlet());
    (DeviceCell::new(Shell(flash), "virt.flash0", Outlet::Unconnected), changed)
}

/// 32-bit writes to (offset, value) in order.
fn write(flash: &DeviceCell<Shell<Flash>>, writes: &[(u64, u64)]) {
    for (offset, value) in writes {
        flash.write(*offset, 4, *value).unwrap();
    }
}

fn read(flash: &DeviceCell<Shell<Flash>>, offset: u64) -> u64 {
    flash.read(offset, 4).unwrap()
}

const ARRAY: (u64, u64) = (0, 0xff_00ff);

#[test]
fn identification_and_query_words_come_from_both_chips() {
    let (flash, _) = rig(false);
    write(&flash, &[(0, 0x90_0090)]);
    assert_eq!([0, 4, 8].map(|o| read(&flash, o)), [0x89_0089, 0x18_0018, 0]);
    write(&flash, &[(0, 0x98_0098)]);
    let query = [0x10, 0x11, 0x12, 0x27, 0x2a, 0x2d, 0x30, 0x31, 0x3f, 0x40, 0].map(|w| 4 * w);
    assert_eq!(
        query.map(|o| read(&flash, o) as u8),
        [b'Q', b'R', b'Y', 0x18, 0x0b, 0x7f, 0x02, b'P', 1, 0, 0]
    );
    assert_eq!(flash.read(0x40, 8), Ok(0x52_0052_0051_0051));
    assert_eq!((flash.read(0x40, 1), flash.read(0x41, 1)), (Ok(0x51), Ok(0x51)));
    write(&flash, &[(0, 0x70_0070)]);
    assert_eq!(read(&flash, 0x40), 0x51_0051, "only 0xff ends a query");
    write(&flash, &[ARRAY]);
    assert_eq!(flash.read(0x100, 8), Ok(0x0403_0201));
}

#[test]
fn program_erase_and_their_status() {
    let (flash, changed) = rig(false);
    write(&flash, &[(0x100, 0x40_0040), (0x100, 0x1234_5678)]);
    assert_eq!(read(&flash, 0), 0x80_0080);
    write(&flash, &[ARRAY]);
    assert_eq!(read(&flash, 0x100), 0x1234_5678);
    let bytes = vec![0x78, 0x56, 0x34, 0x12];
    assert_eq!(changed.take(), [FlashChanged { offset: 0x100, bytes }]);
    write(&flash, &[(SECTOR_SIZE + 0x100, 0x20_0020), (SECTOR_SIZE, 0xd0_00d0), ARRAY]);
    assert_eq!(read(&flash, SECTOR_SIZE), 0xffff_ffff);
    assert_eq!(read(&flash, 2 * SECTOR_SIZE - 4), 0xffff_ffff);
    assert_eq!((read(&flash, SECTOR_SIZE - 4), read(&flash, 2 * SECTOR_SIZE)), (0, 0));
    let erased = changed.take();
    assert_eq!((erased.len(), erased[0].offset), (1, SECTOR_SIZE));
    write(&flash, &[(0, 0x50_0050), (0, 0x70_0070)]);
    assert_eq!(read(&flash, 0), 0);
}

#[test]
fn a_buffered_write_happens_when_it_is_confirmed() {
    let (flash, changed) = rig(false);
    let fill = [(0x100, 0xe8_00e8), (0x100, 0x01_0001), (0x100, 0xaaaa_aaaa), (0x104, 0xbb)];
    write(&flash, &fill);
    write(&flash, &[ARRAY]);
    assert_eq!(read(&flash, 0x100), 0x0403_0201, "aborted");
    assert!(changed.take().is_empty());
    write(&flash, &fill);
    write(&flash, &[(0x100, 0xd0_00d0)]);
    assert_eq!(read(&flash, 0), 0x80_0080);
    write(&flash, &[ARRAY]);
    assert_eq!(flash.read(0x100, 8), Ok(0xbb_aaaa_aaaa));
    assert_eq!(changed.take().len(), 1);
    write(&flash, &[(0, 0xe8_00e8), (0, 0x01_0001), (0, 1), (0x1000, 2), (0, 0xd0_00d0)]);
    assert_eq!(read(&flash, 0), 0, "a second block in one buffer");
    write(&flash, &[(0, 0x70_0070)]);
    assert_eq!(read(&flash, 0), 0x90_0090);
}

#[test]
fn a_read_only_bank_reports_errors_and_keeps_its_contents() {
    let (flash, changed) = rig(true);
    write(&flash, &[(0x100, 0x10_0010), (0x100, 0)]);
    assert_eq!(read(&flash, 0), 0x90_0090);
    write(&flash, &[(0, 0x50_0050), (0, 0x20_0020), (0, 0xd0_00d0)]);
    assert_eq!(read(&flash, 0), 0xa0_00a0);
    write(&flash, &[ARRAY]);
    assert_eq!(read(&flash, 0x100), 0x0403_0201);
    assert!(changed.take().is_empty());
}

#[test]
fn widths_ends_and_sizes() {
    let (flash, _) = rig(false);
    assert_eq!(flash.read(BANK_SIZE - 8, 8), Ok(0));
    assert_eq!(flash.read(BANK_SIZE, 1), Err(MmioFault::Unmapped));
    assert_eq!(flash.write(2, 4, 0), Err(MmioFault::Width));
    let short = FlashArray::new(Some(&[0; 4096]));
    assert_eq!(
        short.unwrap_err().to_string(),
        "device requires 33554432 bytes, block backend provides 4096 bytes"
    );
}

#[test]
fn a_buffered_write_of_one_word_is_an_error() {
    let (flash, changed) = rig(false);
    write(&flash, &[(0x100, 0xe8_00e8), (0x100, 0), (0x100, 0xaaaa_aaaa), (0x100, 0xd0_00d0)]);
    assert_eq!(read(&flash, 0x100), 0x0403_0201);
    write(&flash, &[(0, 0x70_0070)]);
    assert_eq!((read(&flash, 0), changed.take().len()), (0x90_0090, 0));
}

/// A bank whose contents can be looked at from outside.
fn bank(read_only: bool) -> (Arc<FlashArray>, DeviceCell<Shell<Flash>>, Probe<FlashChanged>) {
    let changed = Probe::new();
    let array = Arc::new(FlashArray::new(None).unwrap());
    let flash = Flash::new(Arc::clone(&array), read_only, changed.outlet());
    let cell = DeviceCell::new(Shell(flash), "virt.flash0", Outlet::Unconnected);
    (array, cell, changed)
}

#[test]
fn every_command_goes_on_in_another_machine() {
    let size = (BANK_SIZE / 4096) as usize;
    let fill = [(0x5100, 0xe8_00e8), (0x5100, 0x02_0002), (0x5100, 0xaaaa_aaaa)];
    for (before, after, reads) in [
        (&[][..], &[][..], 0),
        (&[(0, 0x90)], &[], 0x89_0089),
        (&[(0, 0x70)], &[], 0x80_0080),
        (&[(0, 0x98)], &[(0, 0x90)], 0),
        (&[(0, 0x40)], &[(0, 7), (0, 0xff)], 7),
        (&[(0, 0x20)], &[(0, 0xd0), (0, 0xff)], 0xffff_ffff),
        (&[(0, 0x60)], &[(0, 1)], 0x80_0080),
        (&[(0, 0xe8)], &[(0, 1), (0, 5), (4, 6), (0, 0xd0), (0, 0xff)], 5),
        (&fill, &[(0x5104, 1), (0x5108, 2), (0, 0xd0), (0, 0xff)], 0),
    ] {
        let (array, from, _) = bank(false);
        let (copy, to, changed) = bank(false);
        write(&from, before);
        let section = from.call(SaveState { name: "pflash_cfi01" }).unwrap().unwrap();
        let mut page = [0; 4096];
        for number in 0..size as u64 {
            array.read(number * 4096, &mut page).unwrap();
            copy.write(number * 4096, &page).unwrap();
        }
        let bytes = [&section.bytes[..], &[0x7e]].concat();
        if before.is_empty() {
            assert_described_as_qemus(&section);
        }
        let taken = to.call(LoadState { name: "pflash_cfi01", version: 1, bytes }).unwrap();
        assert_eq!(taken, Ok(section.bytes.len()));
        assert!(changed.take().is_empty(), "the backing is not ours yet");
        to.call(Resume).unwrap();
        let erased = before.contains(&(0, 0x20));
        assert_eq!(changed.take().len(), usize::from(erased));
        for flash in [&from, &to] {
            write(flash, after);
            assert_eq!(read(flash, 0), reads, "{before:x?} {after:x?}");
        }
        let again = [&from, &to].map(|f| f.call(SaveState { name: "pflash_cfi01" }).unwrap());
        assert_eq!(again[0].as_ref().unwrap().bytes, again[1].as_ref().unwrap().bytes);
        assert_eq!(array.bytes(0..BANK_SIZE), copy.bytes(0..BANK_SIZE));
    }
}

#[test]
fn what_no_chip_does_is_refused() {
    let (_, flash, _) = bank(false);
    let plain = [1, 0x40, 0x80, 0, 0, 0, 0, 0, 0, 0, 0];
    let with = |at: usize, byte: u8| {
        let mut bytes = plain.to_vec();
        bytes[at] = byte;
        bytes.push(0x7e);
        flash.call(LoadState { name: "pflash_cfi01", version: 1, bytes }).unwrap()
    };
    assert_eq!(with(2, 0), Ok(plain.len()));
    let sentence = |at, byte| with(at, byte).unwrap_err().to_string();
    let refused = "Failed to load pflash_cfi01:cmd: 0x40 in write cycle 2, 0 words to come";
    assert_eq!(sentence(0, 2), refused);
    assert!(with(1, 0x41).is_err());
    // A buffer that lies across blocks, and one outside.
    for offset in [1, BANK_SIZE as u32] {
        let mut bytes = vec![3, 0xe8, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 5, 22];
        bytes.extend(b"pflash_cfi01_blk_write");
        bytes.extend([0, 0, 0, 1]);
        bytes.extend([0; BUFFER_SIZE as usize]);
        bytes.extend(offset.to_be_bytes());
        bytes.push(0x7e);
        let load = LoadState { name: "pflash_cfi01", version: 1, bytes };
        assert!(flash.call(load).unwrap().unwrap_err().to_string().contains("blk_offset"));
    }
    // It programs still, as the one that was taken does.
    write(&flash, &[(0, 9), (0, 0xff)]);
    assert_eq!(read(&flash, 0), 9, "a refusal changes nothing");
}

#[test]
fn a_bank_as_memory() {
    let (array, flash, changed) = bank(true);
    assert_eq!((array.size(), array.is_zero(0).unwrap()), (BANK_SIZE, true));
    // Over the border of two sectors.
    array.write(SECTOR_SIZE - 4096, &[7; 8192]).unwrap();
    assert_eq!(read(&flash, SECTOR_SIZE), 0x0707_0707);
    let mut runs = Vec::new();
    assert_eq!(array.take(&mut |run| runs.extend(run)), 2);
    assert_eq!((runs, array.take(&mut |_| ())), (vec![63, 64], 0));
    array.clear().unwrap();
    assert_eq!((read(&flash, SECTOR_SIZE), array.take(&mut |_| ())), (0, 128));
    flash.call(Resume).unwrap();
    assert!(changed.take().is_empty(), "read-only");
    assert!(array.write(BANK_SIZE - 1, &[1, 2]).is_err());
    assert!(array.read(u64::MAX, &mut [0; 2]).is_err() && array.is_zero(BANK_SIZE).is_err());
}
