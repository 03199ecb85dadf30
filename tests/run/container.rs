//! `run` as process 1, as the entry point of a container is.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::line::{Other, Run};
use crate::portkeep;
use crate::process::Process;
use crate::support::{installed, left_out};

/// The command, with `portkeep` as process 1 of a namespace of its own.
fn contained(inside: &Command) -> Option<Command> {
    if !installed("unshare", "util-linux") || !installed("python3", "python3") {
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]);
    let possible =
        Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output();
    if !possible.expect("unshare starts").status.success() {
        left_out("a process namespace of its own needs root");
        return None;
    }
    command.arg(inside.get_program()).args(inside.get_args()).env_clear();
    command.envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(command)
}

/// Process 1 as it is seen from here: the only child of `unshare`.
fn first_process(unshare: &Process) -> Other {
    let children = format!("/proc/{0}/task/{0}/children", unshare.id());
    let children = std::fs::read_to_string(children).expect("unshare is there");
    Other::new(children.trim())
}

#[test]
fn process_1_reaps_what_others_leave_behind() {
    let Some(mut command) = contained(&Run::command(&["--tcp"], &["server"])) else { return };
    let mut run = Run::start_with(&mut command);
    let line = run.line.hear().unwrap();
    assert!(line.starts_with("ready ") && line.ends_with(" 1"), "{line}");
    let port = run.line.ask("port");
    assert_eq!(run.line.ask(format_args!("orphans 20 {port}")), "started");
    let first = first_process(&run.process);
    crate::storm::only_child(first.pid);
    run.line.say("end 6");
    assert_eq!(run.process.wait().code(), Some(6));
}

#[test]
fn process_1_passes_signals_on_although_the_kernel_ignores_them_for_it() {
    for (signal, answer) in [(Signal::USR1, "got SIGUSR1"), (Signal::TERM, "got SIGTERM")] {
        let Some(mut command) = contained(&Run::command(&[], &["server"])) else { return };
        let mut run = Run::start_with(&mut command);
        run.line.hear().unwrap();
        let first = first_process(&run.process);
        kill_process(first.pid, signal).unwrap();
        assert_eq!(run.line.hear().as_deref(), Some(answer));
        if signal == Signal::USR1 {
            run.line.say("end 0");
        }
        assert_eq!(run.process.wait().code(), Some(0));
    }
}

#[test]
fn process_1_says_in_its_status_what_its_command_died_of() {
    for signal in [Signal::TERM, Signal::KILL, Signal::SEGV] {
        let script = format!("kill -{} $$", signal.as_raw());
        let inside = portkeep(&["run", "--", "sh", "-c", &script]);
        let Some(mut command) = contained(&inside) else { return };
        let status = Process::start(&mut command).wait();
        assert_eq!(status.code(), Some(128 + signal.as_raw()), "{status}");
    }
}

#[test]
fn process_1_stays_for_a_daemon_even_with_detach() {
    let Some(mut command) = contained(&Run::command(&["--detach"], &["daemon", "3"])) else {
        return;
    };
    let mut run = Run::start_with(&mut command);
    let line = run.line.hear().unwrap();
    assert!(line.starts_with("alone ") && line.ends_with(" 1"), "{line}");
    let first = first_process(&run.process);
    let parent = Pid::from_raw(run.process.id().cast_signed());
    assert!(!first.has_ended() && parent.is_some());
    run.line.say("end 0");
    assert_eq!(run.process.wait().code(), Some(3));
}
