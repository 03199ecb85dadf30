//! Real servers, started under `portkeep run` or on a number that was picked and let go.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use portkeep::{PortRange, Protocol};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::helper::Channel;
use crate::process::Process;
use crate::sockets::{LOOPBACK, bind, open, port};

/// Says its port and its process id, writes the port where nginx looks for it, and becomes the
/// server.
const BEGIN: &str = r#"echo "$1 $$"; echo "listen 127.0.0.1:$1;" >listen.conf; shift; exec "$@""#;

const NGINX: &str = "
daemon off;
master_process on;
worker_processes 2;
user root;
pid nginx.pid;
error_log stderr notice;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server { include listen.conf; root .; }
}
";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Python,
    Redis,
    Nginx,
}

impl Kind {
    /// The program and its Debian package.
    pub(crate) fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Python => ("python3", "python3"),
            Self::Redis => ("redis-server", "redis-server"),
            Self::Nginx => ("nginx", "nginx"),
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Python => {
                &["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", ".", "{tcp}"]
            }
            Self::Redis => &[
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                ".",
                "--hz",
                "100",
                "--port",
                "{tcp}",
            ],
            Self::Nginx => &["-e", "stderr", "-p", ".", "-c", "nginx.conf"],
        }
    }

    /// What it says when it listens.
    fn ready(self) -> &'static str {
        match self {
            Self::Python => "Serving HTTP",
            Self::Redis => "Ready to accept connections",
            Self::Nginx => "start worker process",
        }
    }
}

/// How a start went.
#[derive(Debug)]
pub(crate) enum Start {
    Good(Server),
    /// Somebody else was there; what the server said.
    Stolen(String),
}

/// A running server, ended on drop.
#[derive(Debug)]
pub(crate) struct Server {
    kind: Kind,
    port: u16,
    launcher: Process,
    /// The server itself, for the case that its launcher does not take it along.
    itself: Option<OwnedFd>,
    output: Channel,
}

/// A folder to start servers of one kind in.
#[derive(Debug)]
pub(crate) struct Place {
    kind: Kind,
    folder: TempDir,
}

impl Place {
    pub(crate) fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a writable temporary folder");
        std::fs::write(folder.path().join("nginx.conf"), NGINX).expect("it is writable");
        let marker = folder.path().to_string_lossy().into_owned();
        std::fs::write(folder.path().join("marker"), marker).expect("it is writable");
        Self { kind, folder }
    }

    /// Starts the server on one port of `pool`, reserved for it.
    pub(crate) fn start_reserved(&self, pool: PortRange) -> Start {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portkeep"));
        command.args(["run", "--tcp", "+1", "--pool", &pool.to_string(), "--"]);
        command.args(["sh", "-c", BEGIN, "sh", "{tcp}", self.kind.program().0]);
        self.start(command.args(self.kind.arguments()))
    }

    /// Starts the server the common way: bind to port 0, close, hope.
    pub(crate) fn start_picked(&self) -> Start {
        let picked = bind(Protocol::Tcp, (LOOPBACK, 0)).map(|socket| port(&socket));
        let picked = picked.expect("the flood leaves some ports").to_string();
        let mut command = Command::new("sh");
        command.args(["-c", BEGIN, "sh", &picked, self.kind.program().0]);
        let arguments = self.kind.arguments().iter();
        self.start(command.args(arguments.map(|argument| argument.replace("{tcp}", &picked))))
    }

    fn start(&self, command: &mut Command) -> Start {
        let (output, theirs) = Channel::pair();
        let errors = theirs.try_clone().expect("a free descriptor");
        command.current_dir(&self.folder).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(theirs).stderr(errors);
        let launcher = Process::start(command);
        // The command keeps its copies of the other end, with which we would never hear its end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server { kind: self.kind, port: 0, launcher, itself: None, output };
        server.begin()
    }

    /// Asks the server for what only ours can know.
    pub(crate) fn answers(&self, server: &Server) -> bool {
        let question = match self.kind {
            Kind::Redis => "PING\r\nCONFIG GET dir\r\n",
            Kind::Python | Kind::Nginx => "GET /marker HTTP/1.0\r\n\r\n",
        };
        let marker = self.folder.path().to_string_lossy();
        let mut stream = connect(server.port);
        stream.write_all(question.as_bytes()).expect("a server that listens takes a question");
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let read = stream.read(&mut buffer).expect("an answer in time");
            answer.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&answer);
            let pong = self.kind != Kind::Redis || text.starts_with("+PONG");
            if text.contains(&*marker) {
                return pong;
            }
            if read == 0 {
                return false;
            }
        }
    }
}

impl Server {
    fn begin(mut self) -> Start {
        let first = self.output.hear().unwrap_or_default();
        let numbers: Option<(u16, i32)> = first
            .split_once(' ')
            .and_then(|(port, process)| Some((port.parse().ok()?, process.parse().ok()?)));
        let Some((port, process)) = numbers else { panic!("not started: {first}") };
        self.port = port;
        // When it is gone already, the next line says why.
        self.itself = Pid::from_raw(process)
            .and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok());
        let mut said = String::new();
        loop {
            let Some(line) = self.output.hear() else { panic!("not started: {said}") };
            if line.contains("Address already in use") {
                return Start::Stolen(line);
            }
            if line.contains(self.kind.ready()) {
                return Start::Good(self);
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    /// Strangers with a socket on the port of the server, at any address.
    pub(crate) fn company(&self) -> Vec<String> {
        let port = PortRange::new(self.port, 1).expect("a port");
        let there = portkeep::occupants(Protocol::Tcp, port).expect("the kernel tells");
        let ours = |name: &str| name == "portkeep" || name == self.kind.program().0;
        // A socket without a process was closed while we looked.
        let named = there.iter().filter(|occupant| occupant.command.is_some());
        let names = named.filter(|occupant| !occupant.command.as_deref().is_some_and(ours));
        names.map(ToString::to_string).collect()
    }

    /// Ends it as an administrator would, and waits until it is gone.
    pub(crate) fn end(mut self) {
        self.launcher.signal(Signal::TERM);
        let status = self.launcher.wait();
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert!(status.success() || by_signal == Some(15), "{:?}: {status}", self.kind);
        while self.output.hear().is_some() {}
        self.itself = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(server) = &self.itself {
            // The launcher goes with its own guard.
            let _ = pidfd_send_signal(server, Signal::TERM);
        }
    }
}

/// Connects without taking a port of the ephemeral range, and without leaving anything of the
/// connection behind on either side.
fn connect(port: u16) -> TcpStream {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let to = SocketAddr::from((LOOPBACK, port));
    let socket = open(Protocol::Tcp, &to);
    socket.set_reuse_address(true).expect("a new socket");
    socket.set_linger(Some(Duration::ZERO)).expect("a new socket");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a new socket");
    loop {
        let from = 10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 9_000;
        match socket.bind(&SocketAddr::from((LOOPBACK, from)).into()) {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}"),
        }
    }
    socket.connect(&to.into()).expect("a server that says so listens");
    socket.into()
}
