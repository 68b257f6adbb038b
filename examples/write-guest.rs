//! Writes the built-in guest to a file, to run it on another machine:
//! `cargo run --example write-guest -- guest.bin`, then
//! `qemu-system-riscv64 -M virt -nographic -kernel guest.bin`.

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let file = std::env::args_os().nth(1).context("usage: write-guest FILE")?;
    std::fs::write(&file, understudy::machine::greeter::image())
        .with_context(|| format!("cannot write {}", file.display()))
}
