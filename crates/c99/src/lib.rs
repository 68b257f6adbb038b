//! The C99 `int_fastN_t` names that `softfloat-sys` uses, for the LP64 Linux ABIs (glibc and musl
//! differ for 16 and 32 bits).
#![allow(non_camel_case_types)]

pub type int_fast8_t = i8;
pub type uint_fast8_t = u8;
pub type int_fast64_t = i64;
pub type uint_fast64_t = u64;

#[cfg(not(target_env = "musl"))]
mod wide {
    pub type int_fast16_t = i64;
    pub type uint_fast16_t = u64;
    pub type int_fast32_t = i64;
    pub type uint_fast32_t = u64;
}
#[cfg(target_env = "musl")]
mod wide {
    pub type int_fast16_t = i32;
    pub type uint_fast16_t = u32;
    pub type int_fast32_t = i32;
    pub type uint_fast32_t = u32;
}
pub use wide::*;
