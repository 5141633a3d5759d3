//! Blocking calls away from the runtime.

use tokio::sync::oneshot;

/// What `call` returns, run on a thread of its own.
///
/// Unlike the runtime's pool for blocking calls, nobody waits for such a thread at the end of the process: a
/// broker that is away can't hold up a shutdown. The thread costs some 50 µs, so it is for what happens a few
/// times a second.
///
/// # Panics
/// When `call` does, or no thread can be made.
///
/// # Cancel safety
/// A dropped future leaves the call running, its result unread.
pub async fn apart<T: Send + 'static>(name: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = done.send(call());
    });
    thread.expect("the system has threads");
    result.await.expect("the call did not panic")
}
