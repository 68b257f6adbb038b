//! The hart: architectural state, decoder, reference interpreter, CSRs, traps and address
//! translation, and the vCPU actor that runs them.

pub mod hart;
pub mod irq;
pub mod isa;
pub mod state;
