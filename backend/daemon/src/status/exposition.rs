//! The figures in the text format that Prometheus reads.

use super::registry::{Origin, Registry};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::atomic::AtomicU64;
use vgpu_worker::figures::Figures;

/// The content type of what [`exposition`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(String, String)>;
type Value = fn(&Figures) -> u64;

const COUNTERS: [(&str, &str, Value); 7] = [
    ("calls", "Calls that the worker executed", |f| f.calls),
    ("failed_calls", "Calls that ended with an error", |f| {
        f.failed
    }),
    ("launches", "Kernels and graphs launched", |f| f.launches),
    ("copies", "Copies issued", |f| f.copies),
    ("copied_bytes", "Bytes of these copies", |f| f.copied_bytes),
    ("waits", "Synchronisations that reached the worker", |f| {
        f.waits
    }),
    ("refused", "Records and values refused", |f| f.refused),
];
const GAUGES: [(&str, &str, Value); 3] = [
    ("memory_used_bytes", "Device memory charged", |f| {
        f.memory_used
    }),
    (
        "memory_limit_bytes",
        "Device memory that the client may hold, 0 for the device's",
        |f| f.memory_limit,
    ),
    ("sticky_error", "The sticky CUDA error, 0 for none", |f| {
        f.sticky
    }),
];

/// The text as it is now.
///
/// # Errors
/// When it cannot be formatted.
pub fn exposition(registry: &Registry) -> Result<String, std::fmt::Error> {
    let clients: Vec<(Labels, Figures)> = registry
        .list()
        .iter()
        .map(|served| (labels(&served.origin, served.worker), served.figures()))
        .collect();
    let mut metrics = prometheus_client::registry::Registry::with_prefix("vgpu");
    let count: Gauge<u64, AtomicU64> = Gauge::default();
    count.set(clients.len() as u64);
    metrics.register("clients", "Clients with a worker", count);
    for (name, help, value) in COUNTERS {
        let family = Family::<Labels, Counter<u64, AtomicU64>>::default();
        for (labels, figures) in &clients {
            family.get_or_create(labels).inc_by(value(figures));
        }
        metrics.register(name, help, family);
    }
    for (name, help, value) in GAUGES {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (labels, figures) in &clients {
            family.get_or_create(labels).set(value(figures));
        }
        metrics.register(name, help, family);
    }
    let mut text = String::new();
    encode(&mut text, &metrics)?;
    Ok(text)
}

fn labels(origin: &Origin, worker: u32) -> Labels {
    let label = |name: &str, value: String| (name.to_owned(), value);
    let mut labels = vec![label("worker", worker.to_string())];
    match origin {
        Origin::Process { user, program } => {
            labels.push(label("user", user.to_string()));
            labels.push(label("program", program.clone()));
        }
        Origin::Channel(number) => labels.push(label("channel", number.to_string())),
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_a_sample_of_each_figure_and_client() {
        let registry = Registry::default();
        let origin = Origin::Process {
            user: 1000,
            program: "train".to_owned(),
        };
        let _first = registry.prepare(origin).unwrap().serve(7);
        let _second = registry.prepare(Origin::Channel(2)).unwrap().serve(8);
        let text = exposition(&registry).unwrap();
        assert!(text.contains("vgpu_clients 2\n"), "{text}");
        for (name, ..) in COUNTERS {
            let sample =
                format!("vgpu_{name}_total{{worker=\"7\",user=\"1000\",program=\"train\"}} 0\n");
            assert!(text.contains(&sample), "{text}");
        }
        for (name, ..) in GAUGES {
            let sample = format!("vgpu_{name}{{worker=\"8\",channel=\"2\"}} 0\n");
            assert!(text.contains(&sample), "{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
