//! `dump-guest-memory`, `info dump`.

use super::command::Call;
use crate::machine::core_dump::DumpStatus;
use crate::qmp::command::Command as _;
use crate::qmp::commands::dump::{DumpFormat, DumpGuestMemory, QueryDump};
use crate::qmp::error::QmpError;

pub(super) async fn dump_guest_memory(call: &mut Call) -> Result<(), QmpError> {
    let arguments = &call.arguments;
    let raw = arguments.flag("raw");
    let formats = [
        ("windmp", DumpFormat::WinDmp, DumpFormat::WinDmp),
        ("zlib", DumpFormat::KdumpZlib, DumpFormat::KdumpRawZlib),
        ("lzo", DumpFormat::KdumpLzo, DumpFormat::KdumpRawLzo),
        ("snappy", DumpFormat::KdumpSnappy, DumpFormat::KdumpRawSnappy),
    ];
    let mut wanted = formats.into_iter().filter(|(flag, ..)| arguments.flag(flag));
    let format = wanted.next().map(|(_, flat, in_place)| if raw { in_place } else { flat });
    if wanted.next().is_some() {
        return Err(QmpError::generic("only one of '-z|-l|-s|-w' can be set"));
    }
    let dump = DumpGuestMemory {
        paging: arguments.flag("paging"),
        protocol: format!("file:{}", arguments.text("filename").unwrap_or_default()),
        detach: Some(arguments.flag("detach")),
        begin: arguments.number("begin"),
        length: arguments.number("length"),
        format,
    };
    dump.run(&call.services).await.map(drop)
}

/// `info dump`
pub(super) async fn info(call: &mut Call) -> Result<(), QmpError> {
    let dump = QueryDump {}.run(&call.services).await?;
    call.out.push_str(&format!("Status: {}\n", dump.status.name()));
    if dump.status == DumpStatus::Active {
        // Nothing is known to be to do while the machine is being stopped.
        let percent = 100.0 * dump.completed as f64 / dump.total.max(1) as f64;
        call.out.push_str(&format!("Finished: {percent:.2} %\n"));
    }
    Ok(())
}
