//! Translated blocks as text: `-d in_asm`, `op` and `out_asm`.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};

use super::engine::Translated;

/// Which views of a block are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub guest: bool,
    pub ir: bool,
    pub host: bool,
}

impl Wanted {
    /// True when any is.
    pub fn any(self) -> bool {
        self.guest || self.ir || self.host
    }
}

/// A guest instruction, disassembled.
pub fn guest_insn(pc: u64, raw: u32) -> String {
    disc_v::decode(disc_v::Isa::Rv64, pc, raw.into()).to_string()
}

/// The wanted views of a block.
pub fn render(t: &Translated<'_>, wanted: Wanted) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    if wanted.guest {
        out.push_str("----------------\nIN:\n");
        for (offset, insn) in &t.block.guest {
            let pc = t.page_va.wrapping_add(u64::from(*offset));
            let width = 2 * usize::from(insn.len);
            let text = insn.op.mnemonic();
            let full = guest_insn(pc, insn.raw);
            let shown = if full.is_empty() { text } else { full.trim() };
            let _ = writeln!(out, "0x{pc:08x}:  {:0width$x}          {shown}", insn.raw);
        }
        out.push('\n');
    }
    if wanted.ir {
        out.push_str("OP:\n");
        let mut last = None;
        for step in &t.block.steps {
            if last != Some(step.offset) {
                let pc = t.page_va.wrapping_add(u64::from(step.offset));
                let _ = writeln!(out, " ---- {pc:016x}");
                last = Some(step.offset);
            }
            let _ = writeln!(out, " {:?}", step.ir);
        }
        out.push('\n');
    }
    if wanted.host {
        let _ = writeln!(out, "OUT: [size={}]", t.code.len());
        let mut decoder = Decoder::with_ip(64, t.code, t.address as u64, DecoderOptions::NONE);
        let mut formatter = GasFormatter::new();
        while decoder.can_decode() {
            let insn = decoder.decode();
            let _ = write!(out, "0x{:012x}:  ", insn.ip());
            let mut text = String::new();
            formatter.format(&insn, &mut text);
            out.push_str(&text);
            out.push('\n');
        }
        out.push('\n');
    }
    out
}
