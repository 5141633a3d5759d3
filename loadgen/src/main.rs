//! `loadgen`: arguments → run → exit code.

mod cli;

fn main() -> std::process::ExitCode {
    // Below environment and flags.
    let _ = dotenvy::from_path(".env");
    cli::main()
}
