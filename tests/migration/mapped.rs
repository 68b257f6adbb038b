//! Memory in a file beside the stream (`mapped-ram`), between whole processes.

use serde_json::json;

use crate::side::{PROMPT, Side};

/// Every way to write and to read such a file, while the guest writes its memory.
#[test]
fn files() {
    for (offset, channels, direct_io) in [(0, 0, false), (0x1000, 3, false), (512, 2, true)] {
        let (mut source, mut destination) = (Side::source(""), Side::destination(""));
        for side in [&mut source, &mut destination] {
            side.switch("mapped-ram", true);
            side.set(json!({"direct-io": direct_io, "multifd-channels": channels.max(1)}));
            side.switch("multifd", channels > 0);
        }
        let path = source.machine.path("saved").display().to_string();
        let uri = format!("file:{path},offset={offset}");
        source.serial.send("dirty 30 2 8\r");
        source.serial.expect("dirty 30 2 8");
        source.migrate(&uri);
        let info = source.reaches("completed");
        destination.listen(&uri);
        destination.reaches("completed");
        let checked = destination.serial.expect(PROMPT);
        assert!(checked.contains("pages checked, 0 errors"), "{checked}");
        destination.lives();
        let ram = &info["ram"];
        let (normal, sent) = (ram["normal"].as_u64(), ram["transferred"].as_u64());
        assert!(sent > normal.map(|pages| pages * 4096), "{info}");
        assert_eq!(ram["multifd-bytes"] == 0, channels == 0, "{info}");
        // A page that was written twice is at one place.
        let length = std::fs::metadata(&path).expect("the file").len();
        assert!(length < (64 + 64 + 8) << 20, "{length}");
    }
}

/// What a file cannot do is refused at once, and the guest goes on.
#[test]
fn what_is_refused() {
    let mut source = Side::source("");
    source.switch("mapped-ram", true);
    for (uri, capability, sentence) in [
        ("tcp:127.0.0.1:1", "events", "Migration requires seekable transport (e.g. file)"),
        ("exec:cat", "events", "Migration requires seekable transport (e.g. file)"),
        ("file:f", "return-path", "Unable to open return-path: a file does not answer"),
    ] {
        source.switch(capability, true);
        let refused = source.qmp.ask(&json!({"execute": "migrate", "arguments": {"uri": uri}}));
        assert_eq!(refused["error"]["desc"], sentence, "{refused}");
    }
    source.lives();
}
