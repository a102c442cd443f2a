//! The command `offshoot`.

fn main() -> std::process::ExitCode {
    offshoot_cli::run(std::env::args_os().collect()).into()
}
