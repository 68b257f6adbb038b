//! Completion of command names, sub-commands, the arguments of `help`, and of those that are one of
//! a list of names.

use super::arguments::Kind;
use super::command::{Action, HmpCommand};
use super::table::COMMANDS;
use crate::migration::capability::Capability;
use crate::migration::parameter_text;

/// What the last word of a line can become.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completions {
    /// Bytes of the word that are typed already.
    pub typed: usize,
    pub candidates: Vec<String>,
}

/// Complete the line up to the cursor.
pub fn complete(line: &str) -> Completions {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if line.is_empty() || line.ends_with(char::is_whitespace) {
        words.push("");
    }
    within(COMMANDS, &words)
}

fn within(table: &'static [HmpCommand], words: &[&str]) -> Completions {
    let Some((&first, rest)) = words.split_first() else { return Completions::default() };
    let Some(last) = rest.last() else { return names(table, first) };
    let Some(command) = table.iter().find(|command| command.is_called(first)) else {
        return Completions::default();
    };
    if let Action::Table(inner) = command.action {
        return within(inner, rest);
    }
    let words = || command.arguments.iter().filter(|a| !matches!(a.kind, Kind::Flag(_)));
    if words().next().is_some_and(|first| first.kind == Kind::CommandName) {
        return match rest {
            [_] => names(COMMANDS, last),
            [table, item] => within(COMMANDS, &[table, item]),
            _ => Completions::default(),
        };
    }
    match words().nth(rest.len() - 1).map(|argument| argument.kind) {
        Some(Kind::Capability) => among(Capability::ALL.into_iter().map(Capability::name), last),
        Some(Kind::MigrationParameter) => among(parameter_text::names(), last),
        Some(Kind::Switch) => among(["off", "on"].into_iter(), last),
        _ => Completions::default(),
    }
}

fn among(all: impl Iterator<Item = &'static str>, start: &str) -> Completions {
    let candidates = all.filter(|name| name.starts_with(start)).map(str::to_owned).collect();
    Completions { typed: start.len(), candidates }
}

fn names(table: &'static [HmpCommand], start: &str) -> Completions {
    among(table.iter().flat_map(|command| command.names.split('|')), start)
}
