//! The registers of a hart as `info registers` lists them and as expressions name them.

use std::fmt::Write;

use crate::cpu::dump::Registers;
use crate::machine::message::HartSnapshot;

fn of(snapshot: &HartSnapshot, cpu: u32) -> Registers<'_> {
    Registers {
        hartid: cpu.into(),
        state: &snapshot.state,
        mip: snapshot.mip,
        fflags: snapshot.state.fflags,
        float: snapshot.isa.f,
    }
}

/// Append the registers of one hart.
pub(super) fn render(out: &mut String, cpu: u32, snapshot: &HartSnapshot) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\nCPU#{cpu}");
    of(snapshot, cpu).write(out, true);
}

/// The register that `$name` means.
pub(super) fn value(snapshot: &HartSnapshot, cpu: u32, name: &str) -> Option<u64> {
    of(snapshot, cpu).named(name)
}
