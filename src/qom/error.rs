//! Why something of the object model is not found, read or set. Sentences are QEMU's.

use crate::qmp::error::QmpError;

/// What is wrong with a path, a property, a value or a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QomError {
    #[error("Device '{0}' not found")]
    NoDevice(String),
    #[error("Class '{0}' not found")]
    NoClass(String),
    #[error("Path '{0}' is ambiguous")]
    Ambiguous(String),
    #[error("Parameter '{parameter}' expects {expected}")]
    TypeName { parameter: &'static str, expected: &'static str },
    #[error("'{0}' is not a valid device model name")]
    NoModel(String),
    #[error("Property '{owner}.{name}' not found")]
    NoProperty { owner: String, name: String },
    #[error("Property '{owner}.{name}' is not readable")]
    NotReadable { owner: String, name: String },
    #[error("Property '{owner}.{name}' is not writable")]
    NotWritable { owner: String, name: String },
    #[error("Attempt to set {what} '{name}' on {device} (type '{owner}') after it was realized")]
    Realized { what: &'static str, name: String, device: String, owner: String },
    #[error("Invalid parameter type for '{name}', expected: {expected}")]
    WrongType { name: String, expected: &'static str },
    #[error("Parameter '{name}' does not accept value '{value}'")]
    NotAccepted { name: String, value: String },
    #[error("Parameter '{name}' expects {expected}")]
    Expects { name: String, expected: &'static str },
    #[error("Property '{owner}.{name}' cannot change on a machine that is there")]
    Settled { owner: String, name: String },
}

impl From<QomError> for QmpError {
    fn from(error: QomError) -> Self {
        match error {
            QomError::NoDevice(_) | QomError::NoClass(_) => {
                Self::device_not_found(error.to_string())
            }
            other => Self::generic(other.to_string()),
        }
    }
}
