//! Stands for the daemon in tests of the QEMU device: serves a configuration space and sends back what comes over the
//! control queue. `vgpu-echo-backend SOCKET [MAGIC]`; says on standard output what happens to it.

use std::sync::{Arc, RwLock};

use anyhow::Context;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

const VERSION_1: u64 = 1 << 32;
/// That there are protocol features at all (`VHOST_USER_F_PROTOCOL_FEATURES`).
const PROTOCOL_FEATURES: u64 = 1 << 30;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().context("which socket?")?;
    let magic = arguments.next().unwrap_or_else(|| "vgpudev\0".to_owned());
    let mut config = [0; 64];
    config[..magic.len()].copy_from_slice(magic.as_bytes());
    let failed = |error| anyhow::anyhow!("{error}");
    loop {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let echo = Arc::new(RwLock::new(Echo {
            memory: memory.clone(),
            config,
        }));
        let mut daemon = VhostUserDaemon::new("echo".to_owned(), echo, memory).map_err(failed)?;
        println!("listening");
        daemon.serve(&socket).map_err(failed)?;
        // Dropping it would wait for its thread, which waits for an event that this backend does not have.
        std::mem::forget(daemon);
    }
}

struct Echo {
    memory: Memory,
    config: [u8; 64],
}

impl VhostUserBackendMut for Echo {
    type Bitmap = ();
    type Vring = VringRwLock<Memory>;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        VERSION_1 | PROTOCOL_FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&mut self) {
        println!("reset");
    }

    fn stop_vring(&mut self, queue_index: u32) -> std::io::Result<()> {
        println!("stop {queue_index}");
        Ok(())
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let start = offset as usize;
        self.config
            .get(start..start + size as usize)
            .unwrap_or_default()
            .to_vec()
    }

    fn update_memory(&mut self, memory: Memory) -> std::io::Result<()> {
        let regions = memory.memory().num_regions();
        println!("memory {regions}");
        self.memory = memory;
        Ok(())
    }

    fn handle_event(
        &mut self,
        device_event: u16,
        _evset: EventSet,
        vrings: &[VringRwLock<Memory>],
        _thread_id: usize,
    ) -> std::io::Result<()> {
        let vring = &vrings[usize::from(device_event)];
        let memory = self.memory.memory();
        let chains: Vec<_> = vring
            .get_mut()
            .get_queue_mut()
            .iter(memory.clone())
            .map_err(std::io::Error::other)?
            .collect();
        for chain in chains {
            let (mut text, mut written) = (Vec::new(), 0);
            for descriptor in chain.clone() {
                let len = descriptor.len() as usize;
                if descriptor.is_write_only() {
                    let part = len.min(text.len() - written);
                    memory
                        .write_slice(&text[written..written + part], descriptor.addr())
                        .map_err(std::io::Error::other)?;
                    written += part;
                } else {
                    let mut bytes = vec![0; len];
                    memory
                        .read_slice(&mut bytes, descriptor.addr())
                        .map_err(std::io::Error::other)?;
                    text.extend(bytes);
                }
            }
            let written = u32::try_from(written).map_err(std::io::Error::other)?;
            vring
                .add_used(chain.head_index(), written)
                .map_err(std::io::Error::other)?;
        }
        vring.signal_used_queue()
    }
}
