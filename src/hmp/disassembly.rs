//! Instructions as QEMU's monitor shows them. The decoder's text is objdump's, which has more
//! pseudo-instructions, hexadecimal constants, and targets in place of offsets.

/// A line of `x/i`: `raw` is the instruction at `pc`, of `length` bytes.
pub(super) fn line(pc: u64, raw: u64, length: usize) -> String {
    let instruction = disc_v::decode(disc_v::Isa::Rv64, pc, raw);
    let text = instruction.to_string();
    let (mnemonic, operands) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
    let Shown { mnemonic, operands, target } = match instruction.is_illegal() {
        true => Shown::of("illegal", ""),
        false => shown(pc, mnemonic, operands),
    };
    let hex = format!("{raw:00$x}", length * 2);
    let start = format!("0x{pc:08x}:  {hex:<18}{mnemonic:<24}");
    match target {
        Some(target) => format!("{start}{operands:<24}# 0x{target:x}"),
        None => format!("{start}{operands}"),
    }
}

/// What is shown of an instruction.
struct Shown {
    mnemonic: String,
    operands: String,
    /// The address that an offset leads to.
    target: Option<u64>,
}

impl Shown {
    fn of(mnemonic: &str, operands: impl Into<String>) -> Self {
        Self { mnemonic: mnemonic.into(), operands: operands.into(), target: None }
    }
}

/// A number as objdump writes one.
fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// `offset(register)`, or a register alone.
fn base_and_offset(text: &str) -> (&str, &str) {
    match text.split_once('(') {
        Some((offset, base)) => (base.trim_end_matches(')'), offset),
        None => (text, "0"),
    }
}

fn shown(pc: u64, mnemonic: &str, operands: &str) -> Shown {
    let words: Vec<&str> = operands.split(',').collect();
    let jump = |mnemonic: &str, registers: &[&str], target: &str| {
        let target = number(target).unwrap_or(pc);
        let offset = (target.wrapping_sub(pc) as i64).to_string();
        let mut words = registers.to_vec();
        words.push(&offset);
        Shown { target: Some(target), ..Shown::of(mnemonic, words.join(",")) }
    };
    match (mnemonic, words.as_slice()) {
        ("jal", [target]) => jump("jal", &["ra"], target),
        ("jal", [link, target]) => jump("jal", &[link], target),
        ("j", [target]) => jump("j", &[], target),
        ("beqz" | "bnez" | "bltz" | "bgez" | "blez" | "bgtz", [register, target]) => {
            jump(mnemonic, &[register], target)
        }
        ("beq" | "bne", [left, right, target]) => jump(mnemonic, &[left, right], target),
        ("blt", [left, right, target]) => jump("bgt", &[right, left], target),
        ("bge", [left, right, target]) => jump("ble", &[right, left], target),
        ("bltu", [left, right, target]) => jump("bgtu", &[right, left], target),
        ("bgeu", [left, right, target]) => jump("bleu", &[right, left], target),
        ("jalr", [base]) => {
            let (base, offset) = base_and_offset(base);
            Shown::of("jalr", format!("ra,{base},{offset}"))
        }
        ("jalr", [link, base]) => {
            let (base, offset) = base_and_offset(base);
            Shown::of("jalr", format!("{link},{base},{offset}"))
        }
        ("jr", [base]) if base.contains('(') => {
            let (base, offset) = base_and_offset(base);
            Shown::of("jalr", format!("zero,{base},{offset}"))
        }
        ("li", [register, "0"]) => Shown::of("mv", format!("{register},zero")),
        ("li", [register, value]) => Shown::of("addi", format!("{register},zero,{value}")),
        ("zext.b", [to, from]) => Shown::of("andi", format!("{to},{from},255")),
        ("lui", [register, value]) => {
            Shown::of("lui", format!("{register},{}", number(value).unwrap_or_default()))
        }
        ("auipc", [register, value]) => {
            let pages = number(value).unwrap_or_default();
            // Twenty bits, of which the first is the sign.
            let distance = i64::from((pages as i32) << 12);
            let target = Some(pc.wrapping_add_signed(distance));
            Shown { target, ..Shown::of("auipc", format!("{register},{pages}")) }
        }
        ("csrr", [register, csr]) => Shown::of("csrrs", format!("{register},{csr},zero")),
        ("csrw" | "csrs" | "csrc" | "csrwi" | "csrsi" | "csrci", [csr, value]) => {
            let (_, action) = mnemonic.split_at(3);
            Shown::of(&format!("csrr{action}"), format!("zero,{csr},{value}"))
        }
        ("sfence.vma", [""]) => Shown::of("sfence.vma", "zero,zero"),
        ("sfence.vma", [address]) => Shown::of("sfence.vma", format!("{address},zero")),
        (_, [.., last]) if number(last).is_some() && is_shift(mnemonic) => {
            let before = operands.len() - last.len();
            let amount = number(last).unwrap_or_default();
            Shown::of(mnemonic, format!("{}{amount}", &operands[..before]))
        }
        _ => Shown::of(mnemonic, operands),
    }
}

/// Instructions whose last operand counts bits.
fn is_shift(mnemonic: &str) -> bool {
    const SHIFTS: [&str; 13] = [
        "slli", "srli", "srai", "slliw", "srliw", "sraiw", "slli.uw", "rori", "roriw", "bclri",
        "bexti", "binvi", "bseti",
    ];
    SHIFTS.contains(&mnemonic)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10.0.2 shows of these.
    #[test]
    fn instructions_are_shown_as_qemu_shows_them() {
        for (pc, raw, expected) in [
            (0x8000_0000, 0x0005_0433, "add                     s0,a0,zero"),
            (
                0x8000_000c,
                0x65c0_00ef,
                "jal                     ra,1628                 # 0x80000668",
            ),
            (0x8000_0020, 0x58fd, "addi                    a7,zero,-1"),
            (
                0x8000_002a,
                0x0004_0817,
                "auipc                   a6,64                   # 0x8004002a",
            ),
            (0x8000_0242, 0xc1d9, "beqz                    a1,134                  # 0x800002c8"),
            (0x8000_02da, 0xa005, "j                       32                      # 0x800002fa"),
            (0x8000_003c, 0x4281, "mv                      t0,zero"),
            (0x8000_0284, 0x0e22, "slli                    t3,t3,8"),
            (
                0x8000_0022,
                0x0118_0463,
                "beq                     a6,a7,8                 # 0x8000002a",
            ),
            (0x8000_00b2, 0x6a89, "lui                     s5,2"),
            (0x8000_0318, 0xf140_2b73, "csrrs                   s6,mhartid,zero"),
            (0x8000_00a6, 0x305a_1073, "csrrw                   zero,mtvec,s4"),
            (0x8000_10be, 0x3441_6073, "csrrsi                  zero,mip,2"),
            (0x8000_073e, 0x9782, "jalr                    ra,a5,0"),
            (
                0x8000_0f8a,
                0xfea7_e0e3,
                "bgtu                    a0,a5,-32               # 0x80000f6a",
            ),
            (
                0x8000_1054,
                0x00a7_f463,
                "bleu                    a0,a5,8                 # 0x8000105c",
            ),
            (
                0x8000_02b4,
                0x0073_5a63,
                "ble                     t2,t1,20                # 0x800002c8",
            ),
            (0x8000_46a0, 0x0ff5_f593, "andi                    a1,a1,255"),
            (0x8000_50a0, 0x1207_0073, "sfence.vma              a4,zero"),
            (0x8000_06a6, 0x0000, "illegal                 "),
            (0x8000_03b0, 0x8082, "ret                     "),
            (0x8000_03b8, 0x1050_0073, "wfi                     "),
        ] {
            let length = if raw & 3 == 3 { 4 } else { 2 };
            let hex = format!("{raw:00$x}", length * 2);
            let found = line(pc, raw, length);
            assert_eq!(found, format!("0x{pc:08x}:  {hex:<18}{expected}"));
        }
    }
}
