//! 32-bit programs on a 64-bit kernel: it shows us their binds, and not their options.

use std::process::Command;

use portkeep::Protocol;

use crate::client::{block, open, query};
use crate::host::{Host, cases};
use crate::programs::compiler::compiled_if_possible;
use crate::support::left_out;

cases![a21_a_32_bit_program_has_no_options_and_is_kept_out_like_any_other];

/// Freestanding, so that a 32-bit C library need not be installed; nor its copy of the kernel's
/// headers, which are the same.
const FLAGS: [&str; 7] = [
    "-m32",
    "-nostdlib",
    "-static",
    "-ffreestanding",
    "-fno-stack-protector",
    "-idirafter",
    "/usr/include/x86_64-linux-gnu",
];

fn a21_a_32_bit_program_has_no_options_and_is_kept_out_like_any_other(_: &Host) {
    if !cfg!(target_arch = "x86_64") {
        return left_out("only x86-64 has these system calls");
    }
    let source = "tests/kernel/programs/compat.c";
    let Some(program) = compiled_if_possible(source, &FLAGS) else { return };
    let results = || {
        let output = Command::new(&program).output().ok()?;
        let (numbers, []) = output.stdout.as_chunks() else { panic!("{output:?}") };
        Some(numbers.iter().map(|number| -i32::from_ne_bytes(*number)).collect::<Vec<_>>())
    };
    let Some(before) = results() else {
        return left_out("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)");
    };
    let hidden = |version| [0, version, libc::ENOPROTOOPT];
    let [v4, v6] = [libc::EOPNOTSUPP, libc::ENOPROTOOPT].map(hidden);
    // Unhindered the first bind succeeds, and a socket is bound only once.
    let free = [0, libc::EINVAL];
    assert_eq!(before, [&v4[..], &free, &v6, &free, &v4, &free].concat());

    let (_anchor, _) = block(Protocol::Tcp, 20000, 8);
    let kept_out = [libc::EADDRINUSE, 0];
    let after = [&v4[..], &kept_out, &v6, &kept_out, &v4, &kept_out].concat();
    assert_eq!(results(), Some(after));
    assert_eq!(query(&open(Protocol::Tcp), 21000).unwrap(), None, "nothing was acquired");
}
