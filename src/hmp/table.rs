//! The commands of the human monitor, in the order in which help lists them. The words are ours;
//! names, parameters and their grammar are QEMU's.

use super::arguments::{Kind, optional, required};
use super::command::{Action, HmpCommand};
use super::complete::Names;
use super::{
    address, block, chardev, control, descriptors, devices, dirty_rate, dump, inspect, machine,
    memory, migration, migration_settings, mtree, objects, ports, qom, tree, virtio,
};

macro_rules! run {
    ($handler:path) => {
        Action::Run(|call| Box::pin($handler(call)))
    };
}

/// Names that a function lists, for completion.
macro_rules! names {
    ($lister:path) => {{
        const NAMES: Names = |services| Box::pin($lister(services));
        NAMES
    }};
}

macro_rules! commands {
    ($($names:literal, [$($argument:expr),*], $parameters:literal, $help:literal => $action:expr;)*) => {
        &[$(HmpCommand {
            names: $names,
            arguments: &[$($argument),*],
            parameters: $parameters,
            help: $help,
            action: $action,
        }),*]
    };
}

/// What may be executed while the machine waits for its start (`-preconfig`), here and of `info`.
const BEFORE_THE_START: [&str; 22] = [
    "chardev",
    "closefd",
    "exit_preconfig",
    "getfd",
    "help|?",
    "history",
    "hotpluggable-cpus",
    "info",
    "iothreads",
    "memdev",
    "name",
    "object_add",
    "object_del",
    "qom-get",
    "qom-list",
    "qom-set",
    "qom-tree",
    "quit|q",
    "status",
    "uuid",
    "version",
    "virtio",
];

/// Whether a command may be executed before the machine's start.
pub(super) fn is_permitted_before_the_start(names: &str) -> bool {
    BEFORE_THE_START.contains(&names) || names.starts_with("virtio-")
}

/// Every command.
pub(super) const COMMANDS: &[HmpCommand] = commands! {
    "announce_self", [optional("interfaces", Kind::Text), optional("id", Kind::Text)], "[interfaces] [id]", "have network interfaces tell where they are" => run!(migration::announce_self);
    "boot_set", [required("bootdevice", Kind::Text)], "bootdevice", "change the order of boot devices" => run!(machine::boot_set);
    "calc_dirty_rate", [required("dirty_ring", Kind::Flag('r')), required("dirty_bitmap", Kind::Flag('b')), required("second", Kind::Long), optional("sample_pages_per_GB", Kind::Long)], "[-r] [-b] second [sample_pages_per_GB]", "measure how fast the guest writes its memory (-r: for every CPU; -b: by every page that is written)" => run!(dirty_rate::calculate);
    "cancel_vcpu_dirty_limit", [optional("cpu_index", Kind::Long)], "[cpu_index]", "let a CPU, or all, write as fast as they can" => run!(dirty_rate::cancel_limit);
    "chardev-add", [required("args", Kind::Text).among(names!(chardev::kinds))], "args", "add a character device (args are those of -chardev)" => run!(chardev::chardev_add);
    "chardev-change", [required("id", Kind::Text), required("args", Kind::Text)], "id args", "put another character device in the place of one (args are those of -chardev)" => run!(chardev::chardev_change);
    "chardev-remove", [required("id", Kind::Text).among(names!(chardev::labels))], "id", "remove a character device" => run!(chardev::chardev_remove);
    "chardev-send-break", [required("id", Kind::Text).among(names!(chardev::labels))], "id", "send a break on a character device" => run!(chardev::chardev_send_break);
    "closefd", [required("fdname", Kind::Text)], "name", "close a descriptor that getfd has taken in" => run!(descriptors::closefd);
    "cont|c", [], "", "let the guest run" => run!(control::cont);
    "cpu", [required("index", Kind::Int)], "index", "choose the CPU that other commands look at" => run!(control::cpu);
    "device_add", [optional("device", Kind::Options).among(names!(devices::models))], "driver[,prop=value][,...]", "plug a device in ('device_add help' lists them)" => run!(devices::device_add);
    "device_del", [required("id", Kind::Text).among(names!(devices::ids))], "device", "unplug a device" => run!(devices::device_del);
    "dump-guest-memory", [required("paging", Kind::Flag('p')), required("detach", Kind::Flag('d')), required("windmp", Kind::Flag('w')), required("zlib", Kind::Flag('z')), required("lzo", Kind::Flag('l')), required("snappy", Kind::Flag('s')), required("raw", Kind::Flag('R')), required("filename", Kind::File), optional("begin", Kind::Long), optional("length", Kind::Long)], "[-p] [-d] [-z|-l|-s|-w] [-R] filename [begin length]", "dump guest memory to a file, as a core file or as -z says (-p: with addresses as the guest maps them, which are its physical ones here; -d: do not wait for the end; -z: compressed by zlib, for crash; -l, -s, -w: formats that there are not here; -R: -z in the form that is not flattened)" => run!(dump::dump_guest_memory);
    "dumpdtb", [required("filename", Kind::File)], "filename", "write the device tree to a file" => run!(tree::dumpdtb);
    "exit_preconfig", [], "", "start the machine that -preconfig holds back" => run!(machine::exit_preconfig);
    "getfd", [required("fdname", Kind::Text)], "name", "give a name to the descriptor that came with this command" => run!(descriptors::getfd);
    "gpa2hpa", [required("addr", Kind::Long)], "addr", "show where the host has a physical address" => run!(address::gpa2hpa);
    "gpa2hva", [required("addr", Kind::Long)], "addr", "show where the emulator has a physical address" => run!(address::gpa2hva);
    "gva2gpa", [required("addr", Kind::Long)], "addr", "show the physical address behind a virtual one of the chosen CPU" => run!(address::gva2gpa);
    "help|?", [optional("name", Kind::Rest).a_command()], "[cmd]", "list the commands, or explain one" => run!(control::help);
    "i", [required("fmt", Kind::Format), required("addr", Kind::Int), required("index", Kind::Index)], "/fmt addr", "read an I/O port" => run!(ports::read);
    "info", [], "[subcommand]", "show one aspect of the machine" => Action::Table(INFO);
    "log", [required("items", Kind::Text)], "item1[,...]", "log these items from now on ('log help' lists them)" => run!(control::log);
    "logfile", [required("filename", Kind::File)], "filename", "write the log to this file from now on (%d in its name: the process's number)" => run!(control::logfile);
    "memsave", [required("val", Kind::Long), required("size", Kind::Int), required("filename", Kind::Text)], "addr size file", "write virtual memory of the chosen CPU to a file" => run!(memory::memsave);
    "migrate", [required("detach", Kind::Flag('d')), required("resume", Kind::Flag('r')), required("uri", Kind::Text)], "[-d] [-r] uri", "migrate to a URI (-d: do not wait for the end; -r: resume a paused postcopy)" => run!(migration::migrate);
    "migrate_cancel", [], "", "cancel the migration" => run!(migration::cancel);
    "migrate_continue", [required("state", Kind::Text)], "state", "let a migration go on that is paused in this state" => run!(migration::go_on);
    "migrate_incoming", [required("uri", Kind::Text)], "uri", "wait for a migration here, after -incoming defer" => run!(migration::incoming);
    "migrate_pause", [], "", "pause a postcopy migration" => run!(migration::pause);
    "migrate_recover", [required("uri", Kind::Text)], "uri", "wait here for a paused postcopy to come back" => run!(migration::recover);
    "migrate_set_capability", [required("capability", Kind::Text).among(names!(migration_settings::capabilities)), required("state", Kind::Switch)], "capability state", "switch a capability of migrations on or off" => run!(migration_settings::set_capability);
    "migrate_set_parameter", [required("parameter", Kind::Text).among(names!(migration_settings::parameters)), required("value", Kind::Text)], "parameter value", "set a parameter of migrations" => run!(migration_settings::set_parameter);
    "migrate_start_postcopy", [], "", "let the guest move now, and its memory follow (needs postcopy-ram at both ends from the start)" => run!(migration::start_postcopy);
    "nmi", [], "", "send a non-maskable interrupt" => run!(machine::nmi);
    "o", [required("fmt", Kind::Format), required("addr", Kind::Int), required("val", Kind::Int)], "/fmt addr value", "write to an I/O port" => run!(ports::write);
    "object_add", [required("object", Kind::Rest).among(names!(objects::types))], "[qom-type=]type,id=str[,prop=value][,...]", "make an object" => run!(objects::object_add);
    "object_del", [required("id", Kind::Text).among(names!(objects::ids))], "id", "remove an object" => run!(objects::object_del);
    "one-insn-per-tb", [optional("option", Kind::Text)], "[on|off]", "translate every guest instruction alone" => run!(control::one_insn_per_tb);
    "pmemsave", [required("val", Kind::Long), required("size", Kind::Int), required("filename", Kind::Text)], "addr size file", "write physical memory to a file" => run!(memory::pmemsave);
    "print|p", [required("fmt", Kind::Format), required("val", Kind::Long)], "/fmt expr", "evaluate an expression ($reg is a register of the chosen CPU)" => run!(memory::print);
    "qom-get", [required("path", Kind::Text), required("property", Kind::Text)], "path property", "show the value of an object's property" => run!(qom::get);
    "qom-list", [optional("path", Kind::Text)], "path", "list an object's properties" => run!(qom::list);
    "qom-set", [required("json", Kind::Flag('j')), required("path", Kind::Text), required("property", Kind::Text), required("value", Kind::Rest)], "[-j] path property value", "change an object's property (-j: the value is JSON)" => run!(qom::set);
    "quit|q", [], "", "end the emulator" => run!(control::quit);
    "ringbuf_read", [required("device", Kind::Text).among(names!(chardev::rings)), required("size", Kind::Int)], "device size", "take bytes out of a ring buffer" => run!(chardev::ringbuf_read);
    "ringbuf_write", [required("device", Kind::Text).among(names!(chardev::rings)), required("data", Kind::Text)], "device data", "put text into a ring buffer" => run!(chardev::ringbuf_write);
    "set_vcpu_dirty_limit", [required("dirty_rate", Kind::Long), optional("cpu_index", Kind::Long)], "dirty_rate [cpu_index]", "let a CPU, or every CPU, write at most so many MiB a second" => run!(dirty_rate::set_limit);
    "stop|s", [], "", "pause the guest" => run!(control::stop);
    "sum", [required("start", Kind::Int), required("size", Kind::Int)], "addr size", "add up physical memory, as a check" => run!(address::sum);
    "system_powerdown", [], "", "ask the guest to power down" => run!(control::system_powerdown);
    "system_reset", [], "", "reset the machine" => run!(control::system_reset);
    "system_wakeup", [], "", "wake the guest up" => run!(machine::system_wakeup);
    "trace-event", [required("name", Kind::Text).among(names!(machine::trace_names)), required("option", Kind::Switch), optional("vcpu", Kind::Int)], "name on|off [vcpu]", "switch a trace event, or those that match a pattern" => run!(machine::trace_event);
    "watchdog_action", [required("action", Kind::Text).among(names!(machine::watchdog_actions))], "[reset|shutdown|poweroff|pause|debug|none|inject-nmi]", "what happens when a watchdog's time is up" => run!(machine::watchdog_action);
    "x", [required("fmt", Kind::Format), required("addr", Kind::Long)], "/fmt addr", "show virtual memory of the chosen CPU" => run!(memory::x);
    "xp", [required("fmt", Kind::Format), required("addr", Kind::Long)], "/fmt addr", "show physical memory" => run!(memory::xp);
};

/// What `info` shows.
const INFO: &[HmpCommand] = commands! {
    "block", [required("nodes", Kind::Flag('n')), required("verbose", Kind::Flag('v')), optional("device", Kind::Block).among(names!(block::devices))], "[-n] [-v] [device]", "drives (-n: nodes; -v: with their images)" => run!(block::block);
    "blockstats", [], "", "what drives have done" => run!(block::blockstats);
    "chardev", [], "", "character devices" => run!(inspect::chardev);
    "cpus", [], "", "CPUs and their host threads" => run!(inspect::cpus);
    "dirty_rate", [], "", "how fast the guest writes its memory, as last measured" => run!(dirty_rate::info);
    "dump", [], "", "how far a dump of guest memory is" => run!(dump::info);
    "history", [], "", "lines typed so far" => run!(control::history);
    "hotpluggable-cpus", [], "", "CPUs that can be plugged in" => run!(machine::hotpluggable_cpus);
    "iothreads", [], "", "threads that devices have for themselves" => run!(objects::iothreads);
    "irq", [], "", "how many interrupts there have been, where that is counted" => run!(machine::irq);
    "jit", [], "", "what the translator has done" => run!(inspect::jit);
    "kvm", [], "", "whether KVM is in use" => run!(inspect::kvm);
    "mem", [], "", "virtual memory of the chosen CPU, mapping by mapping" => run!(inspect::mem);
    "memdev", [], "", "memory back ends" => run!(objects::memdev);
    "memory-devices", [], "", "memory devices" => run!(objects::memory_devices);
    "memory_size_summary", [], "", "how much memory the machine has" => run!(objects::memory_size_summary);
    "migrate", [required("all", Kind::Flag('a'))], "[-a]", "how the migration stands (-a: with settings)" => run!(migration::info);
    "migrate_capabilities", [], "", "capabilities of migrations" => run!(migration_settings::info_capabilities);
    "migrate_parameters", [], "", "parameters of migrations" => run!(migration_settings::info_parameters);
    "mtree", [required("flatview", Kind::Flag('f')), required("dispatch_tree", Kind::Flag('d')), required("owner", Kind::Flag('o')), required("disabled", Kind::Flag('D'))], "[-f][-d][-o][-D]", "the physical address map (-f: as seen by the CPUs, without nesting; -d: and what an access is sent to; -o: who has made the regions; -D: with those that are off)" => run!(mtree::mtree);
    "name", [], "", "the machine's name" => run!(inspect::name);
    "numa", [], "", "how memory is divided among nodes" => run!(machine::numa);
    "opcount", [], "", "what the translator has met, where that is counted" => run!(inspect::opcount);
    "pic", [], "", "interrupt controllers, those that show themselves" => run!(machine::pic);
    "qdm", [], "", "types of devices" => run!(qom::models);
    "qom-tree", [optional("path", Kind::Text)], "[path]", "objects, and those in them" => run!(qom::tree);
    "qtree", [required("brief", Kind::Flag('b'))], "[-b]", "devices and buses (-b: without properties)" => run!(tree::qtree);
    "ramblock", [], "", "blocks of guest memory" => run!(machine::ramblock);
    "registers", [required("all", Kind::Flag('a')), optional("vcpu", Kind::Int)], "[-a|vcpu]", "registers of the chosen CPU, of all (-a), or of one" => run!(inspect::registers);
    "roms", [], "", "images loaded into guest memory" => run!(tree::roms);
    "stats", [required("target", Kind::Text), optional("names", Kind::Text), optional("provider", Kind::Text)], "target [names] [provider]", "statistics of the virtual machine or its CPUs" => run!(machine::stats);
    "status", [], "", "whether the guest runs" => run!(inspect::status);
    "tlb", [], "", "virtual memory of the chosen CPU, page by page" => run!(inspect::tlb);
    "tpm", [], "", "TPM devices" => run!(machine::tpm);
    "trace-events", [optional("name", Kind::Text).among(names!(machine::trace_names)), optional("vcpu", Kind::Int)], "[name] [vcpu]", "trace events, and whether they are on" => run!(machine::trace_events);
    "uuid", [], "", "the machine's UUID" => run!(inspect::uuid);
    "vcpu_dirty_limit", [], "", "how fast CPUs may write, and do" => run!(dirty_rate::limits);
    "version", [], "", "version of the emulator" => run!(inspect::version);
    "virtio", [], "", "virtio devices" => run!(virtio::list);
    "virtio-queue-element", [required("path", Kind::Text), required("queue", Kind::Int), optional("index", Kind::Int)], "path queue [index]", "a request in a queue of a virtio device" => run!(virtio::queue_element);
    "virtio-queue-status", [required("path", Kind::Text), required("queue", Kind::Int)], "path queue", "how a queue of a virtio device stands" => run!(virtio::queue_status);
    "virtio-status", [required("path", Kind::Text)], "path", "how a virtio device stands" => run!(virtio::status);
    "virtio-vhost-queue-status", [required("path", Kind::Text), required("queue", Kind::Int)], "path queue", "how a queue of a virtio device stands in the host's kernel" => run!(virtio::vhost_queue_status);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_order() {
        for table in [COMMANDS, INFO] {
            assert!(table.is_sorted_by_key(|command| command.names), "{table:#?}");
        }
    }
}
