//! A destination that listens takes what connects as its settings are at that moment.

use serde_json::json;

use crate::harness::poll;
use crate::side::{Side, guest};

/// Waits for a migration from its start, and ends if that fails.
pub fn waiting() -> (Side, String) {
    let mut side = Side::start(guest("-incoming tcp:127.0.0.1:0"));
    // A client may be there before the machine listens.
    let port =
        poll("a port", || side.query()["socket-address"][0]["port"].as_str().map(str::to_owned));
    (side, format!("tcp:127.0.0.1:{port}"))
}

fn refusal(side: &mut Side, capability: &str) -> String {
    let one = json!([{"capability": capability, "state": true}]);
    let request =
        json!({"execute": "migrate-set-capabilities", "arguments": {"capabilities": one}});
    let reply = side.qmp.ask(&request);
    reply["error"]["desc"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
}

#[test]
fn capabilities() {
    let mut source = Side::source("");
    let (mut destination, uri) = waiting();
    let late = "Multifd must be set before incoming starts";
    assert_eq!(refusal(&mut destination, "multifd"), late);
    // The source waits for the destination's agreement, and both check the other's identity.
    for capability in ["return-path", "switchover-ack", "validate-uuid"] {
        source.switch(capability, true);
        destination.switch(capability, true);
    }
    source.migrate(&uri);
    source.reaches("completed");
    destination.reaches("completed");
    destination.lives();
}

#[test]
fn multifd() {
    let mut source = Side::source("");
    source.switch("multifd", true);
    let mut destination = Side::destination("");
    destination.switch("multifd", true);
    let uri = destination.listen_tcp();
    // It stays on, so that others may be switched, and its parameters may still change.
    destination.switch("validate-uuid", true);
    for side in [&mut source, &mut destination] {
        side.set(json!({"multifd-channels": 5, "multifd-compression": "zlib"}));
    }
    source.migrate(&uri);
    source.reaches("completed");
    destination.reaches("completed");
    destination.lives();

    // Off again.
    let mut source = Side::source("");
    let mut destination = Side::destination("");
    destination.switch("multifd", true);
    let uri = destination.listen_tcp();
    destination.switch("multifd", false);
    source.migrate(&uri);
    source.reaches("completed");
    destination.reaches("completed");
    destination.lives();
}

/// Credentials are looked up when somebody connects; without them nobody is let in.
#[test]
fn credentials() {
    let mut source = Side::source("");
    let (mut destination, uri) = waiting();
    destination.set(json!({"tls-creds": "nope"}));
    source.migrate(&uri);
    assert_eq!(destination.machine.exit_code(), 1);
    let errors = destination.machine.errors();
    assert!(errors.ends_with(": No TLS credentials with id 'nope'\n"), "{errors}");
    source.fails();
    source.lives();
}
