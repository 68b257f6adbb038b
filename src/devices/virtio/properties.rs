//! Properties of the virtio device models as `-device MODEL,name=value` gives them: names, types and
//! defaults are QEMU's.
//! Long for its tables.

use std::collections::HashMap;

/// Type of a property's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int32,
    /// Bytes, with an optional suffix.
    Size,
    Str,
    /// One of these words; the first string is the type's name.
    Enum(&'static str, &'static [&'static str]),
    /// Identifier of an object of this type, which is named as `link<TYPE>`.
    Link(&'static str),
    /// A list that only QMP can express.
    List(&'static str),
}

impl Kind {
    /// QAPI's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Int32 => "int32",
            Self::Size => "size",
            Self::Str => "str",
            Self::Enum(name, _) | Self::List(name) | Self::Link(name) => name,
        }
    }
}

/// A property.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    pub name: &'static str,
    pub kind: Kind,
    pub description: &'static str,
    /// The default as it is written; empty for none.
    pub default: &'static str,
    /// Values other than the default mean something here.
    pub implemented: bool,
}

/// A device model.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    pub name: &'static str,
    /// Kind of bus it sits on.
    pub bus: &'static str,
    /// Heading of `-device help`.
    pub category: &'static str,
    /// Sorted by name.
    pub properties: &'static [Property],
}

/// Why a device cannot be made; the text is QEMU's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("Property '{model}.{name}' not found")]
    Unknown { model: &'static str, name: String },
    #[error("Parameter '{name}' expects {expected}")]
    Expects { name: &'static str, expected: &'static str },
    #[error("Parameter '{name}' does not accept value '{value}'")]
    Value { name: &'static str, value: String },
    #[error("Property '{model}.{name}' can't take value '{value}': not supported")]
    Unsupported { model: &'static str, name: &'static str, value: String },
    #[error("Property '{model}.{name}' can't find value '{value}'")]
    NoSuchBackend { model: &'static str, name: &'static str, value: String },
    #[error("Device '{0}' not found")]
    NoSuchObject(String),
    #[error("Drive '{0}' is already in use by another device")]
    DriveInUse(String),
    #[error("{0}")]
    Refused(String),
}

const AUTO: Kind = Kind::Enum("OnOffAuto", &["auto", "on", "off"]);
const ON_ERROR: Kind =
    Kind::Enum("BlockdevOnError", &["auto", "report", "ignore", "enospc", "stop"]);
const ON_ERROR_TEXT: &str = "Error handling policy (report/ignore/enospc/stop/auto)";
const BLOCK_SIZE_TEXT: &str = "A power of two between 512 B and 2 MiB";

const fn p(name: &'static str, kind: Kind, default: &'static str) -> Property {
    let description = match kind {
        Kind::Bool => "on/off",
        _ => "",
    };
    Property { name, kind, description, default, implemented: true }
}

const fn described(property: Property, description: &'static str) -> Property {
    Property { description, ..property }
}

const fn auto(name: &'static str) -> Property {
    described(p(name, AUTO, "auto"), "on/off/auto")
}

/// Only the default is accepted.
const fn fixed(property: Property) -> Property {
    Property { implemented: false, ..property }
}

/// `virtio-blk-device`.
pub const BLK: Model = Model {
    name: "virtio-blk-device",
    bus: "virtio-bus",
    category: "Storage devices",
    properties: &[
        fixed(auto("account-failed")),
        fixed(auto("account-invalid")),
        p("any_layout", Kind::Bool, "on"),
        fixed(auto("backend_defaults")),
        p("bootindex", Kind::Int32, ""),
        p("config-wce", Kind::Bool, "on"),
        p("cyls", Kind::Uint32, "0"),
        p("discard", Kind::Bool, "on"),
        p("discard_granularity", Kind::Size, "4294967295"),
        described(
            p("drive", Kind::Str, ""),
            "Node name or ID of a block device to use as a backend",
        ),
        p("event_idx", Kind::Bool, "on"),
        p("heads", Kind::Uint32, "0"),
        fixed(p("in_order", Kind::Bool, "off")),
        p("indirect_desc", Kind::Bool, "on"),
        fixed(p("iommu_platform", Kind::Bool, "off")),
        fixed(described(
            p("iothread-vq-mapping", Kind::List("IOThreadVirtQueueMappingList"), ""),
            "IOThread virtqueue mapping list [{\"iothread\":\"<id>\", \"vqs\":[1,2,3,...]},...]",
        )),
        p("iothread", Kind::Link("link<iothread>"), ""),
        fixed(p("lcyls", Kind::Uint32, "0")),
        fixed(p("lheads", Kind::Uint32, "0")),
        described(p("logical_block_size", Kind::Size, "0"), BLOCK_SIZE_TEXT),
        fixed(p("lsecs", Kind::Uint32, "0")),
        p("max-discard-sectors", Kind::Uint32, "4194303"),
        p("max-write-zeroes-sectors", Kind::Uint32, "4194303"),
        p("min_io_size", Kind::Size, "0"),
        p("notify_on_empty", Kind::Bool, "on"),
        p("num-queues", Kind::Uint16, "65535"),
        p("opt_io_size", Kind::Size, "0"),
        fixed(p("packed", Kind::Bool, "off")),
        described(p("physical_block_size", Kind::Size, "0"), BLOCK_SIZE_TEXT),
        p("queue-size", Kind::Uint16, "256"),
        p("queue_reset", Kind::Bool, "on"),
        p("report-discard-granularity", Kind::Bool, "on"),
        // Leave to merge neighbouring requests, which is not taken.
        p("request-merging", Kind::Bool, "on"),
        described(p("rerror", ON_ERROR, "auto"), ON_ERROR_TEXT),
        p("secs", Kind::Uint32, "0"),
        p("seg-max-adjust", Kind::Bool, "on"),
        p("serial", Kind::Str, ""),
        p("share-rw", Kind::Bool, "off"),
        fixed(p("use-disabled-flag", Kind::Bool, "on")),
        fixed(p("use-started", Kind::Bool, "on")),
        described(p("werror", ON_ERROR, "auto"), ON_ERROR_TEXT),
        auto("write-cache"),
        p("write-zeroes", Kind::Bool, "on"),
        fixed(p("x-disable-legacy-check", Kind::Bool, "off")),
        fixed(p("x-enable-wce-if-config-wce", Kind::Bool, "on")),
    ],
};

/// `virtio-rng-device`.
pub const RNG: Model = Model {
    name: "virtio-rng-device",
    bus: "virtio-bus",
    category: "Misc devices",
    properties: &[
        p("any_layout", Kind::Bool, "on"),
        p("event_idx", Kind::Bool, "on"),
        fixed(p("in_order", Kind::Bool, "off")),
        p("indirect_desc", Kind::Bool, "on"),
        fixed(p("iommu_platform", Kind::Bool, "off")),
        p("max-bytes", Kind::Uint64, "9223372036854775807"),
        p("notify_on_empty", Kind::Bool, "on"),
        fixed(p("packed", Kind::Bool, "off")),
        p("period", Kind::Uint32, "65536"),
        p("queue_reset", Kind::Bool, "on"),
        p("rng", Kind::Link("link<rng-backend>"), ""),
        fixed(p("use-disabled-flag", Kind::Bool, "on")),
        fixed(p("use-started", Kind::Bool, "on")),
        fixed(p("x-disable-legacy-check", Kind::Bool, "off")),
    ],
};

/// `virtio-serial-device`.
pub const SERIAL: Model = Model {
    name: "virtio-serial-device",
    bus: "virtio-bus",
    category: "Input devices",
    properties: &[
        p("any_layout", Kind::Bool, "on"),
        p("emergency-write", Kind::Bool, "on"),
        p("event_idx", Kind::Bool, "on"),
        fixed(p("in_order", Kind::Bool, "off")),
        p("indirect_desc", Kind::Bool, "on"),
        fixed(p("iommu_platform", Kind::Bool, "off")),
        p("max_ports", Kind::Uint32, "31"),
        p("notify_on_empty", Kind::Bool, "on"),
        fixed(p("packed", Kind::Bool, "off")),
        p("queue_reset", Kind::Bool, "on"),
        fixed(p("use-disabled-flag", Kind::Bool, "on")),
        fixed(p("use-started", Kind::Bool, "on")),
        fixed(p("x-disable-legacy-check", Kind::Bool, "off")),
    ],
};

const PORT: &[Property] = &[
    described(p("chardev", Kind::Str, ""), "ID of a chardev to use as a backend"),
    p("name", Kind::Str, ""),
    p("nr", Kind::Uint32, "4294967295"),
];

/// `virtconsole`.
pub const CONSOLE_PORT: Model = Model {
    name: "virtconsole",
    bus: "virtio-serial-bus",
    category: "Input devices",
    properties: PORT,
};

/// `virtserialport`.
pub const SERIAL_PORT: Model = Model { name: "virtserialport", ..CONSOLE_PORT };

/// Every virtio model.
pub const MODELS: [&Model; 5] = [&BLK, &CONSOLE_PORT, &RNG, &SERIAL, &SERIAL_PORT];

impl Property {
    /// The default as clients see it.
    pub fn default_value(&self) -> Option<serde_json::Value> {
        self.read(Some(self.default).filter(|text| !text.is_empty())?)
    }

    /// The value that text stands for, as clients see it; `None` if it stands for none.
    pub fn read(&self, text: &str) -> Option<serde_json::Value> {
        match parse_value(self, text).ok()? {
            Value::Bool(on) => Some(on.into()),
            Value::Number(number) => i64::try_from(number).ok().map(Into::into),
            Value::Text(text) => Some(text.into()),
        }
    }
}

impl Model {
    /// Check the names and types of `given`; the last value of a name counts.
    pub fn parse(&self, given: &[(String, String)]) -> Result<Values, DeviceError> {
        let mut values = Values { model: self.name, values: HashMap::new() };
        for property in self.properties.iter().filter(|p| !p.default.is_empty()) {
            values.values.insert(property.name, parse_value(property, property.default)?);
        }
        for (name, text) in given {
            let property = self
                .properties
                .iter()
                .find(|p| p.name == name)
                .ok_or_else(|| DeviceError::Unknown { model: self.name, name: name.clone() })?;
            let value = parse_value(property, text)?;
            if !property.implemented && values.values.get(property.name) != Some(&value) {
                let (name, value) = (property.name, text.clone());
                return Err(DeviceError::Unsupported { model: self.name, name, value });
            }
            values.values.insert(property.name, value);
        }
        Ok(values)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Number(i128),
    Text(String),
}

/// A number as `strtoull(…, 0)` reads it.
fn number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -magnitude } else { magnitude })
}

/// A number of bytes with an optional suffix.
fn size(text: &str) -> Option<i128> {
    let split = text.find(|c: char| c.is_ascii_alphabetic() && !text.starts_with("0x"));
    let (digits, suffix) = text.split_at(split.unwrap_or(text.len()));
    let shift = match suffix {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return None,
    };
    number(digits)?.checked_mul(1 << shift)
}

fn parse_value(property: &Property, text: &str) -> Result<Value, DeviceError> {
    let name = property.name;
    let expects = |expected| DeviceError::Expects { name, expected };
    let ranged = |max: i128, type_name| {
        let value = number(text).ok_or_else(|| expects("integer"))?;
        (0..=max).contains(&value).then_some(Value::Number(value)).ok_or_else(|| expects(type_name))
    };
    match property.kind {
        Kind::Bool => match text {
            "on" | "yes" | "true" | "y" => Ok(Value::Bool(true)),
            "off" | "no" | "false" | "n" => Ok(Value::Bool(false)),
            _ => Err(expects("'on' or 'off'")),
        },
        Kind::Uint8 => ranged(u8::MAX.into(), "uint8_t"),
        Kind::Uint16 => ranged(u16::MAX.into(), "uint16_t"),
        Kind::Uint32 => ranged(u32::MAX.into(), "uint32_t"),
        Kind::Uint64 => ranged(u64::MAX.into(), "integer"),
        Kind::Int32 => number(text)
            .ok_or_else(|| expects("integer"))
            .and_then(|value| i32::try_from(value).map_err(|_| expects("int32_t")))
            .map(|value| Value::Number(value.into())),
        Kind::Size => size(text)
            .filter(|bytes| (0..=i128::from(u32::MAX)).contains(bytes))
            .map(Value::Number)
            .ok_or_else(|| expects("size")),
        Kind::Enum(_, words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
        Kind::Enum(..) => Err(DeviceError::Value { name, value: text.to_owned() }),
        Kind::Str | Kind::Link(_) | Kind::List(_) => Ok(Value::Text(text.to_owned())),
    }
}

/// The checked properties of one device.
#[derive(Debug, Clone)]
pub struct Values {
    model: &'static str,
    values: HashMap<&'static str, Value>,
}

impl Values {
    /// Name of the device's model.
    pub fn model(&self) -> &'static str {
        self.model
    }

    /// A switch; false for a property that the model has not got.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some(Value::Bool(true)))
    }

    /// A number, if it was given or has a default.
    pub fn number<T: TryFrom<i128>>(&self, name: &str) -> Option<T> {
        match self.values.get(name) {
            Some(Value::Number(value)) => T::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A word, if it was given or has a default.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(model: &Model, name: &str, value: &str) -> Result<Values, String> {
        model.parse(&[(name.to_owned(), value.to_owned())]).map_err(|e| e.to_string())
    }

    #[test]
    fn values_and_refusals() {
        for model in MODELS {
            model.parse(&[]).unwrap();
        }
        let refusals = [
            ("foo", "1", "Property 'virtio-blk-device.foo' not found"),
            ("num-queues", "abc", "Parameter 'num-queues' expects integer"),
            ("num-queues", "70000", "Parameter 'num-queues' expects uint16_t"),
            ("event_idx", "maybe", "Parameter 'event_idx' expects 'on' or 'off'"),
            ("werror", "foo", "Parameter 'werror' does not accept value 'foo'"),
            ("min_io_size", "1x", "Parameter 'min_io_size' expects size"),
            (
                "packed",
                "on",
                "Property 'virtio-blk-device.packed' can't take value 'on': not supported",
            ),
        ];
        for (name, value, message) in refusals {
            assert_eq!(parse(&BLK, name, value).unwrap_err(), message);
        }
        let number = |name, value| parse(&BLK, name, value).unwrap().number::<i64>(name);
        assert_eq!(number("opt_io_size", "64k"), Some(65536));
        assert_eq!(number("opt_io_size", "0x1000"), Some(4096));
        assert_eq!(number("num-queues", "010"), Some(8));
        assert_eq!(number("bootindex", "-1"), Some(-1));
        assert!(!parse(&BLK, "packed", "off").unwrap().is_on("packed"));
    }
}
