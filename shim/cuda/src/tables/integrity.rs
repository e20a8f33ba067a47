//! The INTEG table: libcudart asks the driver for a keyed digest over what it was told about
//! version, process and devices, and compares it with its own (`cuda-driver-facts.md` §3).
//!
//! It is HMAC (RFC 2104) over MD2 (RFC 1319) with a fixed key. Answering it is interoperability
//! with NVIDIA's own runtime on the GPU it was written for; nothing here is a secret of ours.

use crate::client;
use vgpu_protocol::cuda::CUresult;

/// Digest of MD2.
type Digest = [u8; 16];

const BLOCK: usize = 16;

const KEY: Digest = [
    0x14, 0x6a, 0xdd, 0xae, 0x53, 0xa9, 0xa7, 0x52, 0xaa, 0x08, 0x41, 0x36, 0x0b, 0xf5, 0x5a, 0x9f,
];

/// The answer for versions ending in 0, and, but for byte 7, for those ending in 1.
const FIXED: Digest = [
    0x5c, 0x67, 0xcb, 0x03, 0x1c, 0x18, 0x41, 0x33, 0xe8, 0xd1, 0x4c, 0x1f, 0xaa, 0x83, 0xd3, 0x8e,
];

/// The substitution of RFC 1319, made of digits of pi.
#[rustfmt::skip]
const PI: [u8; 256] = [
    41, 46, 67, 201, 162, 216, 124, 1, 61, 54, 84, 161, 236, 240, 6, 19,
    98, 167, 5, 243, 192, 199, 115, 140, 152, 147, 43, 217, 188, 76, 130, 202,
    30, 155, 87, 60, 253, 212, 224, 22, 103, 66, 111, 24, 138, 23, 229, 18,
    190, 78, 196, 214, 218, 158, 222, 73, 160, 251, 245, 142, 187, 47, 238, 122,
    169, 104, 121, 145, 21, 178, 7, 63, 148, 194, 16, 137, 11, 34, 95, 33,
    128, 127, 93, 154, 90, 144, 50, 39, 53, 62, 204, 231, 191, 247, 151, 3,
    255, 25, 48, 179, 72, 165, 181, 209, 215, 94, 146, 42, 172, 86, 170, 198,
    79, 184, 56, 210, 150, 164, 125, 182, 118, 252, 107, 226, 156, 116, 4, 241,
    69, 157, 112, 89, 100, 113, 135, 32, 134, 91, 207, 101, 230, 45, 168, 2,
    27, 96, 37, 173, 174, 176, 185, 246, 28, 70, 97, 105, 52, 64, 126, 15,
    85, 71, 163, 35, 221, 81, 175, 58, 195, 92, 249, 206, 186, 197, 234, 38,
    44, 83, 13, 110, 133, 40, 132, 9, 211, 223, 205, 244, 65, 129, 77, 82,
    106, 220, 55, 200, 108, 193, 171, 250, 36, 225, 123, 8, 12, 189, 177, 74,
    120, 136, 149, 139, 227, 99, 232, 109, 233, 203, 213, 254, 59, 0, 29, 57,
    242, 239, 183, 14, 102, 88, 208, 228, 166, 119, 114, 248, 235, 117, 75, 10,
    49, 68, 80, 180, 143, 237, 31, 26, 219, 153, 141, 51, 159, 17, 131, 20,
];

fn md2(message: &[u8]) -> Digest {
    let mut padded = message.to_vec();
    let fill = BLOCK - message.len() % BLOCK;
    padded.resize(message.len() + fill, fill as u8);

    let mut checksum = [0_u8; BLOCK];
    let mut last = 0;
    for block in padded.chunks_exact(BLOCK) {
        for (sum, byte) in checksum.iter_mut().zip(block) {
            *sum ^= PI[usize::from(byte ^ last)];
            last = *sum;
        }
    }
    padded.extend_from_slice(&checksum);

    let mut state = [0_u8; 3 * BLOCK];
    for block in padded.chunks_exact(BLOCK) {
        for (at, &byte) in block.iter().enumerate() {
            state[BLOCK + at] = byte;
            state[2 * BLOCK + at] = byte ^ state[at];
        }
        let mut t = 0_u8;
        for round in 0..18_u8 {
            for byte in &mut state {
                *byte ^= PI[usize::from(t)];
                t = *byte;
            }
            t = t.wrapping_add(round);
        }
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&state[..16]);
    digest
}

fn hmac_md2(key: &Digest, message: &[u8]) -> Digest {
    let pad = |value: u8| key.map(|byte| byte ^ value);
    let inner = md2(&[&pad(0x36)[..], message].concat());
    md2(&[&pad(0x5c)[..], &inner[..]].concat())
}

/// Everything the digest covers.
#[derive(Debug)]
pub struct Facts<'a> {
    /// `cuDriverGetVersion`.
    pub driver_version: u32,
    /// Version the caller gave.
    pub version: u32,
    /// Process id.
    pub pid: u32,
    /// Low half of `pthread_self`.
    pub thread: u32,
    /// Address of the CUDART table.
    pub cudart_table: u64,
    /// Address of the INTEG table.
    pub integrity_table: u64,
    /// Address of the INTEG function.
    pub function: u64,
    /// Time the caller gave, in seconds since 1970.
    pub unix_seconds: u64,
    /// UUID, PCI domain, bus and device of each visible device.
    pub devices: &'a [([u8; 16], [i32; 3])],
}

/// The digest libcudart expects.
pub fn answer(facts: &Facts<'_>) -> Digest {
    match facts.version % 10 {
        0 => FIXED,
        1 => {
            let mut digest = FIXED;
            digest[7] = 0x18;
            digest
        }
        _ => {
            let mut message = Vec::with_capacity(48 + 28 * facts.devices.len());
            message.extend_from_slice(&facts.driver_version.to_le_bytes());
            message.extend_from_slice(&facts.version.to_le_bytes());
            message.extend_from_slice(&facts.pid.to_le_bytes());
            message.extend_from_slice(&facts.thread.to_le_bytes());
            message.extend_from_slice(&facts.cudart_table.to_le_bytes());
            message.extend_from_slice(&facts.integrity_table.to_le_bytes());
            message.extend_from_slice(&facts.function.to_le_bytes());
            message.extend_from_slice(&facts.unix_seconds.to_le_bytes());
            for (uuid, pci) in facts.devices {
                message.extend_from_slice(uuid);
                for part in pci {
                    message.extend_from_slice(&part.to_le_bytes());
                }
            }
            hmac_md2(&KEY, &message)
        }
    }
}

/// INTEG\[1\]: writes the digest to `out`.
///
/// # Safety
/// `out` points to 16 writable bytes, or is null.
pub unsafe extern "C" fn check(version: u32, unix_seconds: u64, out: *mut u8) -> CUresult {
    if out.is_null() {
        return CUresult::INVALID_VALUE;
    }
    let devices: Vec<_> = match client::get() {
        Ok(client) => client
            .devices()
            .iter()
            .map(|device| {
                (
                    device.uuid(),
                    [50, 33, 34].map(|attribute| device.attribute_or_zero(attribute)),
                )
            })
            .collect(),
        Err(_) => Vec::new(),
    };
    // SAFETY: pthread_self has no preconditions.
    let thread = unsafe { libc::pthread_self() } as u32;
    let digest = answer(&Facts {
        driver_version: client::driver_version(),
        version,
        pid: std::process::id(),
        thread,
        cudart_table: super::CUDART.address(),
        integrity_table: super::INTEGRITY.address(),
        function: check as *const () as u64,
        unix_seconds,
        devices: &devices,
    });
    // SAFETY: the caller's contract.
    unsafe { core::ptr::copy_nonoverlapping(digest.as_ptr(), out, digest.len()) };
    CUresult::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digest: Digest) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn md2_gives_the_rfc_1319_digests() {
        assert_eq!(hex(md2(b"")), "8350e5a3e24c153df2275c9f80692773");
        assert_eq!(hex(md2(b"a")), "32ec01ec4a6dac72c0ab96fb34c0b5d1");
        assert_eq!(hex(md2(b"abc")), "da853b0d3f88d99b30283a69e6ded6bb");
        assert_eq!(
            hex(md2(b"message digest")),
            "ab4f496bfb2a530b219ff33031fe06b0"
        );
        assert_eq!(
            hex(md2(b"abcdefghijklmnopqrstuvwxyz")),
            "4e8ddff3650292ab5a4108c3aa47940b"
        );
    }

    #[test]
    fn the_known_vector_comes_out() {
        let uuid = core::array::from_fn(|at| at as u8);
        let digest = answer(&Facts {
            driver_version: 13000,
            version: 13002,
            pid: 0x1234,
            thread: 0x5566_7788,
            cudart_table: 0x7f00_0000_1000,
            integrity_table: 0x7f00_0000_2000,
            function: 0x7f00_0000_3000,
            unix_seconds: 0x6800_0000,
            devices: &[(uuid, [0, 6, 0])],
        });
        assert_eq!(hex(digest), "b2f0a014f78de2129c75f81dd583423f");
    }
}
