//! `portkeep load`: put the kernel engine into force.

use std::io::Write;
use std::process::ExitCode;

use portkeep::load::{Config, Load, Outcome};

use crate::exit::{Exit, Failure};
use crate::site::Site;

/// Load the kernel engine, so that the kernel itself keeps strangers out of reserved ports
///
/// From then on every process may use it, without privilege, and nothing runs in the background.
/// It lasts until 'portkeep unload' or the next boot. Loading again is harmless: it reads
/// portkeep.toml anew and leaves every reservation alone. Needs root and Linux 6.8.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    site: Site,

    /// The control group whose sockets are watched; the root of the hierarchy when left out
    ///
    /// Sockets created elsewhere are not kept out: for tests, and for protecting a part of a machine.
    #[arg(long, value_name = "DIR", env = "PORTKEEP_CGROUP")]
    cgroup: Option<std::path::PathBuf>,

    /// The folder of portkeep.toml
    #[arg(long, value_name = "DIR", env = "PORTKEEP_CONFIG_DIR", default_value = "/etc/portkeep")]
    config_dir: std::path::PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  portkeep load
  portkeep load && portkeep status

portkeep.toml may say: pool = \"61000-65535\"";

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut site = args.site.site();
    site.cgroup.clone_from(&args.cgroup);
    let config = Config::read(&args.config_dir)?;
    let options = Load { site, config, ..Load::default() };
    let text = match portkeep::load::load(&options)? {
        Outcome::Done => "the kernel engine is loaded",
        Outcome::Already => "the kernel engine was loaded already; its configuration is in force",
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(Exit::Success.into())
}
