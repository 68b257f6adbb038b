use super::*;
use crate::actors::cell::DeviceCell;
use crate::actors::message::Reset;
use crate::actors::outlet::Outlet;
use crate::devices::bus::MmioTarget;
use crate::devices::shell::Shell;
use crate::machine::memory::RAM_BASE;
use crate::migration::vmstate::tests::{assert_described_as_qemus, migrate};

const DESCRIPTOR: u64 = RAM_BASE + 0x100;
const BUFFER: u64 = RAM_BASE + 0x800;
const RAM_SIZE: u64 = 0x4000;

fn rig() -> (DeviceCell<Shell<FwCfg>>, Arc<GuestRam>) {
    let ram = Arc::new(GuestRam::new(RAM_BASE, RAM_SIZE).unwrap());
    let mut builder = FwCfgBuilder::new();
    builder.add_bytes(key::NB_CPUS, 2_u16.to_le_bytes().to_vec()).unwrap();
    builder.add_file("opt/b", b"second".to_vec()).unwrap();
    builder.add_file("etc/a", b"first file".to_vec()).unwrap();
    let device = builder.build(Arc::clone(&ram));
    (DeviceCell::new(Shell(device), "fw_cfg", Outlet::Unconnected), ram)
}

fn select(device: &DeviceCell<Shell<FwCfg>>, key: u16) {
    device.write(SELECTOR, 2, key.swap_bytes().into()).unwrap();
}

fn bytes(device: &DeviceCell<Shell<FwCfg>>, key: u16, len: usize) -> Vec<u8> {
    select(device, key);
    (0..len).map(|_| device.read(0, 1).unwrap() as u8).collect()
}

#[test]
fn items_and_the_sorted_directory() {
    let (device, _) = rig();
    assert_eq!(bytes(&device, key::SIGNATURE, 6), b"QEMU\0\0");
    assert_eq!(bytes(&device, key::ID, 4), [3, 0, 0, 0]);
    assert_eq!(bytes(&device, key::NB_CPUS | WRITE_CHANNEL, 2), [2, 0]);
    for absent in [key::RAM_SIZE, 0x3f, 0x40, 0x8000, 0xffff] {
        assert_eq!(bytes(&device, absent, 2), [0, 0], "{absent:#x}");
    }
    let directory = bytes(&device, key::FILE_DIR, 4 + 2 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    assert_eq!(directory[4..18], *b"\0\0\0\x0a\0\x20\0\0etc/a\0");
    assert_eq!(directory[68..82], *b"\0\0\0\x06\0\x21\0\0opt/b\0");
    assert_eq!(bytes(&device, 0x21, 7), b"second\0");
    select(&device, 0x20);
    assert_eq!(device.read(0, 4), Ok(u64::from(u32::from_le_bytes(*b"firs"))));
    assert_eq!(device.read(0, 8), Ok(u64::from_le_bytes(*b"t file\0\0")));
    device.call(Reset).unwrap();
    assert_eq!(device.read(0, 2), Ok(u64::from(u16::from_le_bytes(*b"QE"))));
}

#[test]
fn widths_and_holes() {
    let (device, _) = rig();
    for (offset, width, read, write) in [
        (1, 1, false, false),
        (4, 4, false, false),
        (SELECTOR, 2, false, true),
        (SELECTOR, 1, false, false),
        (10, 2, false, false),
        (DMA, 1, true, false),
        (DMA, 4, true, true),
        (0x12, 4, false, false),
        (0x17, 1, true, false),
        (0x18, 1, false, false),
    ] {
        assert_eq!(device.read(offset, width).is_ok(), read, "{offset:#x}/{width}");
        assert_eq!(device.write(offset, width, 0).is_ok(), write, "{offset:#x}/{width}");
    }
    assert_eq!(device.read(DMA, 8), Ok(u64::from_le_bytes(DMA_SIGNATURE)));
    assert_eq!(device.read(0x14, 4), Ok(u64::from(u32::from_le_bytes(*b" CFG"))));
}

/// Runs a descriptor; its control word afterwards.
fn dma(device: &DeviceCell<Shell<FwCfg>>, ram: &GuestRam, control: u32, len: u32, to: u64) -> u32 {
    let mut descriptor = control.to_be_bytes().to_vec();
    descriptor.extend(len.to_be_bytes());
    descriptor.extend(to.to_be_bytes());
    ram.write(DESCRIPTOR, &descriptor).unwrap();
    device.write(DMA, 8, DESCRIPTOR.swap_bytes()).unwrap();
    u32::from_be(ram.load_u32(DESCRIPTOR).unwrap())
}

#[test]
fn dma_selects_reads_skips_and_pads() {
    let (device, ram) = rig();
    ram.fill(BUFFER, 16, 0xff).unwrap();
    assert_eq!(dma(&device, &ram, 0x20 << 16 | CTL_SELECT | CTL_SKIP, 6, 0), 0);
    assert_eq!(dma(&device, &ram, CTL_READ, 8, BUFFER), 0);
    let mut got = [0; 10];
    ram.read(BUFFER, &mut got).unwrap();
    assert_eq!(got, *b"file\0\0\0\0\xff\xff");
    // The same through the two halves of the register.
    ram.write(DESCRIPTOR, &(0x21 << 16 | CTL_SELECT | CTL_READ).to_be_bytes()).unwrap();
    device.write(DMA, 4, ((DESCRIPTOR >> 32) as u32).swap_bytes().into()).unwrap();
    device.write(0x14, 4, (DESCRIPTOR as u32).swap_bytes().into()).unwrap();
    ram.read(BUFFER, &mut got).unwrap();
    assert_eq!(got, *b"second\0\0\xff\xff");
}

#[test]
fn hostile_descriptors_end_with_the_error_bit() {
    let (device, ram) = rig();
    let select = 0x20 << 16 | CTL_SELECT;
    for (control, len, to, outcome) in [
        (select | CTL_READ, 4, 0, CTL_ERROR),
        (select | CTL_READ, 4, u64::MAX, CTL_ERROR),
        (select | CTL_READ, u32::MAX, BUFFER, CTL_ERROR),
        (select | CTL_READ, 11, RAM_BASE + RAM_SIZE - 10, CTL_ERROR),
        (select | CTL_READ, 10, RAM_BASE + RAM_SIZE - 10, 0),
        (select | CTL_WRITE, 4, BUFFER, CTL_ERROR),
        (select | CTL_SKIP, u32::MAX, 0, 0),
        (select, u32::MAX, 0, 0),
        (0xffff << 16 | CTL_SELECT | CTL_READ, u32::MAX, 0, CTL_ERROR),
    ] {
        assert_eq!(dma(&device, &ram, control, len, to), outcome, "{control:#x} {len:#x}");
    }
    for nowhere in [0, u64::MAX, RAM_BASE + RAM_SIZE - 8] {
        device.write(DMA, 8, nowhere.swap_bytes()).unwrap();
    }
    assert_eq!(u32::from_be(ram.load_u32(RAM_BASE + RAM_SIZE - 8).unwrap()), CTL_ERROR);
}

#[test]
fn the_builder_refuses_what_does_not_fit() {
    let mut builder = FwCfgBuilder::new();
    assert_eq!(builder.add_bytes(key::ID, vec![]), Err(FwCfgError::Key(key::ID)));
    assert_eq!(builder.add_bytes(0x20, vec![]), Err(FwCfgError::Key(0x20)));
    builder.add_bytes(key::UUID, vec![0; 16]).unwrap();
    assert_eq!(builder.add_bytes(key::UUID, vec![]), Err(FwCfgError::DuplicateKey(2)));
    let long = "x".repeat(56);
    assert!(matches!(builder.add_file(&long, vec![]), Err(FwCfgError::NameTooLong { .. })));
    builder.add_file(&long[1..], vec![]).unwrap();
    let again = builder.add_file(&long[1..], vec![]);
    assert!(matches!(again, Err(FwCfgError::DuplicateName(_))));
    for i in 1..32 {
        builder.add_file(&format!("opt/{i}"), vec![]).unwrap();
    }
    let over = builder.add_file("opt/32", vec![]);
    assert!(matches!(over, Err(FwCfgError::TooManyFiles { .. })));
}

#[test]
fn state_travels() {
    let ((from, _), (to, _)) = (rig(), rig());
    assert_described_as_qemus(&migrate(&from, &to));
    select(&from, key::SIGNATURE);
    assert_eq!(from.read(0, 2), Ok(u64::from(u16::from_le_bytes(*b"QE"))));
    from.write(DMA, 4, u64::from(7u32.swap_bytes())).unwrap();
    let section = migrate(&from, &to);
    assert_eq!(to.read(0, 2), Ok(u64::from(u16::from_le_bytes(*b"MU"))));
    assert_eq!(section.bytes[..6], [0, 0, 0, 0, 0, 2]);
    assert_eq!(section.bytes[section.bytes.len() - 8..], [0, 0, 0, 7, 0, 0, 0, 0]);
}
