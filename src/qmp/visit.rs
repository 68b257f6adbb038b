//! A serde deserializer that checks arguments as QAPI does: fields in the order of their
//! declaration, each missing or of a wrong type before the next is looked at, then whatever was
//! not asked for; errors in QEMU's sentences.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde_json::{Map, Value};

use super::error::QmpError;
use super::hash_order::HashOrder;
use super::json;
use crate::cli::value;

/// A QAPI union is a Rust enum that serde calls by this and the name of the member that tells the
/// variant (`#[serde(rename = "union transport")]`); the variant's members stand beside that one.
const UNION: &str = "union ";
/// What [`Size`] is called as a newtype.
const SIZE: &str = "Size";

/// Turn a command's `arguments` into its type.
pub fn arguments<T: DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, QmpError> {
    from_object(arguments, Form::Json)
}

/// The same for `key=value` text, whose values are all strings.
pub fn text_arguments<T: DeserializeOwned>(
    items: impl IntoIterator<Item = (String, String)>,
) -> Result<T, QmpError> {
    let members = items.into_iter().map(|(key, value)| (key, Value::String(value)));
    from_object(members.collect(), Form::Text)
}

/// The same for text in which a dotted key is a member of a member, as QEMU's `keyval` has it.
pub fn dotted_arguments<T: DeserializeOwned>(
    items: impl IntoIterator<Item = (String, String)>,
) -> Result<T, QmpError> {
    from_object(super::dotted::nest(items)?, Form::Dotted)
}

fn from_object<T: DeserializeOwned>(object: Map<String, Value>, form: Form) -> Result<T, QmpError> {
    let value = Some(Value::Object(object));
    T::deserialize(Input { value, path: String::new(), name: None, form }).map_err(|error| error.0)
}

/// What the values came as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    /// Text with one level of members.
    Text,
    /// Text with dotted keys.
    Dotted,
}

impl Form {
    /// Every value is text.
    fn is_text(self) -> bool {
        self != Self::Json
    }
}

/// QAPI's `size`: bytes, which text may give with a suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        u64::json_schema(generator)
    }
}

impl<'de> de::Deserialize<'de> for Size {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl<'de> Visitor<'de> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size")
            }

            fn visit_newtype_struct<D: de::Deserializer<'de>>(
                self,
                inner: D,
            ) -> Result<Size, D::Error> {
                <u64 as de::Deserialize>::deserialize(inner).map(Size)
            }

            fn visit_u64<E: de::Error>(self, size: u64) -> Result<Size, E> {
                Ok(Size(size))
            }
        }
        deserializer.deserialize_newtype_struct(SIZE, SizeVisitor)
    }
}

/// The error type that serde needs; carries the finished sentence.
#[derive(Debug)]
pub struct ArgumentError(QmpError);

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ArgumentError {}

impl de::Error for ArgumentError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(QmpError::generic(message.to_string()))
    }
}

fn error<T>(desc: String) -> Result<T, ArgumentError> {
    Err(ArgumentError(QmpError::generic(desc)))
}

/// A value, or its absence, and where it stands: `path` is the full name (`a.b[0].c`), `name` the
/// last member's (list elements have none).
struct Input {
    value: Option<Value>,
    path: String,
    name: Option<String>,
    form: Form,
}

impl Input {
    fn present(&mut self) -> Result<Value, ArgumentError> {
        match self.value.take() {
            Some(value) => Ok(value),
            None => error(format!("Parameter '{}' is missing", self.path)),
        }
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, ArgumentError> {
        let path = &self.path;
        error(format!("Invalid parameter type for '{path}', expected: {expected}"))
    }

    /// The name in errors about a value's range, where QEMU says `null` for a list element.
    fn short_name(&self) -> &str {
        self.name.as_deref().unwrap_or("null")
    }

    /// A number, also where text stands for it.
    fn number(&mut self) -> Result<Value, ArgumentError> {
        match self.present()? {
            Value::String(digits) if self.form.is_text() => {
                match digits.parse::<serde_json::Number>() {
                    Ok(number) => Ok(Value::Number(number)),
                    Err(_) => error(format!("Parameter '{}' expects integer", self.path)),
                }
            }
            value => Ok(value),
        }
    }

    fn signed(&mut self, low: i64, high: i64, kind: &str) -> Result<i64, ArgumentError> {
        match self.number()?.as_i64() {
            Some(n) if (low..=high).contains(&n) => Ok(n),
            Some(_) => error(format!("Parameter '{}' expects {kind}", self.short_name())),
            None => self.wrong("integer"),
        }
    }

    /// One below zero counts from the end of 64 bits, as it always has in QEMU.
    fn unsigned(&mut self, high: u64, kind: &str) -> Result<u64, ArgumentError> {
        let number = self.number()?;
        let expects = |kind| error(format!("Parameter '{}' expects {kind}", self.short_name()));
        match number.as_u64().or_else(|| number.as_i64().map(i64::cast_unsigned)) {
            Some(n) if n <= high => Ok(n),
            Some(_) => expects(kind),
            None => expects("uint64"),
        }
    }

    fn string(&mut self) -> Result<String, ArgumentError> {
        match self.present()? {
            Value::String(text) => Ok(text),
            other => self.misplaced(&other, "string"),
        }
    }

    /// Not a scalar. Dotted text has a way of its own to say so.
    fn misplaced<T>(&self, found: &Value, expected: &str) -> Result<T, ArgumentError> {
        match self.form == Form::Dotted && matches!(found, Value::Object(_) | Value::Array(_)) {
            true => error(format!("Parameters '{}.*' are unexpected", self.path)),
            false => self.wrong(expected),
        }
    }

    fn object(&mut self) -> Result<Map<String, Value>, ArgumentError> {
        match self.present()? {
            Value::Object(map) => Ok(map),
            _ => self.wrong("object"),
        }
    }
}

impl Input {
    fn union(
        mut self,
        tag: &str,
        variants: &'static [&'static str],
    ) -> Result<Union, ArgumentError> {
        let mut map = self.object()?;
        let mut member = Self {
            value: map.shift_remove(tag),
            path: member_path(&self.path, tag),
            name: Some(tag.to_owned()),
            form: self.form,
        };
        let text = member.string()?;
        match variants.iter().find(|&&variant| variant == text) {
            None => error(format!("Parameter '{tag}' does not accept value '{text}'")),
            Some(&variant) => {
                let rest = Self { value: Some(Value::Object(map)), ..self };
                Ok(Union { variant, rest })
            }
        }
    }
}

/// A union whose variant is known, and its other members.
struct Union {
    variant: &'static str,
    rest: Input,
}

impl<'de> de::EnumAccess<'de> for Union {
    type Error = ArgumentError;
    type Variant = Input;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Input), Self::Error> {
        let variant: StrDeserializer<'_, ArgumentError> = self.variant.into_deserializer();
        Ok((seed.deserialize(variant)?, self.rest))
    }
}

impl<'de> de::VariantAccess<'de> for Input {
    type Error = ArgumentError;

    fn unit_variant(self) -> Result<(), Self::Error> {
        de::Deserializer::deserialize_struct(self, "", &[], de::IgnoredAny).map(drop)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, Self::Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        de::Deserializer::deserialize_seq(self, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        de::Deserializer::deserialize_struct(self, "", fields, visitor)
    }
}

fn member_path(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        parent => format!("{parent}.{name}"),
    }
}

macro_rules! integer {
    ($($method:ident, $visit:ident, $source:ident($($bound:expr),*) as $t:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, ArgumentError> {
            // The bounds make the cast lossless.
            visitor.$visit(self.$source($($bound),*)? as $t)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Input {
    type Error = ArgumentError;

    integer! {
        deserialize_i8, visit_i8, signed(i8::MIN.into(), i8::MAX.into(), "int8_t") as i8;
        deserialize_i16, visit_i16, signed(i16::MIN.into(), i16::MAX.into(), "int16_t") as i16;
        deserialize_i32, visit_i32, signed(i32::MIN.into(), i32::MAX.into(), "int32_t") as i32;
        deserialize_i64, visit_i64, signed(i64::MIN, i64::MAX, "int64") as i64;
        deserialize_u8, visit_u8, unsigned(u8::MAX.into(), "uint8_t") as u8;
        deserialize_u16, visit_u16, unsigned(u16::MAX.into(), "uint16_t") as u16;
        deserialize_u32, visit_u32, unsigned(u32::MAX.into(), "uint32_t") as u32;
        deserialize_u64, visit_u64, unsigned(u64::MAX, "uint64") as u64;
    }

    fn deserialize_bool<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.present()? {
            Value::Bool(b) => visitor.visit_bool(b),
            Value::String(word) if self.form.is_text() => {
                match value::switch(self.short_name(), &word) {
                    Ok(on) => visitor.visit_bool(on),
                    Err(sentence) => error(sentence.to_string()),
                }
            }
            _ => self.wrong("boolean"),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.present()?.as_f64() {
            Some(x) => visitor.visit_f64(x),
            None => self.wrong("number"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_string(self.string()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.value {
            None => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.present()? {
            Value::Array(items) => visitor.visit_seq(Elements {
                items: items.into_iter().enumerate(),
                path: self.path,
                form: self.form,
            }),
            _ => self.wrong("array"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let map = self.object()?;
        let names = || json::members(&map).into_iter().map(|(name, _)| name.clone());
        // Needed only to say which member is unexpected: few objects have one.
        let unknown = names().any(|name| !fields.contains(&name.as_str()));
        let all: Vec<_> = if unknown { names().collect() } else { Vec::new() };
        let mut members = Members { map, fields, field: "", path: self.path, form: self.form };
        let value = visitor.visit_map(&mut members)?;
        let mut left = HashOrder::default();
        all.iter().for_each(|name| left.insert(name));
        all.iter().filter(|name| !members.map.contains_key(*name)).for_each(|n| left.remove(n));
        match left.iter().next() {
            Some(name) if self.form == Form::Text => error(format!("Invalid parameter '{name}'")),
            Some(name) => {
                error(format!("Parameter '{}' is unexpected", member_path(&members.path, name)))
            }
            None => Ok(value),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if let Some(tag) = name.strip_prefix(UNION) {
            return visitor.visit_enum(self.union(tag, variants)?);
        }
        let text = self.string()?;
        if !variants.contains(&text.as_str()) {
            let name = self.short_name();
            return error(format!("Parameter '{name}' does not accept value '{text}'"));
        }
        visitor.visit_enum(text.into_deserializer())
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if name == SIZE && self.form.is_text() {
            let text = self.string()?;
            return match value::size(self.short_name(), &text, 1) {
                Ok(size) => visitor.visit_u64(size),
                Err(_) if self.form == Form::Dotted => {
                    error(format!("Parameter '{}' expects size", self.path))
                }
                Err(sentence) => error(sentence.to_string()),
            };
        }
        visitor.visit_newtype_struct(self)
    }

    /// QAPI's `any`: whatever JSON it is.
    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Self::Error> {
        self.present()?.deserialize_any(visitor).map_err(de::Error::custom)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

/// Every declared field in order, present or not.
struct Members {
    map: Map<String, Value>,
    fields: &'static [&'static str],
    field: &'static str,
    path: String,
    form: Form,
}

impl<'de> de::MapAccess<'de> for &mut Members {
    type Error = ArgumentError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        let Some((&field, rest)) = self.fields.split_first() else { return Ok(None) };
        self.fields = rest;
        self.field = field;
        let key: StrDeserializer<'_, ArgumentError> = field.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        seed.deserialize(Input {
            value: self.map.shift_remove(self.field),
            path: member_path(&self.path, self.field),
            name: Some(self.field.to_owned()),
            form: self.form,
        })
    }
}

struct Elements {
    items: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    path: String,
    form: Form,
}

impl<'de> de::SeqAccess<'de> for Elements {
    type Error = ArgumentError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Self::Error> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let path = match self.form {
            Form::Json | Form::Text => format!("{}[{index}]", self.path),
            Form::Dotted => format!("{}.{index}", self.path),
        };
        let form = self.form;
        seed.deserialize(Input { value: Some(value), path, name: None, form }).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    enum Capability {
        Xbzrle,
        Events,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Switch {
        capability: Capability,
        state: bool,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct SetCapabilities {
        capabilities: Vec<Switch>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    struct SetParameters {
        max_bandwidth: Option<u64>,
        multifd_channels: Option<u8>,
        tls: Option<String>,
    }

    fn sentence<T: DeserializeOwned + fmt::Debug>(json: &str) -> String {
        match arguments::<T>(serde_json::from_str(json).unwrap()) {
            Ok(value) => format!("ok: {value:?}"),
            Err(error) => error.desc,
        }
    }

    #[test]
    fn sentences_are_qemus() {
        for (json, expected) in [
            (
                r#"{"capabilities":[{"capability":"bogus","state":true}]}"#,
                "Parameter 'capability' does not accept value 'bogus'",
            ),
            (
                r#"{"capabilities":[{"capability":"events"}]}"#,
                "Parameter 'capabilities[0].state' is missing",
            ),
            (
                r#"{"capabilities":[{"state":true}]}"#,
                "Parameter 'capabilities[0].capability' is missing",
            ),
            (
                r#"{"capabilities":[{"capability":"events","state":1}]}"#,
                "Invalid parameter type for 'capabilities[0].state', expected: boolean",
            ),
            (
                r#"{"capabilities":[{"capability":"events","state":true,"x":1}]}"#,
                "Parameter 'capabilities[0].x' is unexpected",
            ),
            (
                r#"{"capabilities":{}}"#,
                "Invalid parameter type for 'capabilities', expected: array",
            ),
            (
                r#"{"capabilities":[1]}"#,
                "Invalid parameter type for 'capabilities[0]', expected: object",
            ),
            (r#"{}"#, "Parameter 'capabilities' is missing"),
            (r#"{"capabilities":[]}"#, "ok: SetCapabilities { capabilities: [] }"),
        ] {
            assert_eq!(sentence::<SetCapabilities>(json), expected, "{json}");
        }
        for (json, expected) in [
            (r#"{"bogus":1}"#, "Parameter 'bogus' is unexpected"),
            (r#"{"max-bandwidth":"1"}"#, "Parameter 'max-bandwidth' expects uint64"),
            (r#"{"max-bandwidth":1.5}"#, "Parameter 'max-bandwidth' expects uint64"),
            (
                r#"{"max-bandwidth":-1}"#,
                "ok: SetParameters { max_bandwidth: Some(18446744073709551615), \
                 multifd_channels: None, tls: None }",
            ),
            (r#"{"multifd-channels":256}"#, "Parameter 'multifd-channels' expects uint8_t"),
            (r#"{"multifd-channels":-1}"#, "Parameter 'multifd-channels' expects uint8_t"),
            (r#"{"multifd-channels":null}"#, "Parameter 'multifd-channels' expects uint64"),
            (r#"{"tls":null}"#, "Invalid parameter type for 'tls', expected: string"),
        ] {
            assert_eq!(sentence::<SetParameters>(json), expected, "{json}");
        }
    }
}
