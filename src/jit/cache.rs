//! The code cache: one memory file mapped twice, writable here and executable there, so that no
//! page is ever both.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut, MmapOptions};

/// A fixed-size area of machine code.
pub struct CodeCache {
    writable: MmapMut,
    executable: Mmap,
    used: usize,
}

impl std::fmt::Debug for CodeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CodeCache({} of {} bytes)", self.used, self.writable.len())
    }
}

impl CodeCache {
    /// Set up `size` bytes; memory is taken as code fills it.
    pub fn new(size: usize) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("understudy-code", rustix::fs::MemfdFlags::CLOEXEC)?;
        let file = File::from(fd);
        file.set_len(size as u64)?;
        // SAFETY: the memory file is private to this process and never truncated. The executable
        // view changes only through the writable one, which only the hart's own thread uses, and
        // never for bytes that are being executed other than the atomic displacement of a jump
        // or the first bytes of a block that is not running past them.
        let (writable, executable) = unsafe {
            (
                MmapOptions::new().len(size).map_mut(&file)?,
                MmapOptions::new().len(size).map_exec(&file)?,
            )
        };
        Ok(Self { writable, executable, used: 0 })
    }

    /// Where the next code will run.
    pub fn next_address(&self) -> usize {
        self.executable.as_ptr() as usize + self.used
    }

    /// Bytes left.
    pub fn free(&self) -> usize {
        self.writable.len() - self.used
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Append code assembled for `next_address`; false when it does not fit.
    pub fn push(&mut self, code: &[u8]) -> bool {
        if code.len() > self.free() {
            return false;
        }
        self.writable[self.used..self.used + code.len()].copy_from_slice(code);
        // Blocks start on 16 bytes.
        self.used = (self.used + code.len()).next_multiple_of(16).min(self.writable.len());
        true
    }

    /// Make the relative jump or call whose 32-bit displacement is at executable address `at` go
    /// to `target`.
    pub fn patch_displacement(&mut self, at: usize, target: usize) {
        let displacement = (target as i64 - (at as i64 + 4)) as i32;
        self.write(at, &displacement.to_le_bytes());
    }

    /// Overwrite the code at executable address `at` by `call target` or `jmp target`.
    pub fn patch_transfer(&mut self, at: usize, target: usize, call: bool) {
        self.write(at, &[if call { 0xe8 } else { 0xe9 }]);
        self.patch_displacement(at + 1, target);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let offset = at - self.executable.as_ptr() as usize;
        self.writable[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Forget all code after the first `keep` bytes.
    pub fn truncate(&mut self, keep: usize) {
        self.used = keep;
    }
}
