//! Parameters written as text, as people set them: in the human monitor and by `-global`.

use serde_json::Value;

use crate::cli::{OptionError, value};
use crate::qmp::error::QmpError;

/// How the value of a parameter is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Number,
    /// Bytes, or a number that may have a suffix all the same.
    Size,
    /// Bytes a second; without a suffix, in the unit of whoever reads it.
    Bandwidth,
    Switch,
    /// Text, or a word of a list that is checked where the parameter is set.
    Text,
    OnlyQmp,
}

/// Every parameter, in QAPI's order.
const PARAMETERS: [(&str, Form); 29] = [
    ("announce-initial", Form::Size),
    ("announce-max", Form::Size),
    ("announce-rounds", Form::Size),
    ("announce-step", Form::Size),
    ("throttle-trigger-threshold", Form::Number),
    ("cpu-throttle-initial", Form::Number),
    ("cpu-throttle-increment", Form::Number),
    ("cpu-throttle-tailslow", Form::Switch),
    ("tls-creds", Form::Text),
    ("tls-hostname", Form::Text),
    ("tls-authz", Form::Text),
    ("max-bandwidth", Form::Bandwidth),
    ("avail-switchover-bandwidth", Form::Bandwidth),
    ("downtime-limit", Form::Size),
    ("x-checkpoint-delay", Form::Number),
    ("multifd-channels", Form::Number),
    ("xbzrle-cache-size", Form::Size),
    ("max-postcopy-bandwidth", Form::Size),
    ("max-cpu-throttle", Form::Number),
    ("multifd-compression", Form::Text),
    ("multifd-zlib-level", Form::Number),
    ("multifd-qatzip-level", Form::Number),
    ("multifd-zstd-level", Form::Number),
    ("block-bitmap-mapping", Form::OnlyQmp),
    ("x-vcpu-dirty-limit-period", Form::Size),
    ("vcpu-dirty-limit", Form::Size),
    ("mode", Form::Text),
    ("zero-page-detection", Form::Text),
    ("direct-io", Form::Switch),
];

/// The name of every parameter.
pub fn names() -> impl Iterator<Item = &'static str> {
    PARAMETERS.into_iter().map(|(name, _)| name)
}

/// What QMP would be given for `text`; nothing if there is no such parameter. `unit` is that of a
/// bandwidth without a suffix.
pub fn parse(name: &str, text: &str, unit: u64) -> Result<Option<Value>, QmpError> {
    let Some((_, form)) = PARAMETERS.into_iter().find(|(known, _)| *known == name) else {
        return Ok(None);
    };
    form.parse(name, text, unit).map(Some)
}

impl Form {
    fn parse(self, name: &str, text: &str, unit: u64) -> Result<Value, QmpError> {
        let refused = |error: OptionError| QmpError::generic(error.to_string());
        let signed = |bytes: u64| i64::try_from(bytes).is_ok();
        let invalid = || QmpError::generic(format!("Invalid size {text}"));
        match self {
            Self::Text => Ok(text.into()),
            Self::Switch => value::switch(name, text).map(Value::from).map_err(refused),
            Self::Number => match value::uint(text) {
                Some(number) => Ok(number.into()),
                None => Err(QmpError::generic(format!("Parameter '{name}' expects uint64"))),
            },
            Self::Size => match value::size(name, text, 1) {
                Ok(bytes) if name == "xbzrle-cache-size" && !signed(bytes) => Err(invalid()),
                Ok(bytes) => Ok(bytes.into()),
                Err(OptionError::ExpectsSize { .. }) => Err(QmpError::generic(format!(
                    "Parameter '{name}' expects a non-negative number below 2^64\n\
                     Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                     and exabytes, respectively."
                ))),
                Err(error) => Err(refused(error)),
            },
            Self::Bandwidth => {
                let bytes = value::size(name, text, unit).ok().filter(|bytes| signed(*bytes));
                bytes.map(Value::from).ok_or_else(invalid)
            }
            Self::OnlyQmp => {
                Err(QmpError::generic(format!("The {name} parameter can only be set through QMP")))
            }
        }
    }
}
