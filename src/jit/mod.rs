//! The translator: guest code → IR (`translate`) → `optimise` → `allocate` → x86-64 (`x64`,
//! through dynasm) → `cache`; `engine` runs it.
//!
//! Every hart has its own engine and code cache, so nothing here is shared between threads. Blocks
//! are keyed by physical address and never contain a virtual one: the page that runs is in
//! `JitLinks::page_va`, so translations survive fork, exec and remapping. Inside a page blocks are
//! chained by patched jumps; between pages and for indirect jumps the jump cache of the address
//! space is looked up inline.

pub mod allocate;
pub mod cache;
pub mod disassemble;
pub mod engine;
pub mod helpers;
pub mod ir;
pub mod optimise;
pub mod translate;
mod translate_float;
pub mod x64;
