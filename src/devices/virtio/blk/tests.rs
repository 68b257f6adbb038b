//! The block device as a driver sees it, with a mocked block node and with a real file.

use super::*;
use crate::actors::message::{Pause, Resume, SaveState};
use crate::actors::probe::Probe;
use crate::block::message::IoFailed;
use crate::block::node::Drive;
use crate::devices::virtio::test_driver::{DATA, Driver, WRITE};
use crate::machine::spec::{CacheMode, DriveInterface, DriveSpec, ErrorAction, NodeNames};
use crate::net::descriptors::Descriptors;

type Desc = (u64, u32, u16);

const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x40;
const BUFFER: u64 = DATA + 0x1000;

fn info(size: u64) -> BlockInfo {
    BlockInfo {
        size,
        read_only: false,
        writeback: true,
        write_error: ErrorAction::Report,
        read_error: ErrorAction::Report,
    }
}

fn mocked(legacy: bool, info: BlockInfo) -> (Driver<Blk>, Probe<BlockRequest>) {
    let node = Probe::new();
    let options = BlkOptions { serial: b"serial-0".to_vec(), ..BlkOptions::default() };
    (Driver::new(legacy, Blk::new(options, info, node.outlet())), node)
}

/// Put a request into queue 0; request `n` has its own header and status byte.
fn request(driver: &mut Driver<Blk>, n: u64, kind: u32, sector: u64, data: &[Desc]) -> u16 {
    let (header, status) = (HEADER + n * 0x80, STATUS + n * 0x80);
    driver.ram.store_u64(header, u64::from(kind)).unwrap();
    driver.ram.store_u64(header + 8, sector).unwrap();
    driver.ram.fill(status, 1, 0xee).unwrap();
    let mut chain = vec![(header, 16, 0)];
    chain.extend(data);
    chain.push((status, 1, WRITE));
    driver.offer(0, &chain)
}

fn status(driver: &Driver<Blk>, n: u64) -> u8 {
    driver.bytes(STATUS + n * 0x80, 1)[0]
}

#[test]
fn looks_like_qemus() {
    // Captured from QEMU 10.0 with a drive of 4 MiB.
    for (legacy, features) in [(true, 0x3100_6ed4), (false, 0x101_3000_6e54)] {
        let (mut driver, _) = mocked(legacy, info(4 << 20));
        assert_eq!(driver.start(0), features);
        assert_eq!(driver.read_sized(0x120, 1), 0, "a driver that cannot flush has no cache");
        driver.write(0x70, 0);
        let config: String =
            (0..0x3c).map(|i| format!("{:02x}", driver.read_sized(0x100 + i, 1))).collect();
        let expected = "002000000000000000000000fe000000\
                            0800103f000200000000000000000000\
                            01000100ffff3f000100000001000000\
                            ffff3f000100000001ffffff";
        assert_eq!(config, expected);
        assert_eq!(driver.read_sized(0x100, 8), 0x2000);
        assert_eq!(driver.read(0x138), u32::MAX, "an access across the end");
    }
}

#[test]
fn requests_in_flight_complete_out_of_order() {
    for legacy in [true, false] {
        let (mut driver, node) = mocked(legacy, info(1 << 20));
        driver.start(EVENT_IDX | if legacy { 0 } else { VERSION_1 } | 1 << 9);
        driver.levels();
        let first = request(&mut driver, 0, VIRTIO_BLK_T_IN, 8, &[(BUFFER, 1024, WRITE)]);
        let second = request(&mut driver, 1, VIRTIO_BLK_T_FLUSH, 0, &[]);
        driver.kick(0);
        let mut requests = node.take();
        assert_eq!(requests.len(), 2);
        assert!(matches!(requests[1].op, BlockOp::Flush));
        assert!(
            matches!(&requests[0].op, BlockOp::Read { offset: 4096, into } if into.len() == 1024)
        );
        assert_eq!(driver.used_now(0), []);
        let flush = requests.pop().unwrap();
        flush.done.send(BlockDone { tag: flush.tag, result: Ok(()) });
        assert_eq!(driver.used_now(0), [(second, 1)]);
        assert_eq!((status(&driver, 0), status(&driver, 1)), (0xee, 0));
        assert_eq!(driver.levels(), [true]);
        driver.write(0x64, 1);
        let read = requests.pop().unwrap();
        read.done.send(BlockDone { tag: read.tag, result: Err(IoFailed(5)) });
        assert_eq!(driver.used_now(0), [(first, 1025)]);
        assert_eq!(status(&driver, 0), 1);
        assert_eq!(driver.levels(), [false], "used_event is still 0: only the first");
    }
}

#[test]
fn requests_answered_at_once() {
    let (node, account) = (Probe::new(), Probe::new());
    let options = BlkOptions { serial: b"serial-0".to_vec(), ..BlkOptions::default() };
    let mut blk = Blk::new(options, info(1 << 20), node.outlet());
    blk.tell_account(account.outlet());
    let mut driver = Driver::new(true, blk);
    driver.start(0);
    let range = |driver: &Driver<Blk>, sector: u64, sectors: u32, flags: u32| {
        driver.ram.store_u64(BUFFER, sector).unwrap();
        driver.ram.store_u32(BUFFER + 8, sectors).unwrap();
        driver.ram.store_u32(BUFFER + 12, flags).unwrap();
    };
    range(&driver, 2040, 16, 0);
    let ioerr = VIRTIO_BLK_S_IOERR as u8;
    let unsupp = VIRTIO_BLK_S_UNSUPP as u8;
    let cases: &[(&str, u32, u64, &[Desc], u8)] = &[
        ("read past the end", VIRTIO_BLK_T_IN, 2047, &[(BUFFER, 1024, WRITE)], ioerr),
        ("read far past", VIRTIO_BLK_T_IN, u64::MAX, &[(BUFFER, 512, WRITE)], ioerr),
        ("half a sector", VIRTIO_BLK_T_OUT, 0, &[(BUFFER, 256, 0)], ioerr),
        ("unknown", 77, 0, &[], unsupp),
        ("scsi", VIRTIO_BLK_T_SCSI_CMD, 0, &[], unsupp),
        ("discard past the end", VIRTIO_BLK_T_DISCARD, 0, &[(BUFFER, 16, 0)], ioerr),
        ("two ranges", VIRTIO_BLK_T_WRITE_ZEROES, 0, &[(BUFFER, 32, 0)], unsupp),
        ("id", VIRTIO_BLK_T_GET_ID, 0, &[(BUFFER + 64, 20, WRITE)], 0),
    ];
    for (name, kind, sector, data, expected) in cases {
        let head = request(&mut driver, 0, *kind, *sector, data);
        driver.kick(0);
        let written: u32 = data.iter().filter(|d| d.2 == WRITE).map(|d| d.1).sum();
        assert_eq!(driver.used_now(0), [(head, written + 1)], "{name}");
        assert_eq!(status(&driver, 0), *expected, "{name}");
    }
    assert_eq!(driver.bytes(BUFFER + 64, 10), b"serial-0\0\0");
    range(&driver, 0, 8, 2);
    request(&mut driver, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, &[(BUFFER, 16, 0)]);
    driver.kick(0);
    driver.used_now(0);
    assert_eq!(status(&driver, 0), unsupp, "unknown flag");
    assert!(node.take().is_empty());
    range(&driver, 8, 8, 1);
    request(&mut driver, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, &[(BUFFER, 16, 0)]);
    driver.kick(0);
    let op = node.take().remove(0).op;
    assert!(matches!(op, BlockOp::WriteZeroes { offset: 4096, len: 4096, may_unmap: true }));
    let invalid = [Kind::Read, Kind::Read, Kind::Write, Kind::Unmap].map(BlockAccount::Invalid);
    assert_eq!(account.take(), invalid);
}

#[test]
fn protocol_violations_need_a_reset() {
    let cases: &[(&str, &[Desc])] = &[
        ("no status", &[(HEADER, 16, 0)]),
        ("no header", &[(STATUS, 1, WRITE)]),
        ("short header", &[(HEADER, 15, 0), (STATUS, 1, WRITE)]),
        ("outside RAM", &[(HEADER, 16, 0), (0x1000, 512, WRITE), (STATUS, 1, WRITE)]),
    ];
    for (name, chain) in cases {
        let (mut driver, node) = mocked(false, info(1 << 20));
        driver.start(VERSION_1);
        driver.offer(0, chain);
        driver.kick(0);
        assert_eq!(driver.read(0x70), 0x4f, "{name}: NEEDS_RESET");
        assert_eq!(driver.read(0x60), 3, "{name}");
        request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
        driver.kick(0);
        assert!(node.take().is_empty(), "{name}: nothing moves");
        driver.start(VERSION_1);
        request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
        driver.kick(0);
        assert_eq!(node.take().len(), 1, "{name}: works again");
    }
}

#[test]
fn a_reset_disowns_requests_and_new_ones_wait_for_them() {
    let (mut driver, node) = mocked(true, info(1 << 20));
    driver.start(0);
    request(&mut driver, 0, VIRTIO_BLK_T_IN, 0, &[(BUFFER, 512, WRITE)]);
    driver.kick(0);
    let old = node.take().remove(0);
    driver.start(0);
    let BlockOp::Read { into, .. } = &old.op else { panic!("not a read") };
    assert!(into.scatter(0, &[1; 512]).is_err(), "no DMA after the reset");
    let head = request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
    driver.kick(0);
    assert!(node.take().is_empty());
    old.done.send(BlockDone { tag: old.tag, result: Ok(()) });
    assert_eq!(driver.used_now(0), []);
    let new = node.take().remove(0);
    new.done.send(BlockDone { tag: new.tag, result: Ok(()) });
    assert_eq!(driver.used_now(0), [(head, 1)]);
}

#[test]
fn a_paused_device_starts_nothing() {
    let (mut driver, node) = mocked(true, info(1 << 20));
    driver.start(0);
    driver.cell.call(Pause).unwrap();
    request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
    driver.kick(0);
    assert!(node.take().is_empty());
    driver.cell.call(Resume).unwrap();
    assert_eq!(node.take().len(), 1);
}

#[test]
fn the_write_cache_is_the_drivers_choice() {
    let (mut driver, node) = mocked(true, info(1 << 20));
    for (features, wce, expected) in
        [(0, None, true), (1 << 9, None, false), (1 << 11, Some(0), true), (1 << 11, None, false)]
    {
        driver.start(features);
        if let Some(value) = wce {
            driver
                .cell
                .call(crate::actors::message::MmioWrite { offset: 0x120, width: 1, value })
                .unwrap()
                .unwrap();
        }
        request(&mut driver, 0, VIRTIO_BLK_T_OUT, 0, &[(BUFFER, 512, 0)]);
        driver.kick(0);
        let request = node.take().remove(0);
        assert!(matches!(request.op, BlockOp::Write { fua, .. } if fua == expected));
        request.done.send(BlockDone { tag: request.tag, result: Ok(()) });
        driver.used_now(0);
    }
}

fn spec(path: &std::path::Path) -> DriveSpec {
    DriveSpec {
        id: "d0".to_owned(),
        is_back_end: true,
        nodes: NodeNames::default(),
        interface: DriveInterface::None,
        index: 0,
        file: path.to_owned(),
        format: None,
        read_only: false,
        auto_read_only: false,
        cache: CacheMode::default(),
        discard: true,
        write_error: ErrorAction::Report,
        read_error: ErrorAction::Report,
        origin: String::new(),
    }
}

/// Random writes, zeroes and discards of many requests at a time against a model in memory.
#[test]
fn a_file_holds_what_the_guest_wrote() {
    const SIZE: usize = 1 << 20;
    for legacy in [true, false] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE as u64).unwrap();
        let mut drive = Drive::open(&spec(file.path()), true, &Descriptors::default()).unwrap();
        drive.attach(false).unwrap();
        let info = drive.info();
        let node = drive.into_node(Outlet::Unconnected).unwrap();
        let blk = Blk::new(BlkOptions::default(), info, node.requests());
        let mut driver = Driver::new(legacy, blk);
        driver.start(EVENT_IDX | if legacy { 0 } else { VERSION_1 } | 1 << 9);
        let mut model = vec![0u8; SIZE];
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for round in 0..40u64 {
            // Four requests at once, each in its own quarter of the drive.
            for n in 0..4u64 {
                let sectors = 1 + random(500);
                let sector = n * 512 + random(512 - sectors);
                let (at, len) = (sector as usize * 512, sectors as usize * 512);
                let buffer = BUFFER + n * 0x4_1000;
                if random(4) == 0 {
                    driver.ram.store_u64(buffer, sector).unwrap();
                    driver.ram.store_u32(buffer + 8, sectors as u32).unwrap();
                    driver.ram.store_u32(buffer + 12, random(2) as u32).unwrap();
                    model[at..at + len].fill(0);
                    let kind = VIRTIO_BLK_T_WRITE_ZEROES;
                    request(&mut driver, n, kind, 0, &[(buffer, 16, 0)]);
                } else {
                    let bytes: Vec<u8> =
                        (0..len).map(|i| (i as u64 * 31 + round * 7 + n) as u8).collect();
                    driver.ram.write(buffer, &bytes).unwrap();
                    model[at..at + len].copy_from_slice(&bytes);
                    // In two pieces, the first of them odd.
                    let cut = 1 + random(len as u64 - 1);
                    let rest = (len as u64 - cut) as u32;
                    let data = [(buffer, cut as u32, 0), (buffer + cut, rest, 0)];
                    request(&mut driver, n, VIRTIO_BLK_T_OUT, sector, &data);
                }
            }
            driver.kick(0);
            driver.used_within(0, 4);
            assert!((0..4).all(|n| status(&driver, n) == 0));
        }
        request(&mut driver, 0, VIRTIO_BLK_T_FLUSH, 0, &[]);
        driver.kick(0);
        driver.used_within(0, 1);
        assert!(std::fs::read(file.path()).unwrap() == model, "the file differs");
        driver.ram.fill(BUFFER, SIZE as u64, 0xff).unwrap();
        request(&mut driver, 0, VIRTIO_BLK_T_IN, 0, &[(BUFFER, SIZE as u32, WRITE)]);
        driver.kick(0);
        assert_eq!(driver.used_within(0, 1)[0].1, SIZE as u32 + 1);
        assert!(driver.bytes(BUFFER, SIZE) == model, "the guest reads something else");
    }
}

#[test]
fn an_image_of_odd_size_ends_in_zeroes_and_read_only_stays() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [7; 1000]).unwrap();
    let drive = Drive::open(
        &DriveSpec { read_only: true, ..spec(file.path()) },
        true,
        &Descriptors::default(),
    )
    .unwrap();
    let info = drive.info();
    assert_eq!(info.size, 1024);
    let node = drive.into_node(Outlet::Unconnected).unwrap();
    let blk = Blk::new(BlkOptions::default(), info, node.requests());
    let mut driver = Driver::new(true, blk);
    assert_eq!(driver.start(0) & 0x6020, 0x20, "RO, neither DISCARD nor WRITE_ZEROES");
    request(&mut driver, 0, VIRTIO_BLK_T_IN, 1, &[(BUFFER, 512, WRITE)]);
    driver.kick(0);
    driver.used_within(0, 1);
    let mut expected = vec![7; 488];
    expected.resize(512, 0);
    assert_eq!(driver.bytes(BUFFER, 512), expected);
    request(&mut driver, 0, VIRTIO_BLK_T_OUT, 0, &[(BUFFER, 512, 0)]);
    driver.kick(0);
    driver.used_within(0, 1);
    assert_eq!(status(&driver, 0), VIRTIO_BLK_S_IOERR as u8);
}

#[test]
fn state_travels_when_the_drive_is_drained() {
    for legacy in [true, false] {
        let (mut driver, old) = mocked(legacy, info(1 << 20));
        driver.start(VERSION_1 | EVENT_IDX | 1 << VIRTIO_BLK_F_FLUSH);
        let head = request(&mut driver, 0, VIRTIO_BLK_T_IN, 0, &[(BUFFER, 512, WRITE)]);
        driver.kick(0);
        let busy = driver.cell.call(SaveState { name: "virtio-blk" }).unwrap().unwrap_err();
        assert_eq!(busy.to_string(), "virtio-blk: 1 requests are under way");
        let asked = old.take().remove(0);
        asked.done.send(BlockDone { tag: asked.tag, result: Ok(()) });
        assert_eq!(driver.used_now(0), [(head, 513)]);
        driver.cell.call(Pause).unwrap();
        let next = request(&mut driver, 1, VIRTIO_BLK_T_FLUSH, 0, &[]);
        driver.kick(0);
        let new = Probe::new();
        driver.move_to(Blk::new(BlkOptions::default(), info(1 << 20), new.outlet()));
        assert_eq!(driver.read(0x60), 1, "the interrupt of the first");
        let asked = new.take().remove(0);
        asked.done.send(BlockDone { tag: asked.tag, result: Ok(()) });
        assert_eq!(driver.used_now(0), [(next, 1)]);
        assert_eq!(status(&driver, 1), 0);
    }
}

/// A driver of a drive whose failures do this, its back end, and who hears of failures.
fn failing(action: ErrorAction) -> (Driver<Blk>, Probe<BlockRequest>, Probe<BlockFailed>) {
    let (node, failures) = (Probe::new(), Probe::new());
    let (write_error, read_error) = (action, action);
    let options = BlkOptions { write_error, read_error, ..BlkOptions::default() };
    let mut blk = Blk::new(options, info(1 << 20), node.outlet());
    let name = BlockFailed::of_device("/machine/d".into(), "d0".into(), "n0".into());
    blk.tell_failures(failures.outlet(), name);
    (Driver::new(false, blk), node, failures)
}

#[test]
fn a_failed_request_is_reported_ignored_or_tried_again() {
    use ErrorAction::{Enospc, Ignore, Report, Stop};
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    for (wanted, errno, action) in [
        (Report, EIO, Report),
        (Ignore, EIO, Ignore),
        (Enospc, EIO, Report),
        (Enospc, ENOSPC, Stop),
        (Stop, EIO, Stop),
    ] {
        let (mut driver, node, failures) = failing(wanted);
        driver.start(VERSION_1 | 1 << 9);
        request(&mut driver, 0, VIRTIO_BLK_T_OUT, 3, &[(BUFFER, 512, 0)]);
        driver.kick(0);
        let failed = |sent: &BlockRequest| {
            sent.done.send(BlockDone { tag: sent.tag, result: Err(IoFailed(errno)) });
        };
        failed(&node.expect_within(std::time::Duration::from_secs(10)));
        driver.cell.drain();
        let heard = failures.expect_within(std::time::Duration::from_secs(10));
        assert_eq!((heard.action, heard.write, heard.error), (action, true, IoFailed(errno)));
        assert_eq!((heard.drive.as_str(), heard.qom_path.as_str()), ("d0", "/machine/d"));
        if action == Stop {
            driver.used_now(0);
            assert_eq!(status(&driver, 0), 0xee, "the driver has not heard of it");
            driver.cell.call(Pause).unwrap();
            driver.cell.call(Resume).unwrap();
            let again = node.expect_within(std::time::Duration::from_secs(10));
            assert!(matches!(again.op, BlockOp::Write { offset: 1536, .. }));
            again.done.send(BlockDone { tag: again.tag, result: Ok(()) });
        }
        driver.used_within(0, 1);
        let expected = if action == Report { VIRTIO_BLK_S_IOERR } else { VIRTIO_BLK_S_OK };
        assert_eq!(u32::from(status(&driver, 0)), expected, "{wanted:?} {errno}");
    }
    // A reset takes what was to be tried again along.
    let (mut driver, node, failures) = failing(Stop);
    driver.start(VERSION_1 | 1 << 9);
    request(&mut driver, 0, VIRTIO_BLK_T_IN, 3, &[(BUFFER, 512, WRITE)]);
    driver.kick(0);
    let sent = node.expect_within(std::time::Duration::from_secs(10));
    sent.done.send(BlockDone { tag: sent.tag, result: Err(IoFailed(EIO)) });
    driver.cell.drain();
    assert!(!failures.expect_within(std::time::Duration::from_secs(10)).write);
    driver.write(0x70, 0);
    driver.cell.call(Resume).unwrap();
    assert!(node.take().is_empty());
}
