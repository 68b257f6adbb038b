//! The objects as the object model shows them, and what of them can be another later.

use std::sync::Arc;

use serde_json::Value;

use super::authz::Authz;
use super::properties::ObjectView;
use super::{Entry, Object, ObjectError, Objects};
use crate::qom::Node;

impl Objects {
    /// Every object, by name, in the order of their table.
    pub fn nodes(&self) -> Vec<(String, Node)> {
        self.list().into_iter().map(node).collect()
    }

    /// Give a property of an object another value than the one it `has`; the value is of the
    /// property's type.
    pub fn set(
        &self,
        id: &str,
        property: &str,
        value: &Value,
        has: &Value,
    ) -> Result<(), ObjectError> {
        let mut entries = self.entries.lock();
        let entry = entries.by_id.get_mut(id);
        let entry = entry.ok_or_else(|| ObjectError::NotFound(id.to_owned()))?;
        let refused = |sentence: String| Err(ObjectError::Refused(sentence));
        match (&entry.object, property) {
            (Object::Memory(_), "size") => {
                // QEMU's sentence ends so.
                return refused(format!("cannot change property size of {} ", entry.type_name));
            }
            (Object::Memory(backend), "discard-data") => {
                backend.memory.set_discard_data(value == &Value::Bool(true));
            }
            // QEMU's sentences end so, each.
            (Object::Memory(_), "readonly" | "rom") => {
                let of = entry.type_name;
                return refused(format!("cannot change property '{property}' of {of}."));
            }
            (Object::Memory(_), "mem-path" | "align" | "offset") => {
                let of = entry.type_name;
                return refused(format!("cannot change property '{property}' of {of}"));
            }
            (Object::Memory(_), "share" | "reserve" | "policy" | "host-nodes") => {
                return refused("cannot change property value".into());
            }
            (Object::Plain, _) => {
                return refused(format!("Property '{property}' can no longer be set"));
            }
            (Object::IoThread(thread), _) => return thread.set(property, value),
            (Object::Memory(_), _) => {
                return match value == has {
                    true => Ok(()),
                    false => refused("cannot change property value".into()),
                };
            }
            // Credentials have been read and secrets decrypted: nobody looks at this again.
            (Object::Authz(_) | Object::Secret(_) | Object::Credentials(_), _) => {}
        }
        if let Some(known) = entry.properties.iter_mut().find(|known| known.name == property) {
            known.value = value.clone();
        }
        if let Object::Authz(rules) = &entry.object {
            // Who asks for them from now on gets these.
            let changed = changed(rules, entry)?;
            entry.object = Object::Authz(Arc::new(changed));
        }
        Ok(())
    }
}

/// Rules as the properties have them now.
fn changed(rules: &Authz, entry: &Entry) -> Result<Authz, ObjectError> {
    let value = |name: &str| {
        let property = entry.properties.iter().find(|property| property.name == name);
        property.map(|property| property.value.clone()).unwrap_or_default()
    };
    let wrong = |error: serde_json::Error| ObjectError::Refused(error.to_string());
    Ok(match rules {
        Authz::Simple { .. } => {
            Authz::Simple { identity: serde_json::from_value(value("identity")).map_err(wrong)? }
        }
        Authz::List { .. } => Authz::List {
            policy: serde_json::from_value(value("policy")).map_err(wrong)?,
            rules: serde_json::from_value(value("rules")).map_err(wrong)?,
        },
    })
}

fn node(view: ObjectView) -> (String, Node) {
    let ObjectView { id, type_name, properties } = view;
    let mut node = Node::new(type_name);
    // Entropy is there at once.
    node.set("opened", true);
    for property in properties.into_iter().filter(|property| !property.value.is_null()) {
        node.set(property.name, property.value);
    }
    if node.of().is("memory-backend") {
        let size = node.value("size").unwrap_or_default();
        node.add(format!("{id}[0]"), Node::new("memory-region").with("size", size));
    }
    (id, node)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::options::ObjectOptions;

    async fn made(options: &str) -> Objects {
        let objects = Objects::default();
        let spec = ObjectOptions::parse(options).unwrap().into_spec().unwrap();
        objects.add(spec).await.unwrap();
        objects
    }

    #[actix::test]
    async fn objects_show_what_they_were_made_from() {
        for (options, type_name, property, expected) in [
            ("rng-builtin,id=o", "rng-builtin", "opened", json!(true)),
            ("secret,id=o,data=eA==,format=base64", "secret", "format", json!("base64")),
            ("secret,id=o,data=x", "secret", "keyid", json!("")),
            ("secret,id=o,data=eA==,format=base64", "secret", "data", json!("eA==")),
            ("secret,id=o,file=/dev/null", "secret", "data", json!("")),
            ("memory-backend-shm,id=o,size=1M", "memory-backend-shm", "share", json!(true)),
            ("memory-backend-ram,id=o,size=1M", "memory-backend-ram", "size", json!(1 << 20)),
            ("authz-simple,id=o,identity=me", "authz-simple", "identity", json!("me")),
        ] {
            let objects = made(options).await;
            let (id, node) = objects.nodes().remove(0);
            assert_eq!((id.as_str(), node.type_name()), ("o", type_name));
            assert_eq!(node.value(property), Some(expected), "{options}");
            for property in objects.list().remove(0).properties {
                let known = node.property(property.name);
                assert_eq!(known.unwrap().type_name, property.type_name, "{}", property.name);
            }
        }
    }

    #[actix::test]
    async fn rules_can_be_others_later() {
        let objects = made("authz-list,id=o").await;
        let allowed =
            |objects: &Objects| objects.authorization("o").unwrap().rules.is_allowed("me");
        assert!(!allowed(&objects));
        objects.set("o", "policy", &json!("allow"), &json!("deny")).unwrap();
        assert!(allowed(&objects));
        let rules = json!([{"match": "m?", "policy": "deny", "format": "glob"}]);
        objects.set("o", "rules", &rules, &json!([])).unwrap();
        assert!(!allowed(&objects));
        let memory = made("memory-backend-ram,id=o,size=1M").await;
        let refused = memory.set("o", "size", &json!(5), &json!(5)).unwrap_err();
        assert_eq!(refused.to_string(), "cannot change property size of memory-backend-ram ");
        let refused = memory.set("o", "share", &json!(false), &json!(false)).unwrap_err();
        assert_eq!(refused.to_string(), "cannot change property value");
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let file = made(&format!("memory-backend-file,id=o,size=8k,mem-path={path}")).await;
        for (property, value, says) in [
            ("rom", json!("on"), "cannot change property 'rom' of memory-backend-file."),
            ("align", json!(0), "cannot change property 'align' of memory-backend-file"),
        ] {
            let refused = file.set("o", property, &value, &value).unwrap_err();
            assert_eq!(refused.to_string(), says);
        }
        file.set("o", "discard-data", &json!(true), &json!(false)).unwrap();
        assert_eq!(file.nodes().remove(0).1.value("discard-data"), Some(json!(true)));
    }
}
