//! One side of a migration: a machine with the embedded guest, and sessions with it.

use serde_json::{Value, json};

use crate::harness::qmp::Qmp;
use crate::harness::stream::Stream;
use crate::harness::{Machine, Setup, machine, poll};

/// What the guest waits at.
pub const PROMPT: &str = "\r\n> ";

pub struct Side {
    pub machine: Machine,
    pub qmp: Qmp,
    pub serial: Stream,
}

/// The embedded guest with 64 MiB, or what `words` say.
pub fn guest(words: &str) -> Setup {
    let image = understudy::machine::greeter::image();
    let sockets = "-display none -serial unix:serial,server=on,wait=off \
         -qmp unix:qmp,server=on,wait=off -monitor unix:hmp,server=on,wait=off";
    machine(&format!("-kernel greeter -m 64M {sockets} {words}")).file("greeter", &image)
}

impl Side {
    pub fn start(setup: Setup) -> Self {
        let machine = setup.start();
        let (qmp, serial) = (machine.qmp("qmp"), machine.connect("serial"));
        let mut side = Self { machine, qmp, serial };
        side.switch("events", true);
        side
    }

    /// A machine whose guest is at its prompt.
    pub fn source(words: &str) -> Self {
        let mut side = Self::start(guest(words));
        side.run("");
        // The prompt may have been that of the greeting, with another behind it.
        side.serial.send("echo ready\r");
        side.serial.expect("\r\nready\r\n> ");
        side
    }

    /// A machine that waits to be told where to listen.
    pub fn destination(words: &str) -> Self {
        Self::start(guest(&format!("-incoming defer {words}")))
    }

    /// What the guest prints for a command.
    pub fn run(&mut self, command: &str) -> String {
        self.serial.send(format!("{command}\r"));
        self.serial.expect(PROMPT)
    }

    pub fn switch(&mut self, capability: &str, state: bool) {
        let one = json!({"capability": capability, "state": state});
        self.qmp.execute_with("migrate-set-capabilities", json!({"capabilities": [one]}));
    }

    pub fn set(&mut self, parameters: Value) {
        self.qmp.execute_with("migrate-set-parameters", parameters);
    }

    pub fn query(&mut self) -> Value {
        self.qmp.execute("query-migrate")
    }

    pub fn migrate(&mut self, uri: &str) {
        assert_eq!(self.qmp.execute_with("migrate", json!({"uri": uri})), json!({}));
    }

    /// Take what comes to `uri`, and stay if it is refused; the port if there is one.
    pub fn listen(&mut self, uri: &str) -> Option<u16> {
        let arguments = json!({"uri": uri, "exit-on-error": false});
        self.qmp.execute_with("migrate-incoming", arguments);
        self.query()["socket-address"][0]["port"].as_str().map(|port| port.parse().expect("a port"))
    }

    /// Listen on a TCP port of this host; the URI of it.
    pub fn listen_tcp(&mut self) -> String {
        format!("tcp:127.0.0.1:{}", self.listen("tcp:127.0.0.1:0").expect("a port"))
    }

    /// Wait until the migration is in a state; all that is known then.
    pub fn reaches(&mut self, status: &str) -> Value {
        poll(status, || {
            let info = self.query();
            let now = info["status"].as_str().unwrap_or_default();
            let over = matches!(now, "completed" | "failed" | "cancelled");
            assert!(!over || now == status, "waiting for {status}: {info}");
            (now == status).then_some(info)
        })
    }

    /// Wait for the failure; its sentence.
    pub fn fails(&mut self) -> String {
        self.reaches("failed")["error-desc"].as_str().expect("a sentence").to_owned()
    }

    /// The states of the migration that has ended, in their order.
    pub fn states(&mut self, last: &str) -> Vec<String> {
        let mut states = Vec::new();
        while states.last().is_none_or(|state| state != last) {
            let state = self.qmp.event("MIGRATION")["status"].take();
            states.push(state.as_str().expect("a status").to_owned());
        }
        states
    }

    /// The guest runs, and answers.
    pub fn lives(&mut self) {
        // A client may be there before the machine runs for the first time.
        let started =
            poll("a start", || Some(self.qmp.status()).filter(|status| status != "prelaunch"));
        assert_eq!(started, "running");
        self.serial.send("echo alive\r");
        self.serial.expect("\r\nalive\r\n> ");
    }
}
