//! Tells cargo that the migrations are part of the executable.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
