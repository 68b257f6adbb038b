//! What a QMP client sends: any bytes, after which the session can always be brought back to its
//! senses, and every document that is taken is what is written of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use understudy::qmp::json;
use understudy::qmp::parser::{Document, JsonStream};

fn documents(stream: &mut JsonStream, bytes: &[u8]) -> Vec<Document> {
    let mut documents = Vec::new();
    for &byte in bytes {
        stream.feed(byte, |document| documents.push(document));
    }
    documents
}

fuzz_target!(|bytes: &[u8]| {
    let mut stream = JsonStream::default();
    for value in documents(&mut stream, bytes).into_iter().flatten() {
        let line = json::line(&value, bytes.len() % 2 == 0);
        assert!(line.is_ascii());
        assert_eq!(documents(&mut JsonStream::default(), &line), [Ok(value)]);
    }
    let after = documents(&mut stream, b"\xff\n[{'a': 1}]");
    assert_eq!(after.last(), Some(&Ok(serde_json::json!([{"a": 1}]))));
});
