//! How many mappings a channel may have (`semantics.md` 15). The kernel grants a process so many and no more; half of them
//! are left to the process itself, its libraries, threads and allocations, or the driver's.

use std::sync::LazyLock;

/// What the kernel grants by default, for a system that does not say.
const USUAL: usize = 65_530;

/// Mappings that the segments of one channel may have in this process: half of `vm.max_map_count`, read once.
#[must_use]
pub fn limit() -> usize {
    static LIMIT: LazyLock<usize> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
        half_of(text.ok().as_deref())
    });
    *LIMIT
}

/// Half of the number that the kernel writes.
fn half_of(text: Option<&str>) -> usize {
    let granted = text.and_then(|text| text.trim().parse().ok());
    granted.unwrap_or(USUAL) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_the_kernel_grants() {
        assert_eq!(half_of(Some("262144\n")), 131_072);
        assert_eq!(half_of(Some("nonsense")), USUAL / 2);
        assert_eq!(half_of(None), USUAL / 2);
        assert!(limit() > 100);
    }
}
