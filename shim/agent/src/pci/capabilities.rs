//! The virtio capabilities in a PCI configuration space (virtio 1.2, 4.1.4).

/// Vendor-specific capability.
const VENDOR: u8 = 0x09;
/// First capability.
const POINTER: usize = 0x34;
/// Status register, bit 4: there are capabilities.
const STATUS: usize = 0x06;

/// Part of a BAR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which BAR.
    pub bar: u8,
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// Where the parts of a modern virtio device are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Features, queues and status.
    pub common: Place,
    /// Doorbells.
    pub notify: Place,
    /// Bytes between doorbells.
    pub notify_multiplier: u32,
    /// Interrupt status.
    pub isr: Place,
    /// The device's own configuration.
    pub device: Place,
    /// Offset in the configuration space of the window through which BARs can be read, 0 if there is none.
    pub window: u8,
}

fn u32_at(config: &[u8], at: usize) -> Option<u32> {
    let bytes = config.get(at..at + 4)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

impl Capabilities {
    /// Reads them from a configuration space; nothing when one of the four parts is missing.
    #[must_use]
    pub fn parse(config: &[u8]) -> Option<Capabilities> {
        if config.get(STATUS)? & 0x10 == 0 {
            return None;
        }
        let mut found = Capabilities::default();
        let mut at = usize::from(config.get(POINTER)? & !3);
        // A list longer than the space goes round in circles.
        for _ in 0..48 {
            if at < 0x40 {
                break;
            }
            if *config.get(at)? == VENDOR {
                let place = Place {
                    bar: *config.get(at + 4)?,
                    offset: u32_at(config, at + 8)?,
                    len: u32_at(config, at + 12)?,
                };
                // The first of each kind counts.
                match *config.get(at + 3)? {
                    1 if found.common.len == 0 && place.bar < 6 => found.common = place,
                    2 if found.notify.len == 0 && place.bar < 6 => {
                        found.notify = place;
                        found.notify_multiplier = u32_at(config, at + 16)?;
                    }
                    3 if found.isr.len == 0 && place.bar < 6 => found.isr = place,
                    4 if found.device.len == 0 && place.bar < 6 => found.device = place,
                    5 if found.window == 0 => found.window = u8::try_from(at).ok()?,
                    _ => {}
                }
            }
            at = usize::from(config.get(at + 1)? & !3);
        }
        let parts = [found.common, found.notify, found.isr, found.device];
        parts.iter().all(|part| part.len > 0).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(capabilities: &[(u8, u8, u32, u32)]) -> Vec<u8> {
        let mut config = vec![0; 256];
        config[STATUS] = 0x10;
        config[POINTER] = 0x40;
        for (index, &(kind, bar, offset, len)) in capabilities.iter().enumerate() {
            let at = 0x40 + index * 20;
            config[at] = VENDOR;
            if index + 1 < capabilities.len() {
                config[at + 1] = (at + 20) as u8;
            }
            config[at + 2] = 20;
            config[at + 3] = kind;
            config[at + 4] = bar;
            config[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            config[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
            config[at + 16..at + 20].copy_from_slice(&4_u32.to_le_bytes());
        }
        config
    }

    const ALL: [(u8, u8, u32, u32); 5] = [
        (5, 0, 0, 0),
        (2, 4, 0x3000, 0x1000),
        (4, 4, 0x2000, 0x1000),
        (3, 4, 0x1000, 0x1000),
        (1, 4, 0, 0x1000),
    ];

    #[test]
    fn the_parts_of_a_device_are_found() {
        let found = Capabilities::parse(&space(&ALL)).unwrap();
        assert_eq!(
            found.device,
            Place {
                bar: 4,
                offset: 0x2000,
                len: 0x1000
            }
        );
        assert_eq!((found.notify_multiplier, found.window), (4, 0x40));
        assert_eq!(found.common.offset, 0);
    }

    #[test]
    fn what_is_no_modern_device_is_none() {
        assert_eq!(Capabilities::parse(&space(&ALL[1..4])), None);
        assert_eq!(Capabilities::parse(&[0xff; 256]), None);
        assert_eq!(Capabilities::parse(&space(&ALL)[..0x60]), None);
        assert_eq!(Capabilities::parse(&[]), None);
        let mut circle = space(&ALL[..1]);
        circle[0x41] = 0x40;
        assert_eq!(Capabilities::parse(&circle), None);
    }
}
