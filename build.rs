//! Stamps the build with the commit it was made from.

use std::process::Command;

fn main() {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let commit = output
        .ok()
        .filter(|o| o.status.success())
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |s| s.trim().to_owned());
    println!("cargo:rustc-env=POLLUX_COMMIT={commit}");
    // A path that does not exist would make every build a new one.
    for name in ["HEAD", "refs/heads"] {
        let path = Command::new("git").args(["rev-parse", "--git-path", name]).output().ok();
        let path = path.filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
        if let Some(path) = path.map(|p| p.trim().to_owned()).filter(|p| std::path::Path::new(p).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
}
