//! Programs in C, compiled when a test wants them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{installed, left_out};

/// A file of the repository.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A folder that every user can reach and nobody else writes to; it ends with the test.
pub(crate) fn folder() -> PathBuf {
    let folder = std::env::temp_dir();
    fs::set_permissions(&folder, Permissions::from_mode(0o711)).expect("the folder is ours");
    folder
}

/// Compiles a program that has to compile; `None` where there is no compiler.
pub(crate) fn compiled(source: &str, flags: &[&str]) -> Option<PathBuf> {
    let (program, output) = compile(source, flags)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

/// Compiles a program for another machine, which a compiler need not know.
pub(crate) fn compiled_if_possible(source: &str, flags: &[&str]) -> Option<PathBuf> {
    let (program, output) = compile(source, flags)?;
    if output.status.success() {
        return Some(program);
    }
    left_out(&format!("gcc {flags:?}: {}", String::from_utf8_lossy(&output.stderr)));
    None
}

fn compile(source: &str, flags: &[&str]) -> Option<(PathBuf, Output)> {
    if !installed("gcc", "gcc") {
        return None;
    }
    let source = file(source);
    let program = folder().join(source.file_stem().expect("a file"));
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]).args(flags);
    gcc.arg("-I").arg(file("bpf")).arg("-o").arg(&program).arg(source);
    Some((program, gcc.output().expect("gcc starts")))
}
