//! The command line; everything is in [`dataplane::cli`].

fn main() -> std::process::ExitCode {
    dataplane::cli::main(std::env::args_os())
}
