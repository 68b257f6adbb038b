//! Completion of command names, sub-commands, and the arguments of `help`.

use super::arguments::Kind;
use super::command::{Action, HmpCommand};
use super::table::COMMANDS;

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
    match command.arguments.first() {
        Some(argument) if argument.kind == Kind::CommandName => match rest {
            [_] => names(COMMANDS, last),
            [table, item] => within(COMMANDS, &[table, item]),
            _ => Completions::default(),
        },
        _ => Completions::default(),
    }
}

fn names(table: &[HmpCommand], start: &str) -> Completions {
    let all = table.iter().flat_map(|command| command.names.split('|'));
    let candidates = all.filter(|name| name.starts_with(start)).map(str::to_owned).collect();
    Completions { typed: start.len(), candidates }
}
