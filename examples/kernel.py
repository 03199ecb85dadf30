"""Four TCP ports of one's own and a server on one of them, by socket options alone.

    python3 examples/kernel.py

Needs the kernel engine (portkeep load), and no privilege.
"""

import socket
import struct

SOL_PORTKEEP, ACQUIRE, ASSOCIATE, RELEASE, INSTANCE = 0x504B, 1, 2, 3, 4

anchor = socket.socket()
# Start, big-endian, 0 for anywhere in the pool; count.
anchor.setsockopt(SOL_PORTKEEP, ACQUIRE, struct.pack("!H", 0) + struct.pack("=H", 4))
block = anchor.getsockopt(SOL_PORTKEEP, INSTANCE, 16)
(start,), (count, token) = struct.unpack("!H", block[:2]), struct.unpack("=H4x8s", block[2:])

server = socket.socket()
server.setsockopt(SOL_PORTKEEP, ASSOCIATE, token)
server.bind(("", 0))
print(f"{server.getsockname()[1]} of {start}+{count}", flush=True)

input()  # until Enter; then, or when the process ends, the ports are free again
anchor.setsockopt(SOL_PORTKEEP, RELEASE, token)
