//! Values of the scalar cryptography instructions (Cryptography Extensions Volume I, 1.0). The
//! substitution boxes are computed at compile time from their algebraic definitions.

/// Product in GF(2^8) modulo `poly`.
const fn gf_mul(mut a: u16, mut b: u16, poly: u16) -> u16 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= poly;
        }
        b >>= 1;
    }
    product
}

/// Inverse in GF(2^8) modulo `poly`, which is `a^254`; 0 for 0.
const fn gf_inv(a: u8, poly: u16) -> u16 {
    let mut power = 1;
    let mut i = 0;
    while i < 254 {
        power = gf_mul(power, a as u16, poly);
        i += 1;
    }
    power
}

/// FIPS-197 4.2 and 5.1.1.
const AES_POLY: u16 = 0x11b;

const AES_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let x = gf_inv(i as u8, AES_POLY) as u8;
        table[i] =
            x ^ x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4) ^ 0x63;
        i += 1;
    }
    table
};

const AES_INV_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[AES_SBOX[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// The affine map of SM4's S-box: bit `i` is the parity of the input under a rotated mask.
const fn sm4_affine(x: u8) -> u8 {
    let mut y = 0xd3;
    let mut i = 0;
    while i < 8 {
        y ^= (((x & 0xa7u8.rotate_left(i)).count_ones() & 1) << i) as u8;
        i += 1;
    }
    y
}

const SM4_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = sm4_affine(gf_inv(sm4_affine(i as u8), 0x1f5) as u8);
        i += 1;
    }
    table
};

fn sext(value: u32) -> u64 {
    value as i32 as u64
}

/// (Inv)ShiftRows of the AES state `low || high`, then (Inv)SubBytes, first two columns.
fn aes_half_round(low: u64, high: u64, inverse: bool) -> [u8; 8] {
    let mut state = [0; 16];
    state[..8].copy_from_slice(&low.to_le_bytes());
    state[8..].copy_from_slice(&high.to_le_bytes());
    std::array::from_fn(|i| {
        let (column, row) = (i / 4, i % 4);
        let from = if inverse { column + 4 - row } else { column + row } % 4;
        let byte = usize::from(state[4 * from + row]);
        if inverse { AES_INV_SBOX[byte] } else { AES_SBOX[byte] }
    })
}

/// (Inv)MixColumns of two columns: each byte is the product with `matrix`, rotated by its row.
fn aes_mix(columns: [u8; 8], matrix: [u16; 4]) -> u64 {
    let mixed = std::array::from_fn(|i| {
        let (column, row) = (i / 4, i % 4);
        let product = (0..4).fold(0, |sum, k| {
            let byte = columns[4 * column + (row + k) % 4];
            sum ^ gf_mul(byte.into(), matrix[k], AES_POLY)
        });
        product as u8
    });
    u64::from_le_bytes(mixed)
}

const MIX: [u16; 4] = [2, 3, 1, 1];
const INV_MIX: [u16; 4] = [14, 11, 13, 9];

pub fn aes64es(rs1: u64, rs2: u64) -> u64 {
    u64::from_le_bytes(aes_half_round(rs1, rs2, false))
}

pub fn aes64esm(rs1: u64, rs2: u64) -> u64 {
    aes_mix(aes_half_round(rs1, rs2, false), MIX)
}

pub fn aes64ds(rs1: u64, rs2: u64) -> u64 {
    u64::from_le_bytes(aes_half_round(rs1, rs2, true))
}

pub fn aes64dsm(rs1: u64, rs2: u64) -> u64 {
    aes_mix(aes_half_round(rs1, rs2, true), INV_MIX)
}

pub fn aes64im(rs1: u64) -> u64 {
    aes_mix(rs1.to_le_bytes(), INV_MIX)
}

/// `rnum` is 0 to 10.
pub fn aes64ks1i(rs1: u64, rnum: u32) -> u64 {
    let word = (rs1 >> 32) as u32;
    let last = rnum >= 10;
    let rotated = if last { word } else { word.rotate_right(8) };
    let substituted = rotated.to_le_bytes().map(|byte| AES_SBOX[usize::from(byte)]);
    // Round constants are the powers of x.
    let constant = if last { 0 } else { (0..rnum).fold(1, |rc, _| gf_mul(rc, 2, AES_POLY)) };
    let word = u32::from_le_bytes(substituted) ^ u32::from(constant);
    u64::from(word) << 32 | u64::from(word)
}

pub fn aes64ks2(rs1: u64, rs2: u64) -> u64 {
    let low = (rs1 >> 32) as u32 ^ rs2 as u32;
    let high = low ^ (rs2 >> 32) as u32;
    u64::from(high) << 32 | u64::from(low)
}

pub fn sha256sig0(rs1: u64) -> u64 {
    let x = rs1 as u32;
    sext(x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3)
}

pub fn sha256sig1(rs1: u64) -> u64 {
    let x = rs1 as u32;
    sext(x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10)
}

pub fn sha256sum0(rs1: u64) -> u64 {
    let x = rs1 as u32;
    sext(x.rotate_right(2) ^ x.rotate_right(13) ^ x.rotate_right(22))
}

pub fn sha256sum1(rs1: u64) -> u64 {
    let x = rs1 as u32;
    sext(x.rotate_right(6) ^ x.rotate_right(11) ^ x.rotate_right(25))
}

pub fn sha512sig0(x: u64) -> u64 {
    x.rotate_right(1) ^ x.rotate_right(8) ^ x >> 7
}

pub fn sha512sig1(x: u64) -> u64 {
    x.rotate_right(19) ^ x.rotate_right(61) ^ x >> 6
}

pub fn sha512sum0(x: u64) -> u64 {
    x.rotate_right(28) ^ x.rotate_right(34) ^ x.rotate_right(39)
}

pub fn sha512sum1(x: u64) -> u64 {
    x.rotate_right(14) ^ x.rotate_right(18) ^ x.rotate_right(41)
}

pub fn sm3p0(rs1: u64) -> u64 {
    let x = rs1 as u32;
    sext(x ^ x.rotate_left(9) ^ x.rotate_left(17))
}

pub fn sm3p1(rs1: u64) -> u64 {
    let x = rs1 as u32;
    sext(x ^ x.rotate_left(15) ^ x.rotate_left(23))
}

/// Byte `bs` of `rs2` through the S-box, then `linear`, moved back to its place and added.
fn sm4(rs1: u64, rs2: u64, bs: u32, linear: fn(u32) -> u32) -> u64 {
    let shift = 8 * (bs & 3);
    let substituted = SM4_SBOX[usize::from((rs2 >> shift) as u8)];
    sext(linear(substituted.into()).rotate_left(shift) ^ rs1 as u32)
}

pub fn sm4ed(rs1: u64, rs2: u64, bs: u32) -> u64 {
    sm4(rs1, rs2, bs, |x| x ^ x << 8 ^ x << 2 ^ x << 18 ^ (x & 0x3f) << 26 ^ (x & 0xc0) << 10)
}

pub fn sm4ks(rs1: u64, rs2: u64, bs: u32) -> u64 {
    sm4(rs1, rs2, bs, |x| {
        x ^ (x & 0x07) << 29 ^ (x & 0xfe) << 7 ^ (x & 0x01) << 23 ^ (x & 0xf8) << 13
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(block: [u8; 16]) -> [u64; 2] {
        let half = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| block[8 * i + k]));
        [half(0), half(1)]
    }

    /// FIPS-197 appendix B/C.1: key expansion, encryption and (equivalent inverse) decryption.
    #[test]
    fn aes128_of_fips_197() {
        let key = halves(std::array::from_fn(|i| i as u8));
        let plain = halves(std::array::from_fn(|i| (i * 0x11) as u8));
        let mut round_keys = vec![key];
        for round in 0..10 {
            let [low, high] = round_keys[round];
            let next = aes64ks2(aes64ks1i(high, round as u32), low);
            round_keys.push([next, aes64ks2(next, high)]);
        }
        let xor = |a: [u64; 2], b: [u64; 2]| [a[0] ^ b[0], a[1] ^ b[1]];
        let mut state = xor(plain, round_keys[0]);
        for (round, key) in round_keys.iter().enumerate().skip(1) {
            let f = if round == 10 { aes64es } else { aes64esm };
            state = xor([f(state[0], state[1]), f(state[1], state[0])], *key);
        }
        let cipher = 0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a_u128;
        assert_eq!(state, halves(cipher.to_be_bytes()));

        state = xor(state, round_keys[10]);
        for round in (0..10).rev() {
            let key = round_keys[round];
            state = if round == 0 {
                xor([aes64ds(state[0], state[1]), aes64ds(state[1], state[0])], key)
            } else {
                let mixed = [aes64dsm(state[0], state[1]), aes64dsm(state[1], state[0])];
                xor(mixed, key.map(aes64im))
            };
        }
        assert_eq!(state, plain);
        // The last round number neither rotates nor adds (AES-256's odd steps).
        assert_eq!(aes64ks1i(0x0000_0001_0000_0000, 10), 0x6363_637c_6363_637c);
    }

    /// GB/T 32907 appendix A.1.
    #[test]
    fn sm4_of_its_standard() {
        let words = |block: u128| -> [u32; 4] {
            let bytes = block.to_be_bytes();
            std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|k| bytes[4 * i + k])))
        };
        let round = |f: fn(u64, u64, u32) -> u64, x: u32, t: u32| {
            (0..4).fold(u64::from(x), |sum, bs| f(sum, t.into(), bs)) as u32
        };
        let block = words(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        let system = words(0xa3b1_bac6_56aa_3350_677d_9197_b270_22dc);
        let mut key: [u32; 4] = std::array::from_fn(|i| block[i] ^ system[i]);
        let mut x = block;
        for i in 0..32u32 {
            let constant =
                u32::from_le_bytes(std::array::from_fn(|j| ((4 * i + j as u32) * 7) as u8));
            let rk = round(sm4ks, key[0], key[1] ^ key[2] ^ key[3] ^ constant);
            key = [key[1], key[2], key[3], rk];
            let next = round(sm4ed, x[0], x[1] ^ x[2] ^ x[3] ^ rk);
            x = [x[1], x[2], x[3], next];
        }
        x.reverse();
        assert_eq!(x, words(0x681e_df34_d206_965e_86b3_e94f_536e_4246));
    }

    /// One block of SHA-256("abc"), with its constants from their definition.
    #[test]
    fn sha256_of_abc() {
        let primes: Vec<f64> =
            (2..312u32).filter(|n| (2..*n).all(|d| n % d != 0)).map(f64::from).take(64).collect();
        let fraction = |x: f64| (x.fract() * 4294967296.0) as u32;
        let mut h: Vec<u32> = primes[..8].iter().map(|p| fraction(p.sqrt())).collect();
        let mut w = vec![0u32; 16];
        (w[0], w[15]) = (0x6162_6380, 24);
        let on32 = |f: fn(u64) -> u64, x: u32| {
            let value = f(x.into());
            assert_eq!(value, sext(value as u32));
            value as u32
        };
        for i in 16..64 {
            let sum = on32(sha256sig1, w[i - 2])
                .wrapping_add(w[i - 7])
                .wrapping_add(on32(sha256sig0, w[i - 15]))
                .wrapping_add(w[i - 16]);
            w.push(sum);
        }
        let start = h.clone();
        for i in 0..64 {
            let [a, b, c, d, e, f, g, hh] = h[..] else { unreachable!() };
            let t1 = hh
                .wrapping_add(on32(sha256sum1, e))
                .wrapping_add(e & f ^ !e & g)
                .wrapping_add(fraction(primes[i].cbrt()))
                .wrapping_add(w[i]);
            let t2 = on32(sha256sum0, a).wrapping_add(a & b ^ a & c ^ b & c);
            h = vec![t1.wrapping_add(t2), a, b, c, d.wrapping_add(t1), e, f, g];
        }
        let digest: Vec<u32> = h.iter().zip(start).map(|(a, b)| a.wrapping_add(b)).collect();
        assert_eq!(
            digest,
            [
                0xba78_16bf,
                0x8f01_cfea,
                0x4141_40de,
                0x5dae_2223,
                0xb003_61a3,
                0x9617_7a9c,
                0xb410_ff61,
                0xf200_15ad
            ]
        );
    }

    /// The rotation and shift amounts of FIPS 180-4 4.1.3 and of SM3, seen on single bits.
    #[test]
    fn sha512_and_sm3_amounts() {
        let bits = |list: &[u32]| list.iter().fold(0u64, |sum, bit| sum | 1 << bit);
        // A set bit 63 moves to 63 - n.
        let top = 1u64 << 63;
        assert_eq!(sha512sig0(top), bits(&[62, 55, 56]));
        assert_eq!(sha512sig1(top), bits(&[44, 2, 57]));
        assert_eq!(sha512sum0(top), bits(&[35, 29, 24]));
        assert_eq!(sha512sum1(top), bits(&[49, 45, 22]));
        // Bit 0: the shift drops it, the rotations do not.
        assert_eq!(sha512sig0(1), bits(&[63, 56]));
        assert_eq!(sha512sig1(1), bits(&[45, 3]));
        assert_eq!(sm3p0(1), bits(&[0, 9, 17]));
        assert_eq!(sm3p1(1), bits(&[0, 15, 23]));
        assert_eq!(sm3p1(1 << 8), sext(1 << 8 | 1 << 23 | 1 << 31));
    }
}
