//! The launcher against the machine: real servers, and nothing left behind.

use infrastructure::TestStack;

#[tokio::test]
async fn servers_start() {
    let stack = TestStack::shared().await;
    let ns = stack.namespace("Hello there").await;
    eprintln!("{:?}", ns.env());
}
