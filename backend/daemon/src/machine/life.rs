//! What the monitor does with the machine: queues that start and stop, RAM that comes and goes, reset and end.

use super::channel::{Channel, Stage};
use super::front::Message;
use super::ring::Ring;
use super::table::Table;
use super::{Machine, Wait};
use std::time::Instant;
use vgpu_channel::link::virtio::CONTROL_QUEUE;
use vgpu_worker::setup::QUIESCE_TIME;

impl Machine {
    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Came => self.connected = true,
            Message::Start {
                index,
                place,
                kick,
                call,
                enabled,
            } => {
                self.life += 1;
                match Ring::start(self.table.memory(), &place, kick, call, self.life) {
                    Ok(mut ring) => {
                        ring.enabled = enabled;
                        if let Some(slot) = self.rings.get_mut(index) {
                            *slot = Some(ring);
                        }
                        if index == CONTROL_QUEUE {
                            self.go_on(place.base);
                        }
                        self.more = true;
                    }
                    Err(error) => tracing::error!("queue {index} cannot be served: {error}"),
                }
            }
            Message::Call(index, call) => {
                if let Some(Some(ring)) = self.rings.get_mut(index) {
                    ring.set_call(call);
                }
            }
            Message::Enable(index, enabled) => {
                if let Some(Some(ring)) = self.rings.get_mut(index) {
                    ring.enabled = enabled;
                    self.more = true;
                }
            }
            Message::Stop(index, answer) if index == CONTROL_QUEUE => {
                self.quiet_by = Some(Instant::now() + QUIESCE_TIME);
                for channel in self.channels.values_mut() {
                    channel.quiesce();
                }
                self.wait = Some(Wait::Stop(answer));
            }
            Message::Stop(index, answer) => {
                while let Some(chain) = self.kept.pop_front() {
                    self.give(index, &chain, &[]);
                }
                let ring = self.rings.get_mut(index).and_then(Option::take);
                let _ = answer.send(ring.map_or(0, |ring| ring.base()));
            }
            Message::Memory(table, done) => {
                let lost: Vec<u64> = self
                    .claims
                    .iter()
                    .filter(|(start, (end, _))| !self.table.keeps(&table, **start, *end))
                    .map(|(_, (_, owner))| *owner)
                    .collect();
                self.end_where(false, |id, _| lost.contains(&id));
                self.wait = Some(Wait::Memory(table, done));
            }
            Message::Reset(done) => {
                self.drop_driver();
                self.wait = Some(Wait::Reset(done));
            }
            Message::Gone(done) => {
                self.drop_driver();
                self.wait = Some(Wait::Gone(done));
            }
        }
    }

    /// There is no driver any more: nothing is answered, everything ends.
    pub(super) fn drop_driver(&mut self) {
        self.rings = [None, None];
        self.kept.clear();
        self.hellos.clear();
        self.questions.clear();
        self.session = None;
        self.stopped_at = None;
        self.quiet_by = None;
        self.end_where(true, |_, _| true);
    }

    /// The control queue starts: where it stopped, the channels go on.
    pub(super) fn go_on(&mut self, base: u16) {
        // Position 0 is where every new driver begins.
        if self.stopped_at.take() == Some(base) && base != 0 {
            for channel in self.channels.values_mut() {
                channel.resume();
            }
        } else if self.session.take().is_some() {
            tracing::info!("the device starts anew: all channels are closed");
            self.end_where(true, |_, _| true);
        }
    }

    pub(super) fn answer_front(&mut self) {
        let still = || {
            self.channels.values().all(Channel::is_still)
                && self.hellos.is_empty()
                && self.questions.is_empty()
        };
        let over = match &self.wait {
            None => return,
            Some(Wait::Stop(_)) => still(),
            Some(Wait::Memory(..)) => !self
                .channels
                .values()
                .any(|channel| matches!(channel.stage, Stage::Ending)),
            Some(Wait::Reset(_) | Wait::Gone(_)) => self.workers() == 0,
        };
        if !over {
            return;
        }
        // Whoever asked is gone only if the daemon ends.
        match self.wait.take() {
            Some(Wait::Stop(answer)) => {
                self.quiet_by = None;
                let ring = self.rings.get_mut(CONTROL_QUEUE).and_then(Option::take);
                let base = ring.map_or(0, |ring| ring.base());
                self.stopped_at = Some(base);
                let _ = answer.send(base);
            }
            Some(Wait::Memory(table, done)) => {
                self.table = table;
                self.more = true;
                let _ = done.send(());
            }
            Some(Wait::Reset(done)) => {
                let _ = done.send(());
            }
            Some(Wait::Gone(done)) => {
                self.table = Table::default();
                self.connected = false;
                let _ = done.send(());
            }
            None => {}
        }
    }
}
