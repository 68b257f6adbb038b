//! `secret` objects: a password or a key, given as data or in a file, perhaps as base64, perhaps
//! encrypted with another secret. Sentences are QEMU's.

use std::io::Read as _;

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt as _, KeyIvInit as _};
use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};

use super::ObjectError;
use crate::qmp::error::os_words;

/// AES-256 in cipher block chaining.
type Decryptor = cbc::Decryptor<aes::Aes256>;

/// Bytes of a key and of a block.
const KEY: usize = 32;
const BLOCK: usize = 16;
/// Largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// QAPI `QCryptoSecretFormat`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum SecretFormat {
    #[default]
    Raw,
    Base64,
}

/// QAPI `SecretProperties`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub struct SecretOptions {
    pub id: String,
    pub format: Option<SecretFormat>,
    /// The secret that this one is encrypted with.
    pub keyid: Option<String>,
    /// Initialization vector, as base64.
    pub iv: Option<String>,
    pub data: Option<String>,
    pub file: Option<String>,
}

/// The plain bytes. `key` looks up the secret that encrypts this one.
pub(super) fn load(
    options: &SecretOptions,
    key: impl Fn(&str) -> Result<Vec<u8>, ObjectError>,
) -> Result<Vec<u8>, ObjectError> {
    let bytes = match (&options.data, &options.file) {
        (Some(_), Some(_)) => return refused("'file' and 'data' are mutually exclusive"),
        (None, None) => return refused("Either 'file' or 'data' must be provided"),
        (Some(data), None) => data.clone().into_bytes(),
        (None, Some(path)) => file(path)?,
    };
    let base64 = options.format.unwrap_or_default() == SecretFormat::Base64;
    let Some(keyid) = &options.keyid else {
        return if base64 { decode(&bytes) } else { Ok(bytes) };
    };
    let key = key(keyid)?;
    let Ok(key) = <[u8; KEY]>::try_from(key) else {
        return refused(format!("Key should be {KEY} bytes in length"));
    };
    let Some(iv) = &options.iv else {
        return refused("IV is required to decrypt secret");
    };
    let iv = decode(iv.as_bytes())?;
    let length = iv.len();
    let Ok(iv) = <[u8; BLOCK]>::try_from(iv) else {
        return refused(format!("IV should be {BLOCK} bytes in length not {length}"));
    };
    // What is encrypted is base64 text, whatever it decrypts to.
    let bytes = if base64 { decode(&bytes)? } else { bytes };
    if bytes.len() % BLOCK != 0 || bytes.is_empty() {
        let length = bytes.len();
        return refused(format!("Length {length} must be a multiple of block size {BLOCK}"));
    }
    let decrypted = Decryptor::new(&key.into(), &iv.into()).decrypt_padded_vec::<NoPadding>(&bytes);
    let mut plain = decrypted.map_err(|error| ObjectError::Refused(error.to_string()))?;
    let padding = plain.last().copied().unwrap_or_default();
    if !(1..=BLOCK).contains(&usize::from(padding)) || usize::from(padding) > plain.len() {
        return refused(format!(
            "Incorrect number of padding bytes ({padding}) found on decrypted data"
        ));
    }
    plain.truncate(plain.len() - usize::from(padding));
    Ok(plain)
}

fn refused<T>(sentence: impl Into<String>) -> Result<T, ObjectError> {
    Err(ObjectError::Refused(sentence.into()))
}

fn file(path: &str) -> Result<Vec<u8>, ObjectError> {
    let failed = |what: &str, error: &std::io::Error| {
        let reason = os_words(error);
        ObjectError::Refused(format!("Unable to read {path}: Failed to {what} “{path}”: {reason}"))
    };
    let opened = std::fs::File::open(path).map_err(|error| failed("open file", &error))?;
    let mut bytes = Vec::new();
    let read = opened.take(FILE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed("read from file", &error))?;
    if bytes.len() as u64 > FILE_MAX {
        let large = std::io::ErrorKind::FileTooLarge.into();
        return Err(failed("read from file", &large));
    }
    Ok(bytes)
}

fn decode(text: &[u8]) -> Result<Vec<u8>, ObjectError> {
    let text: String =
        text.iter().filter(|b| !b.is_ascii_whitespace()).map(|&b| char::from(b)).collect();
    Base64::decode_vec(&text)
        .map_err(|_| ObjectError::Refused("Base64 data contains invalid characters".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN_KEY: &[u8] = b"01234567890123456789012345678901";
    const IV: &str = "MDEyMzQ1Njc4OTAxMjM0NQ==";

    fn shown(json: &str) -> String {
        let options: SecretOptions = serde_json::from_str(json).unwrap();
        let key = |id: &str| match id {
            "key" => Ok(PLAIN_KEY.to_vec()),
            "short" => Ok(b"short".to_vec()),
            _ => Err(ObjectError::NoSecret(id.to_owned())),
        };
        match load(&options, key) {
            Ok(bytes) => format!("ok {}", String::from_utf8(bytes).unwrap()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn secrets_are_read_decoded_and_decrypted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "in a file").unwrap();
        let path = path.display();
        // "hunter2", made with openssl enc -aes-256-cbc.
        let encrypted = "IVLs7DlyF7JlKzlVO+CHzw==";
        for (members, expected) in [
            (r#""data":"x""#.to_owned(), "ok x".to_owned()),
            (format!(r#""file":"{path}""#), "ok in a file".into()),
            (r#""data":"aGk=","format":"base64""#.into(), "ok hi".into()),
            (r#""x":1"#.into(), "Either 'file' or 'data' must be provided".into()),
            (r#""data":"a","file":"b""#.into(), "'file' and 'data' are mutually exclusive".into()),
            (
                r#""file":"/nope""#.into(),
                "Unable to read /nope: Failed to open file “/nope”: No such file or directory"
                    .into(),
            ),
            (
                r#""data":"%%%","format":"base64""#.into(),
                "Base64 data contains invalid characters".into(),
            ),
            (r#""data":"x","keyid":"none""#.into(), "No secret with id 'none'".into()),
            (r#""data":"x","keyid":"short""#.into(), "Key should be 32 bytes in length".into()),
            (r#""data":"x","keyid":"key""#.into(), "IV is required to decrypt secret".into()),
            (
                r#""data":"x","keyid":"key","iv":"QUJD""#.into(),
                "IV should be 16 bytes in length not 3".into(),
            ),
            (
                format!(r#""data":"QUJD","format":"base64","keyid":"key","iv":"{IV}""#),
                "Length 3 must be a multiple of block size 16".into(),
            ),
            (
                format!(r#""data":"{IV}","format":"base64","keyid":"key","iv":"{IV}""#),
                "Incorrect number of padding bytes (201) found on decrypted data".into(),
            ),
            (
                format!(r#""data":"{encrypted}","format":"base64","keyid":"key","iv":"{IV}""#),
                "ok hunter2".into(),
            ),
        ] {
            assert_eq!(shown(&format!(r#"{{"id":"a",{members}}}"#)), expected, "{members}");
        }
    }
}
