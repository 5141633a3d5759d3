//! What stages run in: one runtime, and one set of servers, started by the first that asks.

use std::future::Future;
use std::sync::{LazyLock, OnceLock};

use bench::servers;
use infrastructure::{Namespace, TestStack};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// As many as a stack has by default.
pub const PARTITIONS: u16 = 4;

// As both planes': a worker for each core.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().enable_all().build().expect("a runtime"));
static STACK: OnceLock<TestStack> = OnceLock::new();

/// Does `work` on a worker of the runtime, where the planes' tasks are as well.
pub fn run<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match RUNTIME.block_on(RUNTIME.spawn(work)) {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Does `work` on this thread: for what prepares and is not measured.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(work)
}

/// A runtime of one thread, as the relay's.
pub fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A place in the servers, which end with this process, however it ends.
pub fn namespace(name: &'static str) -> Namespace {
    let stack = STACK.get_or_init(|| RUNTIME.block_on(servers::start()).expect("servers"));
    RUNTIME.block_on(stack.namespace(name))
}

/// What the servers say of themselves; nothing where no stage needed one.
///
/// # Errors
/// One is away, or its commits don't wait for the disk.
pub fn servers() -> anyhow::Result<Value> {
    if STACK.get().is_none() {
        return Ok(Value::Null);
    }
    let place = namespace("manifest");
    RUNTIME.block_on(servers::asked(&place))
}
