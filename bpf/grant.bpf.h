/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Who may consume a reservation, and the ports that a call has in hand.
 *
 * To whom a reservation is granted is told by its entry in portkeep_blocks alone, so that there are
 * no two places to keep in step. The entry's key is of ports, not of a token, and may belong to
 * somebody else as soon as the reservation ends. Whoever works on it therefore takes the block's
 * first port in hand: an acquire that claims a port and then finds it in hand gives up.
 *
 * connect() takes the port it binds in hand, for the same reason; see consume.bpf.h.
 */
#ifndef PORTKEEP_GRANT_BPF_H
#define PORTKEEP_GRANT_BPF_H

#include "reservation.bpf.h"

/* What entry of portkeep_blocks says, if it is of that reservation. */
static __always_inline __u32 granted(__u32 key, __u64 token)
{
	struct portkeep_grant *entry = bpf_map_lookup_elem(&portkeep_blocks, &key);
	__u32 grant;

	if (!entry || read_once(entry->token) != token)
		return PORTKEEP_GRANT_PROCESS;
	grant = read_once(entry->grant);
	return read_once(entry->token) == token ? grant : PORTKEEP_GRANT_PROCESS;
}

/* May the calling process consume that port (0: any)? 0, or EINVAL: no such reservation of this
 * port space, or the port is outside; EACCES: it is not for this process. */
judged_alone int judge_taking(__u64 token, __u64 netns, __u32 protocol, __u32 port)
{
	struct portkeep_space space = { .netns = netns, .protocol = protocol };
	struct deed deed;

	if (!read_deed(token, &deed) || !covers(&deed, &space, port ?: deed.start))
		return EINVAL;
	if (deed.owner == caller())
		return 0;
	return granted(block_key(deed.table, deed.start), token) == PORTKEEP_GRANT_DESCENDANTS &&
			       caller_is_below(deed.owner)
		       ? 0
		       : EACCES;
}

/* May the calling process bind a reserved port plainly, without having associated the socket? */
judged_alone int admits_plain_bind(__u32 number, __u64 netns, __u32 protocol, __u32 port)
{
	struct portkeep_space space = { .netns = netns, .protocol = protocol };
	struct portkeep_table *table = table_at(number);
	struct portkeep_grant *entry;
	struct deed deed;
	__u64 token;
	__u32 key;

	if (!table)
		return false;
	key = block_key(number, block_start(table, port));
	entry = bpf_map_lookup_elem(&portkeep_blocks, &key);
	if (!entry)
		return false;
	token = read_once(entry->token);
	return read_deed(token, &deed) && covers(&deed, &space, port) &&
	       granted(key, token) == PORTKEEP_GRANT_DESCENDANTS && caller_is_below(deed.owner);
}

/* Take a port of a living reservation in hand. 0, or EINVAL: the table is another space's by now, so
 * the reservation is dead; EBUSY: another call has it; ENOBUFS. Afterwards, look whether the
 * reservation still lives: if so, whoever acquires the port later finds it in hand. Counting in
 * keeps the table the space's own until the port is let go. */
judged_alone int take_in_hand(__u32 number, __u64 netns, __u32 protocol, __u32 port)
{
	struct portkeep_space space = { .netns = netns, .protocol = protocol };
	struct portkeep_table *table = table_at(number);
	__u32 key = block_key(number, port) | PORTKEEP_IN_HAND;
	struct portkeep_grant nothing = {};
	long error;

	if (!table || !get_table(table, &space))
		return EINVAL;
	ordered(__sync_fetch_and_add(&table->hands, 1));
	error = bpf_map_update_elem(&portkeep_blocks, &key, &nothing, BPF_NOEXIST);
	full_fence();
	if (!error)
		return 0;
	ordered(__sync_fetch_and_add(&table->hands, -1));
	put_table(table);
	return error == -EEXIST ? EBUSY : ENOBUFS;
}

/* `bound`: a socket has the port now. Whoever finds it in hand no more finds "maybe" set. */
judged_alone int let_go(__u32 number, __u32 port, __u32 bound)
{
	struct portkeep_table *table = table_at(number);
	__u32 key = block_key(number, port) | PORTKEEP_IN_HAND;

	if (!table)
		return 0;
	/* Nobody clears "maybe" while we have the port in hand, so no fence comes before it. */
	if (bound)
		mark_maybe(table, port);
	full_fence();
	bpf_map_delete_elem(&portkeep_blocks, &key);
	ordered(__sync_fetch_and_add(&table->hands, -1));
	put_table(table);
	return 0;
}

/* Say that a table has entries in portkeep_blocks, before it has: whoever ends a reservation asks for
 * its entry only then. A fence and a look at the token have to follow. */
static __always_inline void expect_grants(struct portkeep_table *table)
{
	read_once(table->granted) = 1;
}

static __always_inline int enter_grant(__u32 key, __u64 token, __u32 grant)
{
	struct portkeep_grant entry = { .token = token, .grant = grant };
	struct portkeep_table *table = table_at(key >> 16);

	if (table)
		expect_grants(table);
	if (grant == PORTKEEP_GRANT_PROCESS) {
		bpf_map_delete_elem(&portkeep_blocks, &key);
		return 0;
	}
	if (granted(key, token) == grant)
		return 0;
	return bpf_map_update_elem(&portkeep_blocks, &key, &entry, BPF_ANY) ? ENOBUFS : 0;
}

/* Change who may consume a reservation. 0 or an error. */
judged_alone int change_grant(__u64 token, __u64 netns, __u32 protocol, __u32 grant)
{
	struct portkeep_space space = { .netns = netns, .protocol = protocol };
	struct deed deed;
	__u32 key;
	int error;

	if (!read_deed(token, &deed) || !covers(&deed, &space, deed.start) ||
	    deed.kind != PORTKEEP_KIND_RUNTIME || deed.owner != caller())
		return EINVAL;
	error = take_in_hand(deed.table, netns, protocol, deed.start);
	if (error)
		return error;
	key = block_key(deed.table, deed.start);
	if (!read_deed(token, &deed) || deed.owner != caller()) {
		error = EINVAL;
	} else {
		error = enter_grant(key, token, grant);
		full_fence();
		/* Ended meanwhile, perhaps before our entry was there to be removed. Until we let
		 * go, nobody else can have one here. */
		if (!read_deed(token, &deed)) {
			bpf_map_delete_elem(&portkeep_blocks, &key);
			error = EINVAL;
		}
	}
	let_go(key >> 16, key & 0xffff, false);
	return error;
}

#endif
