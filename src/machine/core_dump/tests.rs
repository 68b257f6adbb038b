//! Dumps of a machine that is mocked, read again.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _};

use flate2::read::ZlibDecoder;
use object::elf::{FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{LittleEndian as LE, U32};

use super::*;
use crate::actors::probe::Probe;
use crate::cpu::isa::IsaConfig;
use crate::cpu::state::HartState;
use crate::machine::memory_map::MROM;
use crate::machine::message::{HartSnapshot, RunState, Unquiesce};
use crate::migration::ram::block::{BlockMemory, Bytes};

const RAM: u64 = 0x8000_0000;

/// A machine with two harts that says what it is asked for.
struct MockVm {
    harts: u32,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Actor for MockVm {
    type Context = Context<Self>;
}

impl Handler<HoldForDump> for MockVm {
    type Result = Result<Quiesced, VmError>;

    fn handle(&mut self, _: HoldForDump, ctx: &mut Self::Context) -> Self::Result {
        self.asked.lock().push("hold".into());
        Ok(Quiesced::new(RunState::Running, ctx.address().recipient()))
    }
}

impl Handler<Unquiesce> for MockVm {
    type Result = Result<(), VmError>;

    fn handle(&mut self, _: Unquiesce, _: &mut Self::Context) -> Self::Result {
        self.asked.lock().push("go on".into());
        Ok(())
    }
}

impl Handler<QueryCpus> for MockVm {
    type Result = Result<Vec<CpuInfo>, VmError>;

    fn handle(&mut self, _: QueryCpus, _: &mut Self::Context) -> Self::Result {
        let cpu = |index| CpuInfo {
            index,
            thread_id: 0,
            socket_id: 0,
            core_id: index,
            thread_in_core: 0,
        };
        Ok((0..self.harts).map(cpu).collect())
    }
}

impl Handler<QueryHart> for MockVm {
    type Result = Result<HartSnapshot, VmError>;

    fn handle(&mut self, QueryHart { cpu }: QueryHart, _: &mut Self::Context) -> Self::Result {
        let isa = Arc::new(IsaConfig::rv64());
        let mut state = HartState { pc: 0x1000 + u64::from(cpu), ..HartState::default() };
        state.x[31] = 0x3131 + u64::from(cpu);
        Ok(HartSnapshot { state: Box::new(state), mip: 0, isa, jit: Vec::new() })
    }
}

/// The mock, a dumper of 64 pages of RAM and a ROM, and what is announced.
struct Bench {
    dumper: Addr<Dumper>,
    state: DumpState,
    asked: Arc<Mutex<Vec<String>>>,
    announced: Probe<Announce>,
    ram: Vec<u8>,
}

impl Bench {
    fn new(harts: u32) -> Self {
        let (asked, announced) = (Arc::default(), Probe::<Announce>::new());
        let vm = MockVm { harts, asked: Arc::clone(&asked) }.start();
        let mut ram = vec![0; 64 * PAGE_SIZE as usize];
        ram[..3].copy_from_slice(b"ram");
        // A page that does not become smaller.
        let mut seed = 1_u32;
        for byte in &mut ram[5 * PAGE_SIZE as usize..6 * PAGE_SIZE as usize] {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
        let block = |name: &str, address, bytes: Vec<u8>, size| RamBlock {
            name: name.into(),
            address,
            memory: Arc::new(Bytes::new(bytes, size)) as Arc<dyn BlockMemory>,
        };
        let blocks = vec![
            block("ram", RAM, ram.clone(), ram.len() as u64),
            block("rom", MROM.base, b"rom".to_vec(), MROM.size),
        ];
        let peers = DumpPeers {
            hold: vm.clone().recipient(),
            cpus: vm.clone().recipient(),
            hart: vm.recipient(),
            announce: announced.recipient(),
        };
        let state = DumpState::default();
        let dumper = Dumper::new(peers, blocks, state.clone()).start();
        Self { dumper, state, asked, announced, ram }
    }

    async fn dump(
        &self,
        to: File,
        format: CoreFormat,
        filter: Option<Filter>,
    ) -> Result<(), String> {
        assert!(self.state.claim());
        assert!(!self.state.claim());
        let request = StartDump { to, format, filter, detach: false };
        self.dumper.send(request).await.unwrap().map_err(|error| error.to_string())
    }

    /// A dump that comes to its end.
    async fn dumped(&self, format: CoreFormat, filter: Option<Filter>) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        self.dump(file.try_clone().unwrap(), format, filter).await.unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

#[actix::test]
async fn a_core_file_has_registers_and_memory() {
    let bench = Bench::new(2);
    let dump = bench.dumped(CoreFormat::Elf, None).await;
    let header = FileHeader64::<LE>::parse(&*dump).unwrap();
    let segments = header.program_headers(LE, &*dump).unwrap();
    let loaded = segments.iter().filter(|segment| segment.p_type(LE) == PT_LOAD);
    let loaded: BTreeMap<_, _> =
        loaded.map(|segment| (segment.p_paddr(LE), segment.data(LE, &*dump).unwrap())).collect();
    assert_eq!(loaded.keys().copied().collect::<Vec<_>>(), [MROM.base, RAM]);
    assert!(loaded[&MROM.base].starts_with(b"rom") && loaded[&RAM] == bench.ram);
    let notes = segments.iter().find(|segment| segment.p_type(LE) == PT_NOTE).unwrap();
    let mut notes = notes.notes(LE, &*dump).unwrap().unwrap();
    for hart in 0..2_u64 {
        let note = notes.next().unwrap().unwrap();
        assert_eq!(note.name(), b"CORE");
        let word = |at: usize| u64::from_le_bytes(note.desc()[at..at + 8].try_into().unwrap());
        assert_eq!(U32::<LE>::from_bytes(note.desc()[32..36].try_into().unwrap()).get(LE), {
            hart as u32 + 1
        });
        assert_eq!((word(112), word(112 + 8 * 31)), (0x1000 + hart, 0x3131 + hart));
    }
    assert!(notes.next().unwrap().is_none());
    let sections = header.sections(LE, &*dump).unwrap();
    let names: Vec<_> =
        sections.iter().map(|section| sections.section_name(LE, section).unwrap()).collect();
    assert_eq!(names, [&b""[..], b".shstrtab"]);

    assert_eq!(*bench.asked.lock(), ["hold", "go on"]);
    let total = MROM.size + bench.ram.len() as u64;
    let result = DumpQueryResult { total, completed: total, status: DumpStatus::Completed };
    assert_eq!(bench.state.query(), result);
    let events: Vec<_> = bench.announced.take().into_iter().map(|Announce(event)| event).collect();
    assert_eq!(events, [VmEvent::DumpCompleted { result, error: None }]);
}

#[actix::test]
async fn a_filter_chooses_bytes() {
    let bench = Bench::new(1);
    for (begin, length, expected) in [
        (RAM as i64 + 1, 2, vec![(RAM + 1, 2)]),
        (0x1001, 1 << 40, vec![(0x1001, MROM.size - 1), (RAM, 64 * PAGE_SIZE)]),
        (-5, 0x1000 + 6, vec![(MROM.base, 1)]),
        (i64::MIN, i64::MAX, vec![]),
        (RAM as i64, -1, vec![]),
        (0, 0x1000, vec![]),
    ] {
        let filter = Some(Filter { begin, length });
        if expected.is_empty() {
            let refused = bench.dump(tempfile::tempfile().unwrap(), CoreFormat::Elf, filter).await;
            assert_eq!(refused.unwrap_err(), "dump: no guest memory to dump", "{begin}");
            assert_eq!(bench.state.query().status, DumpStatus::Failed);
            continue;
        }
        let dump = bench.dumped(CoreFormat::Elf, filter).await;
        let header = FileHeader64::<LE>::parse(&*dump).unwrap();
        let segments = header.program_headers(LE, &*dump).unwrap();
        let loads: Vec<_> = segments[1..].iter().map(|s| (s.p_paddr(LE), s.p_filesz(LE))).collect();
        assert_eq!(loads, expected, "{begin}");
        assert_eq!(bench.state.query().total, expected.iter().map(|(_, len)| len).sum::<u64>());
    }
}

/// The records of a flattened file, each in its place.
fn assemble(dump: &[u8]) -> Vec<u8> {
    assert!(dump.starts_with(b"makedumpfile\0"));
    let word = |at: usize| u64::from_be_bytes(dump[at..at + 8].try_into().unwrap());
    let (mut at, mut out) = (4096, Vec::new());
    while word(at) != u64::MAX {
        let (offset, len) = (word(at) as usize, word(at + 8) as usize);
        out.resize(out.len().max(offset + len), 0);
        out[offset..offset + len].copy_from_slice(&dump[at + 16..at + 16 + len]);
        at += 16 + len;
    }
    assert_eq!((word(at + 8), at + 16), (u64::MAX, dump.len()));
    out
}

#[actix::test]
async fn kdump_has_every_page_once() {
    let bench = Bench::new(2);
    let dump = bench.dumped(CoreFormat::Kdump { in_place: true }, None).await;
    let flat = bench.dumped(CoreFormat::Kdump { in_place: false }, None).await;
    assert_eq!(dump, assemble(&flat));

    let word = |at: usize| u32::from_le_bytes(dump[at..at + 4].try_into().unwrap()) as usize;
    let long = |at: usize| u64::from_le_bytes(dump[at..at + 8].try_into().unwrap());
    assert_eq!(&dump[..12], b"KDUMP   \x06\0\0\0");
    // The blocks of the second header and of both bitmaps, and the harts.
    let (sub_header, bitmaps, harts) = (word(0x1b0), word(0x1b4), word(0x1cc));
    assert_eq!((word(0x1ac), sub_header, harts), (4096, 1, 2));
    assert_eq!(long(0x1060), RAM / PAGE_SIZE + 64);
    let notes = long(0x1030) as usize;
    assert_eq!((long(0x1038), &dump[notes + 12..notes + 16]), (2 * 396, &b"CORE"[..]));
    let bitmap = &dump[4096 * (1 + sub_header)..][..4096 * bitmaps / 2];
    let there = |page: &usize| bitmap[page / 8] & (1 << (page % 8)) != 0;
    let pages: Vec<_> = (0..bitmap.len() * 8).filter(there).collect();
    assert_eq!(pages.len(), 15 + 64);
    let mut distinct = std::collections::BTreeSet::new();
    for (index, page) in pages.iter().enumerate() {
        let at = 4096 * (1 + sub_header + bitmaps) + 24 * index;
        let (offset, size, flags) = (long(at) as usize, word(at + 8), word(at + 12));
        distinct.insert(offset);
        let stored = &dump[offset..offset + size];
        let mut content = Vec::new();
        match flags {
            0 => content.extend(stored),
            1 => drop(ZlibDecoder::new(stored).read_to_end(&mut content).unwrap()),
            other => panic!("{other}"),
        }
        let expected = match (page * 4096).checked_sub(RAM as usize) {
            Some(offset) => bench.ram[offset..offset + 4096].to_vec(),
            None if *page == 1 => [&b"rom"[..], &[0; 4093]].concat(),
            None => vec![0; 4096],
        };
        assert!(content == expected, "page {page}");
        assert_eq!(flags, u32::from(matches!(page, 1 | 0x80000)) as usize, "page {page}");
    }
    assert_eq!(distinct.len(), 4);
}

#[actix::test]
async fn a_dump_that_fails_lets_the_machine_go_on() {
    let bench = Bench::new(1);
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (format, step) in [
        (CoreFormat::Elf, "dump: failed to write elf header: No space left on device"),
        (CoreFormat::Kdump { in_place: false }, "dump: failed to write start flat header"),
        (CoreFormat::Kdump { in_place: true }, "dump: failed to write disk dump header"),
    ] {
        assert_eq!(bench.dump(full(), format, None).await.unwrap_err(), step);
        let events = bench.announced.take();
        let [Announce(VmEvent::DumpCompleted { result, error })] = &*events else {
            panic!("{events:?}")
        };
        assert_eq!((result.status, error.as_deref()), (DumpStatus::Failed, Some(step)));
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let lost = bench.dump(std::os::fd::OwnedFd::from(writer).into(), CoreFormat::Elf, None).await;
    assert_eq!(lost.unwrap_err(), "dump: failed to write elf header: Broken pipe");
    let empty = Some(Filter { begin: 0, length: 0 });
    let refused = bench.dump(full(), CoreFormat::Elf, empty).await;
    assert_eq!(refused.unwrap_err(), "parameter 'length' expects a non-zero size");
    let asked = std::mem::take(&mut *bench.asked.lock());
    assert_eq!(asked, ["hold", "go on"].repeat(5));

    let harts = Bench::new(0);
    let refused = harts.dump(full(), CoreFormat::Elf, None).await;
    assert_eq!(refused.unwrap_err(), "dumping guest memory is not supported on this target");
    assert!(harts.announced.take().is_empty());
}
