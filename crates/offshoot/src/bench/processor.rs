//! What the processor is.

/// Its name, as it says itself; where it does not, the architecture's.
pub(super) fn name() -> String {
    said().filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(target_os = "linux")]
fn said() -> Option<String> {
    let text = offshoot_files::read_text("/proc/cpuinfo".as_ref(), offshoot_files::Kind::SYSTEM).ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(target_os = "macos")]
fn said() -> Option<String> {
    let sysctl = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "machdep.cpu.brand_string"]);
    Some(String::from_utf8(sysctl.output().ok()?.stdout).ok()?.trim().to_owned())
}

#[cfg(windows)]
fn said() -> Option<String> {
    std::env::var("PROCESSOR_IDENTIFIER").ok()
}

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
fn said() -> Option<String> {
    None
}

/// The names of the instructions in `list` that the processor has.
macro_rules! detected {
    ($detect:ident: $($name:tt)*) => {
        [$(($name, std::arch::$detect!($name))),*].into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
    };
}

/// The instructions of it that matter to a network.
#[cfg(target_arch = "x86_64")]
pub(super) fn features() -> Vec<String> {
    detected!(is_x86_feature_detected: "avx" "f16c" "fma" "avx2" "avxvnni" "avx512f" "avx512bw" "avx512vnni" "avx512bf16" "avx512fp16")
}

/// The instructions of it that matter to a network.
#[cfg(target_arch = "aarch64")]
pub(super) fn features() -> Vec<String> {
    detected!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16" "sve")
}

/// The instructions of it that matter to a network: none that is known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn features() -> Vec<String> {
    Vec::new()
}
