//! Configuration files (`-readconfig`) and `-set`: both make options of the command line out of
//! what they say, or change one, so that everything that holds for options holds for them.
//!
//! A file has sections, `[group]` or `[group "id"]`, of lines `name = "value"`. As QEMU reads it, a
//! line whose value is not in quotes gives the empty value.

use std::fs::File;
use std::io::Read;

use super::argv::Occurrence;
use super::opts::Opts;
use super::{CliError, OptionError, refused};

/// Longest file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Longest name of a group, an id or a parameter, in bytes.
const MAX_NAME: usize = 63;

/// Groups of parameters, and the option that sets them.
const GROUPS: &[(&str, &str)] = &[
    ("accel", "accel"),
    ("action", "action"),
    ("add-fd", "add-fd"),
    ("audiodev", "audiodev"),
    ("boot-opts", "boot"),
    ("chardev", "chardev"),
    ("device", "device"),
    ("drive", "drive"),
    ("fsdev", "fsdev"),
    ("fw_cfg", "fw_cfg"),
    ("global", "global"),
    ("icount", "icount"),
    ("iscsi", "iscsi"),
    ("machine", "machine"),
    ("memory", "m"),
    ("mon", "mon"),
    ("msg", "msg"),
    ("name", "name"),
    ("net", "net"),
    ("netdev", "netdev"),
    ("nic", "nic"),
    ("numa", "numa"),
    ("object", "object"),
    ("overcommit", "overcommit"),
    ("plugin", "plugin"),
    ("rtc", "rtc"),
    ("run-with", "run-with"),
    ("sandbox", "sandbox"),
    ("semihosting-config", "semihosting-config"),
    ("smp-opts", "smp"),
    ("tpmdev", "tpmdev"),
    ("trace", "trace"),
    ("virtfs", "virtfs"),
];

/// Groups whose parameters cannot be changed once they are set.
const FIXED: [&str; 5] = ["object", "audiodev", "machine", "smp-opts", "boot-opts"];

fn option_of(group: &str) -> Result<&'static str, OptionError> {
    let known = GROUPS.iter().find(|(name, _)| *name == group);
    known
        .map(|(_, option)| *option)
        .ok_or_else(|| OptionError::Refused(format!("There is no option group '{group}'")))
}

/// Put what the files say in the place of each `-readconfig`, and what `-set` says into the option
/// that it is about.
pub fn expand(occurrences: Vec<Occurrence>) -> Result<Vec<Occurrence>, CliError> {
    let mut expanded: Vec<Occurrence> = Vec::new();
    for occurrence in occurrences {
        match occurrence.name.as_str() {
            "readconfig" => {
                let options =
                    read(&occurrence.value).map_err(|error| error.at(&occurrence.origin))?;
                expanded.extend(options);
            }
            "set" => {
                set(&occurrence.value, &mut expanded)
                    .map_err(|error| error.at(&occurrence.origin))?;
            }
            _ => expanded.push(occurrence),
        }
    }
    Ok(expanded)
}

/// The options that a file stands for.
fn read(path: &str) -> Result<Vec<Occurrence>, OptionError> {
    let cannot = |what: &str, error: std::io::Error| {
        let text = error.to_string();
        let words = text.split(" (os error").next().unwrap_or_default();
        OptionError::Refused(format!("{what}: {words}"))
    };
    let file = File::open(path).map_err(|e| cannot(&format!("Could not open '{path}'"), e))?;
    let mut bytes = Vec::new();
    let taken = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    taken.map_err(|error| cannot("Cannot read config file", error))?;
    if bytes.len() as u64 > MAX_FILE {
        return refused(format!("Cannot read config file: more than {MAX_FILE} bytes"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => sections(path, &text),
        Err(_) => refused("Cannot read config file: not valid UTF-8"),
    }
}

/// A section: its parameters and the line of the last one.
struct Section {
    group: String,
    items: Vec<(String, String)>,
    line: usize,
}

impl Section {
    fn into_option(self, path: &str) -> Result<Occurrence, OptionError> {
        let name = option_of(&self.group)?;
        let mut words = Vec::new();
        for (key, value) in &self.items {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if !key.chars().all(good) {
                return Err(OptionError::InvalidParameter { name: key.clone() });
            }
            words.push(format!("{key}={}", escaped(value)));
        }
        let value = words.join(",");
        Ok(Occurrence { name: name.into(), value, origin: format!(":{path}:{}", self.line) })
    }
}

/// A value as it stands in an option's argument.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

fn sections(path: &str, text: &str) -> Result<Vec<Occurrence>, OptionError> {
    let mut options = Vec::new();
    let mut current: Option<Section> = None;
    for (line, text) in (1..).zip(text.lines()) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some((group, id)) = header(text) {
            if let Some(done) = current.take() {
                options.push(done.into_option(path)?);
            }
            let items = id.map(|id| ("id".to_owned(), id)).into_iter().collect();
            current = Some(Section { group, items, line });
            continue;
        }
        let Some((name, value)) = parameter(text) else { return refused("parse error") };
        let Some(section) = &mut current else { return refused("no group defined") };
        section.items.retain(|(other, _)| *other != name);
        section.items.push((name, value));
        section.line = line;
    }
    if let Some(done) = current {
        options.push(done.into_option(path)?);
    }
    Ok(options)
}

/// `[group "id"]` or `[group]`; the brackets' end may be missing behind an id.
fn header(line: &str) -> Option<(String, Option<String>)> {
    let inside = line.strip_prefix('[')?;
    if let Some((group, rest)) = inside.split_once(' ')
        && let Some(id) = rest.trim_start().strip_prefix('"')
        && !group.is_empty()
    {
        let id = id.split('"').next().unwrap_or_default();
        return (!id.is_empty()).then(|| (clipped(group), Some(clipped(id))));
    }
    let group = inside.split(']').next().unwrap_or_default();
    (!group.is_empty()).then(|| (clipped(group), None))
}

/// `name = "value"`
fn parameter(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(char::is_whitespace).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let quoted = rest.trim_start().strip_prefix('=').and_then(|v| v.trim_start().strip_prefix('"'));
    let value = quoted.and_then(|value| value.split('"').next()).unwrap_or_default();
    Some((clipped(name), value.to_owned()))
}

fn clipped(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

/// `group.id.arg=value` changes an option before it.
fn set(text: &str, options: &mut [Occurrence]) -> Result<(), OptionError> {
    let unreadable = || OptionError::Refused(format!("can't parse: \"{text}\""));
    let (target, value) = text.split_once('=').ok_or_else(unreadable)?;
    let mut words = target.splitn(3, '.');
    let (Some(group), Some(id), Some(name)) = (words.next(), words.next(), words.next()) else {
        return Err(unreadable());
    };
    if [group, id, name].iter().any(|word| word.is_empty() || word.len() > MAX_NAME) {
        return Err(unreadable());
    }
    if FIXED.contains(&group) {
        return refused(format!("-set is not supported with {group}"));
    }
    let option = option_of(group)?;
    let found = options.iter_mut().find(|other| {
        let names_it = || Opts::parse(&other.value, Some("")).get("id") == Some(id);
        other.name == option && !other.value.starts_with('{') && names_it()
    });
    let Some(found) = found else {
        return refused(format!("there is no {group} \"{id}\" defined"));
    };
    found.value.push_str(&format!(",{name}={}", escaped(value)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(options: Result<Vec<Occurrence>, OptionError>) -> String {
        match options {
            Err(error) => error.to_string(),
            Ok(options) => {
                let one = |o: &Occurrence| format!("{} -{} {}", o.origin, o.name, o.value);
                options.iter().map(one).collect::<Vec<_>>().join("; ")
            }
        }
    }

    #[test]
    fn a_file_is_options() {
        for (text, expected) in [
            ("", ""),
            ("# words\n\n", ""),
            ("[memory]\nsize = \"200\"", ":f:2 -m size=200"),
            (
                "[device \"r0\"]\n  driver = \"x\"\n\n  a.b = \"1,2\"\n[name]\nguest = \"g\"\n",
                ":f:4 -device id=r0,driver=x,a.b=1,,2; :f:6 -name guest=g",
            ),
            ("[device \"r0\"\n driver = \"x\"\n", ":f:2 -device id=r0,driver=x"),
            ("[machine]\n type = \"a\"\n type = \"b\"", ":f:3 -machine type=b"),
            ("[machine]\n type = b\n", ":f:2 -machine type="),
            ("[machine]\n type=\"b\"\n", "Invalid parameter 'type=\"b\"'"),
            ("[machine]\n   \n", "parse error"),
            ("[]\n", "no group defined"),
            ("type = \"b\"\n", "no group defined"),
            ("[nosuch]\n", "There is no option group 'nosuch'"),
        ] {
            assert_eq!(shown(sections("f", text)), expected, "{text:?}");
        }
        let missing = "/nonexistent/file";
        let sentence = format!("Could not open '{missing}': No such file or directory");
        assert_eq!(shown(read(missing)), sentence);
        assert_eq!(shown(read("/")), "Cannot read config file: Is a directory");
    }

    #[test]
    fn set_changes_what_is_there() {
        for (text, expected) in [
            ("device.r0.a=1,2", "o -device x,id=r0,a=1,,2; o -device {'id':'r1'}"),
            ("device.r0.a.b==", "o -device x,id=r0,a.b==; o -device {'id':'r1'}"),
            ("device.r1.a=1", "there is no device \"r1\" defined"),
            ("drive.r0.a=1", "there is no drive \"r0\" defined"),
            ("machine.r0.a=1", "-set is not supported with machine"),
            ("nosuch.r0.a=1", "There is no option group 'nosuch'"),
            ("device.r0=1", "can't parse: \"device.r0=1\""),
            ("device.r0.a", "can't parse: \"device.r0.a\""),
            (".r0.a=1", "can't parse: \".r0.a=1\""),
        ] {
            let device = |value: &str| Occurrence {
                name: "device".into(),
                value: value.into(),
                origin: "o".into(),
            };
            let mut options = vec![device("x,id=r0"), device("{'id':'r1'}")];
            let found = shown(set(text, &mut options).map(|()| options));
            assert_eq!(found, expected, "{text}");
        }
    }
}
