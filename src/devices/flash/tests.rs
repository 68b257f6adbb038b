use super::*;
use crate::actors::cell::DeviceCell;
use crate::actors::message::MmioFault;
use crate::actors::probe::Probe;
use crate::devices::bus::MmioTarget;
use crate::devices::shell::Shell;

fn rig(read_only: bool) -> (DeviceCell<Shell<Flash>>, Probe<FlashChanged>) {
    let changed = Probe::new();
    let mut contents = vec![0; BANK_SIZE as usize];
    contents[0x100..0x104].copy_from_slice(&[1, 2, 3, 4]);
    let flash = Flash::new(Some(contents.into()), read_only, changed.outlet()).unwrap();
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
    let short = Flash::new(Some(vec![0; 4096].into()), false, Outlet::Unconnected);
    assert_eq!(
        short.unwrap_err().to_string(),
        "device requires 33554432 bytes, block backend provides 4096 bytes"
    );
}
