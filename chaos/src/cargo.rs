//! Running cargo from a program that cargo itself runs.

use std::process::Command;

use crate::command::command;

/// cargo at the repository's root.
pub fn cargo(words: &[&str]) -> Command {
    let mut cargo = command("cargo", words);
    cargo.current_dir(crate::repository());
    // What cargo tells a program about itself is not for another build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_the_users = ["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&text.as_ref());
        if text.starts_with("CARGO_") && !is_the_users || text == "CARGO" {
            cargo.env_remove(&name);
        }
    }
    cargo
}
