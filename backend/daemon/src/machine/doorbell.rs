//! The doorbell queue: rings from the driver, notices to it.

use super::{BURST, Machine};
use vgpu_channel::link::virtio::{
    DOORBELL_QUEUE, NOTICE_ENDED, NOTICE_WAKE, Notice, Ring as RingWire,
};
use zerocopy::{FromBytes, IntoBytes};

impl Machine {
    pub(super) fn serve_doorbell(&mut self) {
        for _ in 0..BURST {
            if !self.is_served(DOORBELL_QUEUE) {
                return;
            }
            let Some(Some(ring)) = self.rings.get_mut(DOORBELL_QUEUE) else {
                return;
            };
            let Some((chain, bytes)) = ring.take(self.table.memory(), size_of::<RingWire>()) else {
                return;
            };
            let bytes = bytes.unwrap_or_default();
            if bytes.is_empty() && chain.len >= size_of::<Notice>() {
                self.kept.push_back(chain);
                continue;
            }
            if let Ok(wire) = RingWire::read_from_bytes(&bytes)
                && let Some(channel) = self
                    .find(wire.channel)
                    .and_then(|id| self.channels.get(&id))
            {
                channel.ring();
            }
            self.give(DOORBELL_QUEUE, &chain, &[]);
        }
        self.more = true;
    }

    /// Tells the driver what happened, as far as there are chains for it. The rest waits, each channel's wakes as one.
    pub(super) fn notify(&mut self) {
        if self.kept.is_empty() || !self.is_served(DOORBELL_QUEUE) {
            return;
        }
        let mut notices = Vec::new();
        for channel in self.channels.values_mut() {
            for (flag, kind) in [
                (&mut channel.woke, NOTICE_WAKE),
                (&mut channel.ended, NOTICE_ENDED),
            ] {
                if *flag && !channel.forget && notices.len() < self.kept.len() {
                    *flag = false;
                    notices.push(Notice {
                        kind,
                        reserved: 0,
                        channel: channel.number,
                    });
                }
            }
        }
        for notice in notices {
            if let Some(chain) = self.kept.pop_front() {
                self.give(DOORBELL_QUEUE, &chain, notice.as_bytes());
            }
        }
    }
}
