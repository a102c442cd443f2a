//! What ends the program from outside: Ctrl-C, `kill`, a terminal that closes.
//!
//! The program ends at once, leaves no file half-written, and its exit code is the one that shells give: 128 and the number of the
//! signal. A command that can stop by itself, with all that it has reached, asks for that by [`stop`]; then only a second signal ends
//! it at once.

use std::io::Write as _;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use offshoot_formats::temporary;

/// The number of SIGINT, which is also what Ctrl-C is where there are no signals.
const INTERRUPT: u8 = 2;

/// What exit codes of ended programs start from.
const ENDED: u8 = 128;

static STOP: AtomicBool = AtomicBool::new(false);
static STOPS_BY_ITSELF: AtomicBool = AtomicBool::new(false);
static FINISHED_FIRST: OnceLock<&str> = OnceLock::new();
static FIRST: AtomicU8 = AtomicU8::new(INTERRUPT);

/// Becomes true at the first signal, instead of the end of the program.
pub(crate) fn stop() -> &'static AtomicBool {
    stop_after("this step")
}

/// [`stop`] of a command that finishes something else first.
pub(crate) fn stop_after(what: &'static str) -> &'static AtomicBool {
    let _ = FINISHED_FIRST.set(what);
    STOPS_BY_ITSELF.store(true, Ordering::SeqCst);
    &STOP
}

/// The exit code of a program that has stopped because [`stop`] said so.
pub(crate) fn exit_code() -> u8 {
    ENDED + FIRST.load(Ordering::SeqCst)
}

fn arrived(signal: u8) {
    if STOPS_BY_ITSELF.load(Ordering::SeqCst) && !STOP.swap(true, Ordering::SeqCst) {
        FIRST.store(signal, Ordering::SeqCst);
        let again = if signal == INTERRUPT { "press Ctrl-C again" } else { "send a second signal" };
        let what = FINISHED_FIRST.get().unwrap_or(&"this step");
        if super::world::is_silent() {
            return;
        }
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "stopping after {what}; {again} to stop at once");
        return;
    }
    temporary::remove_all();
    process::exit(i32::from(ENDED + signal));
}

/// Starts to wait for signals. Without, they end the program all the same, and temporary files stay.
#[cfg(unix)]
pub(crate) fn watch() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    // A file that reaches the limit of its size (`ulimit -f`) is then an error of writing, as a full disk is.
    let _ = signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default());
    let hang_up = (!ignores(SIGHUP)).then_some(SIGHUP);
    let wanted = [SIGINT, SIGTERM].into_iter().chain(hang_up);
    let Ok(mut signals) = signal_hook::iterator::Signals::new(wanted) else { return };
    let wait = move || signals.forever().filter_map(|signal| u8::try_from(signal).ok()).for_each(arrived);
    let _ = std::thread::Builder::new().name("offshoot-signals".into()).spawn(wait);
}

#[cfg(not(unix))]
pub(crate) fn watch() {
    let _ = ctrlc::set_handler(|| arrived(INTERRUPT));
}

/// Whether whoever started this program wants a signal to do nothing, as `nohup` does.
#[cfg(unix)]
fn ignores(signal: i32) -> bool {
    // Not Linux: the signal is left as it is.
    let Ok(status) = offshoot_files::read_text("/proc/self/status".as_ref(), offshoot_files::Kind::SYSTEM)
    else {
        return true;
    };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
