//! Compiles again when a migration comes or goes, since the program carries them all.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
