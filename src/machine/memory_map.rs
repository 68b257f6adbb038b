//! Where things are on `virt` (QEMU 10.0's `hw/riscv/virt.c` map) and which PLIC source each has.

/// A range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub base: u64,
    pub size: u64,
}

impl Region {
    const fn new(base: u64, size: u64) -> Self {
        Self { base, size }
    }

    /// (base, size), as `reg` has it.
    pub const fn pair(self) -> (u64, u64) {
        (self.base, self.size)
    }

    /// First address after the range.
    pub const fn end(self) -> u64 {
        self.base + self.size
    }
}

/// The reset vector.
pub const MROM: Region = Region::new(0x1000, 0xf000);
/// SiFive test finisher.
pub const FINISHER: Region = Region::new(0x10_0000, 0x1000);
/// Goldfish RTC.
pub const RTC: Region = Region::new(0x10_1000, 0x1000);
/// ACLINT: MSWI at +0, MTIMER at +0x4000.
pub const CLINT: Region = Region::new(0x200_0000, 0x1_0000);
/// `mtime`, from the start of the ACLINT.
pub const CLINT_MTIME: u64 = 0xbff8;
/// Bytes of MSWI and of SSWI.
pub const ACLINT_SWI_SIZE: u64 = 0x4000;
/// SSWI, which is there with `-M aclint=on`.
pub const ACLINT_SSWI: Region = Region::new(0x2f0_0000, ACLINT_SWI_SIZE);
/// PLIC.
pub const PLIC: Region = Region::new(0xc00_0000, 0x60_0000);
/// 16550 UART.
pub const UART: Region = Region::new(0x1000_0000, 0x100);
/// fw_cfg.
pub const FW_CFG: Region = Region::new(0x1010_0000, 0x18);
/// Two banks of flash.
pub const FLASH: Region = Region::new(0x2000_0000, 0x400_0000);

/// Number of virtio-mmio transports.
pub const VIRTIO_COUNT: u32 = 8;
/// Interrupt sources of the PLIC, not counting source 0, which does not exist.
pub const PLIC_SOURCES: u32 = 95;
/// PLIC source of the UART.
pub const UART_IRQ: u32 = 10;
/// PLIC source of the RTC.
pub const RTC_IRQ: u32 = 11;
/// Input clock of the UART in Hz.
pub const UART_CLOCK_HZ: u32 = 3_686_400;

/// Transport `slot` (0 to 7).
pub const fn virtio(slot: u32) -> Region {
    Region::new(0x1000_1000 + slot as u64 * 0x1000, 0x1000)
}

/// PLIC source of transport `slot`.
pub const fn virtio_irq(slot: u32) -> u32 {
    1 + slot
}
