//! One test: its claim, the engine it runs on, and the proof that nothing is left.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use portkeep::load::Load;

use crate::maps::Maps;
use crate::sandbox::Inside;

/// A claim, and the function that tries to refute it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Host),
    /// Whether the engine is loaded when it begins.
    pub(crate) loaded: bool,
}

/// The table of a module's tests.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES: &[crate::host::Case] =
            &[$(crate::host::Case { name: stringify!($name), run: $name, loaded: true }),*];
    };
}
pub(crate) use cases;

/// The same, for tests that load the engine themselves.
macro_rules! cases_without_engine {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES_WITHOUT_ENGINE: &[crate::host::Case] =
            &[$(crate::host::Case { name: stringify!($name), run: $name, loaded: false }),*];
    };
}
pub(crate) use cases_without_engine;

/// Where one test runs.
pub(crate) struct Host {
    pub(crate) inside: Inside,
}

impl Host {
    pub(crate) fn enter(case: &Case) -> Self {
        let host = Self { inside: Inside::enter() };
        if case.loaded {
            host.inside.load();
        }
        host
    }

    /// Runs the test; the engine it leaves behind, if any, must be as it was when it was loaded.
    pub(crate) fn run(&self, case: &Case) {
        (case.run)(self);
        if self.inside.pins().exists() {
            self.maps().assert_nothing_is_left();
        }
    }

    /// Loads the engine with other options than usual.
    pub(crate) fn load_with(&self, change: impl FnOnce(&mut Load)) {
        let mut options = self.inside.options();
        change(&mut options);
        portkeep::load::load(&options).expect("the engine loads");
    }

    /// The state of the engine.
    pub(crate) fn maps(&self) -> Maps {
        Maps::open(self.inside.pins())
    }

    /// Writes a setting of this network namespace under `/proc/sys/net`.
    pub(crate) fn set(&self, name: &str, value: &str) {
        fs::write(format!("/proc/sys/net/{name}"), value).expect(name);
    }
}

impl Host {
    /// The real command, told where the engine of this test is.
    pub(crate) fn portkeep(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
        command
            .args(arguments)
            .env_remove("PORTKEEP_ENGINE")
            .env("PORTKEEP_CGROUP", self.inside.group())
            .env("PORTKEEP_PIN_DIR", self.inside.pins())
            .env("PORTKEEP_CONFIG_DIR", "/nonexistent")
            .stdin(Stdio::null());
        command
    }

    /// A group below that of the test, removed at its end by whoever made the test.
    pub(crate) fn group_below(&self, name: &str) -> PathBuf {
        let group = self.inside.group().join(name);
        fs::create_dir(&group).expect("the group above is ours");
        group
    }
}

/// Moves this process; the sockets it has stay where they were made.
pub(crate) fn move_to(group: &Path) {
    fs::write(group.join("cgroup.procs"), "0").expect("the group is ours");
}

/// Another process: a Python that does what it is told, `programs/life.py`.
pub(crate) struct Other {
    child: Child,
    told: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn start() -> Self {
        Self::of_user(0)
    }

    pub(crate) fn of_user(uid: u32) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("programs/life.py")])
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let told = child.stdin.take().expect("a pipe");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, told, said }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What a line of Python amounts to, or the errno it failed with.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> Result<String, i32> {
        self.tell(line);
        self.answer()
    }

    /// The same for what must work.
    #[track_caller]
    pub(crate) fn must(&mut self, line: &str) -> String {
        self.ask(line).unwrap_or_else(|errno| panic!("{line}: errno {errno}"))
    }

    /// Sends a line, and goes on while it is obeyed.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.told, "{line}").expect("it reads");
    }

    #[track_caller]
    pub(crate) fn answer(&mut self) -> Result<String, i32> {
        let mut answer = String::new();
        self.said.read_line(&mut answer).expect("it answers");
        match answer.trim_end_matches('\n').split_once(' ') {
            Some(("ok", value)) => Ok(value.to_owned()),
            Some(("errno", number)) => Err(number.parse().expect("a number")),
            _ => panic!("no answer: '{answer}'"),
        }
    }

    /// SIGKILL, and back when the process is no more.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of a C source, in `folder`; leave the test out where gcc is not installed.
pub(crate) fn compile(source: &str, folder: &Path) -> PathBuf {
    let (text, program) = (folder.join("program.c"), folder.join("program"));
    fs::write(&text, source).expect("the folder is ours");
    let status = Command::new("gcc").arg("-Wall").arg(&text).arg("-o").arg(&program).status();
    assert!(status.expect("gcc starts").success());
    program
}
