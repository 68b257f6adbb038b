//! Integer expressions as the human monitor reads them: `+ -` bind loosest, then `& | ^`, then
//! `* / %`; C literals, character constants, `$register`, parentheses. 64-bit, wrapping.

/// Deepest nesting of parentheses and unary operators.
const MAX_DEPTH: usize = 128;

/// What a `$name` stands for.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<u64>;

/// Evaluate the expression at the start of `text`; returns what follows it (blanks skipped).
pub fn evaluate<'t>(text: &'t str, register: Lookup<'_>) -> Result<(i64, &'t str), String> {
    let mut parser = Parser { rest: text.trim_start(), register, depth: 0 };
    let value = parser.sum()?;
    Ok((value as i64, parser.rest))
}

struct Parser<'t, 'r> {
    rest: &'t str,
    register: Lookup<'r>,
    depth: usize,
}

impl Parser<'_, '_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Step over a character and the blanks after it.
    fn advance(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str().trim_start();
    }

    fn operator(&mut self, operators: &[char]) -> Option<char> {
        let found = self.peek().filter(|c| operators.contains(c))?;
        self.advance();
        Some(found)
    }

    fn sum(&mut self) -> Result<u64, String> {
        let mut value = self.logic()?;
        while let Some(operator) = self.operator(&['+', '-']) {
            let right = self.logic()?;
            value = match operator {
                '+' => value.wrapping_add(right),
                _ => value.wrapping_sub(right),
            };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<u64, String> {
        let mut value = self.product()?;
        while let Some(operator) = self.operator(&['&', '|', '^']) {
            let right = self.product()?;
            value = match operator {
                '&' => value & right,
                '|' => value | right,
                _ => value ^ right,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<u64, String> {
        let mut value = self.unary()?;
        while let Some(operator) = self.operator(&['*', '/', '%']) {
            let right = self.unary()?;
            if operator == '*' {
                value = value.wrapping_mul(right);
                continue;
            }
            if right == 0 {
                return Err("division by zero".into());
            }
            let (a, b) = (value as i64, right as i64);
            value = match operator {
                '/' => a.wrapping_div(b) as u64,
                _ => a.wrapping_rem(b) as u64,
            };
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<u64, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("expression nested too deeply".into());
        }
        let value = self.primary();
        self.depth -= 1;
        value
    }

    fn primary(&mut self) -> Result<u64, String> {
        match self.peek() {
            None => Err("unexpected end of expression".into()),
            Some('+') => {
                self.advance();
                self.unary()
            }
            Some('-') => {
                self.advance();
                Ok(self.unary()?.wrapping_neg())
            }
            Some('~') => {
                self.advance();
                Ok(!self.unary()?)
            }
            Some('(') => {
                self.advance();
                let value = self.sum()?;
                if self.peek() != Some(')') {
                    return Err("')' expected".into());
                }
                self.advance();
                Ok(value)
            }
            Some('\'') => self.character(),
            Some('$') => self.register(),
            Some(_) => self.number(),
        }
    }

    fn character(&mut self) -> Result<u64, String> {
        let mut chars = self.rest[1..].chars();
        let value = chars.next().ok_or("character constant expected")?;
        // A constant is one byte.
        if !value.is_ascii() || chars.next() != Some('\'') {
            return Err("missing terminating ' character".into());
        }
        self.rest = chars.as_str().trim_start();
        Ok(u64::from(u32::from(value)))
    }

    fn register(&mut self) -> Result<u64, String> {
        let name = &self.rest[1..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let end = name.find(|c| !is_part(c)).unwrap_or(name.len());
        self.rest = name[end..].trim_start();
        (self.register)(&name[..end]).ok_or_else(|| "unknown register".into())
    }

    /// A C integer literal; what does not belong to it is left.
    fn number(&mut self) -> Result<u64, String> {
        let bytes = self.rest.as_bytes();
        let is_hex = matches!(bytes, [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit());
        let (radix, start) = match bytes {
            _ if is_hex => (16, 2),
            [b'0', ..] => (8, 0),
            _ => (10, 0),
        };
        let digits = &self.rest[start..];
        let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
        if end == 0 {
            let c = self.peek().unwrap_or_default();
            return Err(format!("invalid char '{c}' in expression"));
        }
        let value = u64::from_str_radix(&digits[..end], radix).map_err(|_| "number too large")?;
        self.rest = digits[end..].trim_start();
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_errors() {
        let register = |name: &str| (name == "pc").then_some(0x8000_0000);
        let deep = "(".repeat(100_000);
        for (text, expected) in [
            ("1+1", "2 ''"),
            ("7&3|8^1", "10 ''"),
            ("1-2*3", "-5 ''"),
            ("0x10+010 x", "24 'x'"),
            ("~0", "-1 ''"),
            ("'a'", "97 ''"),
            ("$pc + 4", "2147483652 ''"),
            ("-9223372036854775807-1/-1", "-9223372036854775806 ''"),
            ("(-9223372036854775807-1)/-1", "-9223372036854775808 ''"),
            ("0xg", "0 'xg'"),
            ("08", "0 '8'"),
            ("1<<2", "1 '<<2'"),
            ("", "unexpected end of expression"),
            ("(1+2", "')' expected"),
            ("1/0", "division by zero"),
            ("5%0", "division by zero"),
            ("'a", "missing terminating ' character"),
            ("'", "character constant expected"),
            ("'é'", "missing terminating ' character"),
            ("$nosuch", "unknown register"),
            ("$", "unknown register"),
            ("abc", "invalid char 'a' in expression"),
            ("é", "invalid char 'é' in expression"),
            ("99999999999999999999", "number too large"),
            (&deep, "expression nested too deeply"),
        ] {
            let found = match evaluate(text, &register) {
                Ok((value, rest)) => format!("{value} '{rest}'"),
                Err(error) => error,
            };
            assert_eq!(found, expected, "{}", &text[..text.len().min(40)]);
        }
    }
}
