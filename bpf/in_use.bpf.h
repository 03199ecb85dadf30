/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Is a port in use? Answered by walking the kernel's own bind tables, without their locks.
 *
 * TCP: hash chain of inet_bind_bucket -> list of inet_bind2_bucket -> list of owners.
 * UDP: hash chain of sockets.
 *
 * What we stand on may be unlinked, freed and reused under us, and lead into another list whose end
 * says "nothing found". So after reading a node's `next` we make sure that the node was still
 * linked (the pointer to it still points at it) and still belonged to the list we walk; otherwise
 * the port is started over. New and reused nodes are linked in at the head, so such a node leads
 * back over what was seen, never past something unseen. A port that cannot be walked in peace, and
 * a walk that exceeds its budget, count as in use: wrong answers must be refusals.
 *
 * In use means: some owner a process can still use. TIME_WAIT entries and orphans (no struct
 * socket) merely linger; they do not stop a service from getting its own port back.
 */
#ifndef PORTKEEP_IN_USE_BPF_H
#define PORTKEEP_IN_USE_BPF_H

#include "maps.bpf.h"

#define WALK_RESTARTS 8

enum { PORT_FREE, PORT_LINGERS, PORT_IN_USE /* one more than LINGERS */ };

/* A hash table of a namespace, and how many more of its entries we may visit. The first line is
 * given; the rest is surveyed when the first port has to be walked. */
struct ground {
	struct net *net;
	__u32 steps;
	__u32 protocol;
	void *slots;
	__u32 mask;
	__u32 mix;
};

static __always_inline void survey(struct ground *ground)
{
	struct net *net = ground->net;
	struct inet_hashinfo *tcp;
	struct udp_table *udp;

	ground->mix = BPF_CORE_READ(net, hash_mix);
	if (ground->protocol == PORTKEEP_TCP) {
		tcp = BPF_CORE_READ(net, ipv4.tcp_death_row.hashinfo);
		ground->slots = BPF_CORE_READ(tcp, bhash);
		ground->mask = BPF_CORE_READ(tcp, bhash_size) - 1;
	} else {
		udp = BPF_CORE_READ(net, ipv4.udp_table);
		ground->slots = BPF_CORE_READ(udp, hash);
		ground->mask = BPF_CORE_READ(udp, mask);
	}
}

struct walk {
	struct net *net;
	struct hlist_node **head;
	struct hlist_node *chain, *bucket, *owner; /* where we stand in each list, NULL: past its end */
	struct hlist_node *first; /* second-level bucket, when we came to our first-level one */
	__u32 mix;
	__u32 mask;
	__u32 port;
	__u32 verdict;
	__u32 restarts;
	int l3mdev;
};

static __always_inline struct hlist_node *read_node(struct hlist_node **place)
{
	struct hlist_node *node = NULL;

	bpf_probe_read_kernel(&node, sizeof(node), place);
	return node;
}

static __always_inline struct hlist_node *next_of(struct hlist_node *node)
{
	return BPF_CORE_READ(node, next);
}

static __always_inline bool still_linked(struct hlist_node *node)
{
	struct hlist_node **pprev = BPF_CORE_READ(node, pprev);

	return pprev && read_node(pprev) == node;
}

/* Does something with this port, in this namespace, hash to the slot we walk? */
static __always_inline bool in_slot(struct walk *walk, struct net *net, __u32 port)
{
	__u32 mix = net == walk->net ? walk->mix : BPF_CORE_READ(net, hash_mix);

	return !((port + mix - walk->port - walk->mix) & walk->mask);
}

static __always_inline bool start_over(struct walk *walk)
{
	if (walk->restarts++ >= WALK_RESTARTS) {
		struct portkeep_state *engine = state();

		if (engine)
			__sync_fetch_and_add(&engine->walks_torn, 1);
		walk->verdict = PORT_IN_USE + blur;
		return false;
	}
	walk->verdict = PORT_FREE + blur;
	walk->owner = walk->bucket = NULL;
	return true;
}

static __always_inline bool is_our_bucket(struct walk *walk, struct inet_bind2_bucket *bucket)
{
	return BPF_CORE_READ(bucket, port) == walk->port &&
	       BPF_CORE_READ(bucket, ib_net.net) == walk->net &&
	       BPF_CORE_READ(bucket, l3mdev) == walk->l3mdev;
}

/* Stand on a second-level bucket. False: it is not one of ours (any more). */
static __always_inline bool enter_bucket(struct walk *walk, struct hlist_node *node)
{
	struct inet_bind2_bucket *bucket = around(node, struct inet_bind2_bucket, bhash_node);

	walk->bucket = node;
	walk->owner = NULL;
	if (!node)
		return true;
	walk->owner = BPF_CORE_READ(bucket, owners.first);
	return is_our_bucket(walk, bucket);
}

/* Stand on a first-level bucket; go down if it is ours. Several can be: one for each VRF. */
static __always_inline bool enter_chain(struct walk *walk, struct hlist_node *node)
{
	struct inet_bind_bucket *bucket = around(node, struct inet_bind_bucket, node);

	walk->chain = node;
	walk->bucket = walk->owner = NULL;
	if (!node || BPF_CORE_READ(bucket, port) != walk->port ||
	    BPF_CORE_READ(bucket, ib_net.net) != walk->net)
		return true;
	walk->l3mdev = BPF_CORE_READ(bucket, l3mdev);
	walk->first = BPF_CORE_READ(bucket, bhash2.first);
	return enter_bucket(walk, walk->first);
}

static __always_inline bool pass_owner(struct walk *walk)
{
	struct hlist_node *node = walk->owner;
	struct sock *sk = around(node, struct sock, __sk_common.skc_bind_node);
	struct inet_bind2_bucket *mine =
		around(walk->bucket, struct inet_bind2_bucket, bhash_node);
	bool waits = BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_TIME_WAIT;
	bool used = !waits && BPF_CORE_READ(sk, sk_socket);
	struct hlist_node *next = next_of(node);
	struct inet_bind2_bucket *its =
		waits ? BPF_CORE_READ((struct inet_timewait_sock *)sk, tw_tb2)
		      : BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_bind2_hash);

	if (its != mine || !still_linked(node))
		return false;
	walk->verdict = PORT_LINGERS + used + blur;
	walk->owner = next;
	return true;
}

static __always_inline bool pass_bucket(struct walk *walk)
{
	struct hlist_node *node = walk->bucket, *next = next_of(node);
	struct inet_bind2_bucket *bucket = around(node, struct inet_bind2_bucket, bhash_node);

	return is_our_bucket(walk, bucket) && still_linked(node) && enter_bucket(walk, next);
}

/* connect() gives a socket that is bound to any address its own one, and moves it to another
 * second-level bucket for that; in between it is in no list, though nothing we stand on is stale.
 * Then our bucket is empty, or has a new first entry when we leave it. (A socket that moves to an
 * entry that was there, of closed connections of the same address, and that we have passed, would
 * be missed.) */
static __always_inline bool nobody_moved(struct walk *walk, struct inet_bind_bucket *bucket)
{
	struct hlist_node *first;

	if (BPF_CORE_READ(bucket, port) != walk->port ||
	    BPF_CORE_READ(bucket, ib_net.net) != walk->net)
		return true;
	first = BPF_CORE_READ(bucket, bhash2.first);
	return first && first == walk->first;
}

static __always_inline bool pass_chain(struct walk *walk)
{
	struct hlist_node *node = walk->chain, *next = next_of(node);
	struct inet_bind_bucket *bucket = around(node, struct inet_bind_bucket, node);

	return nobody_moved(walk, bucket) &&
	       in_slot(walk, BPF_CORE_READ(bucket, ib_net.net),
		       BPF_CORE_READ(bucket, port)) &&
	       still_linked(node) && enter_chain(walk, next);
}

static long step_tcp(__u64 i unused, struct walk *walk)
{
	bool good = vague((__u64)walk->owner)	 ? pass_owner(walk)
		    : vague((__u64)walk->bucket) ? pass_bucket(walk)
		    : vague((__u64)walk->chain)  ? pass_chain(walk)
				   : true;

	if (!good && start_over(walk))
		enter_chain(walk, read_node(walk->head));
	return vague(walk->verdict) == PORT_IN_USE || !vague((__u64)walk->chain);
}

static long step_udp(__u64 i unused, struct walk *walk)
{
	struct hlist_node *node = walk->chain, *next = next_of(node);
	struct sock *sk = around(node, struct sock, __sk_common.skc_node);
	struct net *net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	__u32 port = BPF_CORE_READ(sk, __sk_common.skc_num);
	bool used = BPF_CORE_READ(sk, sk_socket);

	if (!in_slot(walk, net, port) || !still_linked(node)) {
		if (start_over(walk))
			walk->chain = read_node(walk->head);
	} else {
		if (port == walk->port && net == walk->net)
			walk->verdict = PORT_LINGERS + used + blur;
		walk->chain = next;
	}
	return vague(walk->verdict) == PORT_IN_USE || !vague((__u64)walk->chain);
}

#define VERDICT_BITS 2

/* Walk the slot at `head`; the verdict, and above it the steps it took. */
judged_alone __u64 walk_slot(__u64 net, __u64 head, __u64 mix_and_mask, __u32 port_and_protocol,
			     __u32 steps)
{
	struct walk walk = { .net = (struct net *)net, .head = (struct hlist_node **)head };
	struct portkeep_state *engine = state();
	__u32 taken;

	walk.mix = mix_and_mask >> 32;
	walk.mask = mix_and_mask;
	walk.port = port_and_protocol & 0xffff;
	walk.verdict = PORT_FREE + blur;
	walk.restarts = blur;
	walk.chain = read_node(walk.head);
	if (!walk.chain)
		return PORT_FREE;
	if (port_and_protocol >> 16 == PORTKEEP_TCP) {
		if (!enter_chain(&walk, walk.chain) && start_over(&walk))
			enter_chain(&walk, read_node(walk.head));
		taken = bpf_loop(steps, step_tcp, &walk, 0);
	} else {
		taken = bpf_loop(steps, step_udp, &walk, 0);
	}
	if (walk.verdict != PORT_IN_USE && (walk.chain || taken >= steps)) {
		if (engine)
			__sync_fetch_and_add(&engine->walks_cut, 1);
		walk.verdict = PORT_IN_USE;
		taken = steps;
	}
	return (__u64)taken << VERDICT_BITS | walk.verdict;
}

judged_alone __u32 walk_port(struct ground *ground, __u32 port)
{
	__u32 size = bpf_core_type_size(struct udp_hslot);
	__u32 first = bpf_core_field_offset(struct udp_hslot, head);
	__u64 head, found;

	if (!ground)
		return PORT_IN_USE;
	if (ground->protocol == PORTKEEP_TCP) {
		size = bpf_core_type_size(struct inet_bind_hashbucket);
		first = bpf_core_field_offset(struct inet_bind_hashbucket, chain);
	}
	if (!ground->slots)
		survey(ground);
	head = (__u64)ground->slots + ((port + ground->mix) & ground->mask) * size + first;
	if (!read_node((struct hlist_node **)head))
		return PORT_FREE;
	found = walk_slot((__u64)ground->net, head, (__u64)ground->mix << 32 | ground->mask,
			  port | ground->protocol << 16, ground->steps);
	ground->steps -= found >> VERDICT_BITS;
	return found & ((1 << VERDICT_BITS) - 1);
}

#endif
