//! How a call travels: records into the ring, answers out of the calling thread's reply slot.
//!
//! * [`call`] sends and waits for the answer.
//! * [`post`] sends a stream command and returns at once; its failure is delivered by a later
//!   launch, copy or synchronisation of the same thread (`semantics.md` 11). Posts turn into calls
//!   while a capture is active (errors are immediate there), under `VGPU_SYNC` and under
//!   `CUDA_LAUNCH_BLOCKING`.

use crate::client::Client;
use crate::held;
use crate::stream::{State, Wait};
use crate::thread::{self, Lane, Thread};
use vgpu_channel::ring::HEADER_BYTES;
use vgpu_protocol::cuda::{CUcontext, CUresult};
use vgpu_protocol::number::{CALLS, Class};
use vgpu_protocol::wire::{
    Blob, RECORD_BLOB, RECORD_CAPTURE_MODE_SHIFT, RECORD_FLUSH, RECORD_FOREIGN, RECORD_REPLY,
};
use zerocopy::IntoBytes;

/// Bytes that are copied between reserving and publishing a record, at most, header included: a
/// producer that is descheduled in between stalls everyone (`semantics.md` 13).
/// [`Client::send_noted`] sends nothing longer.
pub const MAX_COPIED: usize = 512;

/// Bytes of payload in a record, beside the timeline word's address; what is longer goes through
/// the heap first.
pub const INLINE_BYTES: usize = MAX_COPIED - HEADER_BYTES - size_of::<u64>();

/// Sends a call and waits for the answer, which must have at least `reply.len()` bytes.
///
/// # Errors
/// The worker's result code; the sticky error, if one has struck; `NOT_PERMITTED` inside a host
/// function; `DEVICE_UNAVAILABLE` when the worker is gone.
pub fn call(
    client: &Client,
    number: u16,
    parts: &[&[u8]],
    reply: &mut [u8],
) -> Result<(), CUresult> {
    let len = call_variable(client, number, parts, reply)?;
    if len < reply.len() {
        return Err(CUresult::UNKNOWN);
    }
    Ok(())
}

/// As [`call`], for answers that also come with a failure (logs of a compiler): `reply` is filled
/// either way.
///
/// # Errors
/// As [`call`].
pub fn call_always(
    client: &Client,
    number: u16,
    parts: &[&[u8]],
    reply: &mut [u8],
) -> Result<(), CUresult> {
    call_variable(client, number, parts, reply).map(|_| ())
}

/// As [`call`] without results, for a call that waits for the device.
///
/// # Errors
/// As [`call`].
pub fn call_waiting(
    client: &Client,
    number: u16,
    payload: &[u8],
    wait: Wait,
) -> Result<(), CUresult> {
    thread::with(|thread| {
        permitted(client, thread)?;
        real_call(
            client,
            thread,
            &*thread.lane(client)?,
            number,
            payload,
            wait,
        )
    })
}

/// As [`call`], for answers of variable length: fills the front of `reply` and gives the length.
///
/// # Errors
/// As [`call`].
pub fn call_variable(
    client: &Client,
    number: u16,
    parts: &[&[u8]],
    reply: &mut [u8],
) -> Result<usize, CUresult> {
    thread::with(|thread| {
        permitted(client, thread)?;
        let lane = &*thread.lane(client)?;
        ask(client, thread, lane, (number, 0), parts, reply, Wait::Spin).map(|(len, _)| len)
    })
}

/// Sends a call, a number and flags of its record, and waits; also gives the record's stamp.
fn ask(
    client: &Client,
    thread: &Thread,
    lane: &Lane,
    (number, flags): (u16, u16),
    parts: &[&[u8]],
    reply: &mut [u8],
    wait: Wait,
) -> Result<(usize, u32), CUresult> {
    if !held::may_stay(number) {
        held::release(client);
    }
    // 0 means that no reply is wanted.
    let sequence = match lane.sequence.get().wrapping_add(1) {
        0 => 1,
        next => next,
    };
    lane.sequence.set(sequence);
    let (stamp, answer) = if parts.iter().map(|part| part.len()).sum::<usize>() <= INLINE_BYTES {
        let stamp = client.send(
            &header(thread, lane, number, flags | RECORD_REPLY, sequence),
            parts,
        )?;
        (stamp, client.wait_reply(lane.slot, sequence, reply, wait))
    } else {
        let block = Block::holding(client, parts)?;
        let blob = block.blob();
        let flags = flags | RECORD_REPLY | RECORD_BLOB;
        let stamp = client.send(
            &header(thread, lane, number, flags, sequence),
            &[blob.as_bytes()],
        )?;
        (stamp, client.wait_reply(lane.slot, sequence, reply, wait))
    };
    let (status, len) = answer?;
    CUresult(status).ok()?;
    Ok((len, stamp))
}

fn header(
    thread: &Thread,
    lane: &Lane,
    number: u16,
    flags: u16,
    sequence: u32,
) -> vgpu_channel::ring::RecordHeader {
    vgpu_channel::ring::RecordHeader {
        call: number,
        flags: flags | (thread.capture_mode.get() as u16) << RECORD_CAPTURE_MODE_SHIFT,
        thread: lane.index,
        reply_sequence: sequence,
        reply_address: lane.slot,
        scope: thread.current.get().0,
    }
}

/// The flag of commands that concern more than the current context.
pub fn foreign(thread: &Thread, stream: &State) -> u16 {
    foreign_to(thread, stream.ctx)
}

fn foreign_to(thread: &Thread, ctx: CUcontext) -> u16 {
    if ctx == thread.current.get() {
        0
    } else {
        RECORD_FOREIGN
    }
}

/// What stands in the way of any call. Exports inside a host function do not get here; the private tables' functions do.
fn permitted(client: &Client, thread: &Thread) -> Result<(), CUresult> {
    if thread.in_host_function.get() {
        return Err(CUresult::NOT_PERMITTED);
    }
    client.sticky()
}

/// Delivers what earlier posts of this thread left behind: a sticky error stays, a latched one is
/// taken.
///
/// # Errors
/// That error.
pub fn deliver(client: &Client) -> Result<(), CUresult> {
    thread::with(|thread| {
        permitted(client, thread)?;
        let lane = &*thread.lane(client)?;
        client.take_latched(lane.slot)
    })
}

/// Whether a command's completion will be waited for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Perhaps later.
    Lazy,
    /// Yes: have the stream's timeline word written right behind it.
    Waited,
    /// Nothing to wait for: it leaves the stream as idle as it was, so it is not noted there.
    AtOnce,
}

/// The table's closed list of what is posted (`semantics.md` 9), by number.
static POSTED: [bool; NUMBERS] = posted();

/// Numbers of calls end below this.
const NUMBERS: usize = 1024;

const fn posted() -> [bool; NUMBERS] {
    let mut posted = [false; NUMBERS];
    let mut at = 0;
    while at < CALLS.len() {
        posted[CALLS[at].number as usize] = matches!(CALLS[at].class, Class::Post);
        at += 1;
    }
    posted
}

/// Whether the table lets a call be posted; what it does not, travels as a call whoever sends it.
fn may_be_posted(number: u16) -> bool {
    POSTED
        .get(usize::from(number))
        .is_some_and(|posted| *posted)
}

/// Sends a command of `stream` without waiting for it and gives its stamp on the stream's timeline.
///
/// # Errors
/// Errors of earlier posts, delivered here; the command's own where it travels as a call.
pub fn post(
    client: &Client,
    number: u16,
    stream: &State,
    parts: &[&[u8]],
    completion: Completion,
) -> Result<u32, CUresult> {
    post_across(client, number, stream, stream.ctx, parts, completion)
}

/// As [`post`], for a command that also concerns an object of context `other`.
///
/// # Errors
/// As [`post`].
pub fn post_across(
    client: &Client,
    number: u16,
    stream: &State,
    other: CUcontext,
    parts: &[&[u8]],
    completion: Completion,
) -> Result<u32, CUresult> {
    thread::with(|thread| {
        let across = foreign(thread, stream) | foreign_to(thread, other);
        permitted(client, thread)?;
        let lane = &*thread.lane(client)?;
        if delivers(number) {
            client.take_latched(lane.slot)?;
        }
        if client.posts_are_calls() || !may_be_posted(number) {
            let (_, stamp) = ask(
                client,
                thread,
                lane,
                (number, across),
                parts,
                &mut [],
                Wait::Spin,
            )?;
            stream.posted(stamp, false);
            if client.synchronous() && !client.capturing() {
                stream.real_sync(client, thread, lane)?;
            }
            return Ok(stamp);
        }
        let wanted = stream.make_room(client)? || completion == Completion::Waited;
        match stream.word_address().filter(|_| wanted) {
            Some(word) => {
                let word = word.to_le_bytes();
                let mut all: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
                let count = parts.len().min(MAX_PARTS - 1);
                all[..count].copy_from_slice(&parts[..count]);
                all[count] = &word;
                let header = header(thread, lane, number, RECORD_FLUSH | across, 0);
                client.send_noted(&header, &all[..=count], |stamp| stream.posted(stamp, true))
            }
            None => {
                let header = header(thread, lane, number, across, 0);
                client.send_noted(&header, parts, |stamp| {
                    if completion != Completion::AtOnce {
                        stream.posted(stamp, false);
                    }
                })
            }
        }
    })
}

/// As [`post`], for a command whose room in the stream was made before ([`State::make_room`]): waits for no device.
///
/// # Errors
/// As [`post`].
pub fn post_in_room(
    client: &Client,
    number: u16,
    stream: &State,
    parts: &[&[u8]],
) -> Result<(), CUresult> {
    thread::with(|thread| {
        permitted(client, thread)?;
        let lane = &*thread.lane(client)?;
        let across = foreign(thread, stream);
        if client.posts_are_calls() {
            let number = (number, across);
            let (_, stamp) = ask(client, thread, lane, number, parts, &mut [], Wait::Spin)?;
            stream.posted(stamp, false);
            return Ok(());
        }
        let header = header(thread, lane, number, across, 0);
        client
            .send_noted(&header, parts, |stamp| stream.posted(stamp, false))
            .map(|_| ())
    })
}

/// Sends what no stream executes, about an object of context `of`, without waiting for it.
///
/// # Errors
/// A sticky error; its own where it travels as a call.
pub fn post_aside(
    client: &Client,
    number: u16,
    of: CUcontext,
    parts: &[&[u8]],
) -> Result<(), CUresult> {
    thread::with(|thread| {
        permitted(client, thread)?;
        let lane = &*thread.lane(client)?;
        let across = foreign_to(thread, of);
        if client.posts_are_calls() || !may_be_posted(number) {
            let number = (number, across);
            return ask(client, thread, lane, number, parts, &mut [], Wait::Spin).map(|_| ());
        }
        let header = header(thread, lane, number, across, 0);
        client.send(&header, parts).map(|_| ())
    })
}

/// Whether a stream command delivers what earlier posts left behind: launches, copies and fills do,
/// bookkeeping does not (`semantics.md` 11).
fn delivers(number: u16) -> bool {
    use vgpu_protocol::number::call;
    const SILENT: [u16; 10] = [
        call::cuEventRecord,
        call::cuEventRecordWithFlags,
        call::cuStreamWaitEvent,
        call::cuMemFreeAsync,
        call::cuMemAllocAsync,
        call::cuMemAllocFromPoolAsync,
        call::cuStreamWriteValue32_v2,
        call::cuStreamWriteValue64_v2,
        call::cuStreamWaitValue32_v2,
        call::cuStreamWaitValue64_v2,
    ];
    !SILENT.contains(&number)
}

/// Pieces of a record's payload, the timeline word's address included.
const MAX_PARTS: usize = 6;

/// Sends a stream command as a call: its own error is the result, and it counts on the timeline,
/// waiting for room there as posts do.
///
/// # Errors
/// As [`call`].
pub fn call_in_stream(
    client: &Client,
    number: u16,
    stream: &State,
    parts: &[&[u8]],
    reply: &mut [u8],
) -> Result<u32, CUresult> {
    call_across(client, number, stream, stream.ctx, parts, reply)
}

/// As [`call_in_stream`], for a command that also concerns an object of context `other`.
///
/// # Errors
/// As [`call`].
pub fn call_across(
    client: &Client,
    number: u16,
    stream: &State,
    other: CUcontext,
    parts: &[&[u8]],
    reply: &mut [u8],
) -> Result<u32, CUresult> {
    thread::with(|thread| {
        permitted(client, thread)?;
        let lane = &*thread.lane(client)?;
        if delivers(number) {
            client.take_latched(lane.slot)?;
        }
        let across = foreign(thread, stream) | foreign_to(thread, other);
        // A driver's stream that is full blocks the issuer, however the command came to it.
        let flush = !client.posts_are_calls() && stream.make_room(client)?;
        let (len, stamp) = ask(
            client,
            thread,
            lane,
            (number, across),
            parts,
            reply,
            Wait::Spin,
        )?;
        stream.posted(stamp, false);
        if flush {
            stream.flush(client)?;
        }
        if client.synchronous() && !client.capturing() {
            stream.real_sync(client, thread, lane)?;
        }
        if len < reply.len() {
            Err(CUresult::UNKNOWN)
        } else {
            Ok(stamp)
        }
    })
}

/// The part of a synchronisation that is the driver's own: a call on the thread's lane.
pub(crate) fn real_call(
    client: &Client,
    thread: &Thread,
    lane: &Lane,
    number: u16,
    payload: &[u8],
    wait: Wait,
) -> Result<(), CUresult> {
    ask(client, thread, lane, (number, 0), &[payload], &mut [], wait).map(|_| ())
}

/// A block of shared memory for the duration of a call.
#[derive(Debug)]
pub struct Block<'a> {
    client: &'a Client,
    blob: Blob,
}

impl<'a> Block<'a> {
    /// A block of `len` bytes.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn new(client: &'a Client, len: usize) -> Result<Self, CUresult> {
        let addr = client
            .channel()
            .alloc(len as u64, 64)
            .map_err(|_| CUresult::OUT_OF_MEMORY)?;
        Ok(Self {
            client,
            blob: Blob {
                addr,
                len: len as u64,
            },
        })
    }

    /// A block that holds `parts`, one after the other.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn holding(client: &'a Client, parts: &[&[u8]]) -> Result<Self, CUresult> {
        let block = Self::new(client, parts.iter().map(|part| part.len()).sum())?;
        let mut at = block.blob.addr;
        for part in parts {
            client
                .channel()
                .copy_in(at, part)
                .map_err(|_| CUresult::UNKNOWN)?;
            at += part.len() as u64;
        }
        Ok(block)
    }

    /// Where it lies.
    pub fn blob(&self) -> Blob {
        self.blob
    }

    /// Copies the front of the block out.
    ///
    /// # Errors
    /// `UNKNOWN` when `into` is longer than the block.
    pub fn read(&self, into: &mut [u8]) -> Result<(), CUresult> {
        if into.len() as u64 > self.blob.len {
            return Err(CUresult::UNKNOWN);
        }
        self.client
            .channel()
            .copy_out(self.blob.addr, into)
            .map_err(|_| CUresult::UNKNOWN)
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // With the worker dead the block is not reused either way.
        let _ = self.client.channel().free(self.blob.addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::number::call;

    #[test]
    fn launches_are_posted_and_host_functions_are_not() {
        assert!(may_be_posted(call::cuLaunchKernel));
        assert!(may_be_posted(call::cuMemFreeAsync));
        for number in [
            call::cuLaunchHostFunc,
            call::cuStreamAddCallback,
            call::cuMemFree_v2,
            call::cuModuleUnload,
            call::cuFuncSetAttribute,
        ] {
            assert!(!may_be_posted(number), "{number}");
        }
        assert!(!may_be_posted(u16::MAX));
    }
}
