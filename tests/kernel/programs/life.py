"""The other process of a test: it does what each line of its input says, and answers in one line.

An answer is `ok` and the value, or `errno` and a number. Anything else that goes wrong ends it.
"""
import ctypes, os, signal, socket, struct, sys

LEVEL, ACQUIRE, ASSOCIATE, RELEASE, INSTANCE, ADOPT, QUERY = 0x504B, 1, 2, 3, 4, 6, 0x10000
NEWUSER, NEWNET = 0x10000000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "a call of libc")
    return result


def unshare(flags):
    checked(libc.unshare(flags))


def new_user(flags=0):
    """A user namespace, in which our user is root."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(NEWUSER | flags)
    for name, text in ("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def setns(fd):
    checked(libc.setns(fd, NEWNET))


def tcp():
    return socket.socket(socket.AF_INET6, socket.SOCK_STREAM)


def udp():
    return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)


def acquire(anchor, start, count):
    anchor.setsockopt(LEVEL, ACQUIRE, struct.pack(">H", start) + struct.pack("=H", count))


def instances(anchor):
    """The anchor's (start, count, token), newest first, of the newest 64."""
    value = anchor.getsockopt(LEVEL, INSTANCE, 1024)
    entries = [value[at : at + 16] for at in range(0, len(value), 16)]
    return [struct.unpack(">H", e[:2]) + struct.unpack("=HxxxxQ", e[2:]) for e in entries]


def token(anchor):
    return instances(anchor)[0][2]


def block(start, count, kind=tcp):
    anchor = kind()
    acquire(anchor, start, count)
    return anchor


def by_token(s, option, token):
    s.setsockopt(LEVEL, option, struct.pack("=Q", token))


def consume(anchor, kind=tcp):
    """A socket bound to a port of the anchor's newest block."""
    return consume_token(token(anchor), kind)


def consume_token(token, kind=tcp):
    s = kind()
    by_token(s, ASSOCIATE, token)
    s.bind(("::", 0))
    return s


def port(s):
    return s.getsockname()[1]


def stranger(port, kind=tcp):
    s = kind()
    s.bind(("::", port))
    return s


def refused(action, *arguments):
    """The errno of what fails, 0 if it does not."""
    try:
        action(*arguments)
        return 0
    except OSError as error:
        return error.errno


def singles(wanted, kind=tcp):
    """As many reservations of one port as are given, up to `wanted`; and their anchors."""
    anchors, got = [], 0
    while got < wanted:
        if got % 256 == 0:
            anchors.append(kind())
        if refused(acquire, anchors[-1], 0, 1):
            break
        got += 1
    return got, anchors


def namespaces(rounds, keep=False):
    """An acquire, and without `keep` a bind and a close, in one new network namespace after the
    other. Returns what the acquires said and the anchors."""
    answers, anchors = [], []
    for _ in range(rounds):
        unshare(NEWNET)
        anchor = tcp()
        answers.append(refused(acquire, anchor, 0, 4))
        if keep:
            anchors.append(anchor)
        elif not answers[-1]:
            consume(anchor).close()
            anchor.close()
    return answers, anchors


def churn(rounds, low, high):
    """In one new network namespace after the other: acquire at `high`, and look whether it is
    enforced, and whether `low` is anybody's there. Returns how often something was wrong."""
    wrong = 0
    for _ in range(rounds):
        unshare(NEWNET)
        anchor = tcp()
        if refused(acquire, anchor, high, 4):
            continue
        wrong += refused(stranger, high) != 98
        wrong += refused(stranger, low) != 0
        consume(anchor).close()
        anchor.close()
        wrong += refused(stranger, high) != 0
    return wrong


def forked():
    """A child that has everything this process has, until somebody kills it."""
    child = os.fork()
    if not child:
        # Not the pipes: whoever waits for the end of our output does not wait for the child.
        os.closerange(0, 3)
        while True:
            signal.pause()
    return child


def serve():
    for line in sys.stdin:
        try:
            try:
                answer = ("ok", eval(line, globals()))
            except SyntaxError:
                exec(line, globals())
                answer = ("ok", "")
        except OSError as error:
            answer = ("errno", error.errno)
        print(*answer, flush=True)


serve()
