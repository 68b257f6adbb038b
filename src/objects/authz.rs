//! `authz-simple` and `authz-list`: who may do what is asked, by name. For TLS the name is the
//! client certificate's distinguished name.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// QAPI `QAuthZListPolicy`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    #[default]
    Deny,
    Allow,
}

/// QAPI `QAuthZListFormat`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    #[default]
    Exact,
    /// `*` is any text, `?` any character.
    Glob,
}

/// QAPI `QAuthZListRule`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Rule {
    #[serde(rename = "match")]
    pub pattern: String,
    pub policy: Policy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// Who is allowed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authz {
    /// One identity.
    Simple { identity: String },
    /// The first rule that matches decides, else the policy.
    List { policy: Policy, rules: Vec<Rule> },
}

/// Rules, and the object that they are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    pub id: String,
    pub rules: Arc<Authz>,
}

impl Authz {
    /// Whether this one may come in.
    pub fn is_allowed(&self, identity: &str) -> bool {
        match self {
            Self::Simple { identity: allowed } => allowed == identity,
            Self::List { policy, rules } => {
                let rule = rules.iter().find(|rule| rule.matches(identity));
                rule.map_or(*policy, |rule| rule.policy) == Policy::Allow
            }
        }
    }
}

impl Rule {
    fn matches(&self, identity: &str) -> bool {
        match self.format.unwrap_or_default() {
            Format::Exact => self.pattern == identity,
            Format::Glob => glob(&self.pattern, identity),
        }
    }
}

/// Match in time proportional to the product of the lengths at worst: only the last `*` is ever
/// tried again.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // After the last star, and the text that it does not swallow yet.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut retry {
                None => return false,
                Some((after, swallowed)) => {
                    *swallowed += 1;
                    (p, t) = (*after, *swallowed);
                }
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |pattern: &str, policy, format| Rule { pattern: pattern.into(), policy, format };
        let list = Authz::List {
            policy: Policy::Deny,
            rules: vec![
                rule("O=evil,*", Policy::Deny, Some(Format::Glob)),
                rule("O=*,CN=client?", Policy::Allow, Some(Format::Glob)),
                rule("CN=*", Policy::Allow, None),
            ],
        };
        for (identity, allowed) in [
            ("O=good,CN=client1", true),
            ("O=good,OU=x,CN=client2", true),
            ("O=evil,CN=client1", false),
            ("O=good,CN=client12", false),
            ("O=good,CN=client", false),
            ("CN=*", true),
            ("CN=x", false),
            ("", false),
        ] {
            assert_eq!(list.is_allowed(identity), allowed, "{identity}");
        }
        let simple = Authz::Simple { identity: "CN=a".into() };
        assert!(simple.is_allowed("CN=a") && !simple.is_allowed("CN=ab"));
        let open = Authz::List { policy: Policy::Allow, rules: Vec::new() };
        assert!(open.is_allowed("anybody"));
    }

    #[test]
    fn stars_take_no_exponential_time() {
        let pattern = "a*".repeat(40) + "b";
        assert!(!glob(&pattern, &"a".repeat(2000)));
        assert!(glob("**x**", "x") && glob("", "") && !glob("?", ""));
    }
}
