//! A destination that stops in the middle of a stream, as a host does that is swapping or a
//! network that is gone: it shows, it holds nothing up, and a cancel ends it at once.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::certificates::{authority, credentials, secure};
use crate::harness::poll;
use crate::side::Side;

#[test]
fn a_destination_that_stops_reading() {
    let root = tempfile::tempdir().expect("a directory");
    let ours = authority("our CA");
    for (dir, host) in [("server", "127.0.0.1"), ("client", "client")] {
        credentials(&root.path().join(dir), dir, host, 2120, &ours, &ours);
    }
    let mut source = Side::source("");
    source.run("dirty 64 1 24");
    let mut hmp = source.machine.connect("hmp");
    hmp.expect("(qemu) ");
    for (tls, capabilities) in
        [(false, &[][..]), (false, &["return-path"]), (false, &["multifd"]), (true, &[])]
    {
        let what = format!("TLS {tls}, {capabilities:?}");
        let mut destination = Side::destination("");
        for capability in ["return-path", "multifd"] {
            for side in [&mut source, &mut destination] {
                side.switch(capability, capabilities.contains(&capability));
            }
        }
        if tls {
            secure(&mut source, &root.path().join("client"), "client");
            secure(&mut destination, &root.path().join("server"), "server");
        }
        // Slowly at first, so that it is still under way when the destination stops.
        source.set(json!({"max-bandwidth": 2_000_000}));
        let uri = destination.listen_tcp();
        source.migrate(&uri);
        poll("some of the stream", || {
            let info = source.query();
            assert_eq!(info.get("error-desc"), None, "{what}: {info}");
            (info["ram"]["transferred"].as_u64() > Some(200_000)).then_some(())
        });
        destination.machine.signal(Signal::STOP);
        source.set(json!({"max-bandwidth": 0}));

        // The buffers of the sockets fill, then nothing moves.
        let told = poll("the age of the last progress", || {
            hmp.send("info migrate\n");
            let told = hmp.expect("\r\n(qemu) ");
            told.contains("age of the last progress: ").then_some(told)
        });
        assert!(told.contains("Migration status: active\r\n"), "{what}: {told}");
        let info = source.query();
        assert_eq!(info["status"], "active", "{what}");
        source.lives();

        let cancelled = Instant::now();
        source.qmp.execute("migrate_cancel");
        assert_eq!(source.reaches("cancelled"), json!({"status": "cancelled"}), "{what}");
        assert!(cancelled.elapsed() < Duration::from_secs(10), "{what}: {:?}", cancelled.elapsed());
        source.lives();

        // And when it wakes up it finds out.
        destination.machine.signal(Signal::CONT);
        let sentence = destination.fails();
        let end =
            if tls { "closed the connection in mid-stream" } else { "the stream ends after " };
        assert!(sentence.contains(end), "{what}: {sentence}");
        assert_eq!(destination.qmp.status(), "inmigrate");
    }
}
