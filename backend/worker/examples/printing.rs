//! What looking for printing kernels costs, with the code images of a real library: `printing LIBRARY [ARCH [TIMES]]`
//! takes every fatbin of the file's `.nv_fatbin` section, as `cuLibraryLoadData` would, and looks at what a device of the
//! compute capability ARCH (90 for 9.0) executes of it. Says what was found, and the processor time of the thread that
//! loads (copy, check, hand over) and of looking through, least of TIMES.

use object::{Object as _, ObjectSection as _};
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use vgpu_channel::link::Hello;
use vgpu_channel::loopback;
use vgpu_channel::server::Config;
use vgpu_driver::Driver;
use vgpu_worker::image::{Image, PADDING};
use vgpu_worker::printing::{self, Printers};
use vgpu_worker::state::{Parts, Worker};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let library = arguments.next().ok_or("which library?")?;
    let arch: u32 = arguments.next().map_or(Ok(90), |text| text.parse())?;
    let times: u32 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let file = std::fs::read(&library)?;
    let section = object::File::parse(&*file)?
        .section_by_name(".nv_fatbin")
        .ok_or("no .nv_fatbin section")?
        .data()?;
    let images = split(section);
    let (mut loading, mut looking) = (Duration::MAX, Duration::MAX);
    let mut found = (0, 0, 0);
    for _ in 0..times {
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[])?;
        let worker = Worker::new(Parts {
            archs: vec![arch],
            ..Parts::bare(Driver::default(), Arc::clone(&pair.server))
        });
        let (mut all, mut taken) = (Vec::new(), Duration::ZERO);
        for bytes in &images {
            let begun = processor_time();
            let mut copy = Vec::with_capacity(bytes.len() + PADDING);
            copy.extend_from_slice(bytes);
            let image = Arc::new(Image::new(copy).map_err(|error| format!("{error:?}"))?);
            printing::look(&worker, &image);
            taken += processor_time() - begun;
            all.push(image);
        }
        loading = loading.min(taken);
        found = (0, 0, 0);
        let begun = processor_time();
        for image in &all {
            match Printers::of(image, &[arch]) {
                Printers::Any => found.2 += 1,
                Printers::Kernels(names) if names.is_empty() => found.0 += 1,
                Printers::Kernels(_) => found.1 += 1,
            }
        }
        looking = looking.min(processor_time() - begun);
    }
    println!(
        "{} images of {} bytes: {} do not print, {} have kernels that do, in {} any kernel may",
        images.len(),
        images.iter().map(|image| image.len()).sum::<usize>(),
        found.0,
        found.1,
        found.2,
    );
    println!(
        "loading: {:.1} ms; looking through: {:.1} ms",
        loading.as_secs_f64() * 1e3,
        looking.as_secs_f64() * 1e3
    );
    Ok(())
}

/// Processor time of the calling thread so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

/// The fatbins in a section, each with its header.
fn split(section: &[u8]) -> Vec<&[u8]> {
    const MAGIC: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();
    let mut images = Vec::new();
    let mut at = 0;
    while let Some(header) = section.get(at..at + 16) {
        if !header.starts_with(&MAGIC) {
            at += 8;
            continue;
        }
        let fixed = u64::from(u16::from_le_bytes([header[6], header[7]]));
        let body = header[8..16].try_into().map_or(0, u64::from_le_bytes);
        let len = usize::try_from(fixed + body).unwrap_or(usize::MAX);
        let Some(image) = section.get(at..at.saturating_add(len)) else {
            break;
        };
        images.push(image);
        at += len.next_multiple_of(8);
    }
    images
}
