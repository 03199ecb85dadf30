//! Help and errors, word for word, and what they do when nobody reads them.

use std::process::Stdio;

use crate::portkeep;

/// After a change: `TRYCMD=overwrite cargo test --test cli`.
#[test]
fn help_and_usage_errors_read_as_recorded() {
    trycmd::TestCases::new()
        .env("COLUMNS", "100")
        // Not the caller's: a folder there that we may not enter changes what is found.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .case("tests/cli/cmd/*.trycmd")
        .case("README.md")
        .run();
}

#[test]
fn every_verb_has_help_and_shows_it_short_and_long() {
    for verb in ["run", "acquire", "who", "status", "load", "unload"] {
        for flag in ["-h", "--help"] {
            let (status, stdout, _) = crate::finish(&[verb, flag]);
            assert_eq!(status, Some(0));
            assert!(stdout.contains(&format!("portkeep {verb}")), "{stdout}");
        }
    }
}

#[test]
fn a_closed_standard_output_is_an_error_and_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = portkeep(&["status"]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("Broken pipe") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn colours_stay_away_from_files() {
    let (_, stdout, _) = crate::finish(&["status"]);
    assert!(stdout.starts_with("engine ") && !stdout.contains('\x1b'), "{stdout}");
}
