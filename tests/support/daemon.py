"""A process that does what it is told, in lines over the socket that is its standard input.

`daemon STATUS` becomes a daemon first, as they all do it: two forks, a session of its own, and no
use for the streams it was started with. Its launcher ends with that status, or by that signal when it
is negative. `server` obeys at once. When the line is dead, so is the process.
"""

import errno
import os
import signal
import socket
import sys
import time

line = socket.socket(fileno=0)


def say(*words):
    line.sendall((" ".join(map(str, words)) + "\n").encode())


def become_a_daemon(status):
    launcher = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        if status < 0:
            os.kill(launcher, -status)
        os._exit(status)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # Until somebody has waited for it, it is a zombie and still there.
    while os.path.exists(f"/proc/{launcher}"):
        time.sleep(0.001)
    say("alone", os.getpid(), os.getppid())


def bind(flag, port):
    server = socket.socket()
    if flag == "reuse":
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", int(port)))
        server.listen()
    except OSError as error:
        say(errno.errorcode[error.errno])
    else:
        servers.append(server)
        say("bound")


def serve_below(port):
    """A server in a process of its own, which lives until `stop`."""
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", int(port)))
        server.listen()
        os.write(tell, b"!")
        signal.pause()
    os.close(tell)
    say("up" if os.read(ready, 1) else "failed")
    os.close(ready)
    return child


def orphans(count, port):
    """Short servers whose parents have ended before them."""
    for _ in range(int(count)):
        parent = os.fork()
        if not parent:
            if os.fork():
                os._exit(0)
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                server.bind(("127.0.0.1", int(port)))
            except OSError as error:
                # Shown by its absence: the test counts.
                os._exit(1)
            os.write(done, b"!")
            os._exit(0)
        os.waitpid(parent, 0)
    say("started")


servers = []
child = 0
counted, done = os.pipe()
# Before it says that it is there.
signal.signal(signal.SIGUSR1, lambda *_: say("got SIGUSR1"))
signal.signal(signal.SIGTERM, lambda *_: (say("got SIGTERM"), os._exit(0)))
if sys.argv[1] == "daemon":
    become_a_daemon(int(sys.argv[2]))
if sys.argv[1] == "server":
    say("ready", os.getpid(), os.getppid())
for command in line.makefile():
    word, *rest = command.split()
    if word == "bind":
        bind(*rest)
    elif word == "start":
        child = serve_below(*rest)
    elif word == "stop":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        say("down")
    elif word == "orphans":
        orphans(*rest)
    elif word == "count":
        say(len(os.read(counted, 65536)))
    elif word == "port":
        say(os.environ["PORT"])
    elif word == "end":
        os._exit(int(rest[0]))
