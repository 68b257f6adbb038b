//! The hart: architectural state, decoder, reference interpreter, CSRs, traps and address
//! translation, and the vCPU actor that runs them.

pub mod access;
pub mod cpu_model;
pub mod decode;
pub mod hart;
pub mod inbox;
pub mod insn;
pub mod irq;
pub mod isa;
pub mod mmu;
pub mod state;
pub mod tlb;
