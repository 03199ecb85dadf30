//! A reservation ends with the last descriptor of its anchor, whatever becomes of the processes.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use portkeep::Protocol::Tcp;
use socket2::Socket;

use crate::client::{acquire, associate, block, errno, instances, open, release, stranger};
use crate::host::{Host, Other, cases, move_to};
use crate::support::{installed, rounds};

cases![
    an_exit_ends_the_reservation_before_the_parent_hears_of_it,
    a_kill_ends_the_reservation_before_waitpid_returns,
    an_exec_ends_a_closed_on_exec_anchor_and_keeps_another,
    a_forked_child_that_holds_the_anchor_keeps_the_block,
    the_last_duplicate_ends_the_reservation,
    an_anchor_in_flight_outlives_its_sender_and_waits_for_whoever_adopts_it,
    a18_an_anchor_registered_with_io_uring_ends_soon_after_its_process,
    a18_an_anchor_in_a_cycle_of_unix_sockets_ends_with_the_next_collection,
    an_anchor_is_closed_from_outside_its_network_namespace,
    an_anchor_outlives_the_control_group_it_was_made_in,
    a_release_through_another_socket_leaves_nothing_for_the_close,
    a_close_beside_an_acquire_on_a_duplicate_leaves_nothing,
];

/// The block of all these tests.
const START: u16 = 20000;

/// What is late but bounded takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

fn taken() -> bool {
    stranger(Tcp, (Ipv6Addr::UNSPECIFIED, START)).is_err()
}

/// For ends that the kernel puts off: the time they took.
#[track_caller]
fn free_within_patience(mut nudge: impl FnMut()) {
    let end = Instant::now() + PATIENCE;
    while taken() {
        assert!(Instant::now() < end, "still reserved after {PATIENCE:?}");
        nudge();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Another process with the block on its anchor `a`.
fn holder() -> Other {
    let mut holder = Other::start();
    holder.must(&format!("a = block({START}, 4)"));
    assert!(taken());
    holder
}

fn an_exit_ends_the_reservation_before_the_parent_hears_of_it(_: &Host) {
    let mut holder = holder();
    holder.tell("os._exit(0)");
    let pid = Pid::from_raw(holder.id().try_into().expect("a pid"));
    waitpid(pid, None).expect("our child");
    assert!(!taken());
}

fn a_kill_ends_the_reservation_before_waitpid_returns(_: &Host) {
    for round in 0..rounds(10, 200) {
        holder().kill();
        assert!(!taken(), "round {round}");
    }
}

fn an_exec_ends_a_closed_on_exec_anchor_and_keeps_another(_: &Host) {
    for keep in [false, true] {
        let mut holder = holder();
        holder.must(&format!("os.set_inheritable(a.fileno(), {})", if keep { "1" } else { "0" }));
        holder.tell("os.execvp('sh', ['sh', '-c', 'echo ok now; exec cat'])");
        assert_eq!(holder.answer(), Ok("now".to_owned()), "the new program runs");
        assert_eq!(taken(), keep);
        holder.kill();
        assert!(!taken());
    }
}

fn a_forked_child_that_holds_the_anchor_keeps_the_block(_: &Host) {
    // Orphans become our children, so that we can wait for their end.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let mut parent = holder();
    let child = Pid::from_raw(parent.must("forked()").parse().expect("a pid"));
    parent.must("a.close()");
    assert!(taken(), "the child has it");
    parent.kill();
    assert!(taken(), "and still does when its parent is gone");
    kill(child, Signal::SIGKILL).unwrap();
    waitpid(child, None).unwrap();
    assert!(!taken());
}

fn the_last_duplicate_ends_the_reservation(_: &Host) {
    let (anchor, mine) = block(Tcp, START, 4);
    let duplicate = anchor.try_clone().unwrap();
    drop(anchor);
    assert!(taken());
    assert_eq!(instances(&duplicate).unwrap(), [mine]);
    drop(duplicate);
    assert!(!taken());
}

fn an_anchor_in_flight_outlives_its_sender_and_waits_for_whoever_adopts_it(host: &Host) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (mut sender, mut receiver) = (holder(), Other::start());
    receiver.must(&format!(
        "l = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); l.bind('{}')",
        path.display()
    ));
    sender.must("u = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)");
    sender.must(&format!("u.connect('{}')", path.display()));
    sender.must("socket.send_fds(u, [b'x'], [a.fileno()])");
    let token = sender.must("token(a)");
    assert_eq!(sender.ask("consume(a).close()"), Ok("None".to_owned()), "the owner may");
    sender.kill();
    assert!(taken(), "in flight, it has an owner and no process");
    receiver.must("a = socket.socket(fileno=socket.recv_fds(l, 1, 1)[1][0])");
    assert_eq!(receiver.must("token(a)"), token);

    // An orphan: nobody's to use, and nobody's to release.
    let number = token.parse().unwrap();
    for _ in 0..2 {
        assert_eq!(receiver.ask("consume(a)"), Err(libc::EACCES));
        assert_eq!(receiver.ask("by_token(a, RELEASE, token(a))"), Err(libc::EINVAL));
        assert_eq!(errno(associate(&open(Tcp), number)), libc::EACCES);
    }
    // Who does not hold the anchor cannot adopt.
    let own = open(Tcp);
    assert_eq!(errno(crate::client::by_token(&own, crate::client::ADOPT, number)), libc::EINVAL);
    receiver.must("by_token(a, ADOPT, token(a))");
    receiver.must("c = consume(a)");
    assert_eq!(errno(associate(&own, number)), libc::EACCES, "the adopter's alone");
    receiver.must("by_token(a, RELEASE, token(a))");
    receiver.must("c.close()");
    assert!(!taken());
    host.maps().assert_nothing_is_left();
}

fn a18_an_anchor_registered_with_io_uring_ends_soon_after_its_process(_: &Host) {
    if !installed("gcc", "gcc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = crate::host::compile(include_str!("programs/life_uring.c"), folder.path());
    let mut holder = std::process::Command::new(program)
        .arg(START.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // One byte when its descriptor is closed and only the ring has the anchor.
    let said = holder.stdout.as_mut().expect("a pipe");
    let ready = std::io::Read::read(said, &mut [0]).is_ok_and(|size| size == 1);
    let held = taken();
    holder.kill().unwrap();
    holder.wait().unwrap();
    if !ready {
        crate::support::left_out("io_uring is not allowed here");
        return;
    }
    assert!(held);
    free_within_patience(|| ());
}

fn a18_an_anchor_in_a_cycle_of_unix_sockets_ends_with_the_next_collection(_: &Host) {
    let mut holder = holder();
    // Each end is in the other's queue, and the anchor with it; no process has any of them.
    holder.must("x, y = socket.socketpair()");
    holder.must("socket.send_fds(x, [b'x'], [x.fileno(), a.fileno()])");
    holder.must("socket.send_fds(y, [b'x'], [y.fileno()])");
    holder.must("a.close()");
    assert!(taken());
    holder.must("x.close(); y.close()");
    // A close of a unix socket is what starts the collection.
    free_within_patience(|| {
        drop(std::os::unix::net::UnixStream::pair().unwrap());
    });
}

fn an_anchor_is_closed_from_outside_its_network_namespace(host: &Host) {
    let mut holder = Other::start();
    holder.must("home = os.open('/proc/self/ns/net', os.O_RDONLY)");
    for way in ["a.close()", "by_token(a, RELEASE, token(a)); a.close()"] {
        holder.must("unshare(NEWNET)");
        holder.must(&format!("a = block({START}, 4)"));
        holder.must("setns(home)");
        assert!(!taken(), "another port space");
        // Nothing but the anchor keeps its namespace now.
        assert_eq!(host.maps().reservations(), 1);
        holder.must(way);
        assert_eq!(host.maps().reservations(), 0);
    }
    holder.must("unshare(NEWNET)");
    holder.must(&format!("a = block({START}, 4)"));
    holder.kill();
    host.maps().assert_nothing_is_left();
}

fn an_anchor_outlives_the_control_group_it_was_made_in(host: &Host) {
    let below = host.group_below("below");
    move_to(&below);
    let (anchor, _) = block(Tcp, START, 4);
    move_to(host.inside.group());
    std::fs::remove_dir(&below).unwrap();
    assert!(taken());
    // The group is gone, the hooks of its time stay with the socket.
    acquire(&anchor, START + 4, 4).unwrap();
    drop(anchor);
    assert!(!taken());
    host.maps().assert_nothing_is_left();
}

fn a_release_through_another_socket_leaves_nothing_for_the_close(host: &Host) {
    let (anchor, first) = block(Tcp, START, 4);
    acquire(&anchor, START + 4, 4).unwrap();
    let second = instances(&anchor).unwrap()[0];
    release(&open(Tcp), first.token).unwrap();
    assert!(!taken());
    assert_eq!(instances(&anchor).unwrap(), [second]);
    release(&open(Tcp), second.token).unwrap();
    assert_eq!(errno(instances(&anchor)), libc::ENOENT);
    // Somebody else has the numbers when the anchor goes; it takes nothing along.
    let (_other, again) = block(Tcp, START, 8);
    drop(anchor);
    assert!(taken());
    assert_eq!(again.count, 8);
    assert_eq!(host.maps().reservations(), 1);
}

fn a_close_beside_an_acquire_on_a_duplicate_leaves_nothing(host: &Host) {
    for _ in 0..rounds(300, 20_000) {
        let anchor = open(Tcp);
        let duplicate: Socket = anchor.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..4 {
                    acquire(&duplicate, 0, 3).expect("the pool has room");
                }
            });
            drop(anchor);
        });
    }
    host.maps().assert_nothing_is_left();
}
