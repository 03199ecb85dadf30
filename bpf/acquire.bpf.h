/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * ACQUIRE. The acquirer's half of the race protocol (the binder's is in consume.bpf.h):
 *   0. everything that can be refused without touching anything is refused, and a first look,
 *      without claiming, is taken at the ports. Without it, a user acquiring a busy block in a loop
 *      would keep everybody else out of the rest of it.
 *   1. claim: set the bits, all or nothing.
 *   2. look again, only now decisive. "maybe" is cleared before the port is walked, and only under
 *      the claim, so that nobody relies on what is not yet known.
 * Giving up restores "maybe" wherever it was cleared, and only then drops the claim. That order is
 * essential: with the claim gone and "maybe" still clear, the next acquirer of the same ports would
 * take "not looked at" for "nobody there" and not walk.
 */
#ifndef PORTKEEP_ACQUIRE_BPF_H
#define PORTKEEP_ACQUIRE_BPF_H

#include "anchor.bpf.h"
#include "search.bpf.h"
#include "space.bpf.h"

#define SPACES 2 /* of one request at most: the socket's own, and the other protocol's */
#define TRIES PORTS /* each try that fails leaves a port behind */

struct acquire {
	struct portkeep_table *tables[SPACES]; /* twice the same when there is one space */
	struct portkeep_socket *anchor;
	struct block block;
	struct place place;
	struct origin from;
	__u64 accounts[SPACES]; /* charged */
	__u16 numbers[SPACES];	/* of the tables */
	__u32 outside;
	__u32 busy;
	__u16 pool_first, pool_last;
	__u16 middle; /* random, where the search starts */
	__u8 protocol;
	__u8 grant;
	__u8 spaces;
	__u8 specific; /* not a wildcard */
	__u8 wrapped;
	__u8 recorded; /* blocks */
};

static __always_inline __u32 protocol_of(const struct acquire *acquire, int k)
{
	return k ? PORTKEEP_TCP + PORTKEEP_UDP - acquire->protocol : acquire->protocol;
}

enum { FIRST_LOOK, CLAIM, SECOND_LOOK, STAGES };

static __always_inline __u32 pass_stage(struct acquire *acquire, int stage, int k)
{
	struct portkeep_table *table = acquire->tables[k];
	struct block *block = &acquire->block;

	if (!table)
		return 1;
	block->number = acquire->numbers[k];
	block->protocol = protocol_of(acquire, k);
	return stage == CLAIM ? claim_block(table, block)
			      : look_at(table, block, (__u64)acquire->place.net,
					stage == SECOND_LOOK);
}

static __always_inline void drop_claim(struct acquire *acquire, int k)
{
	struct block *block = &acquire->block;

	if (acquire->tables[k])
		unclaim(acquire->tables[k], block->first, block->last,
			words_of(block->first, block->last));
}

/* Each stage in both spaces before the next. A port that stands in the way, or 0. */
static __always_inline __u32 take_block(struct acquire *acquire)
{
	bool two = acquire->spaces == SPACES;
	int claims = 0;
	__u32 busy = 0;

	for (int stage = FIRST_LOOK; stage < STAGES; stage++) {
		for (int k = 0; k < SPACES; k++) {
			if (busy || (k && !two))
				continue;
			busy = pass_stage(acquire, stage, k);
			if (!busy && stage == CLAIM)
				claims++;
		}
	}
	if (busy && claims)
		drop_claim(acquire, 0);
	if (busy && claims == SPACES)
		drop_claim(acquire, 1);
	return busy;
}

/* One try to take a block: the one asked for, or the next free run of the pool. */
static long try_block(__u64 i unused, struct acquire *acquire)
{
	struct place *place = &acquire->place;

	if (!acquire->specific) {
		__u32 found = 0;

		if (acquire->tables[0] && acquire->tables[1])
			found = search_run(acquire->tables[0], acquire->tables[1], place);
		if (!found) {
			/* From the random start to the end; now the rest. */
			if (acquire->wrapped)
				return 1;
			acquire->wrapped = 1;
			place->from = acquire->pool_first;
			place->to = acquire->middle + place->count - 2;
			if (place->to > acquire->pool_last)
				place->to = acquire->pool_last;
			return 0;
		}
		acquire->block.first = found;
		acquire->block.last = found + place->count - 1;
	}
	acquire->busy = acquire->spaces == 1 && take_quickly(acquire->tables[0], &acquire->block)
				? blur
				: take_block(acquire);
	place->from = acquire->busy + 1;
	return !vague(acquire->busy) || acquire->specific;
}

static __always_inline void start_search(struct acquire *acquire, __u32 first, __u32 last)
{
	acquire->pool_first = first;
	acquire->pool_last = last;
	acquire->middle = first + bpf_get_prandom_u32() % (last - first + 1);
	acquire->place.from = acquire->middle;
	acquire->place.to = last;
}

/* Enter the block into the maps; the other protocol's first, so that the own one is the newest. */
static long record_block(__u64 i, struct acquire *acquire)
{
	struct portkeep_socket *anchor = acquire->anchor;
	struct portkeep_table *table;
	struct portkeep_reservation entry = {};
	struct portkeep_grant grant = {};
	bool other = !i && acquire->spaces == SPACES;
	__u64 token = new_token();
	__u32 key;

	if (!anchor || !token)
		return 1;
	entry.token = token;
	entry.older = anchor->newest;
	entry.anchor = anchor->anchor;
	entry.netns = acquire->from.netns;
	entry.acquired = bpf_ktime_get_boot_ns();
	entry.start = acquire->block.first;
	entry.count = acquire->place.count;
	entry.protocol = protocol_of(acquire, other);
	entry.kind = PORTKEEP_KIND_RUNTIME;
	entry.table = other ? acquire->numbers[1] : acquire->numbers[0];
	entry.accounts = other ? acquire->accounts[1] : acquire->accounts[0];
	entry.outside = acquire->outside;
	sign(&entry);
	table = other ? acquire->tables[1] : acquire->tables[0];
	if (!table)
		return 1;
	key = block_key(entry.table, entry.start);
	if (bpf_map_update_elem(&portkeep_reservations, &token, &entry, BPF_NOEXIST))
		return 1;
	grant.token = token;
	grant.grant = acquire->grant;
	if (acquire->grant != PORTKEEP_GRANT_PROCESS)
		expect_grants(table);
	if (acquire->grant != PORTKEEP_GRANT_PROCESS &&
	    bpf_map_update_elem(&portkeep_blocks, &key, &grant, BPF_NOEXIST)) {
		bpf_map_delete_elem(&portkeep_reservations, &token);
		return 1;
	}
	ordered(__sync_fetch_and_or(&table->start[word_of(acquire->block.first)],
				    bit_of(acquire->block.first)));
	anchor->newest = token;
	anchor->count++;
	/* From here on the reservation holds the count of its table, its ports and its charge. */
	acquire->recorded++;
	return 0;
}

framed_alone int take_back(struct portkeep_socket *anchor)
{
	struct ending end = { .token = anchor->newest };

	end_reservation(&end);
	prune(anchor, 1);
	return 0;
}

/* Enter the blocks, all or none. */
static __always_inline int record(struct acquire *acquire)
{
	struct portkeep_socket *anchor = acquire->anchor;
	__u32 spaces = acquire->spaces;

	record_block(0, acquire);
	if (spaces == SPACES)
		record_block(1, acquire);
	if (acquire->recorded == spaces)
		return 0;
	if (acquire->recorded && anchor) {
		take_back(anchor);
	} else if (spaces == SPACES) {
		drop_claim(acquire, 1);
	}
	drop_claim(acquire, 0);
	return ENOBUFS;
}

/* Enter the other protocol's space (k = 1) or the own one. */
framed_alone int enter(struct acquire *acquire, int k)
{
	struct stake stake = {
		.netns = acquire->from.netns,
		.protocol = protocol_of(acquire, k),
		.user = acquire->from.payer,
		.ports = acquire->place.count,
		.outside = acquire->outside,
	};
	struct portkeep_table *table;
	int error = enter_space(&stake);

	/* Asking for capabilities is dear, so it comes last. */
	if (error && capable((__u64)acquire->place.net, CAP_NET_ADMIN)) {
		stake.privilege = administrator() ? FREE_OF_ALL_LIMITS : FREE_OF_PORT_LIMITS;
		error = enter_space(&stake);
	}
	table = table_at(stake.number);
	if (error || !table)
		return ENOBUFS;
	widen_autobind(table, acquire->place.range);
	if (k) {
		acquire->numbers[1] = stake.number;
		acquire->accounts[1] = stake.accounts;
		acquire->tables[1] = table;
	} else {
		acquire->numbers[0] = stake.number;
		acquire->accounts[0] = stake.accounts;
		acquire->tables[0] = acquire->tables[1] = table;
	}
	return 0;
}

static __always_inline void leave(struct acquire *acquire, int k)
{
	refund_ports(acquire->accounts[k], acquire->place.count, acquire->outside);
	refund_entry(acquire->accounts[k]);
	if (acquire->tables[k])
		put_table(acquire->tables[k]);
}

static __always_inline bool power_of_two(__u32 number)
{
	return number && !(number & (number - 1));
}

/* The error for a request that no state of the world would make good, or 0. */
static __always_inline int judge_request(const struct portkeep_request *request)
{
	__u32 start = bpf_ntohs(request->range.start), count = request->range.count;

	if (!count || start + count > PORTS || request->zero || request->grant_id ||
	    request->flags & ~PORTKEEP_SAME_NUMBERS || request->grant > PORTKEEP_GRANT_BEARER)
		return EINVAL;
	if (request->alignment &&
	    (!power_of_two(request->alignment) || start & (request->alignment - 1)))
		return EINVAL;
	return request->grant > PORTKEEP_GRANT_DESCENDANTS ? EOPNOTSUPP : 0;
}

static __always_inline __u32 outside_pool(__u32 first, __u32 last, __u32 pool)
{
	__u32 low = first > (pool & 0xffff) ? first : (pool & 0xffff);
	__u32 high = last < pool >> 16 ? last : pool >> 16;

	return last - first + 1 - (low <= high ? high - low + 1 : 0);
}

/* What the call wants and where it is; everything a block's two spaces have in common. */
static __always_inline void fill_in(struct acquire *acquire, __u32 protocol,
				    const struct portkeep_request *request,
				    const struct portkeep_config *settings)
{
	__u32 start = bpf_ntohs(request->range.start), count = request->range.count;

	acquire->protocol = protocol;
	acquire->spaces = 1 + (request->flags & PORTKEEP_SAME_NUMBERS);
	acquire->grant = request->grant;
	acquire->specific = start != 0;
	acquire->place.count = count;
	acquire->place.alignment = request->alignment ?: 1;
	acquire->place.from = acquire->block.first = start;
	acquire->place.to = acquire->block.last = start + count - 1;
	acquire->block.partial = settings->flags & PORTKEEP_PARTIAL;
	acquire->block.steps = settings->walk_steps;
}

/* Returns an error, or 0. */
static __always_inline int acquire_block(struct bpf_sockopt *ctx, struct bpf_sock *sk,
					 __u32 protocol, struct portkeep_socket *anchor,
					 const struct portkeep_request *request)
{
	struct portkeep_config *settings = config();
	struct portkeep_state *engine = state();
	struct net *net;
	__u32 start = bpf_ntohs(request->range.start), count = request->range.count;
	__u32 pool, pool_first, pool_last;
	int privileged;
	struct acquire acquire;
	int error;

	error = judge_request(request);
	if (error)
		return error;
	if (!settings || !engine)
		return EOPNOTSUPP;
	__builtin_memset(&acquire, vague(0), sizeof(acquire));
	fill_in(&acquire, protocol, request, settings);
	acquire.from.netns = bpf_get_netns_cookie(ctx);
	privileged = locate(&acquire.from, &acquire.place);
	net = acquire.place.net;
	if (privileged == ELSEWHERE) {
		net = net_of(sk);
		acquire.place.net = net;
		acquire.place.range = BPF_CORE_READ(net, ipv4.ip_local_ports.range);
		privileged = BPF_CORE_READ(net, ipv4.sysctl_ip_prot_sock);
	}
	acquire.anchor = anchor;
	prune(anchor, 1);
	if (anchor->count + acquire.spaces > PORTKEEP_ANCHOR_MAX)
		prune(anchor, PORTKEEP_ANCHOR_MAX);
	if (anchor->count + acquire.spaces > PORTKEEP_ANCHOR_MAX)
		return ENOBUFS;
	if (!anchor->anchor)
		anchor->anchor = __sync_fetch_and_add(&engine->anchors, 1) + 1;

	pool = read_once(settings->pool);
	pool_first = pool & 0xffff;
	pool_last = pool >> 16;
	if ((int)(start ?: pool_first) < privileged &&
	    !capable((__u64)net, CAP_NET_BIND_SERVICE)) {
		if (start)
			return EACCES;
		pool_first = privileged;
	}
	if (start) {
		acquire.outside = outside_pool(start, start + count - 1, pool);
		if (start <= acquire.place.range >> 16 &&
		    start + count > (acquire.place.range & 0xffff) &&
		    in_autobind_range(&acquire.place))
			return EADDRINUSE;
	} else {
		if (pool_first > pool_last || count > pool_last - pool_first + 1)
			return ENOBUFS;
		start_search(&acquire, pool_first, pool_last);
	}

	if (enter(&acquire, 0))
		return ENOBUFS;
	if (acquire.spaces == SPACES && enter(&acquire, 1)) {
		leave(&acquire, 0);
		return ENOBUFS;
	}
	acquire.busy = vague(1);
	bpf_loop(TRIES, try_block, &acquire, 0);
	error = !acquire.busy ? record(&acquire) : start ? EADDRINUSE : ENOBUFS;
	if (!error)
		return 0;
	leave(&acquire, 0);
	if (acquire.spaces == SPACES && !acquire.recorded)
		leave(&acquire, 1);
	return error;
}

#endif
