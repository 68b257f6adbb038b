//! Floating-point values: every operation of F, D, Zfh and Zfa as a pure function from values and
//! rounding mode to value and exception flags (NV 16, DZ 8, OF 4, UF 2, NX 1).
//!
//! Arithmetic is Berkeley SoftFloat's in its RISC-V specialisation: canonical NaNs, tininess after
//! rounding, the RISC-V results of invalid conversions.

use softfloat_wrapper::{ExceptionFlags, Float};
pub use softfloat_wrapper::{F16, F32, F64, RoundingMode};

/// Invalid operation.
pub const NV: u8 = 16;
/// Inexact.
pub const NX: u8 = 1;

/// An IEEE 754 format that FP registers hold.
pub trait Format: Float + Copy {
    /// The NaN that operations produce (Unprivileged spec 20.3).
    const CANONICAL_NAN: u64;
    /// The register bits above the value, all ones when it is properly boxed.
    const BOX: u64;

    /// The value in the low bits.
    fn from_raw(raw: u64) -> Self;
    /// The bits, zero-extended.
    fn raw(self) -> u64;
    /// `value`, rounded to this format.
    fn round_from<S: Format>(value: S, rounding: RoundingMode) -> Self;

    /// The value in an FP register; one that is not NaN-boxed counts as the canonical NaN.
    fn unbox(register: u64) -> Self {
        let boxed = register & Self::BOX == Self::BOX;
        Self::from_raw(if boxed { register } else { Self::CANONICAL_NAN })
    }

    /// What an FP register holds for the value.
    fn to_box(self) -> u64 {
        self.raw() | Self::BOX
    }

    fn canonical_nan() -> Self {
        Self::from_raw(Self::CANONICAL_NAN)
    }

    fn negated(self) -> Self {
        Self::from_raw(self.raw() ^ 1 << Self::SIGN_POS)
    }
}

macro_rules! format {
    ($format:ident, $payload:ty, $nan:literal, $box:literal, $round:ident) => {
        impl Format for $format {
            const CANONICAL_NAN: u64 = $nan;
            const BOX: u64 = $box;

            fn from_raw(raw: u64) -> Self {
                Self::from_bits(raw as $payload)
            }
            fn raw(self) -> u64 {
                self.to_bits().into()
            }
            fn round_from<S: Format>(value: S, rounding: RoundingMode) -> Self {
                value.$round(rounding)
            }
        }
    };
}

format!(F16, u16, 0x7e00, 0xffff_ffff_ffff_0000, to_f16);
format!(F32, u32, 0x7fc0_0000, 0xffff_ffff_0000_0000, to_f32);
format!(F64, u64, 0x7ff8_0000_0000_0000, 0, to_f64);

/// The mode that the `rm` field of an instruction asks for, `frm` being the dynamic one; `None`
/// when that is reserved.
pub fn rounding(rm: u8, frm: u8) -> Option<RoundingMode> {
    match if rm == 7 { frm } else { rm } {
        0 => Some(RoundingMode::TiesToEven),
        1 => Some(RoundingMode::TowardZero),
        2 => Some(RoundingMode::TowardNegative),
        3 => Some(RoundingMode::TowardPositive),
        4 => Some(RoundingMode::TiesToAway),
        _ => None,
    }
}

/// Run a SoftFloat operation and collect its flags, which have the bits of `fflags`.
fn flagged<T>(operation: impl FnOnce() -> T) -> (T, u8) {
    let mut flags = ExceptionFlags::from_bits(0);
    flags.set();
    let value = operation();
    flags.get();
    (value, flags.to_bits())
}

fn invalid_if(condition: bool) -> u8 {
    if condition { NV } else { 0 }
}

pub fn add<F: Format>(a: F, b: F, rounding: RoundingMode) -> (F, u8) {
    flagged(|| a.add(b, rounding))
}

pub fn sub<F: Format>(a: F, b: F, rounding: RoundingMode) -> (F, u8) {
    flagged(|| a.sub(b, rounding))
}

pub fn mul<F: Format>(a: F, b: F, rounding: RoundingMode) -> (F, u8) {
    flagged(|| a.mul(b, rounding))
}

pub fn div<F: Format>(a: F, b: F, rounding: RoundingMode) -> (F, u8) {
    flagged(|| a.div(b, rounding))
}

pub fn sqrt<F: Format>(a: F, rounding: RoundingMode) -> (F, u8) {
    flagged(|| a.sqrt(rounding))
}

/// `a * b + c`, rounded once.
pub fn madd<F: Format>(a: F, b: F, c: F, rounding: RoundingMode) -> (F, u8) {
    flagged(|| a.fused_mul_add(b, c, rounding))
}

/// `a * b - c`.
pub fn msub<F: Format>(a: F, b: F, c: F, rounding: RoundingMode) -> (F, u8) {
    madd(a, b, c.negated(), rounding)
}

/// `-(a * b) + c`.
pub fn nmsub<F: Format>(a: F, b: F, c: F, rounding: RoundingMode) -> (F, u8) {
    madd(a.negated(), b, c, rounding)
}

/// `-(a * b) - c`.
pub fn nmadd<F: Format>(a: F, b: F, c: F, rounding: RoundingMode) -> (F, u8) {
    madd(a.negated(), b, c.negated(), rounding)
}

pub fn sgnj<F: Format>(a: F, b: F) -> F {
    let sign = 1 << F::SIGN_POS;
    F::from_raw(a.raw() & !sign | b.raw() & sign)
}

pub fn sgnjn<F: Format>(a: F, b: F) -> F {
    sgnj(a, b.negated())
}

pub fn sgnjx<F: Format>(a: F, b: F) -> F {
    F::from_raw(a.raw() ^ b.raw() & 1 << F::SIGN_POS)
}

/// Less, with -0 below +0; for numbers.
fn below<F: Format>(a: F, b: F) -> bool {
    if a.is_zero() && b.is_zero() { a.is_negative() && b.is_positive() } else { a.lt_quiet(b) }
}

/// Either the lesser or the greater; a NaN gives way to a number unless `strict` (Zfa's `fminm`).
fn select<F: Format>(a: F, b: F, greater: bool, strict: bool) -> (F, u8) {
    let flags = invalid_if(a.is_signaling_nan() || b.is_signaling_nan());
    let value = match (a.is_nan(), b.is_nan()) {
        (false, false) if below(a, b) != greater => a,
        (false, false) => b,
        (false, true) if !strict => a,
        (true, false) if !strict => b,
        _ => F::canonical_nan(),
    };
    (value, flags)
}

pub fn min<F: Format>(a: F, b: F) -> (F, u8) {
    select(a, b, false, false)
}

pub fn max<F: Format>(a: F, b: F) -> (F, u8) {
    select(a, b, true, false)
}

pub fn minm<F: Format>(a: F, b: F) -> (F, u8) {
    select(a, b, false, true)
}

pub fn maxm<F: Format>(a: F, b: F) -> (F, u8) {
    select(a, b, true, true)
}

/// Quiet: only a signalling NaN is invalid.
pub fn eq<F: Format>(a: F, b: F) -> (bool, u8) {
    flagged(|| Float::eq(&a, b))
}

/// Signalling: any NaN is invalid.
pub fn lt<F: Format>(a: F, b: F) -> (bool, u8) {
    flagged(|| Float::lt(&a, b))
}

/// Signalling: any NaN is invalid.
pub fn le<F: Format>(a: F, b: F) -> (bool, u8) {
    flagged(|| Float::le(&a, b))
}

/// `fltq`: quiet.
pub fn ltq<F: Format>(a: F, b: F) -> (bool, u8) {
    flagged(|| a.lt_quiet(b))
}

/// `fleq`: quiet.
pub fn leq<F: Format>(a: F, b: F) -> (bool, u8) {
    flagged(|| a.le_quiet(b))
}

/// The `fclass` mask (Unprivileged spec table 20.4).
pub fn classify<F: Format>(a: F) -> u64 {
    let number =
        |negative: u32, positive: u32| 1 << if a.is_negative() { negative } else { positive };
    if a.is_nan() {
        1 << if a.is_signaling_nan() { 8 } else { 9 }
    } else if a.exponent() == F::EXPONENT_BIT {
        number(0, 7)
    } else if a.is_zero() {
        number(3, 4)
    } else if a.is_subnormal() {
        number(2, 5)
    } else {
        number(1, 6)
    }
}

/// Conversion between formats.
pub fn convert<S: Format, D: Format>(a: S, rounding: RoundingMode) -> (D, u8) {
    flagged(|| D::round_from(a, rounding))
}

/// `fcvt.w`: the register value, that is sign-extended.
pub fn to_w<F: Format>(a: F, rounding: RoundingMode) -> (u64, u8) {
    flagged(|| a.to_i32(rounding, true) as u64)
}

/// `fcvt.wu`: the register value, sign-extended as well.
pub fn to_wu<F: Format>(a: F, rounding: RoundingMode) -> (u64, u8) {
    flagged(|| a.to_u32(rounding, true) as i32 as u64)
}

pub fn to_l<F: Format>(a: F, rounding: RoundingMode) -> (u64, u8) {
    flagged(|| a.to_i64(rounding, true) as u64)
}

pub fn to_lu<F: Format>(a: F, rounding: RoundingMode) -> (u64, u8) {
    flagged(|| a.to_u64(rounding, true))
}

/// `fcvt` from the low 32 bits as a signed number.
pub fn from_w<F: Format>(x: u64, rounding: RoundingMode) -> (F, u8) {
    flagged(|| F::from_i32(x as i32, rounding))
}

pub fn from_wu<F: Format>(x: u64, rounding: RoundingMode) -> (F, u8) {
    flagged(|| F::from_u32(x as u32, rounding))
}

pub fn from_l<F: Format>(x: u64, rounding: RoundingMode) -> (F, u8) {
    flagged(|| F::from_i64(x as i64, rounding))
}

pub fn from_lu<F: Format>(x: u64, rounding: RoundingMode) -> (F, u8) {
    flagged(|| F::from_u64(x, rounding))
}

/// `fround`: to an integral value, never inexact.
pub fn round<F: Format>(a: F, rounding: RoundingMode) -> (F, u8) {
    flagged(|| a.round_to_integral(rounding))
}

/// `froundnx`: to an integral value, inexact if that changes it.
pub fn roundnx<F: Format>(a: F, rounding: RoundingMode) -> (F, u8) {
    let (value, flags) = round(a, rounding);
    let changed = !a.is_nan() && value.raw() != a.raw();
    (value, if changed { flags | NX } else { flags })
}

/// `fcvtmod.w.d`: the integral part modulo 2^32, sign-extended; flags as `fcvt.w.d` has them.
pub fn to_w_modular(a: F64) -> (u64, u8) {
    let (_, flags) = to_w(a, RoundingMode::TowardZero);
    let raw = a.raw();
    let exponent = (raw >> 52 & 0x7ff) as i32 - 1075;
    let significand = raw & ((1 << 52) - 1) | 1 << 52;
    let magnitude = match exponent {
        // Infinities and NaNs are further up still.
        32.. => 0,
        0.. => (significand as u32).wrapping_shl(exponent as u32),
        -52.. => (significand >> -exponent) as u32,
        _ => 0,
    };
    let value = if a.is_negative() { magnitude.wrapping_neg() } else { magnitude };
    (value as i32 as u64, flags)
}

/// The constants of `fli` 2 to 29 as doubles; halves round 2^16 to infinity.
const FLI: [f64; 28] = [
    1.0 / 65536.0,
    1.0 / 32768.0,
    1.0 / 256.0,
    1.0 / 128.0,
    0.0625,
    0.125,
    0.25,
    0.3125,
    0.375,
    0.4375,
    0.5,
    0.625,
    0.75,
    0.875,
    1.0,
    1.25,
    1.5,
    1.75,
    2.0,
    2.5,
    3.0,
    4.0,
    8.0,
    16.0,
    128.0,
    256.0,
    32768.0,
    65536.0,
];

/// The constant that `fli` loads for its 5-bit `rs1` field.
pub fn fli<F: Format>(index: u8) -> F {
    let from = |value: f64| F::round_from(F64::from_f64(value), RoundingMode::TiesToEven);
    match index {
        0 => from(-1.0),
        // The smallest normal number: exponent field 1.
        1 => F::from_raw(1 << F::EXPONENT_POS),
        2..=29 => from(FLI[usize::from(index) - 2]),
        30 => from(f64::INFINITY),
        _ => F::canonical_nan(),
    }
}

#[cfg(test)]
mod tests;
