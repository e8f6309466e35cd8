//! Another release of flashgate: the same program, but for its scripts.
//!
//! The scripts are text within the program. In a copy of it the first comment of each is spelled in capitals, which
//! changes no byte's place and nothing that a script does, but every hash by which Redis knows them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every script but the witness, which never changes; `record` is a part of two others.
const SCRIPTS: [&str; 8] = [
    include_str!("../../../lua/record.lua"),
    include_str!("../../../lua/reserve.lua"),
    include_str!("../../../lua/grant.lua"),
    include_str!("../../../lua/settle.lua"),
    include_str!("../../../lua/close.lua"),
    include_str!("../../../lua/rebuild.lua"),
    include_str!("../../../lua/open.lua"),
    include_str!("../../../lua/look.lua"),
];

/// How many scripts a node has that one release has recovered, and those that the other adds.
pub(crate) const CACHED: (u32, u32) = (8, 7);

/// Makes the other release in this directory; where it lies.
pub(crate) fn other_release(dir: &Path) -> PathBuf {
    let comments = SCRIPTS.map(|text| text.lines().next().expect("a comment").as_bytes());
    let mut program = fs::read(env!("CARGO_BIN_EXE_flashgate")).expect("it was built");
    let mut found = [false; SCRIPTS.len()];
    let mut at = 0;
    while let Some(next) = program[at..].iter().position(|byte| *byte == b'-') {
        at += next;
        let which = comments.iter().position(|comment| program[at..].starts_with(comment));
        if let Some(which) = which {
            program[at..at + comments[which].len()].make_ascii_uppercase();
            found[which] = true;
        }
        at += 1;
    }
    assert_eq!(found, [true; SCRIPTS.len()], "every script's text lies in the program");
    let (copy, release) = (dir.join("copy"), dir.join("flashgate"));
    fs::write(&copy, program).expect("the directory can be written");
    // By another process: one that another thread starts just now would inherit our file, and nobody can run a program
    // that is open for writing.
    let installed = Command::new("install")
        .args(["-m", "755"])
        .args([&copy, &release])
        .status();
    assert!(installed.expect("it runs").success());
    release
}
