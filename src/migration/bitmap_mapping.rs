//! The parameter `block-bitmap-mapping`: how dirty bitmaps, and the block nodes that have them, are
//! called in a stream. It is checked as QEMU does; one that names anything is refused after that,
//! for no node has a dirty bitmap here.

use serde::{Deserialize, Serialize};

use super::status::ErrorDesc;

/// Longest alias, in bytes.
const LONGEST: usize = 255;

/// QAPI `BitmapMigrationNodeAlias`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeAlias {
    pub node_name: String,
    pub alias: String,
    pub bitmaps: Vec<BitmapAlias>,
}

/// QAPI `BitmapMigrationBitmapAlias`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BitmapAlias {
    pub name: String,
    pub alias: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<BitmapTransform>,
}

/// QAPI `BitmapMigrationBitmapAliasTransform`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BitmapTransform {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
}

/// QEMU's rule for identifiers.
fn is_well_formed(id: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(rest)
}

/// Whether the mapping is sound, and empty.
pub(super) fn check(mapping: &[NodeAlias]) -> Result<(), ErrorDesc> {
    if let Some(fault) = fault(mapping) {
        let text = format!("Invalid mapping given for block-bitmap-mapping: {fault}");
        return Err(ErrorDesc::from(text));
    }
    match mapping.is_empty() {
        true => Ok(()),
        false => Err(ErrorDesc::new("there are no dirty bitmaps to migrate")),
    }
}

fn fault(mapping: &[NodeAlias]) -> Option<String> {
    for (i, node) in mapping.iter().enumerate() {
        let NodeAlias { node_name, alias, bitmaps } = node;
        if !is_well_formed(alias) {
            return Some(format!("The node alias '{alias}' is not well-formed"));
        }
        if alias.len() > LONGEST {
            return Some(format!("The node alias '{alias}' is longer than {LONGEST} bytes"));
        }
        if node_name.len() > LONGEST {
            return Some(format!("The node name '{node_name}' is longer than {LONGEST} bytes"));
        }
        if mapping[..i].iter().any(|before| before.node_name == *node_name) {
            return Some(format!("The node name '{node_name}' is mapped twice"));
        }
        if mapping[..i].iter().any(|before| before.alias == *alias) {
            return Some(format!("The node alias '{alias}' is used twice"));
        }
        for (j, bitmap) in bitmaps.iter().enumerate() {
            let BitmapAlias { name, alias: bitmap_alias, .. } = bitmap;
            if bitmap_alias.len() > LONGEST {
                let text =
                    format!("The bitmap alias '{bitmap_alias}' is longer than {LONGEST} bytes");
                return Some(text);
            }
            if name.len() > LONGEST {
                return Some(format!("The bitmap name '{name}' is longer than {LONGEST} bytes"));
            }
            if bitmaps[..j].iter().any(|before| before.name == *name) {
                return Some(format!("The bitmap '{node_name}'/'{name}' is mapped twice"));
            }
            if bitmaps[..j].iter().any(|before| before.alias == *bitmap_alias) {
                let text = format!("The bitmap alias '{alias}'/'{bitmap_alias}' is used twice");
                return Some(text);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mappings_are_judged_as_qemu_does() {
        let long = "b".repeat(256);
        let node =
            |name: &str, alias: &str| json!({"node-name": name, "alias": alias, "bitmaps": []});
        let bitmaps = |list: &[(&str, &str)]| {
            let one = |(name, alias): &(&str, &str)| json!({"name": name, "alias": alias});
            let list: Vec<_> = list.iter().map(one).collect();
            json!([{"node-name": "a", "alias": "b", "bitmaps": list}])
        };
        let ours = "there are no dirty bitmaps to migrate".to_owned();
        let qemus =
            |fault: String| format!("Invalid mapping given for block-bitmap-mapping: {fault}");
        for (mapping, expected) in [
            (json!([node("a", "b")]), ours.clone()),
            (json!([node("", "b.c_d-e")]), ours.clone()),
            (json!([node("a", "-b")]), qemus("The node alias '-b' is not well-formed".into())),
            (
                json!([node("a", &long)]),
                qemus(format!("The node alias '{long}' is longer than 255 bytes")),
            ),
            (
                json!([node("a", "b"), node("a", "c")]),
                qemus("The node name 'a' is mapped twice".into()),
            ),
            (
                json!([node("a", "b"), node("c", "b")]),
                qemus("The node alias 'b' is used twice".into()),
            ),
            (bitmaps(&[("x", "y")]), ours),
            (
                bitmaps(&[("x", &long)]),
                qemus(format!("The bitmap alias '{long}' is longer than 255 bytes")),
            ),
            (
                bitmaps(&[("x", "y"), ("x", "z")]),
                qemus("The bitmap 'a'/'x' is mapped twice".into()),
            ),
            (
                bitmaps(&[("x", "y"), ("z", "y")]),
                qemus("The bitmap alias 'b'/'y' is used twice".into()),
            ),
        ] {
            let parsed: Vec<NodeAlias> = serde_json::from_value(mapping.clone()).unwrap();
            assert_eq!(check(&parsed).unwrap_err().as_str(), expected, "{mapping}");
        }
        assert_eq!(check(&[]), Ok(()));
    }
}
