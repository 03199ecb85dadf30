"""Opens every kind of socket this user can, and tries every option on each.

Prints a line for each that opened: family, type, protocol as the kernel has them, then the outcome
of ACQUIRE, 0 or errno, and of every other option. Keeps them all open until its input ends.
"""

import struct, sys
from socket import *

LEVEL, QUERY = 0x504B, 0x10000
# The kernel's own protocols, MPTCP, one that nobody has, and netlink's, which are small numbers.
PROTOCOLS = 0, 1, 2, 4, 6, 9, 15, 16, 17, 33, 41, 58, 132, 136, 255, 256, 262, 0x300
TOKEN = bytes(range(8))
SET_ONLY, NO_OPTION = (1, 2, 3, 6, 7), (0, 9, -1, 0x7FFF_FFFF, QUERY, QUERY + 0x10000)


def outcome(call, *words):
    try:
        call(LEVEL, *words)
        return 0
    except OSError as error:
        return error.errno


def every_option(sock, port):
    request = port.to_bytes(2, "big") + struct.pack("=H", 1)
    # Before anything is anchored here.
    for option, size in (5, 8), (4, 16), (8, 4), (QUERY + 4000, 40):
        yield outcome(sock.getsockopt, option, size)
    for option in SET_ONLY:
        yield outcome(sock.setsockopt, option, TOKEN + bytes(16))
    for option in NO_OPTION:
        yield outcome(sock.getsockopt, option, 64)
        yield outcome(sock.setsockopt, option, TOKEN)
    yield outcome(sock.setsockopt, 1, request)


def opened():
    for family in range(47):
        for kind in 1, 2, 3, 4, 5, 6, 10:
            for protocol in PROTOCOLS:
                try:
                    sock = socket(family, kind, protocol)
                except OSError:
                    continue
                # Told the truth, Python packs some families' options in its own ways.
                yield socket(AF_INET, SOCK_DGRAM, 0, fileno=sock.detach())


kept = list(opened())
for port, sock in enumerate(kept, 4000):
    kind = (sock.getsockopt(SOL_SOCKET, name) for name in (SO_DOMAIN, SO_TYPE, SO_PROTOCOL))
    *others, acquired = every_option(sock, port)
    print(*kind, acquired, *others)
print(flush=True)
sys.stdin.read()
