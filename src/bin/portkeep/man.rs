//! The manual pages in `man/` are made from the help; this keeps them from drifting apart.

use std::path::Path;
use std::{env, fs};

use clap::CommandFactory;

#[test]
fn the_manual_pages_say_what_the_help_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let made = tempfile::tempdir().unwrap();
    // The version is left out: it would make every release a change of every page.
    let cli = crate::Cli::command().version(None::<&str>).disable_help_subcommand(true);
    clap_mangen::generate_to(cli, made.path()).unwrap();
    if env::var_os("PORTKEEP_BLESS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for page in fs::read_dir(&folder).unwrap() {
            fs::remove_file(page.unwrap().path()).unwrap();
        }
        for page in fs::read_dir(made.path()).unwrap() {
            let page = page.unwrap();
            fs::copy(page.path(), folder.join(page.file_name())).unwrap();
        }
    }
    let pages = |folder: &Path| {
        let mut pages: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|page| page.unwrap())
            .map(|page| (page.file_name(), fs::read_to_string(page.path()).unwrap()))
            .collect();
        pages.sort();
        pages
    };
    let way_out = "run 'PORTKEEP_BLESS=1 cargo test --bin portkeep' and commit man/";
    assert_eq!(pages(made.path()), pages(&folder), "{way_out}");
}
