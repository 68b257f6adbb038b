//! Every outgoing migration that cannot be, with our sentence, the order of events, and the guest
//! that goes on.

use serde_json::{Value, json};

use crate::side::Side;
use crate::transcripts::closed_port;

/// How QEMU tells it too (transcripts C1 and C1b): refused at once; started, and refused in the
/// reply as well; or started, and failed later.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    AtOnce,
    Both,
    Later,
}
use Told::{AtOnce, Both, Later};

/// The reply to `migrate`, the sentence in `query-migrate`, and who has been told.
fn check(side: &mut Side, arguments: &Value, told: Told, sentence: &str, before: &mut String) {
    let reply = side.qmp.ask(&json!({"execute": "migrate", "arguments": arguments}));
    match told {
        Later => assert_eq!(reply, json!({"return": {}}), "{arguments}"),
        AtOnce | Both => assert_eq!(
            reply,
            json!({"error": {"class": "GenericError", "desc": sentence}}),
            "{arguments}"
        ),
    }
    if told != AtOnce {
        *before = sentence.to_owned();
        assert_eq!(side.fails(), sentence, "{arguments}");
        let states = side.states("failed");
        assert_eq!(states.first().map(String::as_str), Some("setup"), "{arguments}");
    }
    // An older failure stays until there is a new migration.
    let expected = json!({"status": "failed", "error-desc": before});
    assert_eq!(side.query(), expected, "{arguments}");
    assert_eq!(side.qmp.status(), "running", "{arguments}");
}

#[test]
fn addresses() {
    let mut side = Side::source("");
    let port = closed_port();
    std::fs::write(side.machine.path("regular"), "").expect("a file");
    let mut before = String::new();
    let long = format!("unix:/{}", "a".repeat(108));
    let too_long =
        format!("UNIX socket path '/{}' is too long: at most 108 bytes fit", "a".repeat(108));
    let refused = "Error connecting to socket: Connection refused";
    let half = "exec: command exited before it had read the whole stream";
    for (uri, told, sentence) in [
        // The contract's words, in place of "Failed to connect to 'HOST:PORT': …".
        (format!("tcp:127.0.0.1:{port}").as_str(), Later, refused),
        (&format!("tcp:localhost:{port}"), Later, refused),
        (&format!("tcp:[::1]:{port}"), Later, refused),
        (&format!("tcp:127.0.0.1:{port},bogus=on"), Later, refused),
        ("tcp::9000", Later, "address resolution failed for :9000: Name or service not known"),
        ("tcp:127.0.0.1", AtOnce, "error parsing address '127.0.0.1'"),
        ("tcp:127.0.0.1:", AtOnce, "error parsing address '127.0.0.1:'"),
        ("tcp:", AtOnce, "error parsing address ''"),
        ("tcp:[::1", AtOnce, "error parsing IPv6 address '[::1'"),
        // QEMU takes port 65536 for port 0.
        (
            "tcp:127.0.0.1:65536",
            Later,
            "address resolution failed for 127.0.0.1:65536: Servname not supported for ai_socktype",
        ),
        (
            "tcp:127.0.0.1:abc",
            Later,
            "address resolution failed for 127.0.0.1:abc: Servname not supported for ai_socktype",
        ),
        ("unix:no-such", Later, "Error connecting to socket: No such file or directory"),
        ("unix:regular", Later, refused),
        ("unix:", AtOnce, "invalid Unix socket address"),
        (&long, Later, &too_long),
        // QEMU tells the symptom: "ram_save_setup failed: Input/output error", or "Unable to write
        // to command: Broken pipe".
        ("exec:exit 3", Later, "exec: command exited with status 3"),
        (
            "exec:echo first >&2; echo last >&2; exit 4",
            Later,
            "exec: command exited with status 4: last",
        ),
        (
            "exec:cat >/dev/full",
            Later,
            "exec: command exited with status 1: cat: write error: No space left on device",
        ),
        ("exec:kill -9 $$", Later, "exec: command was killed by signal 9"),
        ("exec:true", Later, half),
        ("exec:head -c 1000 >/dev/null", Later, half),
        ("fd:nosuch", Both, "File descriptor named 'nosuch' has not been found"),
        ("fd:999", Both, "File descriptor named '999' has not been found"),
        ("fd:", AtOnce, "invalid file descriptor address"),
        (
            "file:/no/such/dir/file",
            Both,
            "Could not create '/no/such/dir/file': No such file or directory",
        ),
        ("file:/tmp", Both, "Could not create '/tmp': Is a directory"),
        ("file:", Both, "Could not create '': No such file or directory"),
        ("file:/dev/full", Both, "failed to truncate migration file to offset 0: Invalid argument"),
        ("file:x,offset=abc", AtOnce, "file URI has bad offset abc: Invalid argument"),
        ("bogus:xyz", AtOnce, "unknown migration protocol: bogus:xyz"),
        ("justastring", AtOnce, "unknown migration protocol: justastring"),
        ("", AtOnce, "unknown migration protocol: "),
        ("vsock:1", AtOnce, "error parsing address '1'"),
    ] {
        check(&mut side, &json!({"uri": uri}), told, sentence, &mut before);
    }

    let inet = json!({"transport": "socket", "type": "inet", "host": "127.0.0.1",
                      "port": port.to_string()});
    let main = |addr: &Value| json!({"channels": [{"channel-type": "main", "addr": addr}]});
    for (arguments, told, sentence) in [
        (json!({}), AtOnce, "need either 'uri' or 'channels' argument"),
        (json!({"channels": []}), AtOnce, "need either 'uri' or 'channels' argument"),
        (main(&inet), Later, refused),
        (
            main(&json!({"transport": "socket", "type": "unix", "path": "no-such"})),
            Later,
            "Error connecting to socket: No such file or directory",
        ),
        (
            main(&json!({"transport": "exec", "args": ["/bin/false"]})),
            Later,
            "exec: command exited with status 1",
        ),
        // QEMU crashes.
        (
            main(&json!({"transport": "exec", "args": []})),
            AtOnce,
            "Parameter 'args' expects a command and its arguments",
        ),
        (
            main(&json!({"transport": "exec", "args": ["/no/such"]})),
            Both,
            "Failed to execute child process “/no/such” (No such file or directory)",
        ),
        (
            main(&json!({"transport": "file", "filename": "x"})),
            AtOnce,
            "Parameter 'channels[0].addr.offset' is missing",
        ),
        (
            main(&json!({"transport": "bogus"})),
            AtOnce,
            "Parameter 'transport' does not accept value 'bogus'",
        ),
        (
            json!({"channels": [{"channel-type": "main"}]}),
            AtOnce,
            "Parameter 'channels[0].addr' is missing",
        ),
        (json!({"uri": 1}), AtOnce, "Invalid parameter type for 'uri', expected: string"),
        (
            json!({"uri": "tcp:a:1", "resume": true}),
            AtOnce,
            "Cannot resume if there is no paused migration",
        ),
    ] {
        check(&mut side, &arguments, told, sentence, &mut before);
    }
    side.lives();
}

/// A connection that is yanked is lost, as one is that the network loses.
#[test]
fn yanked() {
    let (mut source, mut destination) = (Side::source(""), Side::destination(""));
    let yank = json!({"instances": [{"type": "migration"}]});
    let none = destination.qmp.ask(&json!({"execute": "yank", "arguments": yank}));
    let not_found = json!({"class": "DeviceNotFound", "desc": "Instance not found"});
    assert_eq!(none, json!({"error": not_found}));
    let uri = destination.listen_tcp();
    assert!(destination.qmp.execute("query-yank").as_array().is_some_and(|all| all.len() > 1));
    source.set(json!({"max-bandwidth": 4096}));
    source.migrate(&uri);
    source.reaches("active");
    destination.reaches("active");
    source.qmp.execute_with("yank", yank);
    assert_eq!(source.fails(), "Unable to write to socket: Broken pipe");
    destination.fails();
    let left = source.qmp.execute("query-yank");
    assert!(left.as_array().is_some_and(|all| all.iter().all(|one| one["type"] == "chardev")));
    source.lives();
}
