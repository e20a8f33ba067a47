//! Fused multiply-add of 32 lanes, with the CPU's instruction where it has one.
//!
//! Without it `mul_add` is a call into the C library per lane: as exact, but slow.

use crate::exec::LANES;

macro_rules! lanes_fma {
    ($name:ident, $fast:ident, $t:ty) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn $fast(a: &[$t; LANES], b: &[$t; LANES], c: &[$t; LANES]) -> [$t; LANES] {
            std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
        }

        /// `a * b + c` with one rounding, in every lane.
        #[inline]
        pub(crate) fn $name(a: &[$t; LANES], b: &[$t; LANES], c: &[$t; LANES]) -> [$t; LANES] {
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma")
            {
                // SAFETY: the CPU has both features, as just checked.
                return unsafe { $fast(a, b, c) };
            }
            std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
        }
    };
}

lanes_fma!(fma32, fma32_fast, f32);
lanes_fma!(fma64, fma64_fast, f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_once() {
        let e = f32::EPSILON;
        let got = fma32(&[1.0 + e; LANES], &[1.0 - e; LANES], &[-1.0; LANES]);
        assert_eq!(got[31], -(e * e));
        assert_eq!(fma64(&[3.0; LANES], &[2.0; LANES], &[1.0; LANES])[0], 7.0);
    }
}
