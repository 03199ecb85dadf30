/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef PORTKEEP_BPF_H
#define PORTKEEP_BPF_H

/*
 * portkeep: the contract between the kernel engine and everybody else.
 *
 * The first part is for any program, in any language: reservations are socket options. The second
 * part, the maps, is for the loader and the BPF programs only. Released numbers and layouts are
 * never changed; new ones are appended.
 *
 *
 * THE SOCKET OPTIONS
 *
 * Level SOL_PORTKEEP, on a TCP socket (MPTCP included) or a UDP socket, IPv4 or IPv6. The socket's
 * protocol and network namespace choose the port space: 65,535 ports, shared by IPv4 and IPv6, not
 * shared by TCP and UDP. No privilege is needed unless a line below says so. A call that fails
 * changes nothing. Options a socket cannot use, and numbers not listed here, give EINVAL; any other
 * kind of socket (raw, UDP-Lite, unix, netlink, packet) gives EOPNOTSUPP for every option.
 *
 * Port numbers are big-endian in memory; every other number is in host order.
 *
 * PORTKEEP_ACQUIRE (set): reserve `count` ports from `start`, or from anywhere in the pool when
 *   `start` is 0. The socket becomes the *anchor*: the reservation ends when its last descriptor is
 *   gone, or at RELEASE. The value is a struct portkeep_range (4 bytes), or a struct
 *   portkeep_request (24 bytes); no other length is accepted. A socket can anchor up to 256
 *   reservations, may be bound or not, and may be associated too.
 *     EINVAL      count 0, end past 65535, wrong length, unknown flag, bad alignment (0 or a power
 *                 of two up to 32768, and a start that is a multiple), nonzero `zero` or grant_id
 *     EOPNOTSUPP  a grant this engine does not have (see PORTKEEP_VERSION)
 *     EACCES      a port below ip_unprivileged_port_start without CAP_NET_BIND_SERVICE
 *     EADDRINUSE  some port is reserved, or some socket a process can still use has it (TIME_WAIT
 *                 and closed connections that linger do not count), or it lies in the namespace's
 *                 ip_local_port_range without being in ip_local_reserved_ports, so that the kernel
 *                 itself would hand it out
 *     ENOBUFS     no such run of free ports in the pool, or a quota or table is full
 *
 * PORTKEEP_INSTANCE (get): the reservations anchored at this socket, newest first, as an array of
 *   struct portkeep_instance. The buffer's length says how many fit; the length returned says how
 *   many were written, 256 at most.
 *     EINVAL      room for less than one
 *     ENOENT      none is anchored here
 *
 * PORTKEEP_ASSOCIATE (set): the value is a token (8 bytes; more are ignored). Marks an unbound
 *   socket: its bind() takes a port of that reservation. Port 0 means a free one; a port inside
 *   means that one; a port outside, a reservation gone since, or a bind by a process without the
 *   right fails with EACCES; ENOBUFS when no port is free. connect() without bind, and TCP fast open,
 *   take a free one too. The kernel lets no program choose the port of listen() or sendto() without
 *   bind: those take an ordinary port outside the reservation, so bind first. The last ASSOCIATE
 *   before the bind counts, and a failed one leaves the earlier in force.
 *     EINVAL      the socket is bound, or the token is 0, dead, unknown or of another port space
 *     EACCES      the reservation's grant does not cover the calling process
 *
 * PORTKEEP_RELEASE (set): the value is a token. Ends the reservation. Any socket of the port space
 *   will do. Sockets bound inside keep their ports.
 *     EINVAL      dead or unknown token, or one whose owner is another process
 *
 * PORTKEEP_ADOPT (set): the value is a token anchored at this very socket. The calling process
 *   becomes the owner: for daemons that fork, and for anchors received over a unix socket. Whoever
 *   holds the anchor may adopt. Quotas stay with the user who acquired.
 *     EINVAL      the token is not anchored here
 *
 * PORTKEEP_GRANT (set): struct portkeep_regrant (24 bytes, no other length). Changes who may consume
 *   a reservation, from PORTKEEP_GRANT_PROCESS to PORTKEEP_GRANT_DESCENDANTS or back; to what it is
 *   already is no error. In force when the call returns. Any socket of the port space will do.
 *     EINVAL      dead or unknown token, or one whose owner is another process; unknown grant;
 *                 nonzero `zero` or grant_id
 *     EOPNOTSUPP  a grant this engine does not have
 *     EBUSY       another thread is changing it, or connects from the block's first port, at this
 *                 very moment: ask again
 *     ENOBUFS     too many reservations are granted to others than their owners
 *
 * PORTKEEP_POOL (get): struct portkeep_range, the pool that wildcard requests of this socket's
 *   network namespace are served from. The start is never 0.
 *     EINVAL      room for less than one
 *
 * PORTKEEP_VERSION (get): struct portkeep_version. ENOPROTOOPT or EOPNOTSUPP means that the engine
 *   is not loaded, or that the caller is a 32-bit program (the kernel does not show those to us).
 *
 * PORTKEEP_QUERY + port (get): struct portkeep_holder, who has that port in this socket's port
 *   space. Never a token. Port 0 is EINVAL.
 *
 * Grants, that is who may consume a reservation through ASSOCIATE and bind:
 *   PORTKEEP_GRANT_PROCESS      the owner, and it must associate. A child made by fork is not the
 *                               owner; a process that calls execve still is.
 *   PORTKEEP_GRANT_DESCENDANTS  the owner and the processes below it, and their plain bind() is let
 *                               in without ASSOCIATE, so that an unmodified server just works. A
 *                               process whose parent has died belongs to its new parent: set
 *                               PR_SET_CHILD_SUBREAPER to keep daemons that fork twice.
 *   PORTKEEP_GRANT_USER, _CGROUP, _BEARER  numbers set aside, EOPNOTSUPP for now.
 *
 * Example: 16 ports from the pool, then a server on one of them.
 *
 *   struct portkeep_range range = { .count = 16 };
 *   struct portkeep_instance block;
 *   socklen_t size = sizeof(block);
 *   int anchor = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
 *   setsockopt(anchor, SOL_PORTKEEP, PORTKEEP_ACQUIRE, &range, sizeof(range));
 *   getsockopt(anchor, SOL_PORTKEEP, PORTKEEP_INSTANCE, &block, &size);
 *   int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
 *   setsockopt(server, SOL_PORTKEEP, PORTKEEP_ASSOCIATE, &block.token, sizeof(block.token));
 *   bind(server, ...port 0...);
 *
 * Example: ports 5000 to 5009 in memory are the bytes 13 88 (5000, big-endian), then 0a 00 on a
 * little-endian machine. 65535+1 is the last block there is; 65535+2 is EINVAL.
 *
 * Example: a range of one port 8080, a stranger binding [::]:8080, 127.0.0.1:8080 or the same with
 * SO_REUSEADDR or SO_REUSEPORT: EADDRINUSE in every case, and the socket is as usable as before.
 */

#include <linux/types.h>

#define SOL_PORTKEEP 0x504B

#define PORTKEEP_ACQUIRE 1
#define PORTKEEP_ASSOCIATE 2
#define PORTKEEP_RELEASE 3
#define PORTKEEP_INSTANCE 4
#define PORTKEEP_VERSION 5
#define PORTKEEP_ADOPT 6
#define PORTKEEP_GRANT 7
#define PORTKEEP_POOL 8
#define PORTKEEP_QUERY 0x10000 /* plus the port */

#define PORTKEEP_INTERFACE 1

struct portkeep_range {
	__be16 start;
	__u16 count;
};

#define PORTKEEP_GRANT_PROCESS 0
#define PORTKEEP_GRANT_DESCENDANTS 1
#define PORTKEEP_GRANT_USER 2
#define PORTKEEP_GRANT_CGROUP 3
#define PORTKEEP_GRANT_BEARER 4

/* Take the same numbers in the other protocol as well. INSTANCE then shows two more entries: first
 * the socket's own protocol, then the other. Each has its own token; both end with the anchor. */
#define PORTKEEP_SAME_NUMBERS 1

struct portkeep_request {
	struct portkeep_range range;
	__u32 grant;
	__u16 alignment;
	__u16 flags;
	__u32 zero;
	__u64 grant_id; /* 0 for the grants that exist now */
};

struct portkeep_instance {
	__be16 start;
	__u16 count;
	__u32 zero;
	__u64 token;
};

struct portkeep_regrant {
	__u64 token;
	__u32 grant;
	__u32 zero;
	__u64 grant_id; /* 0 for the grants that exist now */
};

/* Strangers are kept out whatever their cgroup. Not set when loaded on a subtree. */
#define PORTKEEP_HAS_EXCLUSIVE (1U << 0)
#define PORTKEEP_HAS_DESCENDANTS (1U << 1)
#define PORTKEEP_HAS_USER (1U << 2)    /* set aside */
#define PORTKEEP_HAS_CGROUP (1U << 3)  /* set aside */
#define PORTKEEP_HAS_BEARER (1U << 4)  /* set aside */
#define PORTKEEP_HAS_SAME_NUMBERS (1U << 5)
#define PORTKEEP_HAS_PERSISTENT (1U << 6) /* set aside */
#define PORTKEEP_HAS_EXCLUSIONS (1U << 7) /* set aside */

struct portkeep_version {
	__u32 interface;
	__u32 features;
};

#define PORTKEEP_KIND_NONE 0
#define PORTKEEP_KIND_RUNTIME 1
#define PORTKEEP_KIND_PERSISTENT 2 /* set aside */
#define PORTKEEP_KIND_EXCLUSION 3  /* set aside */

struct portkeep_holder {
	__be16 start;
	__u16 count;
	__u32 kind;
	__u32 tgid; /* the owner's, as seen from the initial pid namespace */
	__u32 uid;  /* the owner's effective one, as seen from the initial user namespace */
	__u64 acquired; /* boot-time clock, nanoseconds */
	char comm[16];
};

#define PORTKEEP_ANCHOR_MAX 256 /* reservations of one anchor */

/*
 * THE MAPS
 *
 * For the loader (define PORTKEEP_MAPS before including this file) and the BPF programs.
 *
 * portkeep_config      array, one entry: struct portkeep_config. The loader writes it before it
 *                      attaches anything and may rewrite `pool` and the quotas at any time.
 *                      While `interface` is 0 the options answer as if nothing were loaded.
 * portkeep_state       array, one entry: struct portkeep_state, the programs' own counters.
 * portkeep_spaces      hash: struct portkeep_space (namespace and protocol) to a table number.
 * portkeep_near        array: tables 0 to 7, struct portkeep_table, the bitmaps of one port space.
 *                      To look one up takes no call, and most machines need no others.
 * portkeep_tables      hash: table number to struct portkeep_table, from 8 on. These are made when
 *                      first needed and never deleted. Any table is given to another port space
 *                      once nothing lives in it.
 * portkeep_blank       array, one entry: an all-zero table, what a new table is made from.
 * portkeep_reservations  hash: token to struct portkeep_reservation. An entry whose own token is 0
 *                      is released; it stays, and counts towards user_reservations, until its
 *                      anchor acquires, releases or closes.
 * portkeep_blocks      hash: table number << 16 | first port, to struct portkeep_grant: who besides
 *                      the owner may consume that reservation. This entry is the grant; a
 *                      reservation without one is its owner's alone. With PORTKEEP_IN_HAND in the
 *                      key and a value of zeros: a call is at work on that port right now.
 * portkeep_accounts    array: struct portkeep_account, what each user has. See quota.bpf.h.
 * portkeep_sockets     socket storage: struct portkeep_socket.
 *
 * "Everything is back to the start" means: no entry in portkeep_reservations and portkeep_blocks,
 * `live` is 0 in every table, and nothing is charged to any account.
 *
 * Set aside for persistent reservations and exclusions: PORTKEEP_KIND_*, the `kind` and
 * `set_aside` fields of a reservation (user space inserts those entries, with anchor 0), the `id`
 * of a grant, and `set_aside` of the configuration. A table holding such an entry has it in its live count.
 */

#if defined(PORTKEEP_MAPS) || defined(__bpf__)

#define PORTKEEP_RESERVATIONS 16384 /* in all port spaces together */
#define PORTKEEP_TABLES 512
#define PORTKEEP_NEAR 8 /* the first of them */
#define PORTKEEP_ACCOUNTS 8192
#define PORTKEEP_WORDS 1024 /* 64 ports each */
#define PORTKEEP_TCP 6
#define PORTKEEP_UDP 17

/* Loaded on a subtree: sockets made outside it bind unseen, so every acquire walks every port. */
#define PORTKEEP_PARTIAL 1

struct portkeep_config {
	__u32 interface; /* PORTKEEP_INTERFACE once the rest is filled in */
	__u32 flags;	 /* PORTKEEP_PARTIAL */
	__u32 pool;	 /* first port | last port << 16; one word, so that it changes at once */
	__u32 user_ports;   /* quota: ports of one user in one space, 2,048 by default */
	__u32 user_outside; /* quota: those of them outside the pool, 64 */
	__u32 user_reservations; /* quota: those of one user in all spaces, 2,048: an eighth of all */
	__u32 user_spaces;	 /* quota: port spaces with reservations that one user opened, 32 */
	__u32 walk_steps; /* hash table entries one acquire may look at, 1,000,000 */
	__u64 key[2];	  /* of the tokens, from getrandom; never changed while reservations live */
	__u64 set_aside[8];
};

#define PORTKEEP_HINTS 64

struct portkeep_state {
	__u64 tokens; /* counter behind the tokens */
	__u64 anchors; /* counter behind anchor numbers */
	__u32 next_table; /* where the search for a free table that is not near goes on */
	__u32 mptcp;	  /* an MPTCP socket has been associated */
	__u64 late_refusals; /* binds undone after the fact, e.g. bind(0) that landed inside */
	__u64 walks_cut;     /* in-use questions answered "yes" because walk_steps ran out */
	__u64 walks_torn;    /* the same because the table kept changing under the walk */
	__u64 hints[PORTKEEP_HINTS]; /* where spaces had their tables, see table.bpf.h */
};

struct portkeep_space {
	__u64 netns;	/* network namespace cookie */
	__u32 protocol; /* PORTKEEP_TCP or PORTKEEP_UDP */
	__u32 zero;
};

#define PORTKEEP_REKEYING 0x80000000U

struct portkeep_table {
	/* Whose table this is: namespace << 1 | is it UDP; 0: nobody's. One word, so that it is
	 * compared at once. */
	__u64 space;
	__u32 live; /* reservations and calls in progress; 0: nothing; REKEYING: changing hands */
	__u32 hands; /* calls that have a port of it in hand */
	__u32 autobind; /* first | last << 16 of the widest ip_local_port_range seen */
	__u32 maker;	/* the user it was made for */
	__u32 entered; /* when an acquire last was here, in jiffies */
	__u32 granted; /* portkeep_blocks may have had entries of it */
	__u64 used[PORTKEEP_WORDS];  /* reserved */
	__u64 start[PORTKEEP_WORDS]; /* first port of a block */
	__u64 maybe[PORTKEEP_WORDS]; /* somebody may have bound it since it was last looked at */
};

/* A process: tgid in the upper 22 bits, start time (boot-time clock, 2^20 ns units) in the lower
 * 42. One word, so that a change of owner is seen whole or not at all. */
#define PORTKEEP_START_BITS 42

struct portkeep_reservation {
	__u64 token; /* 0 once released; tokens never return, so this is identity and life in one */
	__u64 owner;
	__u64 older; /* token of the next older reservation of the same anchor, 0: none */
	__u64 anchor; /* number of the anchor */
	__u64 netns;
	__u64 acquired;
	__u16 start; /* host order */
	__u16 count;
	__u8 protocol;
	__u8 kind;
	__u16 set_aside;
	__u64 accounts; /* charged: the user's in the table << 32 | the user's own */
	__u32 table;
	__u32 outside; /* ports charged as being outside the pool */
	__u32 uid;
	__u32 next; /* rotating choice of a port */
	char comm[16];
};

#define PORTKEEP_IN_HAND 0x80000000U

struct portkeep_grant {
	__u64 token;
	__u32 grant; /* PORTKEEP_GRANT_*, never _PROCESS */
	__u32 zero;
	__u64 id; /* set aside */
};

struct portkeep_account {
	__u64 key; /* user << 32 | 1 << 31 | table number + 1 (0: the user's own) */
	__u64 charged; /* see quota.bpf.h */
};

struct portkeep_socket {
	__u64 association; /* token */
	__u64 anchor;	   /* number, 0: not an anchor yet */
	__u64 newest;	   /* token of the newest reservation anchored here */
	__u32 count;	   /* length of that list */
	__u32 zero;
};

#endif
#endif
