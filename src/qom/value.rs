//! Values for properties: whether one is what the property's type says, in QAPI's words, and how
//! text stands for one.

use serde_json::Value;

use super::error::QomError;
use super::node::PropertyInfo;

/// The words that a type of enumeration allows.
fn words(type_name: &str) -> Option<&'static [&'static str]> {
    Some(match type_name {
        "OnOffAuto" => &["auto", "on", "off"],
        "HostMemPolicy" => &["default", "preferred", "bind", "interleave"],
        "QAuthZListPolicy" => &["deny", "allow"],
        "QCryptoSecretFormat" => &["raw", "base64"],
        "QCryptoTLSCredsEndpoint" => &["client", "server"],
        _ => return None,
    })
}

/// The JSON type that a property's values have.
fn json_type(type_name: &str) -> &'static str {
    match type_name {
        "bool" => "boolean",
        "size" => "integer",
        "list" | "QAuthZListRule" => "array",
        _ if type_name.ends_with("Configuration") => "object",
        _ if type_name.starts_with("int") || type_name.starts_with("uint") => "integer",
        _ => "string",
    }
}

/// Whether the value is one for this property.
pub fn check(property: &PropertyInfo, value: &Value) -> Result<(), QomError> {
    let expected = json_type(&property.type_name);
    let fits = match expected {
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => value.is_string(),
    };
    let name = || property.name.clone();
    if !fits {
        return Err(QomError::WrongType { name: name(), expected });
    }
    match (words(&property.type_name), value.as_str()) {
        (Some(words), Some(word)) if !words.contains(&word) => {
            Err(QomError::NotAccepted { name: name(), value: word.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Whether what is to be set is there already: all that an object says, or the value.
pub(super) fn is_part(value: &Value, of: &Value) -> bool {
    match (value, of) {
        (Value::Object(some), Value::Object(all)) => {
            some.iter().all(|(name, value)| all.get(name) == Some(value))
        }
        _ => value == of,
    }
}

/// The value that text stands for.
pub fn parse(property: &PropertyInfo, text: &str) -> Result<Value, QomError> {
    let name = || property.name.clone();
    match json_type(&property.type_name) {
        "boolean" => match text {
            "on" | "yes" | "true" | "y" => Ok(true.into()),
            "off" | "no" | "false" | "n" => Ok(false.into()),
            _ => Err(QomError::Expects { name: name(), expected: "'on' or 'off'" }),
        },
        "integer" => match text.parse::<i64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => Err(QomError::Expects { name: name(), expected: "int64" }),
        },
        "array" | "object" => {
            let expected = json_type(&property.type_name);
            Err(QomError::WrongType { name: name(), expected })
        }
        _ => Ok(text.into()),
    }
}
