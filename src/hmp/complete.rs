//! Completion: what the last word of a line can become. Which list it is taken from depends on the
//! command alone; what is in the list is asked of the machine.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use super::arguments::{self, Argument, Kind, MAX_WORDS, is_space};
use super::command::{Action, HmpCommand};
use super::table::COMMANDS;
use crate::qmp::link::Services;

/// Most candidates that are shown.
const MAX_CANDIDATES: usize = 256;

/// Where the words come from that an argument can be.
#[derive(Debug, Clone, Copy)]
pub enum Completes {
    Nothing,
    /// A command and its arguments.
    CommandLine,
    /// Files of the host.
    Files,
    Words(&'static [&'static str]),
    Names(Names),
}

/// Lists names that there are at the moment.
pub type Names = for<'a> fn(&'a Arc<Services>) -> Listing<'a>;

/// A list under way.
pub type Listing<'a> = Pin<Box<dyn Future<Output = Vec<String>> + 'a>>;

/// What the last word of a line can become.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completions {
    /// Bytes of the word that are typed already.
    pub typed: usize,
    /// Each once, in no order.
    pub candidates: Vec<String>,
}

/// Complete the line up to the cursor.
pub async fn complete(services: &Arc<Services>, line: &str) -> Completions {
    let Some(mut words) = arguments::words(line) else { return Completions::default() };
    if line.ends_with(is_space) || words.is_empty() {
        if words.len() == MAX_WORDS {
            return Completions::default();
        }
        words.push(String::new());
    }
    let start = words.last().map_or("", |word| word.as_str());
    let all: Vec<String> = match place(services, COMMANDS, &words) {
        Place::Names(table) => {
            let available = table.iter().filter(|command| command.is_available(services));
            available.flat_map(|command| command.names.split('|')).map(str::to_owned).collect()
        }
        Place::Argument(Completes::Nothing | Completes::CommandLine) => Vec::new(),
        Place::Argument(Completes::Words(words)) => words.iter().map(|w| (*w).to_owned()).collect(),
        Place::Argument(Completes::Names(names)) => names(services).await,
        Place::Argument(Completes::Files) => {
            let start = start.to_owned();
            // A panic in it is nothing to complete with.
            tokio::task::spawn_blocking(move || files(&start)).await.unwrap_or_default()
        }
    };
    let mut candidates: Vec<String> = Vec::new();
    for name in all.into_iter().filter(|name| name.starts_with(start)) {
        if candidates.len() < MAX_CANDIDATES && !candidates.contains(&name) {
            candidates.push(name);
        }
    }
    Completions { typed: start.len(), candidates }
}

/// What the last of some words is.
enum Place {
    /// A name in this table.
    Names(&'static [HmpCommand]),
    Argument(Completes),
}

fn place(services: &Services, table: &'static [HmpCommand], words: &[String]) -> Place {
    let nothing = Place::Argument(Completes::Nothing);
    let [first, rest @ ..] = words else { return Place::Names(table) };
    if rest.is_empty() {
        return Place::Names(table);
    }
    let is_it = |command: &&HmpCommand| command.is_called(first) && command.is_available(services);
    let Some(command) = table.iter().find(is_it) else {
        return nothing;
    };
    match command.action {
        Action::Table(inner) => place(services, inner, rest),
        Action::Run(_) => match argument(command.arguments, rest.len() - 1) {
            None => nothing,
            Some(Completes::CommandLine) => place(services, table, rest),
            Some(completes) => Place::Argument(completes),
        },
    }
}

/// The argument that the word at an index is. File names and block devices may follow flags that
/// are not there, and go on to the end of the line; names have their place.
fn argument(arguments: &[Argument], index: usize) -> Option<Completes> {
    let by_place = arguments.iter().any(|argument| {
        let goes_on = match argument.kind {
            Kind::File | Kind::Block | Kind::Switch => true,
            Kind::Rest => matches!(argument.completes, Completes::CommandLine),
            _ => false,
        };
        !goes_on && !matches!(argument.completes, Completes::Nothing)
    });
    if by_place {
        return arguments.get(index).map(|argument| argument.completes);
    }
    let is_flag = |argument: &&Argument| matches!(argument.kind, Kind::Flag(_));
    let last = arguments.len().checked_sub(1)?;
    let mut from_here = arguments[index.min(last)..].iter();
    from_here
        .find(|argument| !is_flag(argument))
        .filter(|argument| argument.kind != Kind::Switch)
        .map(|argument| argument.completes)
}

/// Files whose path starts so; directories end in a slash.
fn files(start: &str) -> Vec<String> {
    let (folder, name) = start.rfind('/').map_or(("", start), |at| start.split_at(at + 1));
    let looked_in = if folder.is_empty() { "." } else { folder };
    let Ok(entries) = std::fs::read_dir(looked_in) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found = Vec::new();
    for mut path in names.filter(|entry| entry.starts_with(name)).map(|n| format!("{folder}{n}")) {
        if Path::new(&path).is_dir() {
            path.push('/');
        }
        found.push(path);
        if found.len() == MAX_CANDIDATES {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hmp::arguments::{optional, required};

    #[test]
    fn the_argument_that_a_word_is() {
        const BY_KIND: &[Argument] = &[
            required("nodes", Kind::Flag('n')),
            required("verbose", Kind::Flag('v')),
            required("from", Kind::File),
            optional("to", Kind::Long),
        ];
        const NOBODY: Names = |_| Box::pin(async { Vec::new() });
        const BY_PLACE: &[Argument] = &[
            required("name", Kind::Text).a_command(),
            required("state", Kind::Switch),
            optional("cpu", Kind::Int),
        ];
        for (arguments, index, expected) in [
            (BY_KIND, 0, "Some(Files)"),
            (BY_KIND, 1, "Some(Files)"),
            (BY_KIND, 2, "Some(Files)"),
            (BY_KIND, 3, "Some(Nothing)"),
            (&BY_KIND[..3], 9, "Some(Files)"),
            (&BY_KIND[..2], 0, "None"),
            (BY_PLACE, 0, "Some(CommandLine)"),
            (BY_PLACE, 1, "Some(Words([\"on\", \"off\"]))"),
            (BY_PLACE, 2, "Some(Nothing)"),
            (BY_PLACE, 3, "None"),
            (&[required("all", Kind::Rest).among(NOBODY)], 0, "Some(Names"),
            (&[required("all", Kind::Rest).among(NOBODY)], 1, "None"),
            (&[], 0, "None"),
        ] {
            let found = format!("{:?}", argument(arguments, index));
            assert!(found.starts_with(expected), "{index}: {found}");
        }
    }

    #[test]
    fn files_of_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("some"), "").unwrap();
        let mut found = files(&format!("{root}/s"));
        found.sort();
        assert_eq!(found, [format!("{root}/some"), format!("{root}/sub/")]);
        assert!(files(&format!("{root}/none/s")).is_empty());
    }
}
