//! From a command line with single-dash options to an ordered list of options. Which words are
//! arguments depends on each option's arity, which the option table knows.

use clap::error::ErrorKind;

use super::{CliError, options};

/// An option as it occurred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// The option's first name, without dashes; `disk_image` for a bare word.
    pub name: String,
    /// Its argument; empty for a flag.
    pub value: String,
    /// The words as typed: the start of every message about this option.
    pub origin: String,
}

/// Split `words` (without the program's name) into options, in the order in which they were given.
pub fn occurrences(words: &[String]) -> Result<Vec<Occurrence>, CliError> {
    let command = options::command();
    let mut rewritten = Vec::new();
    let mut origins = Vec::new();
    let mut images = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else {
            images.push((origins.len(), word));
            continue;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let known = command.get_arguments().find(|arg| {
            arg.get_long() == Some(name)
                || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        });
        let takes_value = known.is_some_and(options::takes_value);
        if takes_value {
            let value =
                rest.next().ok_or_else(|| CliError::MissingArgument { option: word.clone() })?;
            rewritten.push(format!("--{name}={value}"));
            origins.push(format!("{word} {value}"));
        } else {
            rewritten.push(format!("--{name}="));
            origins.push(word.clone());
        }
    }
    let matches = command.clone().try_get_matches_from(&rewritten).map_err(|error| {
        let option = match (error.kind(), error.get(clap::error::ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(name)) => {
                let name = name.to_string();
                rewritten
                    .iter()
                    .position(|word| word.split('=').next() == name.split('=').next())
                    .and_then(|index| origins.get(index).cloned())
                    .unwrap_or(name)
            }
            _ => error.to_string(),
        };
        CliError::InvalidOption { option }
    })?;

    let mut found = Vec::new();
    for arg in command.get_arguments() {
        let name = arg.get_id().as_str();
        let (Some(indices), Some(values)) =
            (matches.indices_of(name), matches.get_many::<String>(name))
        else {
            continue;
        };
        for (index, value) in indices.zip(values) {
            found.push((index, name, value));
        }
    }
    found.sort_by_key(|(index, ..)| *index);
    let mut list: Vec<_> = found
        .into_iter()
        .zip(origins)
        .map(|((_, name, value), origin)| Occurrence {
            name: name.to_owned(),
            value: value.clone(),
            origin,
        })
        .collect();
    // From the last to the first, so that the positions stay true.
    for (position, word) in images.into_iter().rev() {
        list.insert(
            position,
            Occurrence { name: "disk_image".into(), value: word.clone(), origin: word.clone() },
        );
    }
    Ok(list)
}
