//! Placement against QEMU 10.0's own (`info roms`), and files that do not fit.

use super::image::tests::elf64;
use super::*;

const MIB: u64 = 1 << 20;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn request<'a>(ram_size: u64, firmware: &'a Firmware) -> BootRequest<'a> {
    let mut tree = DeviceTree::default();
    tree.root.add("chosen").set("rng-seed", [1; 32]);
    BootRequest {
        ram_size,
        harts: 2,
        firmware,
        kernel: None,
        initrd: None,
        has_flash_image: false,
        append: None,
        loaders: &[],
        tree,
    }
}

fn loader(what: LoaderWhat, cpu_num: Option<u32>) -> LoaderSpec {
    LoaderSpec { what, cpu_num, origin: "-device loader".into() }
}

/// Kernel, initramfs and tree are where QEMU puts them for these RAM sizes (MiB).
#[test]
fn placement_is_qemus() {
    let files = Files::new();
    let kernel = files.file("Image", &[0x13; 0x1000]);
    let initrd = files.file("initrd", &[7; 0x1800]);
    let firmware = files.file("fw.bin", &[0x13; 0x42868]);
    let rows = [
        // RAM, firmware, kernel, initramfs, tree
        (64, Firmware::File(firmware.clone()), 0x8020_0000, 0x8220_0000, 0x83e0_0000),
        (256, Firmware::File(firmware.clone()), 0x8020_0000, 0x8820_0000, 0x8fe0_0000),
        (256, Firmware::Builtin, 0x8020_0000, 0x8820_0000, 0x8fe0_0000),
        (4096, Firmware::None, 0x8000_0000, 0xa000_0000, 0x1_7fe0_0000),
    ];
    for (ram_mib, firmware, kernel_at, initrd_at, fdt_at) in rows {
        let plan = BootPlan::prepare(BootRequest {
            kernel: Some(Kernel::File(&kernel)),
            initrd: Some(&initrd),
            append: Some("quiet"),
            ..request(ram_mib * MIB, &firmware)
        })
        .unwrap();
        assert_eq!(plan.kernel_entry, Some(kernel_at));
        assert_eq!(plan.initrd, Some((initrd_at, initrd_at + 0x1800)));
        assert_eq!(plan.fdt_addr, fdt_at);
        let expected_entry = if firmware == Firmware::Builtin { kernel_at } else { RAM_BASE };
        assert_eq!(plan.entry, expected_entry);
        assert_eq!(plan.reset_vector.is_empty(), firmware == Firmware::Builtin);

        let ram = GuestRam::new(RAM_BASE, ram_mib * MIB).unwrap();
        plan.install(&ram).unwrap();
        let mut blob = vec![0; 0x200];
        ram.read(plan.fdt_addr, &mut blob).unwrap();
        let tree = DeviceTree::parse(&blob).unwrap();
        let chosen = tree.root.child("chosen").unwrap();
        assert_eq!(chosen.property("bootargs"), Some(&b"quiet\0"[..]));
        assert_eq!(chosen.property("linux,initrd-start"), Some(&initrd_at.to_be_bytes()[..]));
        assert_eq!(ram.load_u32(kernel_at).unwrap(), 0x1313_1313);
        assert_eq!(ram.load_u16(initrd_at + 0x17fe).unwrap(), 0x0707);
    }
}

/// The words at 0x1000 in QEMU, started with the firmware, kernel and RAM of the second row above.
#[test]
fn reset_vector_is_qemus() {
    let words: Vec<u32> = reset_vector::bytes(0x8000_0000, 0x8fe0_0000, 0x8020_0000)
        .chunks(4)
        .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
        .collect();
    assert_eq!(
        words,
        [
            0x0000_0297,
            0x0282_8613,
            0xf140_2573,
            0x0202_b583,
            0x0182_b283,
            0x0002_8067,
            0x8000_0000,
            0,
            0x8fe0_0000,
            0,
            0x4942_534f,
            0,
            2,
            0,
            0x8020_0000,
            0,
            1,
            0,
            0,
            0,
            0,
            0
        ]
    );
}

#[test]
fn an_elf_firmware_starts_at_its_entry_with_its_bss_cleared() {
    let files = Files::new();
    let elf = elf64(2, 243, 0x8000_0004, &[(0x8000_0000, 0x8000_0000, b"abcdefgh", 0x20)]);
    let firmware = Firmware::File(files.file("test.elf", &elf));
    let plan = BootPlan::prepare(request(4 * MIB, &firmware)).unwrap();
    assert_eq!((plan.entry, plan.kernel_entry), (0x8000_0004, None));
    let ram = GuestRam::new(RAM_BASE, 4 * MIB).unwrap();
    ram.fill(RAM_BASE, 0x40, 0xff).unwrap();
    plan.install(&ram).unwrap();
    assert_eq!(ram.load_u64(RAM_BASE).unwrap(), u64::from_le_bytes(*b"abcdefgh"));
    assert_eq!(ram.load_u64(RAM_BASE + 8).unwrap(), 0);
    assert_eq!(ram.load_u64(RAM_BASE + 0x20).unwrap(), u64::MAX);
    let roms: Vec<_> = plan.roms().into_iter().map(|r| (r.addr, r.size)).collect();
    assert_eq!(roms[..3], [(0x1000, 0x28), (0x1028, 0x30), (0x8000_0000, 0x20)]);
}

#[test]
fn a_kernels_bss_pushes_the_initramfs_away() {
    let files = Files::new();
    let mut image = vec![0; 0x40];
    image[0x10..0x18].copy_from_slice(&(40 * MIB).to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"RSC\x05");
    let kernel = files.file("Image", &image);
    let initrd = files.file("initrd", &[1; 16]);
    let prepare = |ram_size| {
        BootPlan::prepare(BootRequest {
            kernel: Some(Kernel::File(&kernel)),
            initrd: Some(&initrd),
            ..request(ram_size, &Firmware::Builtin)
        })
    };
    assert_eq!(prepare(64 * MIB).unwrap().initrd.unwrap().0, 0x8020_0000 + 40 * MIB);
    assert!(matches!(prepare(40 * MIB), Err(LoadError::OutsideRam { .. })));
}

#[test]
fn flash_runs_in_the_mode_that_the_firmware_leaves_it() {
    for (firmware, entry, kernel) in
        [(Firmware::None, 0x2000_0000, None), (Firmware::Builtin, 0x2000_0000, Some(0x2000_0000))]
    {
        let request = BootRequest { has_flash_image: true, ..request(4 * MIB, &firmware) };
        let plan = BootPlan::prepare(request).unwrap();
        assert_eq!((plan.entry, plan.kernel_entry), (entry, kernel));
    }
}

#[test]
fn loaders_patch_memory_and_program_counters() {
    let files = Files::new();
    let patch = files.file("patch", b"PATCH");
    let elf = files
        .file("any.elf", &elf64(2, 62, 0x8010_0000, &[(0x8010_0000, 0x8010_0000, b"elf!", 4)]));
    let data = |addr, value, len, big_endian| {
        loader(LoaderWhat::Data { addr, value, len, big_endian }, Some(1))
    };
    let file = |path: &Path, addr, force_raw, cpu| {
        loader(LoaderWhat::File { path: path.into(), addr, force_raw }, cpu)
    };
    let loaders = [
        data(RAM_BASE + 0x100, 0x1122_3344_5566_7788, 4, false),
        data(RAM_BASE + 0x110, 0x1122_3344_5566_7788, 4, true),
        data(RAM_BASE, 0, 8, false),
        file(&patch, Some(RAM_BASE + 0x1001), false, None),
        file(&elf, None, false, Some(1)),
        loader(LoaderWhat::ProgramCounter { addr: 0x8000_1000 }, Some(0)),
    ];
    let kernel = Kernel::Embedded { name: "guest", bytes: b"kernel-k" };
    let plan = BootPlan::prepare(BootRequest {
        kernel: Some(kernel),
        loaders: &loaders,
        ..request(16 * MIB, &Firmware::None)
    })
    .unwrap();
    assert_eq!(plan.program_counters, [(1, 0x8010_0000), (0, 0x8000_1000)]);
    let ram = GuestRam::new(RAM_BASE, 16 * MIB).unwrap();
    plan.install(&ram).unwrap();
    assert_eq!(ram.load_u64(RAM_BASE + 0x100).unwrap(), 0x5566_7788);
    assert_eq!(ram.load_u64(RAM_BASE + 0x110).unwrap(), 0x4433_2211);
    assert_eq!(ram.load_u64(RAM_BASE).unwrap(), u64::from_le_bytes(*b"kernel-k"));
    let mut bytes = [0; 5];
    ram.read(RAM_BASE + 0x1001, &mut bytes).unwrap();
    assert_eq!(&bytes, b"PATCH");
}

#[test]
fn a_reset_gets_a_new_seed() {
    let mut plan = BootPlan::prepare(request(4 * MIB, &Firmware::Builtin)).unwrap();
    plan.reseed(&mut |bytes| bytes.fill(9));
    let ram = GuestRam::new(RAM_BASE, 4 * MIB).unwrap();
    plan.install(&ram).unwrap();
    let mut blob = vec![0; 0x100];
    ram.read(plan.fdt_addr, &mut blob).unwrap();
    let tree = DeviceTree::parse(&blob).unwrap();
    assert_eq!(tree.root.child("chosen").unwrap().property("rng-seed"), Some(&[9; 32][..]));
}

#[test]
fn parts_of_elf_segments_outside_ram_are_left_out() {
    let end = RAM_BASE + 4 * MIB;
    let files = Files::new();
    let path = files.file(
        "parts.elf",
        &elf64(
            2,
            243,
            RAM_BASE,
            &[
                (RAM_BASE - 4, RAM_BASE - 4, b"headcode", 8),
                (0x1000, 0x1000, b"away", 4),
                (end - 2, end - 2, b"tail", 0x1000),
            ],
        ),
    );
    let firmware = Firmware::File(path);
    let plan = BootPlan::prepare(request(4 * MIB, &firmware)).unwrap();
    assert_eq!(plan.entry, RAM_BASE);
    let ram = GuestRam::new(RAM_BASE, 4 * MIB).unwrap();
    plan.install(&ram).unwrap();
    let (mut code, mut tail) = ([0; 4], [0; 2]);
    ram.read(RAM_BASE, &mut code).unwrap();
    ram.read(end - 2, &mut tail).unwrap();
    assert_eq!((&code, &tail), (b"code", b"ta"));
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let files = Files::new();
    let raw = files.file("raw", &[1; 0x1000]);
    let away = files.file("away.elf", &elf64(2, 243, 0, &[(0, u64::MAX - 3, b"abcd", u64::MAX)]));
    let over = files.file("over.elf", &elf64(2, 243, 0, &[(0, RAM_BASE, b"abcd", 0x100)]));
    let big = files.file("big", &vec![1; (3 * MIB) as usize]);
    let none = Path::new("/nonexistent");
    let on = |firmware: Firmware, kernel: Option<&Path>, initrd: Option<&Path>, ram_size| {
        BootPlan::prepare(BootRequest {
            kernel: kernel.map(Kernel::File),
            initrd,
            ..request(ram_size, &firmware)
        })
        .unwrap_err()
        .to_string()
    };
    let fw = |path: &Path| Firmware::File(path.into());
    for (message, start) in [
        (on(fw(none), None, None, MIB), "Unable to find the RISC-V BIOS \"/nonexistent\""),
        (on(fw(&away), None, None, MIB), "'"),
        (
            on(Firmware::None, Some(none), None, MIB),
            "could not load kernel '/nonexistent': No such",
        ),
        (on(Firmware::None, Some(&big), None, MIB), "could not load kernel '"),
        (on(Firmware::Builtin, Some(&raw), None, MIB), "'"),
        (
            on(Firmware::Builtin, Some(&raw), Some(none), 8 * MIB),
            "could not load ramdisk '/nonexistent': No such",
        ),
        (on(Firmware::Builtin, Some(&raw), Some(&big), 4 * MIB), "'"),
        (
            on(Firmware::None, Some(&raw), None, MIB),
            "No enough memory to place DTB after kernel/initrd",
        ),
        (on(fw(&raw), Some(&over), None, 8 * MIB), "Some ROM regions are overlapping\nThese"),
    ] {
        assert!(message.starts_with(start), "{message}");
        if start == "'" {
            assert!(message.contains("does not fit into RAM"), "{message}");
        }
    }
    let cpu = [loader(LoaderWhat::ProgramCounter { addr: 4 }, Some(2))];
    let error =
        BootPlan::prepare(BootRequest { loaders: &cpu, ..request(4 * MIB, &Firmware::Builtin) });
    assert_eq!(
        error.unwrap_err().to_string(),
        "-device loader: Specified boot CPU#2 is nonexistent"
    );
    assert!(matches!(read_dtb(none), Err(LoadError::DtbFile { .. })));
    assert!(matches!(read_dtb(&raw), Err(LoadError::Dtb { reason: DtbError::BadMagic, .. })));
}
