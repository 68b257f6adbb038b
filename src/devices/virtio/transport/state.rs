//! The state of a virtio device as it travels. It is older than QEMU's state descriptions, which
//! show it as one field: the transport's registers, the queues, the device's own, and subsections
//! of what came later.

use super::{QUEUES_MAX, VirtioMmio, fresh_queues};
use crate::devices::shell::Migrate;
use crate::devices::virtio::device::{DeviceState, VirtioDevice};
use crate::devices::virtio::queue::{QUEUE_SIZE_MAX, Virtqueue};
use crate::machine::memory::RamError;
use crate::migration::vmstate::{Fields, StateError, VmState, Vmsd};

/// Most bytes of a configuration space that are read.
const CONFIG_MAX: usize = 4096;
/// Queues in the subsections of modern devices, there or not.
const QUEUES: usize = QUEUES_MAX as usize;

/// One queue.
#[derive(Debug, Clone, Default)]
struct QueueState {
    size: u32,
    align: u32,
    desc: u64,
    avail: u64,
    used: u64,
    next_avail: u16,
    preferred: u32,
    ready: bool,
}

/// The device.
#[derive(Debug)]
pub struct VirtioMigration<D: VirtioDevice> {
    legacy: bool,
    features_sel: u32,
    driver_features_sel: u32,
    page_shift: u32,
    status: u8,
    isr: u8,
    queue_sel: u16,
    features: u64,
    driver_features: [u32; 2],
    config: Vec<u8>,
    queues: Vec<QueueState>,
    broken: bool,
    started: bool,
    device: D::State,
}

impl<D: VirtioDevice> VmState for VirtioMigration<D> {
    const VMSD: Vmsd = D::VMSD;

    fn before_load(&mut self) {
        self.broken = false;
        self.started = false;
        self.driver_features = [0; 2];
        for queue in &mut self.queues {
            queue.ready = false;
        }
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.opaque("virtio", "virtio", &mut |f| {
            self.registers(f)?;
            self.queues(f)?;
            self.device.fields(f)?;
            f.embedded(Vmsd::new("virtio", 1), &mut |f| self.subsections(f))
        })
    }
}

impl<D: VirtioDevice> VirtioMigration<D> {
    fn registers(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.u32("host_features_sel", &mut self.features_sel)?;
        f.u32("guest_features_sel", &mut self.driver_features_sel)?;
        f.u32("guest_page_shift", &mut self.page_shift)?;
        if self.page_shift >= 32 {
            return Err(f.refuse("guest_page_shift", format!("{} is too much", self.page_shift)));
        }
        f.u8("status", &mut self.status)?;
        f.u8("isr", &mut self.isr)?;
        f.u16("queue_sel", &mut self.queue_sel)?;
        if u32::from(self.queue_sel) >= QUEUES_MAX {
            return Err(f.refuse("queue_sel", format!("there is no queue {}", self.queue_sel)));
        }
        let mut low = self.features as u32;
        f.u32("guest_features", &mut low)?;
        self.features = self.features & !0xffff_ffff | u64::from(low);
        f.counted(("config_len", "config"), CONFIG_MAX, &mut self.config)
    }

    fn queues(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let mut count = self.queues.len() as u32;
        f.u32("num_queues", &mut count)?;
        if count as usize != self.queues.len() {
            let here = self.queues.len();
            let reason = format!("Invalid number of virtqueues: {count:#x}, here {here:#x}");
            return Err(f.refuse("num_queues", reason));
        }
        for (i, queue) in self.queues.iter_mut().enumerate() {
            f.u32("vring.num", &mut queue.size)?;
            if !(1..=u32::from(QUEUE_SIZE_MAX)).contains(&queue.size) {
                return Err(f.refuse("vring.num", format!("VQ {i} size {:#x}", queue.size)));
            }
            f.u32("vring.align", &mut queue.align)?;
            if !queue.align.is_power_of_two() {
                return Err(f.refuse("vring.align", format!("VQ {i} align {:#x}", queue.align)));
            }
            let mut desc = if queue.ready || self.legacy { queue.desc } else { 0 };
            f.u64("vring.desc", &mut desc)?;
            if f.loading() {
                queue.desc = desc;
            }
            f.u16("last_avail_idx", &mut queue.next_avail)?;
            if desc == 0 && queue.next_avail != 0 {
                let index = queue.next_avail;
                let reason = format!("VQ {i} address 0x0 inconsistent with Host index {index:#x}");
                return Err(f.refuse("last_avail_idx", reason));
            }
        }
        Ok(())
    }

    fn subsections(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.subsection(Vmsd::new("virtio/64bit_features", 1), true, &mut |f| {
            f.u64("guest_features", &mut self.features)
        })?;
        let modern = !self.legacy;
        let spare = QueueState::default();
        let queues = &mut self.queues;
        f.subsection(Vmsd::new("virtio/virtqueues", 1), modern, &mut |f| {
            f.structures("vq", Vmsd::new("virtqueue_state", 1), QUEUES, &mut |i, f| {
                let mut spare = spare.clone();
                let queue = queues.get_mut(i).unwrap_or(&mut spare);
                let mut rings = if queue.ready { [queue.avail, queue.used] } else { [0; 2] };
                f.u64("vring.avail", &mut rings[0])?;
                f.u64("vring.used", &mut rings[1])?;
                if f.loading() {
                    [queue.avail, queue.used] = rings;
                }
                Ok(())
            })
        })?;
        let resized = queues.iter().any(|queue| queue.size != queue.preferred);
        f.subsection(Vmsd::new("virtio/ringsize", 1), resized, &mut |f| {
            f.structures("vq", Vmsd::new("ringsize_state", 1), QUEUES, &mut |i, f| {
                f.u32("vring.num_default", &mut queues.get(i).map_or(0, |queue| queue.preferred))
            })
        })?;
        f.subsection(Vmsd::new("virtio/broken", 1), self.broken, &mut |f| {
            f.bool("broken", &mut self.broken)
        })?;
        let driver_features = &mut self.driver_features;
        f.subsection(Vmsd::new("virtio/extra_state", 1), modern, &mut |f| {
            f.embedded(Vmsd::new("virtio_mmio", 1), &mut |f| {
                f.subsection(Vmsd::new("virtio_mmio/state", 1), true, &mut |f| {
                    f.u32s("guest_features", driver_features)?;
                    let vmsd = Vmsd::new("virtio_mmio/queue_state", 1);
                    f.structures("vqs", vmsd, QUEUES, &mut |i, f| {
                        let mut spare = spare.clone();
                        proxied(f, queues.get_mut(i).unwrap_or(&mut spare))
                    })
                })
            })
        })?;
        f.subsection(Vmsd::new("virtio/started", 1), self.started, &mut |f| {
            f.bool("started", &mut self.started)
        })?;
        self.device.subsections(f)
    }
}

/// A queue as a modern driver is laying it out.
fn proxied(f: &mut dyn Fields, queue: &mut QueueState) -> Result<(), StateError> {
    let mut size = queue.size as u16;
    f.u16("num", &mut size)?;
    f.bool("enabled", &mut queue.ready)?;
    for (name, address) in
        [("desc", &mut queue.desc), ("avail", &mut queue.avail), ("used", &mut queue.used)]
    {
        let mut halves = [*address as u32, (*address >> 32) as u32];
        f.u32s(name, &mut halves)?;
        if f.loading() && !queue.ready {
            *address = u64::from(halves[0]) | u64::from(halves[1]) << 32;
        }
    }
    if f.loading() && (1..=QUEUE_SIZE_MAX).contains(&size) {
        queue.size = size.into();
    }
    Ok(())
}

impl<D: VirtioDevice> VirtioMmio<D> {
    fn saved(&self) -> Result<VirtioMigration<D>, StateError> {
        let preferred = self.device.queues();
        let queues = self.state.queues.iter().zip(&self.aligns).zip(preferred);
        Ok(VirtioMigration {
            legacy: self.legacy,
            features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            page_shift: self.page_shift,
            status: self.state.status,
            isr: self.state.isr,
            queue_sel: self.queue_sel as u16,
            features: self.state.features,
            driver_features: self.driver_features,
            config: self.device.config(),
            queues: queues
                .enumerate()
                .map(|(i, ((queue, align), preferred))| QueueState {
                    size: queue.size.into(),
                    align: *align as u32,
                    desc: queue.desc,
                    avail: queue.avail,
                    used: queue.used,
                    next_avail: queue.next_avail().wrapping_sub(self.device.untaken(i)),
                    preferred: preferred.into(),
                    ready: queue.ready,
                })
                .collect(),
            broken: self.state.broken,
            started: self.state.is_driver_ok(),
            device: self.device.save(&self.state)?,
        })
    }

    fn set(&mut self, loaded: VirtioMigration<D>) -> Result<(), StateError> {
        let name = D::VMSD.name;
        let refuse = |field, reason| StateError::Field { name, field, reason };
        if loaded.features & !self.offered != 0 {
            let (features, offered) = (loaded.features, self.offered);
            let reason =
                format!("Features {features:#x} unsupported. Allowed features: {offered:#x}");
            return Err(refuse("guest_features", reason));
        }
        let mut queues = fresh_queues(&self.device);
        let ram = self.state.ram().clone();
        for (i, (queue, from)) in queues.iter_mut().zip(&loaded.queues).enumerate() {
            *queue = Virtqueue::new(from.size as u16);
            (queue.desc, queue.avail, queue.used) = (from.desc, from.avail, from.used);
            queue.ready = if self.legacy { from.desc != 0 } else { from.ready };
            if !queue.ready {
                continue;
            }
            if self.legacy {
                queue.lay_out(from.desc, from.align.into());
            }
            let fits = match queue.resume_at(&ram, from.next_avail) {
                Err(RamError::Missing { addr, len }) => {
                    return Err(StateError::Missing { addr, len });
                }
                resumed => resumed.unwrap_or(false),
            };
            if !fits {
                let reason = format!(
                    "VQ {i} size {:#x} < last_avail_idx {:#x} - used_idx",
                    from.size, from.next_avail
                );
                return Err(refuse("last_avail_idx", reason));
            }
        }
        self.device_features_sel = loaded.features_sel;
        self.driver_features_sel = loaded.driver_features_sel;
        self.driver_features = loaded.driver_features;
        self.page_shift = loaded.page_shift;
        self.queue_sel = loaded.queue_sel.into();
        self.aligns = loaded.queues.iter().map(|queue| queue.align.into()).collect();
        self.held = (0..queues.len()).filter(|&i| queues[i].ready).collect();
        self.paused = true;
        self.state.queues = queues;
        self.state.features = loaded.features;
        self.negotiated = true;
        self.state.status = loaded.status;
        self.state.isr = loaded.isr;
        self.state.broken = loaded.broken;
        self.state.update_irq();
        self.device.load(loaded.device, &loaded.config, &mut self.state)
    }
}

impl<D: VirtioDevice> Migrate for VirtioMmio<D> {
    type State = VirtioMigration<D>;

    fn save(&self) -> Result<VirtioMigration<D>, StateError> {
        self.saved()
    }

    /// The device's part may be refused when the rest is set.
    fn load(&mut self, loaded: VirtioMigration<D>) -> Result<(), StateError> {
        let before = self.saved()?;
        let set = self.set(loaded);
        if set.is_err() {
            // It was what it goes back to.
            let _ = self.set(before);
        }
        set
    }
}
