//! Dotted keys: `a.b=x,a.c=y` is the object `a`, `a.0=x,a.1=y` the list, as in QEMU's `keyval`.

use serde_json::{Map, Value};

use super::error::QmpError;

/// Members within members at most; nothing that can be given has as many.
const DEPTH: usize = 16;

fn refused<T>(sentence: String) -> Result<T, QmpError> {
    Err(QmpError::generic(sentence))
}

fn inconsistent<T>(prefix: &str) -> Result<T, QmpError> {
    refused(format!("Parameters '{prefix}.*' used inconsistently"))
}

/// The object that these keys and values describe; the last value of a key counts.
pub(super) fn nest(
    items: impl IntoIterator<Item = (String, String)>,
) -> Result<Map<String, Value>, QmpError> {
    let mut root = Map::new();
    for (key, value) in items {
        if key.split('.').count() > DEPTH || key.split('.').any(str::is_empty) {
            return refused(format!("Invalid parameter '{key}'"));
        }
        insert(&mut root, &key, value)?;
    }
    root.into_iter().map(|(name, value)| Ok((name.clone(), listed(&name, value)?))).collect()
}

fn insert(root: &mut Map<String, Value>, key: &str, value: String) -> Result<(), QmpError> {
    let mut at = root;
    let mut rest = key;
    while let Some((name, deeper)) = rest.split_once('.') {
        let inner = at.entry(name).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = inner else {
            return inconsistent(&key[..key.len() - deeper.len() - 1]);
        };
        (at, rest) = (inner, deeper);
    }
    match at.get(rest) {
        Some(Value::Object(_)) => inconsistent(key),
        _ => {
            at.insert(rest.to_owned(), Value::String(value));
            Ok(())
        }
    }
}

/// Objects whose members are numbered are lists.
fn listed(path: &str, value: Value) -> Result<Value, QmpError> {
    let Value::Object(members) = value else { return Ok(value) };
    let mut inner = Vec::with_capacity(members.len());
    for (name, value) in members {
        let value = listed(&format!("{path}.{name}"), value)?;
        inner.push((name, value));
    }
    let numbered = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    if !inner.iter().any(|(name, _)| numbered(name)) {
        return Ok(Value::Object(inner.into_iter().collect()));
    }
    if !inner.iter().all(|(name, _)| numbered(name)) {
        return inconsistent(path);
    }
    let mut by_name: Map<String, Value> = inner.into_iter().collect();
    let mut list = Vec::with_capacity(by_name.len());
    for index in 0..by_name.len() {
        match by_name.shift_remove(&index.to_string()) {
            Some(value) => list.push(value),
            None => return refused(format!("Parameter '{path}.{index}' missing")),
        }
    }
    Ok(Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(text: &str) -> String {
        let items = text.split(',').filter_map(|item| item.split_once('='));
        match nest(items.map(|(key, value)| (key.to_owned(), value.to_owned()))) {
            Ok(members) => Value::Object(members).to_string(),
            Err(error) => error.desc,
        }
    }

    #[test]
    fn keys_nest_as_on_qemu() {
        for (text, expected) in [
            ("a=1,b=2,a=3", r#"{"a":"3","b":"2"}"#),
            ("a.b=1,a.c.d=2", r#"{"a":{"b":"1","c":{"d":"2"}}}"#),
            ("a.1=x,a.0.b=y", r#"{"a":[{"b":"y"},"x"]}"#),
            ("a.0=x,a.2=y", "Parameter 'a.1' missing"),
            ("a.0=x,a.b=y", "Parameters 'a.*' used inconsistently"),
            ("a=x,a.b=y", "Parameters 'a.*' used inconsistently"),
            ("a.b=y,a=x", "Parameters 'a.*' used inconsistently"),
            ("a.b.c=y,a.b=x", "Parameters 'a.b.*' used inconsistently"),
            ("a..b=x", "Invalid parameter 'a..b'"),
        ] {
            assert_eq!(nested(text), expected, "{text}");
        }
        assert!(nested(&format!("a{}=x", ".a".repeat(5000))).starts_with("Invalid parameter"));
    }
}
