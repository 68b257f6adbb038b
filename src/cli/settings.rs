//! Options that set one thing each: names, clock, messages, actions, log, process.

use std::ops::RangeInclusive;

use super::argv::Occurrence;
use super::opts::Opts;
use super::{OptionError, Step, options, refused, value};
use crate::machine::message::{PanicAction, RebootAction, ShutdownAction};
use crate::machine::spec::{
    Actions, DescriptorSpec, LOG_ITEMS, LOG_ITEMS_UNAVAILABLE, MachineSpec, MemoryLock, RtcBase,
    RtcClock, RunAs, WatchdogAction, is_log_name,
};
use crate::qmp::error::os_words;
use crate::sandbox::Sandbox;
use crate::trace;

/// Take an option.
pub fn option(
    option: &Occurrence,
    spec: &mut MachineSpec,
    warnings: &mut Vec<String>,
) -> Result<Step, OptionError> {
    let text = option.value.as_str();
    match option.name.as_str() {
        "name" => {
            let mut opts = Opts::parse(text, Some("guest"));
            spec.name = opts.take("guest").or(spec.name.take());
            spec.process_name = opts.take("process").or(spec.process_name.take());
            if let Some(on) = opts.take_switch("debug-threads")? {
                spec.debug_threads = on;
            }
            opts.finish()?;
        }
        "uuid" => match value::uuid(text) {
            Some(uuid) => spec.uuid = Some(uuid),
            None => return refused("failed to parse UUID string: wrong format"),
        },
        "seed" => match value::uint(text).filter(|_| !text.starts_with('-')) {
            Some(seed) => spec.seed = Some(seed),
            None => return refused(format!("Invalid seed number: {text}")),
        },
        "S" => spec.start_paused = true,
        "preconfig" => spec.preconfig = true,
        "no-reboot" => spec.actions.reboot = RebootAction::Shutdown,
        "no-shutdown" => spec.actions.shutdown = ShutdownAction::Pause,
        "action" => actions(text, &mut spec.actions)?,
        "watchdog-action" => actions(&format!("watchdog={text}"), &mut spec.actions)?,
        "trace" => return trace_events(text, spec, warnings),
        "rtc" => rtc(text, spec, warnings)?,
        "msg" => {
            let mut opts = Opts::parse(text, None);
            if let Some(on) = opts.take_switch("timestamp")? {
                spec.messages.timestamp = on;
            }
            if let Some(on) = opts.take_switch("guest-name")? {
                spec.messages.guest_name = on;
            }
            opts.finish()?;
        }
        "pidfile" => spec.process.pidfile = Some(text.into()),
        "daemonize" => spec.process.daemonize = true,
        "d" => return log_items(text, spec),
        "D" => {
            if !is_log_name(text) {
                return refused(format!("Bad logfile template: {text}"));
            }
            spec.log.file = Some(text.into());
        }
        "dfilter" => {
            spec.log.filter = text.split(',').map(address_range).collect::<Result<_, _>>()?;
        }
        "sandbox" => spec.process.sandbox = sandbox(text)?,
        "run-with" => run_with(text, spec, warnings)?,
        "overcommit" => overcommit(text, spec, warnings)?,
        "audiodev" => {
            let mut opts = Opts::parse_or_json(text, "driver")?;
            let (driver, id) = (opts.take("driver"), opts.take("id"));
            match (driver.as_deref(), id) {
                (_, None) => return Err(OptionError::Missing { name: "id".into() }),
                (None, _) => return Err(OptionError::Missing { name: "driver".into() }),
                (Some("none"), Some(id)) => {
                    value::identifier(&id)?;
                    opts.finish()?;
                }
                _ => return refused("the machine has no sound device; only driver=none"),
            }
        }
        "vga" => match text {
            "none" => {}
            // The board takes no part in it, with QEMU neither.
            "std" | "cirrus" | "virtio" | "xenfb" => warnings.push(
                "warning: A -vga option was passed but this machine type does not use that \
                 option; No VGA device has been created"
                    .into(),
            ),
            "vmware" => return refused("VMWare SVGA not available"),
            "qxl" => return refused("QXL VGA not available"),
            "tcx" => return refused("TCX framebuffer not available"),
            "cg3" => return refused("CG3 framebuffer not available"),
            "help" => return Ok(Step::Print("none                 no graphic card\n".into())),
            _ => return refused(format!("unknown vga type: {text}")),
        },
        "nic" | "net" => match text {
            "none" => {}
            _ => return refused("network devices are not available; only 'none'"),
        },
        "audio" => {
            let mut opts = Opts::parse(text, Some("driver"));
            if opts.take("driver").is_none_or(|driver| driver != "none") {
                return refused("the machine has no sound device; only -audio none");
            }
            opts.finish()?;
        }
        "gdb" => match text {
            "none" => {}
            _ => return refused("the gdb stub is not available; only -gdb none"),
        },
        "parallel" => match text {
            "none" | "null" => {}
            _ => return refused("the machine has no parallel port; only 'none' or 'null'"),
        },
        // There are no configuration files of a user that could be read.
        "no-user-config" => {}
        // A row of the table that no module takes: a mistake in the table, told as QEMU tells it.
        _ => {
            let known = options::refusal(&option.name).unwrap_or("invalid option");
            return refused(known);
        }
    }
    Ok(Step::Next)
}

/// `-sandbox`
fn sandbox(text: &str) -> Result<Option<Sandbox>, OptionError> {
    let mut opts = Opts::parse(text, Some("enable"));
    let on = opts.take_switch("enable")?.unwrap_or(false);
    let names = ["obsolete", "elevateprivileges", "spawn", "resourcecontrol"];
    let [obsolete, privileges, spawn, resources] = names.map(|name| (name, opts.take(name)));
    opts.finish()?;
    if !on {
        return Ok(None);
    }
    let denied = |(name, value): (&str, Option<String>), default| match value.as_deref() {
        None => Ok(default),
        Some("deny") => Ok(true),
        Some("allow") => Ok(false),
        // Nothing in the sandbox gains privileges by executing something, with or without this.
        Some("children") if name == "elevateprivileges" => Ok(true),
        Some(_) => refused(format!("invalid argument for {name}")),
    };
    Ok(Some(Sandbox {
        obsolete: denied(obsolete, true)?,
        privileges: denied(privileges, false)?,
        spawn: denied(spawn, false)?,
        resources: denied(resources, false)?,
    }))
}

/// `-run-with`
fn run_with(
    text: &str,
    spec: &mut MachineSpec,
    warnings: &mut Vec<String>,
) -> Result<(), OptionError> {
    let mut opts = Opts::parse(text, None);
    if let Some(on) = opts.take_switch("async-teardown")? {
        spec.process.async_teardown = on;
    }
    let (root, user) = (opts.take("chroot"), opts.take("user"));
    opts.finish()?;
    warnings.extend(opts.warnings);
    if let Some(root) = root {
        spec.process.root = Some(root.into());
    }
    if let Some(user) = user {
        let found = RunAs::find(&user).ok_or_else(|| {
            let sentence = format!("User \"{text}\" doesn't exist (and is not <uid>:<gid>)");
            OptionError::Refused(sentence)
        })?;
        spec.process.user = Some(found);
    }
    Ok(())
}

/// `-overcommit`
fn overcommit(
    text: &str,
    spec: &mut MachineSpec,
    warnings: &mut Vec<String>,
) -> Result<(), OptionError> {
    let mut opts = Opts::parse(text, None);
    // Lets a guest that runs on the host's CPU itself put it to sleep; ours, as with TCG, does not.
    opts.take_switch("cpu-pm")?;
    let lock = opts.take("mem-lock");
    opts.finish()?;
    warnings.extend(opts.warnings);
    spec.process.memory_lock = match lock.as_deref() {
        None => return Ok(()),
        Some("on") => MemoryLock::All,
        Some("on-fault") => MemoryLock::Touched,
        Some("off") => MemoryLock::None,
        Some(_) => {
            return refused("parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'");
        }
    };
    Ok(())
}

/// `-display`.
pub fn display(text: &str) -> Result<Step, OptionError> {
    if matches!(text, "help" | "?") {
        return Ok(Step::Print("Available display backend types:\nnone\n".into()));
    }
    let opts = match text.starts_with('{') {
        true => Opts::parse_json(text)?,
        false => Opts::parse_keyval(text, "type")?,
    };
    let kind = opts.get("type").unwrap_or_default();
    match kind.split('=').next().unwrap_or_default() {
        "none" => {
            let mut opts = opts;
            opts.take("type");
            // What all kinds have; there is no window that they could be about.
            for name in ["full-screen", "window-close", "show-cursor"] {
                opts.take_switch(name)?;
            }
            match opts.take("gl").as_deref() {
                None | Some("off") => {}
                Some("on" | "core" | "es") => {
                    return refused("OpenGL is not supported by display backend 'none'");
                }
                Some(value) => {
                    return Err(OptionError::NotAccepted {
                        name: "gl".into(),
                        value: value.into(),
                        allowed: "off, on, core, es".into(),
                    });
                }
            }
            match opts.items.first() {
                None => Ok(Step::Next),
                Some((key, _)) => Err(OptionError::Unexpected { name: key.clone() }),
            }
        }
        "gtk" | "sdl" | "curses" | "egl-headless" | "spice-app" | "dbus" | "cocoa" | "vnc"
        | "default" => {
            refused(format!("Display '{kind}' is not available; there is only -display none"))
        }
        _ => Err(OptionError::NotAccepted {
            name: "type".into(),
            value: kind.into(),
            allowed: "none".into(),
        }),
    }
}

/// `-add-fd`
pub fn add_fd(text: &str, origin: &str) -> Result<DescriptorSpec, OptionError> {
    let mut opts = Opts::parse(text, None);
    let fd = opts.take_number("fd")?;
    let set = opts.take_number("set")?;
    let opaque = opts.take("opaque");
    opts.finish()?;
    let Some(fd) = fd.and_then(|fd| i32::try_from(fd).ok()) else {
        return refused("fd option is required and must be non-negative");
    };
    if fd <= 2 {
        return refused("fd cannot be a standard I/O stream");
    }
    let Some(set) = set.and_then(|set| i64::try_from(set).ok()) else {
        return refused("set option is required and must be non-negative");
    };
    Ok(DescriptorSpec { fd, set, opaque, origin: origin.to_owned() })
}

fn actions(text: &str, actions: &mut Actions) -> Result<(), OptionError> {
    for (key, text) in Opts::parse(text, None).items {
        match key.as_str() {
            "reboot" => {
                let words = [("reset", RebootAction::Reset), ("shutdown", RebootAction::Shutdown)];
                actions.reboot = value::choice(&key, &text, &words)?;
            }
            "shutdown" => {
                let words =
                    [("poweroff", ShutdownAction::Poweroff), ("pause", ShutdownAction::Pause)];
                actions.shutdown = value::choice(&key, &text, &words)?;
            }
            "panic" => {
                let words = [
                    ("pause", PanicAction::Pause),
                    ("shutdown", PanicAction::Shutdown),
                    ("exit-failure", PanicAction::ExitFailure),
                    ("none", PanicAction::None),
                ];
                actions.panic = value::choice(&key, &text, &words)?;
            }
            "watchdog" => {
                let words = [
                    ("reset", WatchdogAction::Reset),
                    ("shutdown", WatchdogAction::Shutdown),
                    ("poweroff", WatchdogAction::Poweroff),
                    ("pause", WatchdogAction::Pause),
                    ("debug", WatchdogAction::Debug),
                    ("none", WatchdogAction::None),
                    ("inject-nmi", WatchdogAction::InjectNmi),
                ];
                actions.watchdog = value::choice(&key, &text, &words)?;
            }
            _ => return Err(OptionError::InvalidParameter { name: key }),
        }
    }
    Ok(())
}

fn rtc(text: &str, spec: &mut MachineSpec, warnings: &mut Vec<String>) -> Result<(), OptionError> {
    let mut opts = Opts::parse(text, None);
    if let Some(base) = opts.take("base") {
        spec.rtc.base = match base.as_str() {
            "utc" => RtcBase::Utc,
            "localtime" => RtcBase::Localtime,
            date => match value::date(date) {
                Some(moment) => RtcBase::At(moment),
                None => {
                    return refused(format!(
                        "invalid datetime format '{date}' (valid: utc, localtime, \
                         '2006-06-17T16:01:21' or '2006-06-17')"
                    ));
                }
            },
        };
    }
    if let Some(clock) = opts.take("clock") {
        spec.rtc.clock = match clock.as_str() {
            "host" => RtcClock::Host,
            "rt" => RtcClock::Rt,
            "vm" => RtcClock::Vm,
            _ => return refused(format!("invalid option value '{clock}' (valid: host, rt, vm)")),
        };
    }
    match opts.take("driftfix").as_deref() {
        None | Some("none") => {}
        Some("slew") => {
            warnings.push("warning: driftfix 'slew' is not available with this machine".into());
        }
        Some(other) => return refused(format!("invalid option value '{other}' (valid: none)")),
    }
    opts.finish()
}

/// A range of `-dfilter`: `first..last`, `first+size` or `last-size`.
fn address_range(text: &str) -> Result<RangeInclusive<u64>, OptionError> {
    let by = ["..", "+", "-"].into_iter().find_map(|by| Some((by, text.split_once(by)?)));
    let Some((by, (left, right))) = by else {
        return refused("Bad range specifier");
    };
    let number = |word: &str, side: &str| {
        let sentence = || OptionError::Refused(format!("Invalid number to the {side} of {by}"));
        value::uint(word).ok_or_else(sentence)
    };
    let (left, right) = (number(left, "left")?, number(right, "right")?);
    let (first, last) = match by {
        ".." => (Some(left), Some(right)),
        "+" => (Some(left), right.checked_sub(1).and_then(|n| left.checked_add(n))),
        _ => (right.checked_sub(1).and_then(|n| left.checked_sub(n)), Some(left)),
    };
    match (first, last) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => refused("Invalid range"),
    }
}

/// `-trace`.
fn trace_events(
    text: &str,
    spec: &mut MachineSpec,
    warnings: &mut Vec<String>,
) -> Result<Step, OptionError> {
    let mut opts = Opts::parse(text, Some("enable"));
    let enable = opts.take("enable");
    if matches!(enable.as_deref(), Some("help" | "?")) {
        return Ok(Step::Print(trace::NAMES.iter().map(|name| format!("{name}\n")).collect()));
    }
    let events = opts.take("events");
    if let Some(path) = opts.take("file") {
        spec.log.file = Some(path.into());
    }
    opts.finish()?;
    let mut patterns: Vec<_> = enable.into_iter().collect();
    if let Some(path) = events {
        let listed = std::fs::read_to_string(&path).map_err(|error| {
            let reason = os_words(&error);
            OptionError::Refused(format!("could not open trace events file '{path}': {reason}"))
        })?;
        let lines = listed.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        patterns.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    for pattern in patterns {
        let (name, on) = match pattern.strip_prefix('-') {
            Some(name) => (name, false),
            None => (pattern.as_str(), true),
        };
        match trace::states(name) {
            Ok(_) => spec.log.trace.push((name.to_owned(), on)),
            Err(_) => warnings.push(format!("warning: trace event '{name}' does not exist")),
        }
    }
    Ok(Step::Next)
}

/// The text of `-d help`.
fn log_help() -> String {
    let mut text = String::from("Log items (comma separated):\n");
    for (name, what) in LOG_ITEMS {
        text.push_str(&format!("{name:<15} {what}\n"));
    }
    text
}

fn log_items(text: &str, spec: &mut MachineSpec) -> Result<Step, OptionError> {
    if matches!(text, "help" | "?") {
        return Ok(Step::Print(log_help()));
    }
    for word in text.split(',') {
        if let Some(pattern) = word.strip_prefix("trace:") {
            match trace::states(pattern) {
                Ok(_) => spec.log.trace.push((pattern.to_owned(), true)),
                Err(unknown) => return refused(unknown.to_string()),
            }
            continue;
        }
        let names = LOG_ITEMS.iter().map(|(name, _)| *name);
        let matching: Vec<&'static str> =
            names.filter(|name| word == "all" || *name == word).collect();
        if matching.is_empty() {
            let problem = match LOG_ITEMS_UNAVAILABLE.contains(&word) {
                true => format!("log item '{word}' is not available"),
                false => format!("unknown log item '{word}'"),
            };
            let names: Vec<_> = LOG_ITEMS.iter().map(|(name, _)| *name).collect();
            return refused(format!("{problem} (valid: all, {})", names.join(", ")));
        }
        for name in matching {
            if !spec.log.items.contains(&name) {
                spec.log.items.push(name);
            }
        }
    }
    Ok(Step::Next)
}
