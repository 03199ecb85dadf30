//! Job control: `run` on a terminal, below a shell that has a user.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, kill_process};

use crate::line::{Other, PATIENCE};
use crate::process::Process;
use crate::support::installed;
use crate::{assert_taken, port_of_its_own};

/// Counts its signals, and says how many of which there were when it gets a line.
const COUNTER: &str = r#"
import os, signal, sys
counts = {}
def say(*words):
    os.write(1, ("<" + " ".join(map(str, words)) + ">\n").encode())
def count(number, _):
    name = signal.Signals(number).name
    counts[name] = counts.get(name, 0) + 1
    say(name, counts[name])
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, count)
say("pids", os.getpid(), os.getppid())
for line in iter(sys.stdin.readline, ""):
    if line == "end\n":
        sys.exit(0)
    say("counts", *(f"{name}={counts[name]}" for name in sorted(counts)))
"#;

/// A terminal with an interactive shell on it.
struct Terminal {
    keyboard: File,
    shell: Process,
    folder: tempfile::TempDir,
    /// What was printed and not yet asked for.
    screen: String,
}

impl Terminal {
    fn open() -> Option<Self> {
        if !installed("bash", "bash")
            || !installed("setsid", "util-linux")
            || !installed("python3", "python3")
        {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("counter.py"), COUNTER).unwrap();
        // Closed on exec, unlike that of openpty(3): or else any process of another test keeps it.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ptsname_r(&master).unwrap();
        let mut command = Command::new("setsid");
        command.args(["-w", "-c", "bash", "--norc", "--noprofile", "-i"]).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("PS1", "<prompt>");
        command.env("PORTKEEP_ENGINE", "userspace").env("TERM", "dumb");
        command.current_dir(folder.path());
        let slave = || {
            let flags = OFlag::O_NOCTTY.bits();
            File::options().read(true).write(true).custom_flags(flags).open(&slave).unwrap()
        };
        command.stdin(slave()).stdout(slave()).stderr(slave());
        let shell = Process::start(&mut command);
        let keyboard = File::from(OwnedFd::from(master));
        let mut terminal = Self { keyboard, shell, folder, screen: String::new() };
        terminal.until("<prompt>");
        Some(terminal)
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for this text and takes it off the screen, with all before it, which is returned.
    #[track_caller]
    fn until(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.screen.find(text) {
                let rest = self.screen.split_off(at + text.len());
                let mut before = std::mem::replace(&mut self.screen, rest);
                before.truncate(at);
                return before;
            }
            let left = end.saturating_duration_since(Instant::now());
            let limit = Timespec::try_from(left).unwrap();
            let ready = poll(&mut [PollFd::new(&self.keyboard, PollFlags::IN)], Some(&limit));
            assert_eq!(ready, Ok(1), "'{text}' does not come: {}", self.screen);
            let mut bytes = [0; 4096];
            let size = self.keyboard.read(&mut bytes).unwrap_or(0);
            assert!(size > 0, "the terminal is closed before '{text}': {}", self.screen);
            self.screen.push_str(&String::from_utf8_lossy(&bytes[..size]));
        }
    }

    /// What a line of the counter says after its name.
    #[track_caller]
    fn report(&mut self, name: &str) -> String {
        self.until(&format!("<{name}"));
        self.until(">").trim().to_owned()
    }

    /// Types a `run` of the counter, and tells the counter and the `run`.
    #[track_caller]
    fn run_counter(&mut self, options: &str, rest: &str) -> (Other, Other) {
        let portkeep = Path::new(env!("CARGO_BIN_EXE_portkeep")).display();
        self.press(&format!("'{portkeep}' run {options} -- python3 counter.py{rest}\n"));
        let pids = self.report("pids");
        let (counter, run) = pids.split_once(' ').unwrap();
        (Other::new(counter), Other::new(run))
    }

    /// How the job before this ended, as the shell has it.
    #[track_caller]
    fn status(&mut self) -> String {
        // What is typed is on the screen too, and must not look like the answer.
        self.press("echo '<'\"status $?>\"\n");
        self.report("status")
    }

    #[track_caller]
    fn close(mut self) {
        self.press("exit 0\n");
        self.shell.wait();
        self.folder.close().unwrap();
    }
}

/// The fields of its `/proc/<pid>/stat` from the state on.
fn stat(process: &Other) -> Vec<String> {
    let path = format!("/proc/{}/stat", process.pid.as_raw_nonzero());
    let stat = std::fs::read_to_string(path).expect("it is there");
    stat.rsplit_once(") ").expect("a name").1.split(' ').map(str::to_owned).collect()
}

#[track_caller]
fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
fn assert_stopped(processes: [&Other; 2]) {
    until("both are stopped", || processes.iter().all(|process| stat(process)[0] == "T"));
}

/// Both go on, in the process group that has the terminal.
#[track_caller]
fn assert_in_front(processes: [&Other; 2]) {
    until("both are in the foreground", || {
        processes.iter().all(|process| {
            let stat = stat(process);
            stat[0] != "T" && stat[2] == stat[5]
        })
    });
}

#[test]
fn what_the_keyboard_sends_reaches_the_command_once() {
    for detach in ["", "--detach"] {
        let Some(mut terminal) = Terminal::open() else { return };
        let (counter, run) = terminal.run_counter(detach, "");
        // More than once: two signals close to each other may look like one to the counter.
        for _ in 0..5 {
            for (key, signal) in [("\x03", "SIGINT"), ("\x1c", "SIGQUIT")] {
                terminal.press(key);
                terminal.report(signal);
                // It passes on what it got in turn: had it passed that on, it would have by then.
                kill_process(run.pid, Signal::USR1).unwrap();
                terminal.report("SIGUSR1");
            }
        }
        terminal.press("how many?\n");
        assert_eq!(terminal.report("counts"), "SIGINT=5 SIGQUIT=5 SIGUSR1=10");
        terminal.press("end\n");
        counter.wait();
        run.wait();
        terminal.until("<prompt>");
        terminal.close();
    }
}

#[test]
fn the_stop_key_stops_both_and_the_shell_can_go_on_with_them() {
    let Some(mut terminal) = Terminal::open() else { return };
    let port = port_of_its_own();
    let (counter, run) = terminal.run_counter(&format!("--tcp {port}"), "");
    for _ in 0..3 {
        terminal.press("\x1a");
        terminal.until("Stopped");
        terminal.until("<prompt>");
        assert_stopped([&counter, &run]);
        assert_taken(port);
        terminal.press("fg\n");
        assert_in_front([&counter, &run]);
        terminal.press("how many?\n");
        assert_eq!(terminal.report("counts"), "");
    }
    terminal.press("\x1a");
    terminal.until("<prompt>");
    // In the background it runs until it reads. Only the shell can tell this stop from the last one.
    terminal.press("bg\n");
    until("it is stopped for reading", || {
        // At a prompt: what is typed before may be lost while the shell sets up its terminal.
        terminal.until("<prompt>");
        terminal.press("jobs -l; echo '<'\"jobs>\"\n");
        terminal.until("<jobs>").contains("tty input")
    });
    terminal.until("<prompt>");
    assert_stopped([&counter, &run]);
    terminal.press("fg\n");
    assert_in_front([&counter, &run]);
    terminal.press("end\n");
    counter.wait();
    run.wait();
    terminal.until("<prompt>");
    assert_eq!(terminal.status(), "0");
    terminal.close();
}

#[test]
fn a_read_in_the_background_stops_it_as_any_job_of_the_shell() {
    let Some(mut terminal) = Terminal::open() else { return };
    let (counter, run) = terminal.run_counter("", " &");
    assert_stopped([&counter, &run]);
    terminal.press("\n");
    terminal.until("<prompt>");
    terminal.press("fg\n");
    assert_in_front([&counter, &run]);
    terminal.press("how many?\n");
    assert_eq!(terminal.report("counts"), "");
    terminal.press("end\n");
    counter.wait();
    run.wait();
    terminal.until("<prompt>");
    terminal.close();
}

#[test]
fn ctrl_c_ends_a_daemon_that_we_only_wait_for() {
    let Some(mut terminal) = Terminal::open() else { return };
    // The shell of the command ends; what it has started is out of the terminal's reach.
    let portkeep = Path::new(env!("CARGO_BIN_EXE_portkeep")).display();
    let daemon = "trap 'exit 0' INT; echo \"<left $$>\"; \
                  for round in $(seq 1000); do sleep 0.05; done";
    std::fs::write(terminal.folder.path().join("daemon"), daemon).unwrap();
    std::fs::write(terminal.folder.path().join("launcher"), "setsid -f sh daemon; exit 6").unwrap();
    terminal.press(&format!("'{portkeep}' run -- sh launcher\n"));
    let daemon = Other::new(&terminal.report("left"));
    // It is ours to wait for once its parent is gone.
    until("it is a child of portkeep", || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", stat(&daemon)[1]));
        name.is_ok_and(|name| name.trim() == "portkeep")
    });
    // While the command is there, the terminal's signals are its alone.
    let run = Other::new(&stat(&daemon)[1]);
    crate::storm::only_child(run.pid);
    terminal.press("\x03");
    daemon.wait();
    terminal.until("<prompt>");
    assert_eq!(terminal.status(), "6");
    terminal.close();
}

#[test]
fn a_terminal_that_hangs_up_leaves_the_keeper_of_a_daemon_alone() {
    let Some(mut terminal) = Terminal::open() else { return };
    let port = port_of_its_own();
    let portkeep = Path::new(env!("CARGO_BIN_EXE_portkeep")).display();
    let launcher = "mkfifo ready; setsid sh -c 'echo \"<left $$>\"; echo >ready; exec sleep 60' & \
                    read line <ready";
    std::fs::write(terminal.folder.path().join("launcher"), launcher).unwrap();
    terminal.press(&format!("'{portkeep}' run --tcp {port} --detach -- sh launcher\n"));
    let daemon = Other::new(&terminal.report("left"));
    // Back at the shell: the caller has returned.
    terminal.until("<prompt>");
    terminal.press("exit 0\n");
    terminal.shell.wait();
    drop(terminal.keyboard);
    assert_taken(port);
    assert!(!daemon.has_ended());
    kill_process(daemon.pid, Signal::KILL).unwrap();
    daemon.wait();
    until("the keeper ends", || crate::stranger(port).is_ok());
}
