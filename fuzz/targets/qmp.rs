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
        let pretty = bytes.len() % 2 == 0;
        let mut line = json::line(&value, pretty);
        assert!(line.is_ascii());
        // 14e1 is written as 140 and -0.0 as -0, as QEMU writes them, which are other kinds of
        // numbers when they are read: what has been written once is written alike for ever.
        for round in 0..2 {
            let again = documents(&mut JsonStream::default(), &line);
            let [Ok(value)] = &again[..] else { panic!("{again:?}") };
            let written = json::line(value, pretty);
            assert!(round == 0 || written == line);
            line = written;
        }
    }
    let after = documents(&mut stream, b"\xff\n[{'a': 1}]");
    assert_eq!(after.last(), Some(&Ok(serde_json::json!([{"a": 1}]))));
});
