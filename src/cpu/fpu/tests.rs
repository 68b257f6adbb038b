//! Values against independent references: the host's FPU, Rust's saturating casts, and exact
//! arithmetic in a wider format rounded by search.

use super::*;

const MODES: [RoundingMode; 5] = [
    RoundingMode::TiesToEven,
    RoundingMode::TowardZero,
    RoundingMode::TowardNegative,
    RoundingMode::TowardPositive,
    RoundingMode::TiesToAway,
];
const OF: u8 = 4;
const UF: u8 = 2;
const DZ: u8 = 8;

/// Deterministic 64-bit generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Random bits, with special exponents and short significands often.
    fn value<F: Format>(&mut self) -> F {
        let fraction = (1u64 << F::EXPONENT_POS) - 1;
        let exponent = (1u64 << (F::SIGN_POS - F::EXPONENT_POS)) - 1;
        let bits = self.next();
        let raw = match self.next() % 8 {
            0 => bits & !(exponent << F::EXPONENT_POS),
            1 => bits | exponent << F::EXPONENT_POS,
            2 => bits & !fraction,
            3 => bits & !(fraction >> 4),
            // Near one, so that sums do not just return an operand.
            4 => {
                let near = (exponent >> 1) - 8 + self.next() % 16;
                bits & !(exponent << F::EXPONENT_POS) | near << F::EXPONENT_POS
            }
            _ => bits,
        };
        F::from_raw(raw)
    }
}

/// The exact value of a finite half, single or double.
fn exact<F: Format>(raw: u64) -> f64 {
    match F::SIGN_POS {
        63 => f64::from_bits(raw),
        31 => f32::from_bits(raw as u32).into(),
        _ => {
            let (exponent, fraction) = ((raw >> 10 & 31) as i32, (raw & 0x3ff) as f64);
            let magnitude = if exponent == 0 {
                fraction * 2f64.powi(-24)
            } else {
                (fraction + 1024.0) * 2f64.powi(exponent - 25)
            };
            if raw >> 15 & 1 != 0 { -magnitude } else { magnitude }
        }
    }
}

/// `value`, which is exact and not zero, rounded to a half or single with its flags. The two
/// neighbours are found by search, which is nothing like what SoftFloat does.
fn rounded<F: Format>(value: f64, mode: RoundingMode) -> (u64, u8) {
    let magnitude = value.abs();
    let infinity = ((1u64 << (F::SIGN_POS - F::EXPONENT_POS)) - 1) << F::EXPONENT_POS;
    let (mut low, mut high) = (0, infinity);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if exact::<F>(middle) <= magnitude { low = middle } else { high = middle }
    }
    let negative = value < 0.0;
    let sign = u64::from(negative) << F::SIGN_POS;
    let floor = exact::<F>(low);
    if floor == magnitude {
        return (low | sign, 0);
    }
    // The step below infinity is as long as the one before.
    let step =
        if high == infinity { floor - exact::<F>(low - 1) } else { exact::<F>(high) - floor };
    let half = floor + step / 2.0;
    let up = |value: f64, even: bool| match mode {
        RoundingMode::TiesToEven => value > half || value == half && !even,
        RoundingMode::TiesToAway => value >= half,
        RoundingMode::TowardZero => false,
        RoundingMode::TowardNegative => negative,
        RoundingMode::TowardPositive => !negative,
    };
    let result = if up(magnitude, low & 1 == 0) { high } else { low };
    let beyond = floor + step <= magnitude;
    let mut flags = NX;
    if high == infinity && (result == infinity || beyond) {
        flags |= OF;
    }
    // Tiny after rounding: with an unbounded exponent it would still be below the least normal
    // number, that is at most half way (a quarter step, seen with one more bit) up to it.
    let least_normal = 1u64 << F::EXPONENT_POS;
    if high < least_normal {
        flags |= UF;
    } else if high == least_normal {
        let finer = step / 2.0;
        let quarter = floor + finer + finer / 2.0;
        let reaches = match mode {
            RoundingMode::TiesToEven | RoundingMode::TiesToAway => magnitude >= quarter,
            RoundingMode::TowardZero => false,
            RoundingMode::TowardNegative => negative && magnitude > floor + finer,
            RoundingMode::TowardPositive => !negative && magnitude > floor + finer,
        };
        if !reaches {
            flags |= UF;
        }
    }
    (result | sign, flags)
}

fn finite<F: Format>(value: F) -> bool {
    value.exponent() != F::EXPONENT_BIT
}

fn narrow_formats_round_exactly<F: Format>() {
    let mut random = Random(F::SIGN_POS as u64);
    let mut checked = [0; 4];
    for _ in 0..30_000 {
        let (a, b) = (random.value::<F>(), random.value::<F>());
        let wide = random.value::<F64>();
        for mode in MODES {
            if finite(wide) && !wide.is_zero() {
                let (value, flags) = convert::<F64, F>(wide, mode);
                let expected = rounded::<F>(f64::from_bits(wide.raw()), mode);
                assert_eq!((value.raw(), flags), expected, "{:x} {mode:?}", wide.raw());
                checked[0] += 1;
            }
            let word = wide.raw() as i32;
            if word != 0 {
                let (value, flags) = from_w::<F>(wide.raw(), mode);
                assert_eq!(
                    (value.raw(), flags),
                    rounded::<F>(word.into(), mode),
                    "{word} {mode:?}"
                );
            }
            if !finite(a) || !finite(b) {
                continue;
            }
            let (x, y) = (exact::<F>(a.raw()), exact::<F>(b.raw()));
            let product = x * y;
            if product != 0.0 {
                let (value, flags) = mul(a, b, mode);
                let expected = rounded::<F>(product, mode);
                assert_eq!((value.raw(), flags), expected, "{x:e} * {y:e} {mode:?}");
                checked[1] += 1;
            }
            let sum = x + y;
            if sum != 0.0 && sum - x == y && sum - y == x {
                let (value, flags) = add(a, b, mode);
                assert_eq!((value.raw(), flags), rounded::<F>(sum, mode), "{x:e} + {y:e} {mode:?}");
                let (value, flags) = sub(a, b.negated(), mode);
                assert_eq!((value.raw(), flags), rounded::<F>(sum, mode), "{x:e} - {y:e} {mode:?}");
                checked[2] += 1;
            }
            // `wide` as a short addend of the product.
            let c = convert::<F64, F>(wide, RoundingMode::TowardZero).0;
            let (z, total) = (exact::<F>(c.raw()), product + exact::<F>(c.raw()));
            if finite(c) && total != 0.0 && total - product == z && total - z == product {
                let (value, flags) = madd(a, b, c, mode);
                assert_eq!((value.raw(), flags), rounded::<F>(total, mode), "{x:e} {y:e} {z:e}");
                let (value, flags) = nmsub(a.negated(), b, c, mode);
                assert_eq!((value.raw(), flags), rounded::<F>(total, mode));
                let (value, flags) = msub(a, b, c.negated(), mode);
                assert_eq!((value.raw(), flags), rounded::<F>(total, mode));
                let (value, flags) = nmadd(a, b.negated(), c.negated(), mode);
                assert_eq!((value.raw(), flags), rounded::<F>(total, mode));
                checked[3] += 1;
            }
        }
    }
    assert!(checked.iter().all(|&count| count > 10_000), "{checked:?}");
}

#[test]
fn half_rounds_exactly() {
    narrow_formats_round_exactly::<F16>();
}

#[test]
fn single_rounds_exactly() {
    narrow_formats_round_exactly::<F32>();
}

#[test]
fn double_and_single_agree_with_the_host() {
    let canonical = |value: f64| if value.is_nan() { F64::CANONICAL_NAN } else { value.to_bits() };
    let canonical32 =
        |value: f32| if value.is_nan() { F32::CANONICAL_NAN } else { value.to_bits().into() };
    let even = RoundingMode::TiesToEven;
    let mut random = Random(3);
    for _ in 0..100_000 {
        let [a, b, c] = std::array::from_fn(|_| random.value::<F64>());
        let [x, y, z] = [a, b, c].map(|value| f64::from_bits(value.raw()));
        assert_eq!(add(a, b, even).0.raw(), canonical(x + y), "{x:e} {y:e}");
        assert_eq!(sub(a, b, even).0.raw(), canonical(x - y), "{x:e} {y:e}");
        assert_eq!(mul(a, b, even).0.raw(), canonical(x * y), "{x:e} {y:e}");
        assert_eq!(div(a, b, even).0.raw(), canonical(x / y), "{x:e} {y:e}");
        assert_eq!(sqrt(a, even).0.raw(), canonical(x.sqrt()), "{x:e}");
        assert_eq!(madd(a, b, c, even).0.raw(), canonical(x.mul_add(y, z)), "{x:e} {y:e} {z:e}");
        assert_eq!(eq(a, b).0, x == y);
        assert_eq!(lt(a, b).0, x < y);
        assert_eq!(le(a, b).0, x <= y);
        assert_eq!(ltq(a, b).0, x < y);
        assert_eq!(leq(a, b).0, x <= y);

        let [a, b] = std::array::from_fn(|_| random.value::<F32>());
        let [x, y] = [a, b].map(|value| f32::from_bits(value.raw() as u32));
        assert_eq!(div(a, b, even).0.raw(), canonical32(x / y), "{x:e} {y:e}");
        assert_eq!(sqrt(a, even).0.raw(), canonical32(x.sqrt()), "{x:e}");
        assert_eq!(convert::<F32, F64>(a, even).0.raw(), canonical(x.into()), "{x:e}");
    }
}

/// Rust's `as` truncates and saturates as RISC-V does, NaN apart.
#[test]
fn conversions_to_integers() {
    let zero = RoundingMode::TowardZero;
    let mut random = Random(4);
    for _ in 0..100_000 {
        let shrink = (random.next() % 70) as i32 - 3;
        let a = F64::from_f64((random.next() as i64 as f64) * 2f64.powi(-shrink));
        let x = f64::from_bits(a.raw());
        let flags = |in_range: bool| match in_range {
            false => NV,
            true if x.fract() != 0.0 => NX,
            true => 0,
        };
        let whole = x.trunc();
        let check = |(value, raised): (u64, u8), expected: u64, low: f64, high: f64| {
            assert_eq!((value, raised), (expected, flags((low..high).contains(&whole))), "{x:e}");
        };
        check(to_w(a, zero), x as i32 as u64, -2f64.powi(31), 2f64.powi(31));
        check(to_wu(a, zero), x as u32 as i32 as u64, -0.0, 2f64.powi(32));
        check(to_l(a, zero), x as i64 as u64, -2f64.powi(63), 2f64.powi(63));
        check(to_lu(a, zero), x as u64, -0.0, 2f64.powi(64));

        let (modular, raised) = to_w_modular(a);
        assert_eq!(modular, x as i128 as i32 as u64, "{x:e}");
        assert_eq!(raised, to_w(a, zero).1);

        for (mode, rounded) in
            MODES.into_iter().zip([x.round_ties_even(), x.trunc(), x.floor(), x.ceil(), x.round()])
        {
            let inexact = if rounded == x { 0 } else { NX };
            let (value, raised) = round(a, mode);
            assert_eq!((value.raw(), raised), (rounded.to_bits(), 0), "{x:e} {mode:?}");
            let (value, raised) = roundnx(a, mode);
            assert_eq!((value.raw(), raised), (rounded.to_bits(), inexact), "{x:e} {mode:?}");
            if rounded.abs() < 1e18 {
                assert_eq!(to_l(a, mode), (rounded as i64 as u64, inexact), "{x:e} {mode:?}");
            }
        }
    }
}

#[test]
fn conversions_of_nan_and_infinity_to_integers() {
    let zero = RoundingMode::TowardZero;
    let max = u64::MAX;
    let (i32max, i32min) = (0x7fff_ffff, 0xffff_ffff_8000_0000);
    let (i64max, i64min) = (i64::MAX as u64, i64::MIN as u64);
    for (raw, w, l, wu, lu) in [
        (0x7fc0_0000, i32max, i64max, max, max),
        (0xffc0_0000, i32max, i64max, max, max),
        (0x7f80_0001, i32max, i64max, max, max),
        (0x7f80_0000, i32max, i64max, max, max),
        (0xff80_0000, i32min, i64min, 0, 0),
    ] {
        let a = F32::from_raw(raw);
        assert_eq!(to_w(a, zero), (w, NV), "{raw:x}");
        assert_eq!(to_l(a, zero), (l, NV), "{raw:x}");
        assert_eq!(to_wu(a, zero), (wu, NV), "{raw:x}");
        assert_eq!(to_lu(a, zero), (lu, NV), "{raw:x}");
        assert_eq!(to_w_modular(convert::<F32, F64>(a, zero).0), (0, NV), "{raw:x}");
    }
    // -0.6 rounds to -1, which no unsigned number is, unless it rounds to 0.
    let a = F32::from_f32(-0.6);
    assert_eq!(to_wu(a, RoundingMode::TiesToEven), (0, NV));
    assert_eq!(to_lu(a, RoundingMode::TowardPositive), (0, NX));
    // 2^32 - 1 as a word is all ones, and so is its register.
    assert_eq!(to_wu(F64::from_f64(4294967295.0), zero), (max, 0));
}

/// One third, the square root of two and the ends of the range in every mode.
#[test]
fn directed_rounding_of_doubles() {
    let one = F64::from_f64(1.0);
    let three = F64::from_f64(3.0);
    let two = F64::from_f64(2.0);
    let big = F64::from_f64(f64::MAX);
    let tiny = F64::from_raw(1);
    let infinity = 0x7ff0_0000_0000_0000;
    let most = 0x7fef_ffff_ffff_ffff;
    let table = [
        (0x3fd5_5555_5555_5555, 0x3ff6_a09e_667f_3bcd, infinity, 0),
        (0x3fd5_5555_5555_5555, 0x3ff6_a09e_667f_3bcc, most, 0),
        (0x3fd5_5555_5555_5555, 0x3ff6_a09e_667f_3bcc, most, 0),
        (0x3fd5_5555_5555_5556, 0x3ff6_a09e_667f_3bcd, infinity, 1),
        (0x3fd5_5555_5555_5555, 0x3ff6_a09e_667f_3bcd, infinity, 1),
    ];
    for (mode, (third, root, over, under)) in MODES.into_iter().zip(table) {
        let raw = |(value, flags): (F64, u8)| (value.raw(), flags);
        assert_eq!(raw(div(one, three, mode)), (third, NX), "{mode:?}");
        assert_eq!(raw(sqrt(two, mode)), (root, NX), "{mode:?}");
        assert_eq!(raw(mul(big, two, mode)), (over, OF | NX), "{mode:?}");
        // Half of the least number is a tie between 0 and it.
        assert_eq!(raw(div(tiny, two, mode)), (under, UF | NX), "{mode:?}");
        // x - x is +0, but -0 when rounding down.
        let zero = if matches!(mode, RoundingMode::TowardNegative) { 1 << 63 } else { 0 };
        assert_eq!(raw(sub(one, one, mode)), (zero, 0), "{mode:?}");
    }
}

#[test]
fn invalid_operations_give_the_canonical_nan() {
    let even = RoundingMode::TiesToEven;
    let value = F32::from_f32;
    let (one, zero, infinity) = (value(1.0), value(0.0), value(f32::INFINITY));
    let (quiet, signaling) = (F32::from_raw(0xffc1_2345), F32::from_raw(0x7f81_2345));
    let nan = F32::CANONICAL_NAN;
    for ((result, flags), expected) in [
        (add(quiet, one, even), (nan, 0)),
        (add(one, signaling, even), (nan, NV)),
        (add(quiet, signaling, even), (nan, NV)),
        (sub(infinity, infinity, even), (nan, NV)),
        (mul(zero, infinity, even), (nan, NV)),
        (div(zero, zero, even), (nan, NV)),
        (div(infinity, infinity, even), (nan, NV)),
        (div(one, zero, even), (0x7f80_0000, DZ)),
        (div(one, zero.negated(), even), (0xff80_0000, DZ)),
        (div(infinity, zero, even), (0x7f80_0000, 0)),
        (sqrt(value(-1.0), even), (nan, NV)),
        (sqrt(value(-0.0), even), (0x8000_0000, 0)),
        (sqrt(quiet, even), (nan, 0)),
        // Infinity times zero is invalid even when the addend is a quiet NaN (spec 20.6).
        (madd(infinity, zero, quiet, even), (nan, NV)),
        (madd(infinity, zero, one, even), (nan, NV)),
        (madd(one, quiet, one, even), (nan, 0)),
        (madd(infinity, one, infinity.negated(), even), (nan, NV)),
        (nmadd(one, zero, zero, even), (0x8000_0000, 0)),
        (round(signaling, even), (nan, NV)),
        (roundnx(quiet, even), (nan, 0)),
        (roundnx(infinity, even), (0x7f80_0000, 0)),
        (round(value(-0.3), even), (0x8000_0000, 0)),
        (roundnx(value(-0.3), even), (0x8000_0000, NX)),
        (convert::<F64, F32>(F64::from_raw(0xfff0_0000_0000_0001), even), (nan, NV)),
        (convert::<F16, F32>(F16::from_raw(0xfe01), even), (nan, 0)),
        (convert::<F16, F32>(F16::from_raw(0x7d00), even), (nan, NV)),
        (convert::<F16, F32>(F16::from_raw(0x0001), even), (0x3380_0000, 0)),
    ] {
        assert_eq!((result.raw(), flags), expected);
    }
}

#[test]
fn minimum_maximum_and_comparison() {
    let value = |x: f32| x.to_bits();
    let (quiet, signaling, nan) = (0xffc1_2345, 0x7f81_2345, 0x7fc0_0000);
    // a, b, fmin, fmax, fminm, fmaxm, flags of all four
    for (a, b, min_, max_, minm_, maxm_, flags) in [
        (value(1.0), value(2.0), value(1.0), value(2.0), value(1.0), value(2.0), 0),
        (value(-1.0), value(-2.0), value(-2.0), value(-1.0), value(-2.0), value(-1.0), 0),
        (value(-0.0), value(0.0), value(-0.0), value(0.0), value(-0.0), value(0.0), 0),
        (value(0.0), value(-0.0), value(-0.0), value(0.0), value(-0.0), value(0.0), 0),
        (quiet, value(1.0), value(1.0), value(1.0), nan, nan, 0),
        (value(1.0), quiet, value(1.0), value(1.0), nan, nan, 0),
        (signaling, value(1.0), value(1.0), value(1.0), nan, nan, NV),
        (quiet, signaling, nan, nan, nan, nan, NV),
        (quiet, quiet, nan, nan, nan, nan, 0),
    ] {
        let (a, b) = (F32::from_bits(a), F32::from_bits(b));
        for ((result, raised), expected) in
            [(min(a, b), min_), (max(a, b), max_), (minm(a, b), minm_), (maxm(a, b), maxm_)]
        {
            assert_eq!((result.to_bits(), raised), (expected, flags), "{a:?} {b:?}");
        }
    }
    let (one, quiet, signaling) =
        (F32::from_f32(1.0), F32::from_raw(quiet.into()), F32::from_raw(signaling.into()));
    for (b, quiet_flags, signaling_flags) in [(one, 0, 0), (quiet, 0, NV), (signaling, NV, NV)] {
        assert_eq!(eq(one, b).1, quiet_flags);
        assert_eq!(ltq(one, b).1, quiet_flags);
        assert_eq!(leq(one, b).1, quiet_flags);
        assert_eq!(lt(one, b).1, signaling_flags);
        assert_eq!(le(one, b).1, signaling_flags);
    }
    assert_eq!(eq(F32::from_f32(0.0), F32::from_f32(-0.0)), (true, 0));
}

#[test]
fn classes_signs_boxes_and_constants() {
    let halves = [0xfc00, 0xc000, 0x8001, 0x8000, 0x0000, 0x03ff, 0x0400, 0x7c00, 0x7c01, 0xfe00];
    for (bit, raw) in halves.into_iter().enumerate() {
        assert_eq!(classify(F16::from_raw(raw)), 1 << bit, "{raw:04x}");
    }
    assert_eq!(classify(F64::from_raw(0x7ff4_0000_0000_0000)), 1 << 8);
    assert_eq!(classify(F32::from_raw(0x8040_0000)), 1 << 2);

    let (plus, minus) = (F16::from_raw(0x3c00), F16::from_raw(0xc000));
    assert_eq!(sgnj(plus, minus).raw(), 0xbc00);
    assert_eq!(sgnjn(plus, minus).raw(), 0x3c00);
    assert_eq!(sgnjx(minus, minus).raw(), 0x4000);
    assert_eq!(sgnjx(plus, minus).raw(), 0xbc00);

    assert_eq!(F32::unbox(0xffff_ffff_3f80_0000).raw(), 0x3f80_0000);
    assert_eq!(F32::unbox(0xffff_fffe_3f80_0000).raw(), F32::CANONICAL_NAN);
    assert_eq!(F16::unbox(0xffff_ffff_ffff_3c00).raw(), 0x3c00);
    assert_eq!(F16::unbox(0x0000_0000_0000_3c00).raw(), F16::CANONICAL_NAN);
    assert_eq!(F16::from_raw(0x3c00).to_box(), 0xffff_ffff_ffff_3c00);

    // Zfa table 18.1, half precision.
    let constants = [
        0xbc00, 0x0400, 0x0100, 0x0200, 0x1c00, 0x2000, 0x2c00, 0x3000, 0x3400, 0x3500, 0x3600,
        0x3700, 0x3800, 0x3900, 0x3a00, 0x3b00, 0x3c00, 0x3d00, 0x3e00, 0x3f00, 0x4000, 0x4100,
        0x4200, 0x4400, 0x4800, 0x4c00, 0x5800, 0x5c00, 0x7800, 0x7c00, 0x7c00, 0x7e00,
    ];
    for (index, raw) in constants.into_iter().enumerate() {
        assert_eq!(fli::<F16>(index as u8).raw(), raw, "{index}");
    }
    assert_eq!(fli::<F32>(1).raw(), 0x0080_0000);
    assert_eq!(fli::<F64>(29).raw(), 65536f64.to_bits());
    assert_eq!(fli::<F64>(31).raw(), 0x7ff8_0000_0000_0000);
}

#[test]
fn reserved_rounding_modes() {
    for frm in 0..8 {
        for rm in 0..8 {
            let effective = if rm == 7 { frm } else { rm };
            assert_eq!(rounding(rm, frm).is_some(), effective < 5, "rm {rm} frm {frm}");
        }
    }
}
