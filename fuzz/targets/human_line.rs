//! What somebody types at the human monitor: keys into the editor, and every line that comes out of
//! it against a description with all kinds of arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use understudy::hmp::arguments::{self, Argument, Kind, optional, required};
use understudy::hmp::complete::Completions;
use understudy::hmp::readline::{Readline, Request};
use understudy::hmp::state::LastFormat;

const DESCRIPTIONS: [&[Argument]; 4] = [
    &[
        required("first", Kind::Flag('a')),
        required("second", Kind::Flag('b')),
        required("file", Kind::File),
        optional("more", Kind::Rest),
    ],
    &[required("format", Kind::Format), required("address", Kind::Long)],
    &[required("count", Kind::Int), required("state", Kind::Switch), optional("name", Kind::Text)],
    &[required("options", Kind::Options), optional("drive", Kind::Block)],
];

fuzz_target!(|keys: &[u8]| {
    let mut editor = Readline::default();
    let mut screen = Vec::new();
    let mut last = LastFormat::default();
    let register = |name: &str| (name == "pc").then_some(0x8000_0000);
    for &key in keys {
        match editor.key(key, &mut screen) {
            Some(Request::Execute(line)) => {
                for description in DESCRIPTIONS {
                    let _ = arguments::parse("fuzz", description, &line, &mut last, &register);
                }
                editor.prompt(&mut screen);
            }
            Some(Request::Complete(line)) => {
                let candidates = vec![line.clone(), format!("{line}x")];
                editor.complete(Completions { typed: line.len(), candidates }, &mut screen);
            }
            None => {}
        }
        screen.clear();
    }
});
