//! Figures held against what this machine can do.

use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput};
use offshoot_cpu::kernels::ceiling::{copy_bandwidth, peak_flops};
use offshoot_cpu::kernels::simd::Isa;

/// Wall time. Elements are floating-point operations, reported with their part of the multiply-add peak; bytes are
/// those read and written, reported with their part of what a copy in memory reaches.
pub(crate) struct Ceilings {
    flops: f64,
    bytes: f64,
}

/// Criterion with this machine's ceilings, which are measured first.
pub(crate) fn criterion() -> Criterion<Ceilings> {
    let ceilings = Ceilings { flops: peak_flops(Isa::best()), bytes: copy_bandwidth() };
    let [flops, bytes] = [ceilings.flops, ceilings.bytes].map(|ceiling| ceiling / 1e9);
    eprintln!("ceilings: {flops:.0} GFLOP/s, {bytes:.1} GB/s");
    Criterion::default().with_measurement(ceilings)
}

impl Measurement for Ceilings {
    type Intermediate = Instant;
    type Value = Duration;

    fn start(&self) -> Instant {
        WallTime.start()
    }

    fn end(&self, start: Instant) -> Duration {
        WallTime.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        WallTime.add(a, b)
    }

    fn zero(&self) -> Duration {
        WallTime.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Ceilings {
    fn format_throughput(&self, throughput: &Throughput, nanoseconds: f64) -> String {
        let (amount, ceiling, unit) = match *throughput {
            Throughput::Elements(operations) => (operations, self.flops, "GFLOP/s"),
            Throughput::Bytes(bytes) => (bytes, self.bytes, "GB/s"),
            _ => return WallTime.formatter().format_throughput(throughput, nanoseconds),
        };
        let rate = amount as f64 / nanoseconds;
        format!("{rate:.1} {unit} ({:.0} %)", 100.0 * rate * 1e9 / ceiling)
    }

    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_throughputs(typical, throughput, values)
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}
