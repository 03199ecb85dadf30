/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Taking a port: what bind(), post_bind and connect() do.
 *
 * The binder's half of the race protocol (the other half is in acquire.bpf.h):
 *   1. the bind hook reads the reserved bit;
 *   2. the kernel inserts the socket;
 *   3. post_bind: full fence; find the table; set "maybe" if it is clear; and only after that
 *      read the reserved bit again.
 * Both orders are needed; a model of the protocol finds a stranger inside a block without either.
 *   - The fence orders the insertion before the reading of "maybe", which store buffers (TSO, x86)
 *     turn round: we find "maybe" set, an acquirer clears it and walks, and sees no socket yet. It
 *     also stands before the lookup that finds no table, where there is nothing to set: whoever
 *     makes that table later starts with every "maybe" set, and sees the socket.
 *   - Setting "maybe" is a fence by itself, but where it was set already nothing but two reads is
 *     left, which weak memory (arm64) turns round: we would read the bit before a claim and "maybe"
 *     before the clearing that follows the claim. So the address of the bit is made to depend on
 *     what was read of "maybe"; reads that depend on each other like that keep their order.
 */
#ifndef PORTKEEP_CONSUME_BPF_H
#define PORTKEEP_CONSUME_BPF_H

#include "grant.bpf.h"
#include "in_use.bpf.h"

/* Draws beyond one for each port, for those that other threads drew past us. */
#define SPARE_DRAWS 64

/* Has an MPTCP socket ever been associated? Few machines do that, and all binds would pay. */
static __always_inline bool mptcp_associated(void)
{
	struct portkeep_state *engine = state();

	return engine && engine->mptcp;
}

/* The token this socket was associated with. TCP binds of an MPTCP socket arrive as its subflow;
 * post_bind cannot find the MPTCP socket, so the subflow is given its own copy. */
static __always_inline __u64 association(struct bpf_sock *sk, __u32 protocol)
{
	struct portkeep_socket *own = bpf_sk_storage_get(&portkeep_sockets, sk, NULL, 0), *whole;

	if (mptcp_associated() && protocol == PORTKEEP_TCP &&
	    bpf_core_type_exists(struct mptcp_sock)) {
		struct mptcp_sock *mptcp = bpf_skc_to_mptcp_sock(sk);

		whole = mptcp ? bpf_sk_storage_get(&portkeep_sockets, mptcp, NULL, 0) : NULL;
		if (whole && whole->association) {
			own = bpf_sk_storage_get(&portkeep_sockets, sk, NULL,
						 BPF_SK_STORAGE_GET_F_CREATE);
			if (own)
				own->association = whole->association;
			return whole->association;
		}
	}
	return own ? own->association : 0;
}

struct draw {
	struct ground ground;
	__u64 token;
	__u32 start, count;
	__u32 lingers; /* ports that linger will do */
	__u32 reuse;   /* the socket has SO_REUSEADDR */
	__u32 port;    /* drawn, 0: none yet */
};

/* Draw a port nobody has; 0 if the drawn one will not do. One that lingers (TIME_WAIT) is taken only
 * when no other is left, and only with SO_REUSEADDR: the kernel refuses it without, and also if its
 * last owner did not have it set.
 *
 * A port is drawn by taking a ticket, so that threads searching at once try different ports,
 * and no mark is needed that would leak when a bind fails later without telling us. */
judged_alone __u32 draw_port(struct draw *draw)
{
	struct portkeep_reservation *entry;
	__u32 port, verdict;
	__u64 token;

	if (!draw || !draw->count)
		return 0;
	token = draw->token;
	entry = bpf_map_lookup_elem(&portkeep_reservations, &token);
	if (!entry)
		return 0;
	port = draw->start + __sync_fetch_and_add(&entry->next, 1) % draw->count;
	verdict = walk_port(&draw->ground, port);
	return verdict == PORT_FREE || (verdict == PORT_LINGERS && draw->lingers) ? port : 0;
}

/* 0, or an error. */
static __always_inline int prepare_draw(struct draw *draw, struct bpf_sock_addr *ctx,
					struct bpf_sock *sk, __u32 protocol, __u64 token)
{
	struct portkeep_config *settings = config();
	struct deed deed;
	int reuse = 0;

	if (!settings || !read_deed(token, &deed))
		return EACCES;
	draw->token = token;
	draw->start = deed.start;
	draw->count = deed.count;
	draw->ground.net = net_of(sk);
	draw->ground.steps = settings->walk_steps;
	draw->ground.protocol = vague(protocol);
	bpf_getsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
	draw->reuse = reuse;
	return 0;
}

static long draw_for_bind(__u64 i unused, struct draw *draw)
{
	draw->port = draw_port(draw);
	return vague(draw->port) != 0;
}

static __always_inline int bind_associated(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
					   const struct portkeep_space *space, __u64 token)
{
	__u32 port = bpf_ntohs(ctx->user_port);
	struct draw draw;

	if (judge_taking(token, space->netns, space->protocol, port))
		return refuse(EACCES);
	if (port)
		return 1;
	__builtin_memset(&draw, vague(0), sizeof(draw));
	if (prepare_draw(&draw, ctx, sk, space->protocol, token))
		return refuse(EACCES);
	bpf_loop(draw.count + SPARE_DRAWS, draw_for_bind, &draw, 0);
	if (!draw.port && draw.reuse) {
		draw.lingers = vague(1);
		bpf_loop(draw.count + SPARE_DRAWS, draw_for_bind, &draw, 0);
	}
	if (!draw.port)
		return refuse(ENOBUFS);
	ctx->user_port = bpf_htons(draw.port);
	return 1;
}

static __always_inline int on_bind(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct portkeep_space space = {};
	struct portkeep_table *table;
	__u32 number, port = bpf_ntohs(ctx->user_port);
	__u64 token;

	/* Strangers' binds pass here by the million: whatever they do not need comes late. */
	if (!sk)
		return 1;
	space.protocol = port_protocol(sk);
	if (!space.protocol)
		return 1;
	space.netns = bpf_get_netns_cookie(ctx);
	token = association(sk, space.protocol);
	if (token)
		return bpf_get_retval() < 0 ? 1 : bind_associated(ctx, sk, &space, token);
	if (!port)
		return 1;
	table = find_table(&space, &number);
	if (!table || !is_reserved(table, port) || !is_table_of(table, &space) ||
	    bpf_get_retval() < 0 || admits_plain_bind(number, space.netns, space.protocol, port))
		return 1;
	return refuse(EADDRINUSE);
}

static __always_inline int undo_bind(int error)
{
	struct portkeep_state *engine = state();

	if (engine)
		__sync_fetch_and_add(&engine->late_refusals, 1);
	return refuse(error);
}

/* Set "maybe" and read the bit again: the number of the table the port is reserved in, or NO_TABLE. */
static __always_inline __u32 recheck(__u64 netns, __u32 protocol, __u32 port)
{
	struct portkeep_space space = { .netns = netns, .protocol = protocol };
	__u32 number = NO_TABLE;

	for (int i = 0; i < TABLE_TRIES; i++) {
		struct portkeep_table *table = find_table(&space, &number);
		bool reserved;

		if (!table)
			return NO_TABLE;
		reserved = is_reserved(table, port + mark_maybe(table, port));
		if (is_table_of(table, &space))
			return reserved ? number : NO_TABLE;
	}
	return number; /* changed hands at every try: better refused than unseen */
}

static __always_inline int on_post_bind(struct bpf_sock *sk)
{
	struct portkeep_space space = {};
	struct portkeep_socket *own;
	__u32 number, port = sk->src_port;

	space.protocol = port_protocol(sk);
	if (!space.protocol)
		return 1;
	space.netns = bpf_get_netns_cookie(sk);
	full_fence();
	number = recheck(space.netns, space.protocol, port);
	/* Not reserved (any more): an associated socket that got here had its right at bind. */
	if (number == NO_TABLE || bpf_get_retval() < 0)
		return 1;
	own = bpf_sk_storage_get(&portkeep_sockets, sk, NULL, 0);
	if (own && own->association)
		return judge_taking(own->association, space.netns, space.protocol, port)
			       ? undo_bind(EACCES)
			       : 1;
	if (admits_plain_bind(number, space.netns, space.protocol, port))
		return 1;
	return undo_bind(EADDRINUSE);
}

/*
 * connect() of an associated, unbound socket. bpf_bind() passes no hook, and a socket it bound
 * cannot be unbound again, so reading the bit afterwards would come too late. Instead the port is
 * taken in hand before it is bound: either we find our reservation dead, and bind nothing, or
 * whoever acquires the port after us finds it in hand (or, later, "maybe" set and the socket).
 */
struct connection {
	struct draw draw;
	struct bpf_sock_addr *ctx;
	struct bpf_sock *sk;
	__u64 netns;
	__u32 table;
	__u32 error;
};

static __always_inline int bpf_bind_port(struct connection *conn, __u32 port)
{
	struct bpf_sock *sk = conn->sk;

	if (sk->family == AF_INET) {
		struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = bpf_htons(port) };

		to.sin_addr.s_addr = sk->src_ip4;
		return bpf_bind(conn->ctx, (struct sockaddr *)&to, sizeof(to));
	} else {
		struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = bpf_htons(port) };

		to.sin6_addr.s6_addr32[0] = sk->src_ip6[0];
		to.sin6_addr.s6_addr32[1] = sk->src_ip6[1];
		to.sin6_addr.s6_addr32[2] = sk->src_ip6[2];
		to.sin6_addr.s6_addr32[3] = sk->src_ip6[3];
		return bpf_bind(conn->ctx, (struct sockaddr *)&to, sizeof(to));
	}
}

judged_alone int lives(__u64 token)
{
	struct deed deed;

	return read_deed(token, &deed);
}

static long draw_for_connect(__u64 i unused, struct connection *conn)
{
	__u32 port = draw_port(&conn->draw), protocol = conn->draw.ground.protocol;
	int error;

	if (!vague(port))
		return 0;
	error = take_in_hand(conn->table, conn->netns, protocol, port);
	if (error == EBUSY)
		return 0;
	if (error) {
		conn->error = error == EINVAL ? EACCES : error;
		return 1;
	}
	error = lives(conn->draw.token) ? bpf_bind_port(conn, port) : -EACCES;
	let_go(conn->table, port, !error);
	if (error == -EADDRINUSE)
		return 0;
	conn->error = -error;
	return 1;
}

static __always_inline int on_connect(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct connection conn;
	struct deed deed;
	__u32 protocol;
	__u64 token;

	if (!sk || sk->src_port || bpf_get_retval() < 0)
		return 1;
	protocol = port_protocol(sk);
	if (!protocol)
		return 1;
	token = association(sk, protocol);
	if (!token)
		return 1;
	__builtin_memset(&conn, vague(0), sizeof(conn));
	conn.ctx = ctx;
	conn.sk = sk;
	conn.netns = bpf_get_netns_cookie(ctx);
	conn.error = vague(ENOBUFS);
	if (judge_taking(token, conn.netns, protocol, 0) || !read_deed(token, &deed) ||
	    prepare_draw(&conn.draw, ctx, sk, protocol, token))
		return refuse(EACCES);
	conn.table = deed.table;
	bpf_loop(conn.draw.count + SPARE_DRAWS, draw_for_connect, &conn, 0);
	if (vague(conn.error) == ENOBUFS && conn.draw.reuse) {
		conn.draw.lingers = vague(1);
		bpf_loop(conn.draw.count + SPARE_DRAWS, draw_for_connect, &conn, 0);
	}
	return conn.error ? refuse(conn.error) : 1;
}

#endif
