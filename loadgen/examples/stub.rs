//! The stub of both planes that the tests use, on its own: to try the generator without a stack.
//!
//! `cargo run --release -p loadgen --example stub` prints the variables that `loadgen` reads.

#[path = "../tests/support/stub.rs"]
mod stub;

fn main() {
    let delay: u64 = std::env::args().nth(1).and_then(|ms| ms.parse().ok()).unwrap_or(0);
    let settings = stub::Settings { delay: std::time::Duration::from_millis(delay), ..stub::Settings::default() };
    let stub = stub::Stub::start(settings);
    println!("export NEXUS_CONTROL_URL={}", stub.control);
    println!("export NEXUS_DATAPLANE_URL={}", stub.view);
    println!("export NEXUS_API_KEY={}", stub::API_KEY);
    loop {
        std::thread::park();
    }
}
