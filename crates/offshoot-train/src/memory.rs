//! The peak memory of the process.

/// The most memory that this process had in use at one time, in MiB. `None` where the system does not say.
pub fn peak_mib() -> Option<f64> {
    peak_bytes().map(|bytes| bytes as f64 / f64::from(1 << 20))
}

#[cfg(target_os = "linux")]
fn peak_bytes() -> Option<u64> {
    // Not getrusage: its figure survives exec, and would be the parent's where that one was larger.
    let status =
        offshoot_files::read_text("/proc/self/status".as_ref(), offshoot_files::Kind::SYSTEM).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn peak_bytes() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let peak = u64::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?;
    // Bytes on Apple's systems, KiB elsewhere.
    if cfg!(target_vendor = "apple") { Some(peak) } else { peak.checked_mul(1024) }
}

#[cfg(not(unix))]
fn peak_bytes() -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_mark_rises_with_use_and_stays() {
        let before = peak_mib().unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        drop(block);
        let after = peak_mib().unwrap();
        assert!(before > 0.0 && after > 64.0, "{before} {after}");
    }
}
