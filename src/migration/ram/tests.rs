//! Both ends of guest memory against each other, against bytes written by hand, and against
//! streams that were tampered with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::block::{BlockMemory, Bytes, DirtyPages, RamBlock};
use super::loader::{LoadOptions, RamLoader};
use super::mapped::{MappedFile, MappedSaver, PageBuffer};
use super::multifd::{self, MultifdReceiver, MultifdSender, PACKET_PAGES, PacketPages, Received};
use super::saver::{Phase, RamOptions, RamSaver, Sent};
use super::{PAGE, flag};
use crate::migration::parameters::MultifdCompression;
use crate::migration::stream::{Input, LoadError};

/// A machine's memory: `ram` of 64 pages, `rom` of 2.
#[derive(Clone)]
struct Memory([Arc<Bytes>; 2]);

const NAMES: [&str; 2] = ["ram", "rom"];
const PAGES: [u64; 2] = [64, 2];

impl Memory {
    fn new() -> Self {
        Self(PAGES.map(|pages| Arc::new(Bytes::new(Vec::new(), pages * PAGE as u64))))
    }

    fn blocks(&self) -> Vec<RamBlock> {
        let block = |(i, memory): (usize, &Arc<Bytes>)| RamBlock {
            name: NAMES[i].to_owned(),
            address: 0x8000_0000 * i as u64,
            memory: Arc::clone(memory) as Arc<dyn BlockMemory>,
        };
        self.0.iter().enumerate().map(block).collect()
    }

    fn saver(&self, options: RamOptions) -> RamSaver {
        let written = |m: &Arc<Bytes>| Box::new(Arc::clone(m)) as Box<dyn DirtyPages>;
        let blocks = self.blocks().into_iter().zip(self.0.iter().map(written)).collect();
        RamSaver::new(blocks, options)
    }

    fn loader(&self) -> RamLoader {
        RamLoader::new(self.blocks(), LoadOptions::default()).unwrap()
    }

    fn write(&self, block: usize, offset: u64, bytes: &[u8]) {
        self.0[block].write(offset, bytes).unwrap();
    }

    fn content(&self) -> [Vec<u8>; 2] {
        [0, 1].map(|i| self.0[i].to_vec())
    }
}

fn plain() -> RamOptions {
    RamOptions { zero_pages: true, ..RamOptions::default() }
}

fn load(loader: &mut RamLoader, bytes: &[u8]) -> Result<u64, LoadError> {
    let mut input = Input::new(bytes);
    loader.load(&mut input, &mut || Ok(()))?;
    Ok(input.position())
}

fn refused(bytes: &[u8]) -> String {
    load(&mut Memory::new().loader(), bytes).unwrap_err().to_string()
}

#[test]
fn the_bytes_of_a_section() {
    let memory = Memory::new();
    memory.write(0, 2 * PAGE as u64, &[5; PAGE]);
    let mut saver = memory.saver(plain());
    let mut out = Vec::new();
    saver.setup(&mut out);
    let mut expected = ((66 * PAGE as u64) | 4).to_be_bytes().to_vec();
    expected.extend(b"\x03ram\0\0\0\0\0\x04\0\0\x03rom\0\0\0\0\0\0\x20\0");
    expected.extend(0x10u64.to_be_bytes());
    assert_eq!(out, expected);

    out.clear();
    assert_eq!(saver.save_pages(&mut out, usize::MAX).unwrap(), Sent::Everything);
    saver.end_piece(&mut out);
    assert_eq!(out[..13], *b"\0\0\0\0\0\0\0\x02\x03ram\0");
    assert_eq!(out[13..22], *b"\0\0\0\0\0\0\x10\x22\0");
    assert_eq!(out[22..30], *b"\0\0\0\0\0\0\x20\x28");
    assert_eq!(out[30..30 + PAGE], [5; PAGE]);
    assert_eq!(
        out[out.len() - 30..],
        *b"\0\0\0\0\0\0\0\x02\x03rom\0\0\0\0\0\0\0\x10\x22\0\0\0\0\0\0\0\0\x10"
    );
    let stats = saver.stats();
    assert_eq!((stats.duplicate, stats.normal, stats.normal_bytes), (65, 1, 4096));
    assert_eq!((stats.total, stats.remaining), (66 * 4096, 0));
    assert_eq!(stats.precopy_bytes, out.len() as u64);
    assert_eq!(stats.downtime_bytes, 0);
}

#[derive(Debug, Clone)]
struct Write {
    block: usize,
    page: u64,
    at: usize,
    value: u8,
}

fn write() -> impl Strategy<Value = Write> {
    (0..2usize, 0..64u64, 0..PAGE - 64, 0..3u8).prop_map(|(block, page, at, value)| Write {
        block,
        page: page % PAGES[block],
        at,
        value,
    })
}

fn apply(memory: &Memory, writes: &[Write]) {
    for w in writes {
        let offset = w.page * PAGE as u64 + w.at as u64;
        memory.write(w.block, offset, &[w.value; 64]);
        memory.write(w.block, w.page * PAGE as u64, &[w.value]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Passes with writes in between arrive as the memory was in the end, whatever the options.
    #[test]
    fn what_is_saved_is_loaded(
        passes in prop::collection::vec(prop::collection::vec(write(), 0..20), 1..5),
        xbzrle in prop::option::of(1..100_000u64),
        zero_pages: bool,
        budget in 1..20_000usize,
    ) {
        let (from, to) = (Memory::new(), Memory::new());
        to.write(0, 100, b"what was there before");
        let mut saver = from.saver(RamOptions { zero_pages, xbzrle, ..RamOptions::default() });
        let mut loader = to.loader();
        let mut out = Vec::new();
        saver.setup(&mut out);
        load(&mut loader, &out).unwrap();
        let mut now = Instant::now();
        let (mut pages, mut bytes) = (0, 0);
        for (i, writes) in passes.iter().enumerate() {
            apply(&from, writes);
            if i + 1 == passes.len() {
                saver.enter(Phase::Downtime);
            }
            now += Duration::from_secs(2);
            pages += saver.sync(now);
            loop {
                out.clear();
                let sent = saver.save_pages(&mut out, budget).unwrap();
                prop_assert!(out.len() < budget + PAGE + 20);
                saver.end_piece(&mut out);
                bytes += out.len() as u64;
                prop_assert_eq!(load(&mut loader, &out), Ok(out.len() as u64));
                if sent == Sent::Everything { break }
            }
        }
        prop_assert!(from.content() == to.content());
        let stats = saver.stats();
        prop_assert_eq!(stats.dirty_sync_count, passes.len() as u64 + 1);
        prop_assert_eq!(stats.precopy_bytes + stats.downtime_bytes, bytes);
        let changes = saver.xbzrle_stats().unwrap_or_default();
        let sent = stats.normal + stats.duplicate + changes.pages;
        prop_assert_eq!(sent, saver.pages());
        prop_assert!(sent <= 66 + pages);
    }

    /// The same by packets over two channels.
    #[test]
    fn what_is_sent_over_channels_is_loaded(
        passes in prop::collection::vec(prop::collection::vec(write(), 0..20), 1..4),
        method in 0..3usize,
        find_zero: bool,
        most in 1..=PACKET_PAGES,
    ) {
        use MultifdCompression::{None, Zlib, Zstd};
        let compression = [None, Zlib, Zstd][method];
        let (from, to) = (Memory::new(), Memory::new());
        let mut saver = from.saver(RamOptions::default());
        let loader = to.loader();
        let blocks: Arc<[RamBlock]> = from.blocks().into();
        let channels = [0, 1].map(|i| {
            let sender = MultifdSender::new(i, Arc::clone(&blocks), compression, 1, find_zero);
            let receiver = MultifdReceiver::new(i, loader.incoming(), compression);
            (sender.unwrap(), receiver.unwrap())
        });
        let mut number = 0;
        let mut channels = channels.into_iter().collect::<Vec<_>>();
        for writes in &passes {
            apply(&from, writes);
            saver.sync(Instant::now());
            while let Some(batch) = saver.next_batch(most) {
                let (sender, receiver) = &mut channels[number % 2];
                let mut out = Vec::new();
                let sent = sender.packet(&batch, number as u64, &mut out).unwrap();
                prop_assert_eq!(sent.normal + sent.zero, batch.offsets.len() as u64);
                let mut input = Input::new(&out[..]);
                prop_assert_eq!(receiver.receive(&mut input), Ok(Received::Pages(sent)));
                prop_assert_eq!(input.position(), out.len() as u64);
                number += 1;
            }
            for (sender, receiver) in &mut channels {
                let mut out = Vec::new();
                sender.sync(number as u64, &mut out);
                prop_assert_eq!(receiver.receive(&mut Input::new(&out[..])), Ok(Received::Sync));
            }
        }
        prop_assert!(from.content() == to.content());
    }

    /// The same through a file.
    #[test]
    fn what_is_written_to_a_file_is_loaded(
        passes in prop::collection::vec(prop::collection::vec(write(), 0..20), 1..4),
        position in 0..3_000_000u64,
        batch in 1..600usize,
        find_zero in any::<bool>(),
        threads in 1..4u8,
    ) {
        let (from, to) = (Memory::new(), Memory::new());
        let file = tempfile::tempfile().unwrap();
        let mut saver = from.saver(RamOptions::default());
        let (mapped, end) = MappedSaver::new(&saver, position, find_zero);
        mapped.begin(&file).unwrap();
        let mut buffer = PageBuffer::new();
        for writes in &passes {
            apply(&from, writes);
            saver.sync(Instant::now());
            while let Some(batch) = saver.next_batch(batch) {
                mapped.save(&batch, &file, &mut buffer).unwrap();
            }
        }
        mapped.finish(&file).unwrap();
        let loaded = to.loader().load_mapped(in_file(&file, threads), position);
        prop_assert_eq!(loaded, Ok(end));
        prop_assert!(from.content() == to.content());
    }
}

/// The pieces of a stream: a list of blocks and pages of every kind.
fn stream() -> Vec<u8> {
    let memory = Memory::new();
    let mut saver = memory.saver(RamOptions { xbzrle: Some(1 << 20), ..plain() });
    let mut out = Vec::new();
    saver.setup(&mut out);
    out.truncate(out.len() - 8);
    for value in 1..4 {
        memory.write(0, 5 * PAGE as u64 + 100, &[value]);
        memory.write(1, 7, &[value; 9]);
        saver.sync(Instant::now());
        while saver.save_pages(&mut out, usize::MAX).unwrap() == Sent::More {}
    }
    saver.end_piece(&mut out);
    assert_eq!(saver.xbzrle_stats().unwrap().pages, 4);
    load(&mut Memory::new().loader(), &out).unwrap();
    out
}

#[test]
fn a_stream_that_was_tampered_with_is_refused_or_loaded_but_does_no_harm() {
    let stream = stream();
    for end in (0..stream.len()).filter(|end| end % 7 == 0 || *end < 100) {
        assert_eq!(refused(&stream[..end]), format!("the stream ends after {end} bytes"));
    }
    for at in 0..stream.len() {
        for bit in [0, 3, 7] {
            let mut bad = stream.clone();
            bad[at] ^= 1 << bit;
            // The outcome depends on the place; that there is one is what counts.
            let _ = load(&mut Memory::new().loader(), &bad);
        }
    }
}

#[test]
fn refusals_name_what_is_wrong() {
    let list = |total: u64, name: &[u8], size: u64| {
        let mut bytes = (total | flag::MEM_SIZE).to_be_bytes().to_vec();
        bytes.push(name.len() as u8);
        bytes.extend(name);
        bytes.extend(size.to_be_bytes());
        bytes
    };
    let page = |word: u64, rest: &[u8]| [&word.to_be_bytes(), rest].concat();
    let cases: &[(Vec<u8>, &str)] = &[
        (list(0x1000, b"vram", 0x1000), "Unknown ramblock \"vram\", cannot accept migration"),
        (list(0x1000, b"ram", 0x1000), "Size mismatch: ram: 0x1000 != 0x40000: Invalid argument"),
        (
            list(0x1000, b"ram", 0x4_0000),
            "ramblock ram of 0x40000 bytes does not fit the announced 0x1000",
        ),
        (page(flag::ZERO | flag::CONTINUE, &[0]), "Ack, bad migration stream!"),
        (page(flag::PAGE, b"\x03rum"), "Can't find block rum"),
        (page(0x4_0000 | flag::ZERO, b"\x03ram\0"), "Illegal RAM offset 40000"),
        (page(u64::MAX << 12 | flag::PAGE, b"\x03ram"), "Illegal RAM offset fffffffffffff000"),
        (page(flag::ZERO, b"\x03ram\xff"), "Found a zero page with value 255"),
        (
            page(flag::ZERO | flag::PAGE, b"\x03ram\0"),
            "Unknown combination of migration flags: 0xa",
        ),
        (page(flag::HOOK, &[]), "Unknown combination of migration flags: 0x80"),
        (
            page(flag::XBZRLE, b"\x03ram\x02\0\0"),
            "Failed to load XBZRLE page - wrong compression! Failed to decompress XBZRLE page at 0",
        ),
        (
            page(flag::XBZRLE, b"\x03ram\x01\x10\x01"),
            "Failed to load XBZRLE page - len overflow! Failed to decompress XBZRLE page at 0",
        ),
        (
            page(0x1000 | flag::XBZRLE, b"\x03ram\x01\0\x01\0"),
            "Failed to load XBZRLE page - decode error! Failed to decompress XBZRLE page at 1000",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(refused(bytes), *expected);
    }
}

#[test]
fn the_request_to_wait_for_channels_is_passed_on() {
    let saver = Memory::new().saver(plain());
    let mut out = Vec::new();
    saver.put_flush(&mut out);
    out.extend(flag::EOS.to_be_bytes());
    let mut flushes = 0;
    let mut loader = Memory::new().loader();
    let mut count = || {
        flushes += 1;
        Ok(())
    };
    loader.load(&mut Input::new(&out[..]), &mut count).unwrap();
    assert_eq!(flushes, 1);
}

#[test]
fn blocks_at_other_addresses_are_refused_when_addresses_are_sent() {
    let memory = Memory::new();
    let mut out = Vec::new();
    memory.saver(RamOptions { addresses: true, ..plain() }).setup(&mut out);
    let load_at = |address| {
        let mut blocks = Memory::new().blocks();
        blocks[1].address = address;
        let options = LoadOptions { addresses: true, ..LoadOptions::default() };
        load(&mut RamLoader::new(blocks, options).unwrap(), &out)
    };
    assert_eq!(load_at(0x8000_0000), Ok(out.len() as u64));
    let refused = load_at(0x1000).unwrap_err().to_string();
    assert_eq!(refused, "Mismatched GPAs for block rom 2147483648!= 4096");
}

#[test]
fn packets_that_are_none_are_refused() {
    let memory = Memory::new();
    memory.write(0, 0, &[1; PAGE]);
    let mut saver = memory.saver(RamOptions::default());
    let batch = saver.next_batch(3).unwrap();
    assert_eq!(batch.offsets, [0, 0x1000, 0x2000]);
    let packet = |compression| {
        let blocks = memory.blocks().into();
        let mut out = Vec::new();
        let mut sender = MultifdSender::new(0, blocks, compression, 1, true).unwrap();
        let sent = sender.packet(&batch, 3, &mut out).unwrap();
        assert_eq!(sent, PacketPages { normal: 1, zero: 2 });
        out
    };
    let receive = |bytes: &[u8], compression| {
        let loader = Memory::new().loader();
        let mut receiver = MultifdReceiver::new(4, loader.incoming(), compression).unwrap();
        receiver.receive(&mut Input::new(bytes))
    };
    let (none, zlib) = (MultifdCompression::None, MultifdCompression::Zlib);
    let whole = packet(none);
    assert_eq!(whole.len(), 320 + 8 * 128 + PAGE);
    // Word at this place of the packet, its value, what that is called.
    for (at, value, expected) in [
        (0, 1u32, "multifd: received packet magic 1 and expected magic 11223344"),
        (4, 2, "multifd: received packet version 2 and expected version 1"),
        (8, 2, "multifd 4: flags received 2 flags expected 0"),
        (8, 64, "multifd: received packet with a device's state, which no device here takes"),
        (12, 129, "multifd: received packet with size 129 and expected a size of 128"),
        (
            16,
            u32::MAX,
            "multifd: received packet with 4294967295 normal pages and expected maximum pages are 128",
        ),
        (20, 1 << 31, "multifd: received packet of 2147483648 bytes and expected at most 1048576"),
        (20, 4095, "multifd 4: packet size received 4095 size expected 4096"),
        (
            32,
            128,
            "multifd: received packet with 128 zero pages and expected maximum zero pages are 127",
        ),
        (64, 0x7878_7800, "multifd: unknown ram block xxx"),
        (320, 1, "multifd: offset too long 4294967296 (max 3f000)"),
        (324, 1, "multifd: offset too long 1 (max 3f000)"),
    ] {
        let mut bad = whole.clone();
        bad[at..at + 4].copy_from_slice(&value.to_be_bytes());
        assert_eq!(receive(&bad, none).unwrap_err().to_string(), expected);
    }
    for compression in [zlib, MultifdCompression::Zstd] {
        let whole = packet(compression);
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x11;
            let _ = receive(&bad, compression);
            assert!(receive(&whole[..at], compression).is_err());
        }
        // Two packets' worth of pages in one, and half of one's.
        let payload = whole[320 + 1024..].to_vec();
        let mut short = whole.clone();
        short.truncate(whole.len() - payload.len() / 2);
        let size = (short.len() - 320 - 1024) as u32;
        short[20..24].copy_from_slice(&size.to_be_bytes());
        let error = receive(&short, compression).unwrap_err().to_string();
        assert!(error.starts_with("multifd 4: packet size received"), "{error}");
        let mut fewer = whole.clone();
        fewer[16..20].copy_from_slice(&0u32.to_be_bytes());
        let error = receive(&fewer, compression).unwrap_err().to_string();
        assert!(error.contains("size expected 0"), "{error}");
    }
}

#[test]
fn a_greeting_says_which_channel_it_is() {
    let (ours, theirs) = ([7; 16], [0xab; 16]);
    let greeting = multifd::greeting(&theirs, 2);
    assert_eq!(greeting.len(), 64);
    let read = |bytes: &[u8], uuid: Option<&[u8; 16]>, channels| {
        multifd::read_greeting(&mut Input::new(bytes), uuid, channels).map_err(|e| e.to_string())
    };
    assert_eq!(read(&greeting, Some(&theirs), 3), Ok(2));
    assert_eq!(read(&greeting, None, 3), Ok(2));
    let refused = "multifd: received channel id 2 is greater than number of channels 2";
    assert_eq!(read(&greeting, None, 2), Err(refused.to_owned()));
    let refused = read(&greeting, Some(&ours), 3).unwrap_err();
    assert_eq!(
        refused,
        "multifd: received uuid 'abababab-abab-abab-abab-abababababab' and expected uuid \
         '07070707-0707-0707-0707-070707070707' for channel 2"
    );
    let refused = read(b"QEVM\0\0\0\x03", None, 2).unwrap_err();
    assert_eq!(refused, "multifd: received packet magic 5145564d expected 11223344");
    assert!(read(&greeting[..63], None, 3).is_err());
}

/// In a postcopy a page that was sent is needed no more; before, the machine may go on with it.
#[test]
fn memory_is_released_page_by_page_once_it_is_not_needed() {
    for (release, phase, kept) in [
        (true, Phase::Precopy, true),
        (true, Phase::Downtime, true),
        (false, Phase::Postcopy, true),
        (true, Phase::Postcopy, false),
    ] {
        let memory = Memory::new();
        memory.write(0, 5, &[9; 3 * PAGE]);
        let mut saver = memory.saver(RamOptions { release, ..plain() });
        saver.enter(phase);
        let mut out = Vec::new();
        while saver.save_pages(&mut out, 3 * PAGE).unwrap() == Sent::More {}
        assert_eq!(out.iter().filter(|&&byte| byte == 9).count(), 3 * PAGE);
        let content = memory.content();
        assert_eq!(content.iter().flatten().any(|&byte| byte == 9), kept, "{release} {phase:?}");
    }
}

fn in_file(file: &std::fs::File, threads: u8) -> MappedFile<'_> {
    MappedFile { file, pages: file, threads }
}

#[test]
fn a_file_that_was_tampered_with_is_refused() {
    use std::os::unix::fs::FileExt;
    let from = Memory::new();
    from.write(0, 0, &[9; 3 * PAGE]);
    let file = tempfile::tempfile().unwrap();
    let mut saver = from.saver(RamOptions::default());
    let (mapped, _) = MappedSaver::new(&saver, 100, true);
    mapped.begin(&file).unwrap();
    while let Some(batch) = saver.next_batch(100) {
        mapped.save(&batch, &file, &mut PageBuffer::new()).unwrap();
    }
    mapped.finish(&file).unwrap();
    // The first block's header is after the total, "\x03ram" and its size.
    let header = 100 + 8 + 4 + 8;
    for (at, value, expected) in [
        (
            header,
            2u64 << 32,
            "Migration mapped-ram capability version not supported (expected <= 1, got 2)",
        ),
        (header + 4, 8192, "ramblock ram has pages of 8192 bytes, not of 4096"),
        (header + 12, u64::MAX >> 1, "Error reading dirty bitmap of ram: "),
        (header + 20, 4095, "Error reading ramblock ram pages, region has bad alignment"),
        (header + 20, 1 << 62, "Error reading ramblock ram pages at 0x4000000000000000: "),
        (100, 0x2_0000 | flag::MEM_SIZE, "ramblock ram of 0x40000 bytes does not fit"),
        (100, flag::PAGE, "Unknown combination of migration flags: 0x8"),
    ] {
        let mut kept = [0; 8];
        file.read_exact_at(&mut kept, at).unwrap();
        file.write_all_at(&value.to_be_bytes(), at).unwrap();
        let error =
            Memory::new().loader().load_mapped(in_file(&file, 1), 100).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        file.write_all_at(&kept, at).unwrap();
    }
    assert!(Memory::new().loader().load_mapped(in_file(&file, 1), 100).is_ok());
}
