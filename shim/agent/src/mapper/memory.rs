//! The thread that takes and gives back pages, so that zeroing and pinning hold up nobody's wake-up.

use crate::pages::{PageError, PageSource, Taken};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use vgpu_channel::link::Event;

enum Job {
    Take { channel: u64, lens: Vec<u64> },
    GiveBack(Taken),
    Settled,
}

/// What was taken for a channel, or why nothing was.
#[derive(Debug)]
pub struct Made {
    /// The channel it is for.
    pub channel: u64,
    /// One segment for each length asked for.
    pub segments: Result<Vec<Taken>, PageError>,
}

/// The thread's other end.
#[derive(Debug)]
pub struct Memory {
    jobs: Sender<Job>,
    made: Receiver<Made>,
    /// Signalled when there is something in [`Memory::made`].
    pub event: Arc<Event>,
}

impl Memory {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn start(source: impl PageSource) -> io::Result<Memory> {
        let (jobs, todo) = channel();
        let (done, made) = channel();
        let event = Arc::new(Event::new()?);
        let signal = Arc::clone(&event);
        std::thread::Builder::new()
            .name("pages".to_owned())
            .spawn(move || work(source, &todo, &done, &signal))?;
        Ok(Memory { jobs, made, event })
    }

    fn send(&self, job: Job) {
        // The thread lives as long as this end does.
        let _ = self.jobs.send(job);
    }

    /// Asks for segments, all or none.
    pub fn take(&self, channel: u64, lens: Vec<u64>) {
        self.send(Job::Take { channel, lens });
    }

    /// Gives a segment back that the host has let go of.
    pub fn give_back(&self, taken: Taken) {
        self.send(Job::GiveBack(taken));
    }

    /// The host has let go of everything of earlier mappers.
    pub fn settled(&self) {
        self.send(Job::Settled);
    }

    /// The next result.
    #[must_use]
    pub fn made(&self) -> Option<Made> {
        self.made.try_recv().ok()
    }
}

fn work(mut source: impl PageSource, todo: &Receiver<Job>, done: &Sender<Made>, signal: &Event) {
    while let Ok(job) = todo.recv() {
        match job {
            Job::Take { channel, lens } => {
                let segments = take_all(&mut source, &lens);
                if done.send(Made { channel, segments }).is_err() {
                    return;
                }
                signal.signal();
            }
            Job::GiveBack(taken) => source.give_back(taken),
            Job::Settled => source.settled(),
        }
    }
}

fn take_all(source: &mut impl PageSource, lens: &[u64]) -> Result<Vec<Taken>, PageError> {
    let mut all = Vec::new();
    for &len in lens {
        match source.take(len) {
            Ok(taken) => all.push(taken),
            Err(error) => {
                // The host was never told of these.
                for taken in all {
                    source.give_back(taken);
                }
                return Err(error);
            }
        }
    }
    Ok(all)
}
