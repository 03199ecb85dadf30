//! Sibling control groups: one with the engine, one with an empty pair of programs, one with nothing.
//!
//! The kernel runs the programs of the group a socket was made in, wherever its process is later. So
//! one process can have sockets of all three and use them in turns.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::Ebpf;
use aya::programs::{CgroupAttachMode, Program};
use portkeep::PortRange;
use portkeep::load::{Config, Load, Site};

use crate::sandbox::Inside;

/// What governs a socket that is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Bare,
    /// The same as `Bare`, to tell how much is noise.
    Control,
    Empty,
    Engine,
}

impl Place {
    const ALL: [Self; 4] = [Self::Bare, Self::Control, Self::Empty, Self::Engine];

    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Control => "control",
            Self::Empty => "empty",
            Self::Engine => "engine",
        }
    }
}

pub(crate) struct Places {
    inside: Inside,
    /// Attached as long as it lives.
    empty: Option<Ebpf>,
}

impl Places {
    /// The groups, in a sandbox, with nothing loaded.
    pub(crate) fn enter() -> Self {
        let inside = Inside::enter();
        for place in Place::ALL {
            fs::create_dir(inside.group().join(place.name())).expect("the group is ours");
        }
        let empty = attach_empty(&inside.group().join(Place::Empty.name()));
        Self { inside, empty }
    }

    pub(crate) fn has_empty(&self) -> bool {
        self.empty.is_some()
    }

    /// Moves this process; sockets it makes from then on belong here.
    pub(crate) fn go(&self, place: Place) {
        let group = self.inside.group().join(place.name());
        fs::write(group.join("cgroup.procs"), "0").expect("the group is ours");
    }

    pub(crate) fn site(&self) -> Site {
        Site {
            cgroup: Some(self.inside.group().join(Place::Engine.name())),
            pin_dir: Some(self.inside.pins().to_owned()),
        }
    }

    /// Loads the engine, or gives the one that is loaded another pool.
    pub(crate) fn load(&self, pool: PortRange) {
        let mut config = Config::default();
        config.pool = pool;
        portkeep::load::load(&Load { site: self.site(), config, assume_exclusive: true })
            .expect("the engine loads");
    }

    pub(crate) fn unload(&self) {
        portkeep::load::unload(&self.site(), false).expect("the engine unloads");
    }

    pub(crate) fn pins(&self) -> &Path {
        self.inside.pins()
    }
}

/// Compiles and attaches the empty programs; `None` when they cannot be compiled here.
fn attach_empty(group: &Path) -> Option<Ebpf> {
    let object = compile_empty()?;
    let mut programs = Ebpf::load_file(object).expect("the empty programs load");
    let group = File::open(group).expect("the group is ours");
    for name in ["empty_set", "empty_get"] {
        let program: &mut Program = programs.program_mut(name).expect("a program of the object");
        let program: &mut aya::programs::CgroupSockopt =
            program.try_into().expect("a program for socket options");
        program.load().expect("the verifier takes an empty program");
        program.attach(&group, CgroupAttachMode::Single).expect("the group takes a program");
    }
    Some(programs)
}

fn compile_empty() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/empty.bpf.c");
    let object = std::env::temp_dir().join("empty.bpf.o");
    let mut clang = Command::new("clang-19");
    clang.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-idirafter"]);
    // The kernel's own headers for this processor, where Debian puts them.
    clang.arg(format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH));
    clang.arg("-c").arg(source).arg("-o").arg(&object);
    match clang.status() {
        Ok(status) if status.success() => Some(object),
        _ => {
            println!("without clang-19 and libbpf-dev, nothing is compared with empty programs");
            None
        }
    }
}
