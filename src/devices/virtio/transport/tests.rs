//! The register interface as a driver sees it, an honest one and a hostile one.

use actix::Handler;

use super::*;
use crate::actors::cell::DeviceCell;
use crate::actors::message::{MmioFault, MmioRead, MmioWrite, Snapshot};
use crate::actors::probe::Probe;
use crate::devices::virtio::entropy::EntropyWanted;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::test_driver::{DATA, Driver, WRITE};

fn rng(legacy: bool) -> (Driver<Rng>, Probe<EntropyWanted>) {
    let source = Probe::new();
    (Driver::new(legacy, Rng::new(source.outlet(), None)), source)
}

#[test]
fn registers_read_as_qemus() {
    for (legacy, version, features) in [(true, 1, 0x3900_0000), (false, 2, 0x101_3000_0000)] {
        let (mut driver, _) = rng(legacy);
        let identity = [0, 4, 8, 12].map(|offset| driver.read(offset));
        assert_eq!(identity, [0x7472_6976, version, 4, 0x554d_4551]);
        assert_eq!(driver.start(0), features);
        assert_eq!([0xb0, 0xb4].map(|offset| driver.read(offset)), [u32::MAX; 2]);
        assert_eq!(driver.read(0x100), u32::MAX, "no configuration space");
        assert_eq!(driver.read_sized(0, 1), 0, "registers are 32 bits wide");
        assert_eq!(driver.read_sized(0, 8), u64::from(version) << 32 | 0x7472_6976);
        driver.write(0x30, 1);
        assert_eq!(driver.read(0x34), 0, "no second queue");
        let past = driver.cell.call(MmioRead { offset: MMIO_SIZE - 4, width: 8 }).unwrap();
        assert_eq!(past, Err(MmioFault::Unmapped));
    }
    let empty = DeviceCell::new(Shell(EmptySlot::new(true)), "empty", Outlet::Unconnected);
    let read = |offset| empty.call(MmioRead { offset, width: 4 }).unwrap().unwrap();
    assert_eq!([0, 4, 8, 12, 0x34].map(read), [0x7472_6976, 1, 0, 0x554d_4551, 0]);
}

#[test]
fn only_offered_features_are_accepted_and_only_once() {
    let (mut driver, _) = rng(false);
    driver.start(u64::MAX);
    let accepted = |driver: &Driver<Rng>| driver.cell.call(Snapshot::<u64>::new()).unwrap();
    assert_eq!(accepted(&driver), 0x101_3000_0000);
    driver.write(0x24, 0);
    driver.write(0x20, 0);
    driver.write(0x70, 15);
    assert_eq!(accepted(&driver), 0x101_3000_0000, "not after FEATURES_OK");
    driver.write(0x70, 0);
    assert_eq!((driver.read(0x70), accepted(&driver)), (0, 0));
}

/// The sentences of `-d guest_errors` while `f` runs on this thread.
fn complaints(f: impl FnOnce()) -> Vec<String> {
    use tracing_subscriber::layer::SubscriberExt;
    struct Sentences(Arc<parking_lot::Mutex<Vec<String>>>);
    impl tracing::field::Visit for Sentences {
        fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            self.0.lock().push(format!("{value:?}"));
        }
    }
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Sentences {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            if event.metadata().target() == "guest_errors" {
                event.record(&mut Self(Arc::clone(&self.0)));
            }
        }
    }
    let said: Arc<parking_lot::Mutex<Vec<String>>> = Arc::default();
    let subscriber = tracing_subscriber::registry().with(Sentences(Arc::clone(&said)));
    tracing::subscriber::with_default(subscriber, f);
    let mut said = said.lock();
    std::mem::take(&mut *said)
}

#[test]
fn an_honest_driver_is_not_complained_of() {
    let (mut driver, _) = rng(false);
    // The status is written twice after FEATURES_OK, with the bit in it.
    let heard = complaints(|| {
        driver.start(1 << 32);
        driver.write(0x70, 15);
    });
    assert_eq!(heard, Vec::<String>::new());
    let heard = complaints(|| driver.write(0x20, 0));
    assert_eq!(heard, ["virtio-rng: features written after FEATURES_OK"]);
}

impl Handler<Snapshot<u64>> for Shell<VirtioMmio<Rng>> {
    type Result = u64;

    fn handle(&mut self, _: Snapshot<u64>, _: &mut Self::Context) -> u64 {
        self.0.state.features
    }
}

#[test]
fn a_broken_ring_breaks_the_device_until_reset() {
    for (legacy, status, isr) in [(true, 7, 0), (false, 0x4f, 3)] {
        let (mut driver, source) = rng(legacy);
        driver.start(if legacy { 0 } else { 1 << 32 });
        driver.jump();
        assert_eq!((driver.read(0x70), driver.read(0x60)), (status, isr));
        driver.offer(0, &[(DATA, 8, WRITE)]);
        driver.kick(0);
        assert!(source.take().is_empty());
        driver.start(if legacy { 0 } else { 1 << 32 });
        assert_eq!(driver.read(0x60), 0);
        driver.offer(0, &[(DATA, 8, WRITE)]);
        driver.kick(0);
        assert_eq!(source.take().len(), 1);
    }
}

#[test]
fn a_queue_reset_leaves_the_device_running() {
    let (mut driver, source) = rng(false);
    driver.start(1 << 32 | 1 << 40);
    driver.offer(0, &[(DATA, 8, WRITE)]);
    driver.kick(0);
    assert_eq!(source.take().len(), 1);
    driver.write(0xc0, 1);
    assert_eq!((driver.read(0xc0), driver.read(0x44), driver.read(0x70)), (0, 0, 15));
}

/// Any access to any register with any value: nothing but an answer or a fault.
#[test]
fn random_accesses_never_panic() {
    let mut seed = 7u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        seed >> 24
    };
    for legacy in [true, false] {
        let (mut driver, _source) = rng(legacy);
        driver.start(1 << 32);
        for _ in 0..20_000 {
            let offset = random() % (MMIO_SIZE + 8);
            let width = [1, 2, 4, 8, 3][(random() % 5) as usize];
            let value = match random() % 3 {
                0 => random(),
                1 => random() % 1025,
                _ => (DATA + random() % 0x2000) >> (12 * (random() & 1)),
            };
            let aligned = offset & !3;
            for offset in [offset, aligned] {
                let _ = driver.cell.call(MmioWrite { offset, width, value }).unwrap();
                let _ = driver.cell.call(MmioRead { offset, width }).unwrap();
            }
            driver.write(0x50, 0);
        }
    }
}
