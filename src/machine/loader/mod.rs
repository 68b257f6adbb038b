//! What is in memory when the machine starts, and where the harts start: firmware, kernel,
//! initramfs, device tree, the reset vector, and what `-device loader` puts there. Placement
//! follows QEMU 10.0's `hw/riscv/boot.c`.
//!
//! [`BootPlan::prepare`] reads the files once; [`BootPlan::install`] copies them into RAM, at start
//! and again at every reset.

mod hex;
mod image;
mod reset_vector;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::devicetree::{DeviceTree, DtbError, MAX_SIZE, Node};
use super::fdt;
use super::memory::{GuestRam, RAM_BASE, RamError};
use super::memory_map::{FLASH, MROM};
use super::message::RomNode;
use super::spec::{Firmware, LoaderSpec, LoaderWhat};
use image::{ElfPolicy, Image};

pub use image::ImageError;

/// Kernels start at a multiple of this above the firmware; the device tree is aligned to it too.
const ALIGN: u64 = 2 << 20;
/// The initramfs is at most this far above the kernel.
const INITRD_DISTANCE: u64 = 512 << 20;

/// Why the machine cannot start. The words are QEMU's where QEMU has them.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("Unable to find the RISC-V BIOS \"{}\"", .0.display())]
    FirmwareMissing(PathBuf),
    #[error("could not load firmware '{name}': {reason}")]
    Firmware { name: String, reason: ImageError },
    #[error("could not load kernel '{name}': {reason}")]
    Kernel { name: String, reason: ImageError },
    #[error("could not load ramdisk '{name}': {reason}")]
    Initrd { name: String, reason: ImageError },
    #[error("{origin}: Cannot load specified image {}: {reason}", .path.display())]
    Loader { origin: String, path: PathBuf, reason: ImageError },
    #[error("{origin}: Specified boot CPU#{cpu} is nonexistent")]
    LoaderCpu { origin: String, cpu: u32 },
    #[error("Unable to get size of device tree file '{}': {reason}", .path.display())]
    DtbFile { path: PathBuf, reason: ImageError },
    #[error("load_device_tree: Unable to copy device tree into memory: {reason} ('{}')", .path.display())]
    Dtb { path: PathBuf, reason: DtbError },
    #[error("No enough memory to place DTB after kernel/initrd")]
    NoRoomForDtb,
    #[error(
        "'{name}' (addresses {start:#018x} - {end:#018x}) does not fit into RAM \
         (addresses {ram_start:#018x} - {ram_end:#018x})"
    )]
    OutsideRam { name: String, start: u64, end: u128, ram_start: u64, ram_end: u64 },
    #[error(
        "Some ROM regions are overlapping\n\
         These ROM regions might have been loaded by direct user request or by default.\n\
         They could be BIOS/firmware images, a guest kernel, initrd or some other file loaded into guest memory.\n\
         Check whether you intended to load all this guest code, and whether it has been built to load to the correct addresses.\n\
         \n\
         The following two regions overlap (in the memory address space):\n  \
         {0}\n  {1}"
    )]
    Overlap(String, String),
    #[error(transparent)]
    Ram(#[from] RamError),
}

/// The kernel to load.
#[derive(Debug, Clone, Copy)]
pub enum Kernel<'a> {
    File(&'a Path),
    /// A guest that is part of the program.
    Embedded {
        name: &'a str,
        bytes: &'a [u8],
    },
}

/// What to load.
#[derive(Debug)]
pub struct BootRequest<'a> {
    /// Bytes of RAM, from `RAM_BASE`.
    pub ram_size: u64,
    pub harts: u32,
    pub firmware: &'a Firmware,
    pub kernel: Option<Kernel<'a>>,
    /// Only with a kernel.
    pub initrd: Option<&'a Path>,
    /// The first flash bank has an image: it is what runs, in M-mode with `-bios none` and else in
    /// S-mode after the firmware; a kernel is then not loaded.
    pub has_flash_image: bool,
    /// Kernel command line; only with a kernel.
    pub append: Option<&'a str>,
    pub loaders: &'a [LoaderSpec],
    /// The machine's own tree or the user's ([`read_dtb`]), without the kernel's part.
    pub tree: DeviceTree,
}

/// Bytes for RAM.
#[derive(Debug, Clone)]
struct Blob {
    name: String,
    addr: u64,
    bytes: Arc<[u8]>,
    /// Zeroes follow up to this size.
    mem_size: u64,
}

impl Blob {
    fn new(name: impl Into<String>, addr: u64, bytes: Vec<u8>) -> Self {
        let mem_size = bytes.len() as u64;
        Self { name: name.into(), addr, bytes: bytes.into(), mem_size }
    }

    fn end(&self) -> u128 {
        u128::from(self.addr) + u128::from(self.mem_size)
    }

    /// The part of it that is in RAM; `None` if nothing is.
    fn clipped(&self, ram_size: u64) -> Option<Self> {
        let start = self.addr.max(RAM_BASE);
        let end = self.end().min(u128::from(RAM_BASE + ram_size));
        let mem_size = u64::try_from(end.checked_sub(u128::from(start))?).ok()?;
        if mem_size == 0 {
            return None;
        }
        let before = usize::try_from(start - self.addr).unwrap_or(usize::MAX);
        let rest = self.bytes.get(before..).unwrap_or_default();
        let len = rest.len().min(usize::try_from(mem_size).unwrap_or(usize::MAX));
        let bytes = rest.get(..len).unwrap_or_default().into();
        Some(Self { name: self.name.clone(), addr: start, bytes, mem_size })
    }

    fn describe(&self) -> String {
        format!("{} (addresses {:#018x} - {:#018x})", self.name, self.addr, self.end())
    }
}

/// What to do at start and at every reset.
#[derive(Debug)]
pub struct BootPlan {
    /// Where M-mode firmware starts: the reset vector jumps there. With the built-in firmware
    /// nothing runs in M-mode and this is the kernel's entry.
    pub entry: u64,
    /// Where S-mode starts; `None` without a kernel.
    pub kernel_entry: Option<u64>,
    pub fdt_addr: u64,
    /// Start and end of the initramfs.
    pub initrd: Option<(u64, u64)>,
    /// Content of the ROM at `MROM`, where harts come out of reset; empty with the built-in
    /// firmware.
    pub reset_vector: Vec<u8>,
    /// Harts that start elsewhere (`-device loader,cpu-num=`): (hart, program counter).
    pub program_counters: Vec<(u32, u64)>,
    /// The final tree, as `-M dumpdtb=` writes it.
    pub tree: DeviceTree,
    /// Firmware, kernel, initramfs; none overlaps another.
    blobs: Vec<Blob>,
    /// `-device loader` files: the user may put them over anything.
    patches: Vec<Blob>,
    /// `-device loader,data=`: QEMU writes them before images, so that images win.
    values: Vec<Blob>,
}

/// Read and check a device tree file (`-dtb`).
pub fn read_dtb(path: &Path) -> Result<DeviceTree, LoadError> {
    // A little more than the parser takes, so that it is the parser that says "too large".
    let bytes = image::read(path, 2 * MAX_SIZE as u64)
        .map_err(|reason| LoadError::DtbFile { path: path.into(), reason })?;
    DeviceTree::parse(&bytes).map_err(|reason| LoadError::Dtb { path: path.into(), reason })
}

impl BootPlan {
    /// Read every file and decide where it goes.
    pub fn prepare(request: BootRequest<'_>) -> Result<Self, LoadError> {
        let mut plan = Self {
            entry: RAM_BASE,
            kernel_entry: None,
            fdt_addr: 0,
            initrd: None,
            reset_vector: Vec::new(),
            program_counters: Vec::new(),
            tree: request.tree,
            blobs: Vec::new(),
            patches: Vec::new(),
            values: Vec::new(),
        };
        let ram_size = request.ram_size;
        for loader in request.loaders {
            plan.add_loader(loader, request.harts, ram_size)?;
        }

        let firmware_end = match request.firmware {
            Firmware::None => RAM_BASE,
            // Nothing is in RAM, but kernels expect to be at an offset of 2 MiB.
            Firmware::Builtin => RAM_BASE + ALIGN,
            Firmware::File(path) => plan.add_firmware(path, ram_size)?,
        };
        // What the device tree must come after.
        let mut end = 0;
        let from_flash = request.has_flash_image && *request.firmware != Firmware::None;
        if from_flash {
            plan.kernel_entry = Some(FLASH.base);
        } else if request.has_flash_image {
            plan.entry = FLASH.base;
        }
        if let Some(kernel) = request.kernel.filter(|_| !from_flash) {
            let (low, kernel_end) =
                plan.add_kernel(kernel, firmware_end.next_multiple_of(ALIGN), ram_size)?;
            plan.kernel_entry = Some(low);
            end = kernel_end;
            if let Some(path) = request.initrd {
                let (start, initrd_end) = plan.add_initrd(path, low, kernel_end, ram_size)?;
                plan.initrd = Some((start, initrd_end));
                end = initrd_end;
            }
            fdt::set_boot_info(&mut plan.tree, request.append.unwrap_or(""), plan.initrd);
        }

        let tree = plan.tree.to_blob();
        plan.fdt_addr = (RAM_BASE + ram_size).saturating_sub(tree.len() as u64) / ALIGN * ALIGN;
        if plan.fdt_addr < end || plan.fdt_addr < RAM_BASE {
            return Err(LoadError::NoRoomForDtb);
        }
        plan.blobs.push(Blob::new("fdt", plan.fdt_addr, tree));
        plan.check(ram_size)?;

        match (request.firmware, plan.kernel_entry) {
            (Firmware::Builtin, Some(kernel)) => plan.entry = kernel,
            (Firmware::Builtin, None) => {}
            (_, kernel) => {
                plan.reset_vector =
                    reset_vector::bytes(plan.entry, plan.fdt_addr, kernel.unwrap_or(0));
            }
        }
        Ok(plan)
    }

    /// Returns where the firmware ends.
    fn add_firmware(&mut self, path: &Path, ram_size: u64) -> Result<u64, LoadError> {
        if !path.exists() {
            return Err(LoadError::FirmwareMissing(path.into()));
        }
        let name = path.display().to_string();
        let image = image::read(path, ram_size)
            .and_then(|b| image::recognise(b, ElfPolicy::Riscv64 { pie_base: RAM_BASE }, ram_size))
            .map_err(|reason| LoadError::Firmware { name: name.clone(), reason })?;
        let placed = self.place(&name, image, RAM_BASE, ram_size)?;
        self.entry = placed.entry;
        Ok(placed.end)
    }

    /// Returns the kernel's lowest address, where it starts (its ELF entry is not asked, as in
    /// QEMU: a kernel may have one for SBI and another), and its end in memory.
    fn add_kernel(
        &mut self,
        kernel: Kernel<'_>,
        at: u64,
        ram_size: u64,
    ) -> Result<(u64, u64), LoadError> {
        let (name, bytes) = match kernel {
            Kernel::File(path) => (path.display().to_string(), image::read(path, ram_size)),
            Kernel::Embedded { name, bytes } => (name.to_string(), Ok(bytes.to_vec())),
        };
        let policy = ElfPolicy::Riscv64 { pie_base: at };
        let image = bytes
            .and_then(|bytes| image::recognise(bytes, policy, ram_size))
            .map_err(|reason| LoadError::Kernel { name: name.clone(), reason })?;
        let placed = self.place(&name, image, at, ram_size)?;
        Ok((placed.low, placed.end))
    }

    /// QEMU's rule: half of RAM above the kernel, at most 512 MiB; but not where the kernel's bss
    /// will be.
    fn add_initrd(
        &mut self,
        path: &Path,
        kernel: u64,
        kernel_end: u64,
        ram_size: u64,
    ) -> Result<(u64, u64), LoadError> {
        let name = path.display().to_string();
        let bytes = image::read(path, ram_size)
            .and_then(image::ramdisk)
            .map_err(|reason| LoadError::Initrd { name: name.clone(), reason })?;
        // `kernel_end` is inside RAM: no sum here overflows.
        let start = (kernel + (ram_size / 2).min(INITRD_DISTANCE))
            .max(kernel_end.next_multiple_of(super::memory::PAGE_SIZE));
        let blob = Blob::new(name, start, bytes);
        let end = inside_ram(&blob, ram_size)?;
        self.blobs.push(blob);
        Ok((start, end))
    }

    /// Add an image's pieces; raw bytes go to `at`.
    fn place(
        &mut self,
        name: &str,
        image: Image,
        at: u64,
        ram_size: u64,
    ) -> Result<Placed, LoadError> {
        // A U-Boot image says where it starts.
        let is_uboot = matches!(image, Image::UBoot { .. });
        let (entry, blobs) = blobs_of(name, image, at, ram_size)?;
        let mut placed = Placed { entry, low: if is_uboot { entry } else { u64::MAX }, end: 0 };
        for blob in &blobs {
            if !is_uboot {
                placed.low = placed.low.min(blob.addr);
            }
            placed.end = placed.end.max(inside_ram(blob, ram_size)?);
        }
        self.blobs.extend(blobs);
        Ok(placed)
    }

    fn add_loader(
        &mut self,
        loader: &LoaderSpec,
        harts: u32,
        ram_size: u64,
    ) -> Result<(), LoadError> {
        if let Some(cpu) = loader.cpu_num.filter(|&cpu| cpu >= harts) {
            return Err(LoadError::LoaderCpu { origin: loader.origin.clone(), cpu });
        }
        let entry = match &loader.what {
            LoaderWhat::ProgramCounter { addr } => *addr,
            LoaderWhat::Data { addr, value, len, big_endian } => {
                // QEMU swaps all 8 bytes and then takes the first `len`.
                let all = if *big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
                let bytes = all.iter().copied().take(usize::from(*len)).collect();
                let blob = Blob::new(&loader.origin, *addr, bytes);
                inside_ram(&blob, ram_size)?;
                self.values.push(blob);
                *addr
            }
            LoaderWhat::File { path, addr, force_raw } => {
                let failed = |reason| LoadError::Loader {
                    origin: loader.origin.clone(),
                    path: path.clone(),
                    reason,
                };
                let bytes = image::read(path, ram_size).map_err(failed)?;
                let image = if *force_raw {
                    Image::Raw { mem_size: bytes.len() as u64, bytes }
                } else {
                    image::recognise(bytes, ElfPolicy::Any, ram_size).map_err(failed)?
                };
                let name = path.display().to_string();
                let (entry, blobs) = blobs_of(&name, image, addr.unwrap_or(0), ram_size)?;
                for blob in &blobs {
                    inside_ram(blob, ram_size)?;
                }
                self.patches.extend(blobs);
                entry
            }
        };
        // A value never sets the program counter, whatever `cpu-num` says: it picks the address
        // space.
        if let Some(cpu) = loader.cpu_num
            && !matches!(loader.what, LoaderWhat::Data { .. })
        {
            self.program_counters.push((cpu, entry));
        }
        Ok(())
    }

    /// Everything is inside RAM and nothing over anything else.
    fn check(&self, ram_size: u64) -> Result<(), LoadError> {
        let mut sorted: Vec<&Blob> = self.blobs.iter().collect();
        sorted.sort_by_key(|blob| blob.addr);
        for blob in &sorted {
            inside_ram(blob, ram_size)?;
        }
        // Sorted by start, so only a neighbour or one that spans several can overlap: carry the
        // one that reaches furthest.
        let mut furthest: Option<&Blob> = None;
        for blob in sorted {
            if let Some(previous) = furthest.filter(|p| p.end() > u128::from(blob.addr)) {
                return Err(LoadError::Overlap(previous.describe(), blob.describe()));
            }
            furthest = Some(blob);
        }
        Ok(())
    }

    /// Copy everything into RAM.
    pub fn install(&self, ram: &GuestRam) -> Result<(), LoadError> {
        for blob in self.values.iter().chain(&self.blobs).chain(&self.patches) {
            ram.forgo(blob.addr, blob.mem_size)?;
            ram.write(blob.addr, &blob.bytes)?;
            let zeroes = blob.mem_size - blob.bytes.len() as u64;
            ram.fill(blob.addr + blob.bytes.len() as u64, zeroes, 0)?;
        }
        Ok(())
    }

    /// Put fresh random bytes into every `rng-seed` of the tree, as QEMU does at each reset.
    pub fn reseed(&mut self, fill: &mut dyn FnMut(&mut [u8])) {
        fn visit(node: &mut Node, fill: &mut dyn FnMut(&mut [u8])) {
            for (name, value) in &mut node.properties {
                if name == "rng-seed" {
                    fill(value);
                }
            }
            for child in &mut node.children {
                visit(child, fill);
            }
        }
        visit(&mut self.tree.root, fill);
        let blob = self.tree.to_blob();
        if let Some(fdt) = self.blobs.last_mut() {
            fdt.bytes = blob.into();
        }
    }

    /// What was loaded where, for `info roms`.
    pub fn roms(&self) -> Vec<RomNode> {
        let vector = [("mrom.reset", 0, reset_vector::CODE_BYTES), {
            let rest = (self.reset_vector.len() as u64).saturating_sub(reset_vector::CODE_BYTES);
            ("mrom.finfo", reset_vector::CODE_BYTES, rest)
        }];
        let vector = vector.into_iter().filter(|_| !self.reset_vector.is_empty()).map(
            |(name, offset, size)| RomNode { addr: MROM.base + offset, size, name: name.into() },
        );
        let blobs = self.blobs.iter().chain(&self.patches).map(|blob| RomNode {
            addr: blob.addr,
            size: blob.mem_size,
            name: blob.name.clone(),
        });
        vector.chain(blobs).collect()
    }
}

struct Placed {
    entry: u64,
    low: u64,
    end: u64,
}

/// An image's entry and pieces; raw bytes go to `at`. Parts of ELF segments that are not in RAM are
/// left out, as in QEMU: the first segment that GNU ld makes of a program linked to the start of
/// RAM holds the ELF header, in the page below. At least one byte is in RAM.
fn blobs_of(
    name: &str,
    image: Image,
    at: u64,
    ram_size: u64,
) -> Result<(u64, Vec<Blob>), LoadError> {
    Ok(match image {
        Image::Elf(elf) => {
            let mut blobs = Vec::new();
            let mut outside = None;
            for segment in elf.segments {
                let name = format!("{name} ELF program header segment {}", segment.index);
                let blob = Blob {
                    mem_size: segment.mem_size,
                    ..Blob::new(name, segment.addr, segment.bytes)
                };
                match blob.clipped(ram_size) {
                    Some(blob) => blobs.push(blob),
                    None => outside = inside_ram(&blob, ram_size).err(),
                }
            }
            match outside {
                Some(error) if blobs.is_empty() => return Err(error),
                _ => (elf.entry, blobs),
            }
        }
        Image::UBoot { load, entry, bytes } => (entry, vec![Blob::new(name, load, bytes)]),
        Image::Hex(hex) => {
            let blob = |(addr, bytes)| Blob::new(name, addr, bytes);
            (hex.entry, hex.runs.into_iter().map(blob).collect())
        }
        Image::Raw { bytes, mem_size } => {
            (at, vec![Blob { mem_size, ..Blob::new(name, at, bytes) }])
        }
    })
}

/// The end of a blob that lies inside RAM.
fn inside_ram(blob: &Blob, ram_size: u64) -> Result<u64, LoadError> {
    let ram_end = RAM_BASE + ram_size;
    if blob.addr < RAM_BASE || blob.end() > u128::from(ram_end) {
        return Err(LoadError::OutsideRam {
            name: blob.name.clone(),
            start: blob.addr,
            end: blob.end(),
            ram_start: RAM_BASE,
            ram_end,
        });
    }
    Ok(blob.addr + blob.mem_size)
}

#[cfg(test)]
mod tests;
