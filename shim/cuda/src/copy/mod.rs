//! Copies. What travels how follows from where the two ends lie:
//!
//! * pinned memory of the channel is the same address on both sides and on the device: copies from
//!   and to it move no byte through the CPU;
//! * pageable sources go through the record (a few hundred bytes) or through staging, and the
//!   call returns as soon as the bytes have been taken, which is what CUDA promises;
//! * pageable destinations are written by the calling thread, after the device has filled staging:
//!   nothing writes the program's memory behind its back (`semantics.md` 12).

mod arrays;
mod batch;
pub mod copiers;
mod place;
mod strided;

pub use arrays::*;
pub use batch::*;
pub use strided::*;

use crate::call::{self, Completion, INLINE_BYTES};
use crate::client::{self, Client};
use crate::memory::{self, Side};
use crate::stats::{self, HostSide};
use crate::stream::{self, NullStream, State, Until};
use crate::{capture, context};
use core::ffi::c_void;
use vgpu_channel::staging::Chunk;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, CopyIn, CopyOut, Word};
use zerocopy::IntoBytes;

/// Bytes of pageable memory that are staged at a time: large enough that the device works at full
/// speed on one piece while the CPU copies the next.
const PIECE: u64 = 2 << 20;

/// Bytes of a copy whose staging waits for a later flush rather than asking for one of its own.
const LAZY_STAGING: u64 = 64 << 10;

/// Whether the caller returns before the copy is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Async,
    Sync,
}

/// Bytes of inline copies: what is left of a short record.
const INLINE_COPY: u64 = (INLINE_BYTES - size_of::<CopyIn>()) as u64;

/// A stretch of the program's own memory.
#[derive(Clone, Copy, Debug)]
struct Pageable(u64);

impl Pageable {
    /// The bytes from `offset` on.
    ///
    /// # Safety
    /// The program gave at least `offset + len` bytes here.
    unsafe fn bytes<'a>(self, offset: u64, len: u64) -> &'a [u8] {
        // SAFETY: the caller's contract.
        unsafe { core::slice::from_raw_parts((self.0 + offset) as *const u8, len as usize) }
    }

    /// The bytes from `offset` on, to be written.
    ///
    /// # Safety
    /// The program gave at least `offset + len` writable bytes here.
    unsafe fn bytes_mut<'a>(self, offset: u64, len: u64) -> &'a mut [u8] {
        // SAFETY: the caller's contract.
        unsafe { core::slice::from_raw_parts_mut((self.0 + offset) as *mut u8, len as usize) }
    }
}

/// A pageable copy cannot be part of a graph here: its bytes would have to be taken at each replay.
fn refuse_in_capture(client: &Client, stream: &State) -> Result<(), CUresult> {
    if client.capturing() && capture::status(client, stream.handle)? != 0 {
        return Err(CUresult::NOT_SUPPORTED);
    }
    Ok(())
}

/// Device memory that is not known here is checked by the driver before the call returns.
fn send(
    client: &Client,
    number: u16,
    stream: &State,
    parts: &[&[u8]],
    known: bool,
    completion: Completion,
) -> Result<u32, CUresult> {
    if known {
        call::post(client, number, stream, parts, completion)
    } else {
        call::call_in_stream(client, number, stream, parts, &mut [])
    }
}

/// Waits for the command with `stamp`, however it was sent.
fn finish(client: &Client, stream: &State, stamp: u32, flushed: bool) -> Result<(), CUresult> {
    if flushed && !client.posts_are_calls() {
        stream.wait(client, stamp)
    } else {
        stream.synchronize(client, stream::Wait::of(stream.ctx))
    }
}

/// From pinned memory, or between devices: one command.
fn direct(
    client: &Client,
    number: u16,
    stream: &State,
    payload: &[u8],
    known: bool,
    mode: Mode,
) -> Result<(), CUresult> {
    let completion = if mode == Mode::Sync {
        Completion::Waited
    } else {
        Completion::Lazy
    };
    let stamp = send(client, number, stream, &[payload], known, completion)?;
    match mode {
        Mode::Sync => finish(
            client,
            stream,
            stamp,
            known && stream.word_address().is_some(),
        ),
        Mode::Async => Ok(()),
    }
}

/// Host to device.
fn to_device(
    client: &'static Client,
    stream: &State,
    dst: u64,
    src: u64,
    len: u64,
    mode: Mode,
) -> Result<(), CUresult> {
    let side = memory::side(client, dst, len)?;
    let known = match side {
        Side::Device | Side::Pinned => true,
        Side::Unknown => false,
        Side::Pageable => return Err(CUresult::INVALID_VALUE),
    };
    match memory::side(client, src, len)? {
        Side::Pinned => {
            stats::copy(HostSide::Pinned, len);
            let args = CopyIn {
                dst,
                src,
                len,
                stream: stream.handle.0,
            };
            direct(
                client,
                number::cuMemcpyHtoDAsync_v2,
                stream,
                args.as_bytes(),
                known,
                mode,
            )
        }
        Side::Pageable => {
            stats::copy(HostSide::Pageable, len);
            pageable_to_device(client, stream, dst, Pageable(src), len, known)?;
            // The worker orders other streams behind posted copies of the legacy stream only, and
            // what the program can read itself must be there when the call returns.
            if mode == Mode::Sync && (side == Side::Pinned || !stream.is_legacy()) {
                stream.synchronize(client, stream::Wait::of(stream.ctx))?;
            }
            Ok(())
        }
        Side::Device | Side::Unknown => Err(CUresult::INVALID_VALUE),
    }
}

fn pageable_to_device(
    client: &'static Client,
    stream: &State,
    dst: u64,
    src: Pageable,
    len: u64,
    known: bool,
) -> Result<(), CUresult> {
    refuse_in_capture(client, stream)?;
    if len <= INLINE_COPY {
        let args = CopyIn {
            dst,
            src: 0,
            len,
            stream: stream.handle.0,
        };
        // SAFETY: the program's contract with the copy call: `len` bytes lie at the source.
        let bytes = unsafe { src.bytes(0, len) };
        stats::copied_by_cpu(len);
        let parts = [args.as_bytes(), bytes];
        return send(
            client,
            number::cuMemcpyHtoDAsync_v2,
            stream,
            &parts,
            known,
            Completion::Lazy,
        )
        .map(|_| ());
    }
    let mut offset = 0;
    while offset < len {
        let mut group = Vec::with_capacity(client.copy_width());
        while group.len() < client.copy_width() && offset < len {
            let piece = (len - offset).min(PIECE);
            // More than one piece only if there is room right now: what is held must not wait for
            // what is held.
            let chunk = match group.is_empty() {
                true => stream::stage(client, piece)?,
                false => match client.staging().alloc(piece, client.channel()) {
                    Some(chunk) => chunk,
                    None => break,
                },
            };
            group.push(Piece { chunk, offset });
            offset += piece;
        }
        // SAFETY: the program's contract with the copy call: `len` bytes lie at the source.
        let filled = unsafe { copy_group(client, src, &group, true) };
        let mut sent = filled;
        for piece in &group {
            if sent.is_err() {
                client.staging().release(piece.chunk.ticket);
                continue;
            }
            sent = send_piece(client, stream, dst, piece, known);
        }
        sent?;
    }
    Ok(())
}

/// A staged piece of a larger copy.
#[derive(Clone, Copy, Debug)]
struct Piece {
    chunk: Chunk,
    /// Where it belongs, in bytes from the start.
    offset: u64,
}

/// Copies pieces between the program's memory and staging.
///
/// # Safety
/// The program's memory reaches over all pieces, and is writable unless the copy goes inwards.
unsafe fn copy_group(
    client: &'static Client,
    own: Pageable,
    group: &[Piece],
    inwards: bool,
) -> Result<(), CUresult> {
    let stretches: Vec<_> = group
        .iter()
        .map(|piece| copiers::Stretch {
            own: own.0 + piece.offset,
            shared: piece.chunk.address,
            len: piece.chunk.len,
            inwards,
        })
        .collect();
    // SAFETY: the caller's contract; pieces do not overlap.
    unsafe { copiers::copy_all(client, &stretches) }
}

/// Has the device take a filled piece.
fn send_piece(
    client: &Client,
    stream: &State,
    dst: u64,
    piece: &Piece,
    known: bool,
) -> Result<(), CUresult> {
    let chunk = &piece.chunk;
    let args = CopyIn {
        dst: dst + piece.offset,
        src: chunk.address,
        len: chunk.len,
        stream: stream.handle.0,
    };
    let completion = if chunk.len >= LAZY_STAGING {
        Completion::Waited
    } else {
        Completion::Lazy
    };
    let sent = send(
        client,
        number::cuMemcpyHtoDAsync_v2,
        stream,
        &[args.as_bytes()],
        known,
        completion,
    );
    if known {
        return stream::unstage(client, chunk, stream, sent, Until::Done).map(|_| ());
    }
    // The driver accepted the destination; whether it is done is learnt the hard way.
    let done = sent.and_then(|_| stream.synchronize(client, stream::Wait::of(stream.ctx)));
    client.staging().release(chunk.ticket);
    done
}

/// Device to host.
fn to_host(
    client: &'static Client,
    stream: &State,
    dst: u64,
    src: u64,
    len: u64,
    mode: Mode,
) -> Result<(), CUresult> {
    let known = match memory::side(client, src, len)? {
        Side::Device | Side::Pinned => true,
        Side::Unknown => false,
        Side::Pageable => return Err(CUresult::INVALID_VALUE),
    };
    match memory::side(client, dst, len)? {
        Side::Pinned => {
            stats::copy(HostSide::Pinned, len);
            let args = CopyOut {
                dst,
                src,
                len,
                stream: stream.handle.0,
            };
            direct(
                client,
                number::cuMemcpyDtoHAsync_v2,
                stream,
                args.as_bytes(),
                known,
                mode,
            )
        }
        Side::Pageable => {
            stats::copy(HostSide::Pageable, len);
            device_to_pageable(client, stream, Pageable(dst), src, len, known)
        }
        Side::Device | Side::Unknown => Err(CUresult::INVALID_VALUE),
    }
}

/// Pieces on their way to the program's memory, and how to see that they have arrived.
#[derive(Debug, Default)]
struct Arriving {
    pieces: Vec<Piece>,
    stamp: u32,
    flushed: bool,
}

fn device_to_pageable(
    client: &'static Client,
    stream: &State,
    dst: Pageable,
    src: u64,
    len: u64,
    known: bool,
) -> Result<(), CUresult> {
    refuse_in_capture(client, stream)?;
    // The device fills one group of pieces while the group before is copied out.
    let mut offset = 0;
    let mut before = depart(client, stream, src, &mut offset, len, known, Room::Wait)?;
    loop {
        // What this thread holds must not wait for room that others hold likewise.
        let next = depart(client, stream, src, &mut offset, len, known, Room::Now);
        let arrived = finish(client, stream, before.stamp, before.flushed);
        // SAFETY: the program's contract with the copy call: `len` bytes lie at the destination.
        let copied =
            arrived.and_then(|()| unsafe { copy_group(client, dst, &before.pieces, false) });
        let failed = copied.is_err();
        let next = next.and_then(|next| match copied {
            Ok(()) => Ok(next),
            Err(error) => {
                abandon(client, stream, &next);
                Err(error)
            }
        });
        if failed {
            abandon(client, stream, &before);
        } else {
            for piece in &before.pieces {
                client.staging().release(piece.chunk.ticket);
            }
        }
        before = next?;
        if before.pieces.is_empty() {
            if offset == len {
                return Ok(());
            }
            before = depart(client, stream, src, &mut offset, len, known, Room::Wait)?;
        }
    }
}

/// Gives pieces back that the device may still be writing.
fn abandon(client: &Client, stream: &State, arriving: &Arriving) {
    // A context that has failed writes nothing any more either.
    let _ = stream.synchronize(client, stream::Wait::Sleep);
    for piece in &arriving.pieces {
        client.staging().release(piece.chunk.ticket);
    }
}

/// Whether to wait for room in the staging ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// For the first piece, if need be.
    Wait,
    /// No.
    Now,
}

/// Has the device fill a group of pieces from `offset` on: as many as there is room for.
fn depart(
    client: &'static Client,
    stream: &State,
    src: u64,
    offset: &mut u64,
    len: u64,
    known: bool,
    room: Room,
) -> Result<Arriving, CUresult> {
    let mut group = Arriving::default();
    while group.pieces.len() < client.copy_width() && *offset < len {
        let piece = (len - *offset).min(PIECE);
        let chunk = match group.pieces.is_empty() && room == Room::Wait {
            true => stream::stage(client, piece)?,
            false => match client.staging().alloc(piece, client.channel()) {
                Some(chunk) => chunk,
                None => break,
            },
        };
        let args = CopyOut {
            dst: chunk.address,
            src: src + *offset,
            len: piece,
            stream: stream.handle.0,
        };
        let parts = [args.as_bytes()];
        match send(
            client,
            number::cuMemcpyDtoHAsync_v2,
            stream,
            &parts,
            known,
            Completion::Waited,
        ) {
            Ok(stamp) => {
                group.pieces.push(Piece {
                    chunk,
                    offset: *offset,
                });
                group.stamp = stamp;
                group.flushed = known && stream.word_address().is_some();
                *offset += piece;
            }
            Err(error) => {
                client.staging().release(chunk.ticket);
                abandon(client, stream, &group);
                return Err(error);
            }
        }
    }
    Ok(group)
}

/// Device to device. Natively this returns before the copy is done, whatever the name says.
fn on_device(
    client: &Client,
    stream: &State,
    dst: u64,
    src: u64,
    len: u64,
) -> Result<(), CUresult> {
    let mut known = true;
    for address in [dst, src] {
        match memory::side(client, address, len)? {
            Side::Device | Side::Pinned => {}
            Side::Unknown => known = false,
            Side::Pageable => return Err(CUresult::INVALID_VALUE),
        }
    }
    let args = wire::cuMemcpyDtoDAsync_v2::Args {
        dst: Word(dst),
        src: Word(src),
        bytes: Word(len),
        stream: Word::of(stream.handle),
    };
    direct(
        client,
        number::cuMemcpyDtoDAsync_v2,
        stream,
        args.as_bytes(),
        known,
        Mode::Async,
    )
}

/// Any direction, by what the addresses are.
fn any(
    client: &'static Client,
    stream: &State,
    dst: u64,
    src: u64,
    len: u64,
    mode: Mode,
) -> Result<(), CUresult> {
    let host = |side| matches!(side, Side::Pinned | Side::Pageable);
    match (
        memory::side(client, dst, len)?,
        memory::side(client, src, len)?,
    ) {
        (to, from) if host(to) && host(from) => {
            refuse_in_capture(client, stream)?;
            // Host to host in stream order, by this thread.
            stats::copy(
                if to == Side::Pageable || from == Side::Pageable {
                    HostSide::Pageable
                } else {
                    HostSide::Pinned
                },
                len,
            );
            stats::copied_by_cpu(len);
            stream.synchronize(client, stream::Wait::of(stream.ctx))?;
            // SAFETY: the program's contract with the copy call: both have `len` bytes. They may
            // overlap, as memmove allows.
            unsafe { core::ptr::copy(src as *const u8, dst as *mut u8, len as usize) };
            Ok(())
        }
        (to, _) if host(to) => to_host(client, stream, dst, src, len, mode),
        (_, from) if host(from) => to_device(client, stream, dst, src, len, mode),
        _ => on_device(client, stream, dst, src, len),
    }
}

/// What every copy starts with: the client, and the stream it goes to.
fn begin(
    default: NullStream,
    stream: CUstream,
) -> Result<(&'static Client, std::sync::Arc<State>), CUresult> {
    let client = client::entered()?;
    context::required()?;
    let state = stream::find(client, stream, default)?;
    call::deliver(client)?;
    Ok((client, state))
}

macro_rules! copies {
    ($($(#[$doc:meta])* $name:ident, $mode:ident, $function:ident($dst:ident: $dst_ty:ty => $dst_addr:expr, $src:ident: $src_ty:ty => $src_addr:expr);)*) => { $(
        copies!(@one $mode $(#[$doc])* $name, $function($dst: $dst_ty => $dst_addr, $src: $src_ty => $src_addr));
    )* };
    (@one Sync $(#[$doc:meta])* $name:ident, $function:ident($dst:ident: $dst_ty:ty => $dst_addr:expr, $src:ident: $src_ty:ty => $src_addr:expr)) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Both ends have `bytes` bytes.
        pub unsafe fn $name(default: NullStream, $dst: $dst_ty, $src: $src_ty, bytes: usize) -> Result<(), CUresult> {
            let (client, state) = begin(default, CUstream::NULL)?;
            if bytes == 0 {
                return Ok(());
            }
            $function(client, &state, $dst_addr, $src_addr, bytes as u64, Mode::Sync)
        }
    };
    (@one Async $(#[$doc:meta])* $name:ident, $function:ident($dst:ident: $dst_ty:ty => $dst_addr:expr, $src:ident: $src_ty:ty => $src_addr:expr)) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Both ends have `bytes` bytes.
        pub unsafe fn $name(default: NullStream, $dst: $dst_ty, $src: $src_ty, bytes: usize, stream: CUstream) -> Result<(), CUresult> {
            let (client, state) = begin(default, stream)?;
            if bytes == 0 {
                return Ok(());
            }
            $function(client, &state, $dst_addr, $src_addr, bytes as u64, Mode::Async)
        }
    };
}

/// [`on_device`] with the signature of the others.
fn between(
    client: &'static Client,
    stream: &State,
    dst: u64,
    src: u64,
    len: u64,
    _mode: Mode,
) -> Result<(), CUresult> {
    on_device(client, stream, dst, src, len)
}

copies! {
    /// `cuMemcpy`.
    cuMemcpy, Sync, any(dst: CUdeviceptr => dst.0, src: CUdeviceptr => src.0);
    /// `cuMemcpyAsync`.
    cuMemcpyAsync, Async, any(dst: CUdeviceptr => dst.0, src: CUdeviceptr => src.0);
    /// `cuMemcpyHtoD_v2`.
    cuMemcpyHtoD_v2, Sync, to_device(dst: CUdeviceptr => dst.0, src: *const c_void => src as u64);
    /// `cuMemcpyHtoDAsync_v2`.
    cuMemcpyHtoDAsync_v2, Async, to_device(dst: CUdeviceptr => dst.0, src: *const c_void => src as u64);
    /// `cuMemcpyDtoH_v2`.
    cuMemcpyDtoH_v2, Sync, to_host(dst: *mut c_void => dst as u64, src: CUdeviceptr => src.0);
    /// `cuMemcpyDtoHAsync_v2`.
    cuMemcpyDtoHAsync_v2, Async, to_host(dst: *mut c_void => dst as u64, src: CUdeviceptr => src.0);
    /// `cuMemcpyDtoD_v2`.
    cuMemcpyDtoD_v2, Sync, between(dst: CUdeviceptr => dst.0, src: CUdeviceptr => src.0);
    /// `cuMemcpyDtoDAsync_v2`.
    cuMemcpyDtoDAsync_v2, Async, between(dst: CUdeviceptr => dst.0, src: CUdeviceptr => src.0);
}

/// `cuMemcpyPeer`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemcpyPeer(
    default: NullStream,
    dst: CUdeviceptr,
    dst_ctx: CUcontext,
    src: CUdeviceptr,
    src_ctx: CUcontext,
    bytes: usize,
) -> Result<(), CUresult> {
    // SAFETY: passed on.
    unsafe { cuMemcpyPeerAsync(default, dst, dst_ctx, src, src_ctx, bytes, CUstream::NULL) }
}

/// `cuMemcpyPeerAsync`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemcpyPeerAsync(
    default: NullStream,
    dst: CUdeviceptr,
    dst_ctx: CUcontext,
    src: CUdeviceptr,
    src_ctx: CUcontext,
    bytes: usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    let (client, state) = begin(default, stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let args = wire::cuMemcpyPeerAsync::Args {
        dst: Word::of(dst),
        dst_ctx: Word::of(dst_ctx),
        src: Word::of(src),
        src_ctx: Word::of(src_ctx),
        bytes: Word::of(bytes),
        stream: Word::of(state.handle),
    };
    direct(
        client,
        number::cuMemcpyPeerAsync,
        &state,
        args.as_bytes(),
        false,
        Mode::Async,
    )
}
