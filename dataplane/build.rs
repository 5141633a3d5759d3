//! Lets the executable know which commit it is built from.

include!("../runtime/build/commit.rs");

fn main() {
    write_commit();
}
