//! The comma grammar of option arguments: `key=value,key=value`, `,,` for a comma within a value,
//! a first value whose key is implied, and the JSON form.

use super::{OptionError, value};
use crate::qmp::parser;

/// Parameters of one option, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opts {
    pub items: Vec<(String, String)>,
    /// Warnings about deprecated forms.
    pub warnings: Vec<String>,
}

/// Up to the next single comma, with `,,` made one; and what follows it.
fn value_until_comma(text: &str) -> (String, Option<&str>) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        match rest.split_once(',') {
            None => {
                value.push_str(rest);
                return (value, None);
            }
            Some((before, after)) => {
                value.push_str(before);
                match after.strip_prefix(',') {
                    Some(after) => {
                        value.push(',');
                        rest = after;
                    }
                    None => return (value, Some(after)),
                }
            }
        }
    }
}

impl Opts {
    /// Options in which a key alone switches it on (`key`) or off (`nokey`).
    pub fn parse(text: &str, implied: Option<&str>) -> Self {
        let mut opts = Self::default();
        let mut rest = Some(text).filter(|text| !text.is_empty());
        let mut first = true;
        while let Some(text) = rest.filter(|text| !text.is_empty()) {
            let key_end = text.find(['=', ',']).unwrap_or(text.len());
            let has_value = text[key_end..].starts_with('=');
            if has_value {
                let (value, after) = value_until_comma(&text[key_end + 1..]);
                opts.items.push((text[..key_end].into(), value));
                rest = after;
            } else if let (true, Some(implied)) = (first, implied) {
                let (value, after) = value_until_comma(text);
                opts.items.push((implied.into(), value));
                rest = after;
            } else {
                let (word, after) = value_until_comma(text);
                opts.push_word(&word);
                rest = after;
            }
            first = false;
        }
        opts
    }

    fn push_word(&mut self, word: &str) {
        let (key, on) = match word {
            "help" | "?" => (word, "on"),
            "nodelay" => ("nodelay", "on"),
            _ => word.strip_prefix("no").map_or((word, "on"), |key| (key, "off")),
        };
        if !matches!(key, "help" | "?") {
            self.warnings.push(format!(
                "warning: short-form boolean option '{word}' deprecated; please use {key}={on}"
            ));
        }
        self.items.push((key.into(), on.into()));
    }

    /// Options in which every key has a value; only the first key may be implied.
    pub fn parse_keyval(text: &str, implied: &str) -> Result<Self, OptionError> {
        let mut opts = Self::default();
        let mut rest = Some(text).filter(|text| !text.is_empty());
        let mut first = true;
        while let Some(text) = rest.filter(|text| !text.is_empty()) {
            let key_end = text.find(['=', ',']).unwrap_or(text.len());
            let word = &text[..key_end];
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let is_name = !word.is_empty() && word.chars().all(good);
            if text[key_end..].starts_with('=') {
                if !is_name {
                    return Err(OptionError::InvalidParameter { name: word.into() });
                }
                let (value, after) = value_until_comma(&text[key_end + 1..]);
                opts.items.push((word.into(), value));
                rest = after;
            } else if matches!(word, "help" | "?") {
                opts.items.push(("help".into(), "on".into()));
                rest = text[key_end..].strip_prefix(',');
            } else if first && !word.is_empty() {
                // Commas are not doubled in it.
                opts.items.push((implied.into(), word.into()));
                rest = text[key_end..].strip_prefix(',');
            } else if !is_name {
                return Err(OptionError::InvalidParameter { name: word.into() });
            } else {
                return Err(OptionError::ExpectedEquals { name: word.into() });
            }
            first = false;
        }
        Ok(opts)
    }

    /// The JSON form: an object of scalars; nested objects become dotted keys.
    pub fn parse_json(text: &str) -> Result<Self, OptionError> {
        let members = parser::parse_object(text).map_err(OptionError::Refused)?;
        let mut opts = Self::default();
        opts.push_json("", &serde_json::Value::Object(members))?;
        Ok(opts)
    }

    fn push_json(&mut self, key: &str, value: &serde_json::Value) -> Result<(), OptionError> {
        use serde_json::Value;
        let text = match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let dotted =
                        if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    self.push_json(&dotted, value)?;
                }
                return Ok(());
            }
            Value::Bool(on) => if *on { "on" } else { "off" }.into(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            Value::Array(_) | Value::Null => {
                return Err(OptionError::InvalidType { name: key.into() });
            }
        };
        self.items.push((key.into(), text));
        Ok(())
    }

    /// The JSON form if it starts with a brace, else [`Opts::parse`].
    pub fn parse_or_json(text: &str, implied: &str) -> Result<Self, OptionError> {
        if text.starts_with('{') {
            Self::parse_json(text)
        } else {
            Ok(Self::parse(text, Some(implied)))
        }
    }

    /// The last value of a key.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.items.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Remove a key and return its last value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let value = self.get(name).map(str::to_owned);
        self.items.retain(|(key, _)| key != name);
        value
    }

    /// Remove a key that is a switch.
    pub fn take_switch(&mut self, name: &str) -> Result<Option<bool>, OptionError> {
        self.take(name).map(|text| value::switch(name, &text)).transpose()
    }

    /// Remove a key that is a number.
    pub fn take_number(&mut self, name: &str) -> Result<Option<u64>, OptionError> {
        self.take(name).map(|text| value::number(name, &text)).transpose()
    }

    /// True if help was asked for.
    pub fn wants_help(&self) -> bool {
        self.get("help").is_some() || self.get("?").is_some()
    }

    /// Fails if a key is left that nobody has taken.
    pub fn finish(&self) -> Result<(), OptionError> {
        match self.items.first() {
            None => Ok(()),
            Some((name, _)) => Err(OptionError::InvalidParameter { name: name.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(opts: &Opts) -> String {
        let items: Vec<_> = opts.items.iter().map(|(k, v)| format!("{k}<{v}>")).collect();
        items.join(" ")
    }

    #[test]
    fn comma_grammar() {
        for (text, implied, expect) in [
            ("", Some("id"), ""),
            ("a", Some("id"), "id<a>"),
            ("a,b=c", Some("id"), "id<a> b<c>"),
            ("a,,b,c=d,,,e=f", Some("id"), "id<a,b> c<d,> e<f>"),
            ("x=1=2,y=", None, "x<1=2> y<>"),
            ("server,nowait", None, "server<on> wait<off>"),
            ("a=1,", None, "a<1>"),
            ("path=/a,,b", None, "path</a,b>"),
            ("socket,nodelay", Some("backend"), "backend<socket> nodelay<on>"),
        ] {
            assert_eq!(shown(&Opts::parse(text, implied)), expect, "{text}");
        }
        assert_eq!(Opts::parse("a,server", Some("x")).warnings.len(), 1);
    }

    #[test]
    fn keyval_grammar() {
        for (text, expect) in [
            ("virt,aclint=on", "type<virt> aclint<on>"),
            ("virt,,x", "Invalid parameter ''"),
            ("virt,x y", "Invalid parameter 'x y'"),
            (",", "Invalid parameter ''"),
            ("virt,smp.cpus=2", "type<virt> smp.cpus<2>"),
            ("help", "help<on>"),
            ("virt,foo", "Expected '=' after parameter 'foo'"),
            ("virt,=on", "Invalid parameter ''"),
        ] {
            let got = match Opts::parse_keyval(text, "type") {
                Ok(opts) => shown(&opts),
                Err(error) => error.to_string(),
            };
            assert_eq!(got, expect, "{text}");
        }
    }

    #[test]
    fn json_form() {
        let opts = Opts::parse_json(r#"{"driver":"x","a":true,"b":{"c":5}}"#);
        assert_eq!(opts.map(|opts| shown(&opts)), Ok("driver<x> a<on> b.c<5>".into()));
        let opts = Opts::parse_json("{'driver': 'x'}");
        assert_eq!(opts.map(|opts| shown(&opts)), Ok("driver<x>".into()));
        assert!(Opts::parse_json(r#"{"driver":"#).is_err());
        assert!(Opts::parse_json("5").is_err());
        assert!(Opts::parse_json(r#"{"a":[]}"#).is_err());
    }
}
