//! A description that has a bit of everything, and what hostile streams do to descriptions.

use super::*;
use crate::actors::cell::DeviceCell;
use crate::actors::message::{LoadState, SaveState};
use crate::devices::shell::{Migrate, Shell};

/// Ends every section that a test loads, as a footer does in the stream.
pub(crate) const FOOTER: u8 = 0x7e;

/// Save `state`, load that into `fresh`, and save again: the same, and all of it taken.
pub(crate) fn round_trip<S: VmState>(state: &mut S, fresh: &mut S) -> Section {
    let saved = save(state).unwrap();
    let mut bytes = saved.bytes.clone();
    bytes.push(FOOTER);
    assert_eq!(load(fresh, saved.version, &bytes), Ok(saved.bytes.len()), "{}", S::VMSD.name);
    assert_eq!(save(fresh).unwrap(), saved);
    saved
}

/// Give `load` the section cut short at every byte, and with every byte changed: it refuses or it
/// takes, and a cut is always seen.
pub(crate) fn harass(
    section: &Section,
    mut load: impl FnMut(Vec<u8>) -> Result<usize, StateError>,
) {
    // All of what is short, a sample of the long and uniform.
    let length = section.bytes.len();
    let places = || (0..length).filter(|at| length < 2500 || *at < 300 || at % 499 == 0);
    for end in places() {
        let cut = load(section.bytes[..end].to_vec());
        assert!(cut.as_ref().is_err_and(StateError::is_truncated), "cut at {end}: {cut:?}");
    }
    for at in places() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = section.bytes.clone();
            bytes[at] ^= flip;
            bytes.push(FOOTER);
            if let Ok(taken) = load(bytes) {
                assert!(taken <= section.bytes.len(), "byte {at} ^ {flip:#x}");
            }
        }
    }
}

/// Harass `to`, which refuses whole states or takes them whole; then move the state of `from` there; what was moved.
pub(crate) fn migrate<D: Migrate + Send>(
    from: &DeviceCell<Shell<D>>,
    to: &DeviceCell<Shell<D>>,
) -> Section {
    let name = D::State::VMSD.name;
    let saved = from.call(SaveState { name }).unwrap().unwrap();
    let version = saved.version;
    let state = || to.call(SaveState { name }).unwrap().unwrap().bytes;
    let mut loads = 0;
    let mut load = |bytes| {
        loads += 1;
        // A description takes long: it is a sample that is looked at.
        let before = (loads % 23 == 0).then(state);
        let loaded = to.call(LoadState { name, version, bytes }).unwrap();
        if let (Err(refused), Some(before)) = (&loaded, before) {
            assert!(state() == before, "something has changed: {refused}");
        }
        loaded
    };
    harass(&saved, &mut load);
    let mut bytes = saved.bytes.clone();
    bytes.push(FOOTER);
    assert_eq!(load(bytes), Ok(saved.bytes.len()));
    assert_eq!(to.call(SaveState { name }).unwrap().unwrap(), saved);
    saved
}

/// Whether a saved state is described as QEMU 10.0 describes the same of its `virt` with two
/// harts at power-on (`migrate` to a file; without what ours lacks: `cpu/hyper`, ACPI).
pub(crate) fn assert_described_as_qemus(section: &Section) {
    let qemu: serde_json::Value =
        serde_json::from_str(include_str!("qemu-10.0-virt.json")).unwrap();
    let name = section.description["vmsd_name"].as_str().unwrap();
    let ours = serde_json::to_string(&section.description).unwrap();
    assert_eq!(ours, serde_json::to_string(&qemu[name]).unwrap());
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Sample {
    small: u8,
    words: [u16; 3],
    on: bool,
    pairs: Vec<(u32, bool)>,
    inner: i64,
    late: u32,
    deadline: Option<u64>,
    rest: Vec<u8>,
}

impl VmState for Sample {
    const VMSD: Vmsd = Vmsd::new("sample", 3).since(2);

    fn before_load(&mut self) {
        self.deadline = None;
        self.rest.clear();
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.u8("small", &mut self.small)?;
        f.u16s("words", &mut self.words)?;
        f.bool("on", &mut self.on)?;
        f.unused(2)?;
        let pairs = &mut self.pairs;
        f.structures("pairs", Vmsd::new("sample/pair", 1), pairs.len(), &mut |i, f| {
            f.u32("first", &mut pairs[i].0)?;
            f.bool("second", &mut pairs[i].1)
        })?;
        f.structure("inner", Vmsd::new("inner", 7), &mut |f| f.i64("value", &mut self.inner))?;
        if f.version() >= 3 {
            f.u32("late", &mut self.late)?;
        }
        let (deadline, rest) = (&mut self.deadline, &mut self.rest);
        f.subsection(Vmsd::new("sample/timer", 1), deadline.is_some(), &mut |f| {
            f.timer("deadline", deadline)
        })?;
        f.subsection(Vmsd::new("sample/rest", 2), !rest.is_empty(), &mut |f| {
            f.opaque("rest", "bytes", &mut |f| f.counted(("count", "bytes"), 8, rest))
        })
    }
}

fn sample() -> Sample {
    Sample {
        small: 0x12,
        words: [1, 2, 0xffff],
        on: true,
        pairs: vec![(5, false), (6, true)],
        inner: -2,
        late: 9,
        deadline: Some(77),
        rest: b"abc".to_vec(),
    }
}

fn blank() -> Sample {
    Sample { pairs: vec![(0, false); 2], ..Sample::default() }
}

#[test]
fn bytes_and_description_are_qemus() {
    let mut fresh = blank();
    let section = round_trip(&mut sample(), &mut fresh);
    assert_eq!(fresh, sample());
    let expected = [
        &[0x12, 0, 1, 0, 2, 0xff, 0xff, 1, 0, 0][..],
        &[0, 0, 0, 5, 0, 0, 0, 0, 6, 1],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 9],
        b"\x05\x0csample/timer\0\0\0\x01\0\0\0\0\0\0\0\x4d",
        b"\x05\x0bsample/rest\0\0\0\x02\0\0\0\x03abc",
    ];
    assert_eq!(section.bytes, expected.concat());
    let description = concat!(
        r#"{"vmsd_name":"sample","version":3,"fields":["#,
        r#"{"name":"small","type":"uint8","size":1},"#,
        r#"{"name":"words","array_len":3,"type":"uint16","size":2},"#,
        r#"{"name":"on","type":"bool","size":1},"#,
        r#"{"name":"unused","type":"unused_buffer","size":2},"#,
        r#"{"name":"pairs","array_len":2,"type":"struct","struct":{"vmsd_name":"sample/pair","#,
        r#""version":1,"fields":[{"name":"first","type":"uint32","size":4},"#,
        r#"{"name":"second","type":"bool","size":1}]},"size":5},"#,
        r#"{"name":"inner","type":"struct","struct":{"vmsd_name":"inner","version":7,"#,
        r#""fields":[{"name":"value","type":"int64","size":8}]},"size":8},"#,
        r#"{"name":"late","type":"uint32","size":4}],"subsections":["#,
        r#"{"vmsd_name":"sample/timer","version":1,"#,
        r#""fields":[{"name":"deadline","type":"timer","size":8}]},"#,
        r#"{"vmsd_name":"sample/rest","version":2,"#,
        r#""fields":[{"name":"rest","type":"bytes","size":7}]}]}"#,
    );
    assert_eq!(serde_json::to_string(&section.description).unwrap(), description);
    harass(&section, |bytes| load(&mut blank(), 3, &bytes));
}

#[test]
fn what_the_stream_may_leave_out_and_what_not() {
    let mut state = Sample { deadline: None, rest: Vec::new(), ..sample() };
    let section = save(&mut state).unwrap();
    assert_eq!(section.description.get("subsections"), None);
    let refused = |version, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = section.bytes.clone();
        bytes.push(FOOTER);
        edit(&mut bytes);
        load(&mut blank(), version, &bytes).unwrap_err().to_string()
    };
    // A version that had no `late`; what was there before is gone.
    let mut old = section.bytes[..section.bytes.len() - 4].to_vec();
    old.push(FOOTER);
    let mut loaded = sample();
    assert_eq!(load(&mut loaded, 2, &old), Ok(old.len() - 1));
    assert_eq!((loaded.deadline, loaded.late), (None, 9));
    assert_eq!(
        refused(4, &|_| ()),
        "sample: incoming version_id 4 is too new for local version_id 3"
    );
    assert_eq!(
        refused(1, &|_| ()),
        "sample: incoming version_id 1 is too old for local minimum version_id  2"
    );
    assert_eq!(refused(3, &|b| b[7] = 2), "Failed to load sample:on: 2 is neither 0 nor 1");
    let append = |bytes: &mut Vec<u8>, more: &[u8]| {
        bytes.pop();
        bytes.extend_from_slice(more);
        bytes.push(FOOTER);
    };
    assert_eq!(
        refused(3, &|b| append(b, b"\x05\x08sample/x\0\0\0\x01")),
        "Failed to load sample: unknown subsection 'sample/x'"
    );
    assert_eq!(
        refused(3, &|b| append(b, b"\x05\x0bsample/rest\0\0\0\x03\0\0\0\0")),
        "sample/rest: incoming version_id 3 is too new for local version_id 2"
    );
    assert_eq!(
        refused(3, &|b| append(b, b"\x05\x0bsample/rest\0\0\0\x02\xff\xff\xff\xff")),
        "Failed to load sample/rest:count: 4294967295 is more than 8"
    );
    assert_eq!(
        refused(3, &|b| b.truncate(4)),
        "Failed to load sample:words: the stream ends in it"
    );
}

#[test]
fn the_machines_own_sections() {
    let mut plain = machine::Configuration { machine: "virt".to_owned(), ..Default::default() };
    let saved = round_trip(&mut plain, &mut machine::Configuration::default());
    assert_eq!(saved.bytes, b"\0\0\0\x04virt");
    assert_described_as_qemus(&saved);
    let mut full = machine::Configuration {
        capabilities: vec!["x-ignore-shared".to_owned(), "mapped-ram".to_owned()],
        uuid: Some([7; 16]),
        ..plain
    };
    let saved = round_trip(&mut full, &mut machine::Configuration::default());
    harass(&saved, |bytes| load(&mut machine::Configuration::default(), 1, &bytes));
    let mut state = machine::GlobalState { run_state: "running".to_owned(), suspended: true };
    let saved = round_trip(&mut state, &mut machine::GlobalState::default());
    assert_eq!((saved.bytes.len(), &saved.bytes[..12]), (104, &b"\0\0\0\x08running\0"[..]));
    assert_described_as_qemus(&saved);
    harass(&saved, |bytes| load(&mut machine::GlobalState::default(), 1, &bytes));
}
