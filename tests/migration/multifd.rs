//! Channels beside the main one: compressed or not, as many at both ends or not, and refused.

use serde_json::json;

use crate::proxy::Proxy;
use crate::side::{PROMPT, Side};

/// `channels` beside the main one, which take pages compressed in this way.
fn multifd(side: &mut Side, channels: u8, compression: &str) {
    side.switch("multifd", true);
    side.set(json!({"multifd-channels": channels, "multifd-compression": compression,
                    "max-bandwidth": 0}));
}

#[test]
fn compressed_or_not() {
    for (channels, compression, returns) in
        [(1, "none", false), (4, "none", true), (2, "zlib", true), (3, "zstd", false)]
    {
        let what = format!("{channels} {compression}");
        let (mut source, mut destination) = (Side::source(""), Side::destination(""));
        for side in [&mut source, &mut destination] {
            multifd(side, channels, compression);
            side.switch("return-path", returns);
        }
        let port = destination.listen("tcp:127.0.0.1:0").expect("a port");
        let proxy = Proxy::tcp(port);
        source.serial.send("dirty 20 600 16\r");
        source.serial.expect("MiB written");
        source.migrate(&proxy.uri);
        let info = source.reaches("completed");
        destination.reaches("completed");
        let ram = &info["ram"];
        assert_eq!(ram["transferred"], proxy.forward(), "{what}: {info}");
        assert!(ram["multifd-bytes"].as_u64() < ram["transferred"].as_u64(), "{what}: {info}");
        // A page of `dirty` is two words: it is packed or it is not.
        let bytes = ram["multifd-bytes"].as_u64().expect("bytes");
        assert_eq!(bytes > 16 << 20, compression == "none", "{what}: {info}");
        destination.serial.send("q");
        let checked = destination.serial.expect(PROMPT);
        assert!(checked.contains("pages checked, 0 errors"), "{what}: {checked}");
        destination.lives();
    }
}

/// The destination wants fewer channels, or packs otherwise. It says so at once, the
/// source is told over the return path, and both can try again with what is alike.
#[test]
fn ends_that_differ() {
    let mut source = Side::source("");
    for ((here, packs), (there, unpacks), sentence) in [
        (
            (4, "none"),
            (2, "none"),
            "the source has more multifd channels than multifd-channels is here: 2",
        ),
        ((2, "zstd"), (2, "zlib"), "flags received 4 flags expected 2"),
    ] {
        let mut destination = Side::destination("");
        multifd(&mut source, here, packs);
        multifd(&mut destination, there, unpacks);
        for side in [&mut source, &mut destination] {
            side.switch("return-path", true);
        }
        let uri = destination.listen_tcp();
        source.migrate(&uri);
        let said = source.fails();
        let heard = destination.fails();
        assert!(heard.contains(sentence), "{heard}");
        assert!(said.starts_with("destination: ") && said.contains(sentence), "{said}");
        source.lives();
    }
    // None at the destination, which may have closed its door before they knock: then it can't say.
    let mut destination = Side::destination("");
    multifd(&mut source, 2, "none");
    destination.switch("return-path", true);
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    let said = source.fails();
    let refused = said.starts_with("multifd channel ");
    assert!(refused || said.contains("Capability multifd is off"), "{said}");
    source.lives();

    // Fewer than the destination waits for: a stall that is seen, and ended.
    let mut destination = Side::destination("");
    source.run("dirty 64 1 16");
    multifd(&mut source, 1, "none");
    multifd(&mut destination, 3, "none");
    // There is something left to send when it is cancelled.
    source.set(json!({"max-bandwidth": 1_000_000}));
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    source.reaches("active");
    source.lives();
    source.qmp.execute("migrate_cancel");
    source.reaches("cancelled");
    source.lives();

    // After all that it moves.
    let mut destination = Side::destination("");
    multifd(&mut source, 2, "none");
    multifd(&mut destination, 2, "none");
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    source.reaches("completed");
    destination.reaches("completed");
    destination.lives();
}
