//! Tells cargo that the migrations are part of the executable, and which commit it is built from.

include!("../runtime/build/commit.rs");

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    write_commit();
}
