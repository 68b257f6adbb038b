//! A client of a machine monitor.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::stream::Stream;

/// A QMP session past its negotiation.
pub struct Qmp {
    stream: Stream,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Take the greeting, and agree on nothing special.
    pub fn negotiate(stream: Stream) -> Self {
        let mut qmp = Self { stream, events: VecDeque::new() };
        let greeting = qmp.line();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        assert_eq!(qmp.execute("qmp_capabilities"), json!({}));
        qmp
    }

    /// The next object, whatever it is.
    pub fn line(&mut self) -> Value {
        let line = self.text();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The next line, whatever it is, with its end.
    pub fn text(&mut self) -> String {
        self.stream.expect("\r\n")
    }

    /// Send a line.
    pub fn send(&mut self, line: &str) {
        self.stream.send(format!("{line}\n"));
    }

    /// The reply to a command line: what is not an event.
    pub fn ask(&mut self, request: &Value) -> Value {
        self.send(&request.to_string());
        self.reply()
    }

    /// The next reply: what is not an event.
    pub fn reply(&mut self) -> Value {
        loop {
            let reply = self.line();
            if reply.get("event").is_none() {
                return reply;
            }
            self.events.push_back(reply);
        }
    }

    /// What a command without arguments returns.
    pub fn execute(&mut self, command: &str) -> Value {
        self.execute_with(command, json!({}))
    }

    /// What a command returns.
    pub fn execute_with(&mut self, command: &str, arguments: Value) -> Value {
        let mut reply = self.ask(&json!({"execute": command, "arguments": arguments}));
        assert!(reply.get("return").is_some(), "{command}: {reply}");
        reply["return"].take()
    }

    /// The next event of this name, which those before it are dropped for; its data.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let mut event = match self.events.pop_front() {
                Some(event) => event,
                None => self.line(),
            };
            if event["event"] == name {
                return event["data"].take();
            }
        }
    }

    /// The status that the machine is in.
    pub fn status(&mut self) -> String {
        let status = self.execute("query-status");
        status["status"].as_str().expect("a status").to_owned()
    }

    /// What a character device is connected to, as `query-chardev` has it.
    pub fn filename(&mut self, chardev: &str) -> String {
        let all = self.execute("query-chardev");
        let found = all.as_array().expect("a list").iter().find(|one| one["label"] == chardev);
        let name = found.unwrap_or_else(|| panic!("no {chardev} in {all}"))["filename"].as_str();
        name.expect("a name").to_owned()
    }

    /// The machine has closed the session; what it said before that.
    pub fn ended(&mut self) -> Vec<Value> {
        let rest = String::from_utf8(self.stream.rest()).expect("text");
        let lines = rest.lines().map(|line| serde_json::from_str(line).expect("whole objects"));
        self.events.drain(..).chain(lines).collect()
    }
}
