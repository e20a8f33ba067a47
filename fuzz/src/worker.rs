//! The worker's side of a record: decoding, checking, answering.

/// Bytes of a record's length in the input.
const LENGTH: usize = 2;

/// The input is a sequence of records, each behind its length (2 bytes); see [`vgpu_worker::fuzz::fuzz_record`].
pub fn record_dispatch(input: &[u8]) {
    let mut rest = input;
    while let Some((length, tail)) = rest.split_first_chunk::<LENGTH>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
        let (record, next) = tail.split_at(length);
        vgpu_worker::fuzz::fuzz_record(record);
        rest = next;
    }
}
