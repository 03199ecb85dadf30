"""Another process: reads expressions from standard input, answers with their values or errno.

The options are written from the header, not from the library. Names an expression assigns stay.
"""

import errno, os, struct, sys, time
from socket import *

LEVEL, MPTCP = 0x504B, 262
ACQUIRE, ASSOCIATE, RELEASE, INSTANCE, VERSION, ADOPT, GRANT, POOL, QUERY = *range(1, 9), 0x10000
ENDLESS = 10_000  # what a bounded wait may take, in turns of a millisecond


def serve(lines, out):
    print("ready", file=out, flush=True)
    for line in lines:
        try:
            answer = f"ok {eval(line, globals())}"
        except OSError as error:
            answer = f"errno {error.errno}"
        print(answer, file=out, flush=True)


CHILDREN = []


class Child:
    """A process that answers over a socket pair, as this one does over its standard streams."""

    def __init__(self, wire, pid=None):
        self.socket, self.wire, self.pid = wire, wire.makefile("rw"), pid
        assert self.wire.readline() == "ready\n"
        CHILDREN.append(self)

    def ask(self, line):
        print(line, file=self.wire, flush=True)
        kind, value = self.wire.readline().rstrip("\n").split(" ", 1)
        if kind == "errno":
            raise OSError(int(value), "")
        return value

    def end(self):
        """Not by closing the wire: those born later have a copy of it."""
        self.tell_to_end()
        return self.wire.read()

    def tell_to_end(self):
        self.socket.shutdown(SHUT_WR)

    def kill(self):
        """At once, without a word to its children."""
        print("os._exit(0)", file=self.wire, flush=True)
        CHILDREN.remove(self)
        return os.waitpid(self.pid, 0)[1]


def finish():
    """Returns when all our children are gone, who may have inherited an anchor."""
    for child in CHILDREN:
        child.tell_to_end()
    for child in CHILDREN:
        child.wire.read()
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass


def serve_as_child(wire):
    CHILDREN.clear()  # they are our parent's
    serve(wire.makefile("r"), wire.makefile("w"))
    finish()
    os._exit(0)


def fork():
    here, there = socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        serve_as_child(there)
    there.close()
    return Child(here, pid)


def daemon():
    """A process whose parent has died; it keeps no descriptor but its wire and the streams."""
    here, there = socketpair()
    middle = os.fork()
    if middle == 0:
        here.close()
        middle = os.getpid()
        if os.fork():
            os._exit(0)
        os.setsid()
        os.closerange(3, there.fileno())
        os.closerange(there.fileno() + 1, 256)
        wait_until(lambda: os.getppid() != middle)
        serve_as_child(there)
    there.close()
    os.waitpid(middle, 0)
    return Child(here)


def wait_until(true):
    for _ in range(ENDLESS):
        if true():
            return True
        time.sleep(0.001)
    raise AssertionError("it does not happen")


def exec_again(*kept):
    """The same program anew, in the same process; these descriptors stay open."""
    for fd in kept:
        os.set_inheritable(fd, True)
    words = open("/proc/self/cmdline", "rb").read().split(b"\0")[:-1]
    os.execv(sys.executable, words)


def subreaper():
    import ctypes

    PR_SET_CHILD_SUBREAPER = 36
    return ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def acquire(sock, start, count, grant=0):
    request = struct.pack("=2sHIHHIQ", start.to_bytes(2, "big"), count, grant, 0, 0, 0, 0)
    sock.setsockopt(LEVEL, ACQUIRE, request)
    return token(sock)


def token(sock):
    return struct.unpack("=8xQ", sock.getsockopt(LEVEL, INSTANCE, 16))[0]


def by_token(sock, option, which):
    return sock.setsockopt(LEVEL, option, struct.pack("=Q", which))


def grant(sock, which, to, zero=0, to_id=0):
    return sock.setsockopt(LEVEL, GRANT, struct.pack("=QIIQ", which, to, zero, to_id))


def bound(sock, address, port=0):
    sock.bind((address, port))
    return sock.getsockname()[1]


def plain(port, kind=SOCK_STREAM, address="127.0.0.1"):
    """A bind by somebody who knows nothing of us."""
    with socket(AF_INET6 if ":" in address else AF_INET, kind) as sock:
        return bound(sock, address, port)


def associated(which, port=0, kind=SOCK_STREAM):
    with socket(AF_INET, kind) as sock:
        by_token(sock, ASSOCIATE, which)
        return bound(sock, "127.0.0.1", port)


KINDS = (SOCK_STREAM, 0), (SOCK_DGRAM, 0), (SOCK_STREAM, MPTCP)
WAYS = (
    (AF_INET, "127.0.0.1", 0),
    (AF_INET, "0.0.0.0", 0),
    (AF_INET, "127.0.0.2", 0),
    (AF_INET6, "::1", 0),
    (AF_INET6, "::", 0),
    (AF_INET6, "::", 1),
    (AF_INET6, "::ffff:127.0.0.1", 0),
)
FLAGS = (), (SO_REUSEADDR,), (SO_REUSEPORT,), (SO_REUSEADDR, SO_REUSEPORT)


def every_way(port, other=0, kinds=KINDS):
    """Binds in every way; what came of it and how often, then of the next bind of the same socket."""
    outcomes = {}
    for kind, protocol in kinds:
        for family, address, only in WAYS:
            for flags in FLAGS:
                with socket(family, kind, protocol) as sock:
                    if family == AF_INET6:
                        sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, only)
                    for flag in flags:
                        sock.setsockopt(SOL_SOCKET, flag, 1)
                    first = outcome(sock, address, port)
                    again = outcome(sock, address, other) if other else None
                    outcomes[first, again] = outcomes.get((first, again), 0) + 1
    return outcomes


def outcome(sock, address, port):
    try:
        return "bound" if bound(sock, address, port) == port else "elsewhere"
    except OSError as error:
        return errno.errorcode[error.errno]


if __name__ == "__main__":
    serve(iter(sys.stdin.readline, ""), sys.stdout)
    finish()
