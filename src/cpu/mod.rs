//! The hart: architectural state, decoder, reference interpreter, CSRs, traps and address
//! translation, and the vCPU actor that runs them.

pub mod access;
pub mod cpu_model;
pub mod crypto;
pub mod csr;
pub mod decode;
pub mod dump;
pub mod fpu;
pub mod hart;
pub mod inbox;
pub mod insn;
pub mod interpret;
pub mod irq;
pub mod isa;
pub mod jump_cache;
pub mod mmu;
pub mod pmp;
pub mod pte;
pub mod state;
pub mod system;
pub mod tlb;
pub mod trap;
pub mod vcpu;
pub mod vmstate;
pub mod writes;
