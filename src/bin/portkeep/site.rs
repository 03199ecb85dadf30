//! Where the kernel engine is, for the commands that load and unload it.

#[derive(clap::Args, Debug)]
pub(crate) struct Site {
    /// The folder of the engine's pins, in a BPF file system; 'portkeep' in the one that is mounted
    /// when left out
    #[arg(long, value_name = "DIR", env = "PORTKEEP_PIN_DIR")]
    pin_dir: Option<std::path::PathBuf>,
}

impl Site {
    pub(crate) fn site(&self) -> portkeep::load::Site {
        let mut site = portkeep::load::Site::default();
        site.pin_dir.clone_from(&self.pin_dir);
        site
    }
}
