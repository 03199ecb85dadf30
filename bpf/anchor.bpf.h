/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The reservations of one anchor: a list through the entries, newest first.
 *
 * Options of the anchor run under its lock, its end after all of them, so only those add and
 * remove entries. RELEASE through another socket runs under that one's lock; it leaves its dead
 * entry in the list, to be dropped here.
 */
#ifndef PORTKEEP_ANCHOR_BPF_H
#define PORTKEEP_ANCHOR_BPF_H

#include "reservation.bpf.h"

static __always_inline void delete_entry(__u64 token, __u64 accounts)
{
	bpf_map_delete_elem(&portkeep_reservations, &token);
	refund_entry(accounts);
}

struct pruning {
	struct portkeep_socket *anchor;
	struct portkeep_reservation *newer; /* the last living entry passed */
	__u64 token;
};

static long prune_entry(__u64 i unused, struct pruning *list)
{
	__u64 token = list->token, older;
	struct portkeep_reservation *entry, *newer = list->newer;

	if (!token || !list->anchor)
		return 1;
	entry = bpf_map_lookup_elem(&portkeep_reservations, &token);
	if (!entry)
		return 1;
	older = entry->older;
	list->token = older;
	if (read_once(entry->token)) {
		list->newer = entry;
		return 0;
	}
	if (newer)
		newer->older = older;
	else
		list->anchor->newest = older;
	list->anchor->count--;
	delete_entry(token, entry->accounts);
	return !older;
}

/* Drop dead entries among the newest `depth`. */
static __always_inline void prune(struct portkeep_socket *anchor, __u32 depth)
{
	struct pruning list = { .anchor = anchor, .token = anchor->newest };

	if (list.token)
		bpf_loop(depth, prune_entry, &list, 0);
}

/* Drop what has just ended, if it was anchored there. */
static __always_inline void drop(struct portkeep_socket *anchor, const struct ending *end)
{
	if (anchor->newest != end->token) {
		prune(anchor, PORTKEEP_ANCHOR_MAX);
		return;
	}
	anchor->newest = end->older;
	anchor->count--;
	delete_entry(end->token, end->accounts);
}

static long end_entry(__u64 i unused, struct portkeep_socket *anchor)
{
	__u64 token = anchor->newest;
	struct ending end = { .token = token };
	struct portkeep_reservation *entry;

	if (!token)
		return 1;
	if (!end_reservation(&end)) {
		/* It had ended already. */
		entry = bpf_map_lookup_elem(&portkeep_reservations, &token);
		if (!entry)
			return 1;
		end.older = entry->older;
		end.accounts = entry->accounts;
	}
	anchor->newest = end.older;
	delete_entry(token, end.accounts);
	return 0;
}

/* The anchor is gone. */
static __always_inline void end_all(struct portkeep_socket *anchor)
{
	struct portkeep_socket list = { .newest = anchor->newest };

	bpf_loop(PORTKEEP_ANCHOR_MAX, end_entry, &list, 0);
	anchor->newest = 0;
}

/* Make the caller the owner; false if the token is not anchored there. Called under the anchor's
 * lock: only the anchor deletes its entries, so the entry stays what it is while we write. */
judged_alone int adopt_reservation(__u64 token, __u64 anchor)
{
	struct portkeep_reservation *entry;
	struct deed deed;

	if (!read_deed(token, &deed))
		return false;
	entry = deed.entry;
	if (!entry || read_once(entry->anchor) != anchor)
		return false;
	sign(entry);
	return true;
}

struct listing {
	struct bpf_sockopt *ctx;
	__u64 token;
	__u32 listed;
};

static __always_inline bool list_next(struct listing *list)
{
	struct portkeep_instance *out;
	__u64 token = list->token;
	__u32 at = list->listed;
	struct deed deed;
	bool alive;

	/* read_deed() says no to a dead entry, but fills in where it is. */
	deed.entry = NULL;
	alive = read_deed(token, &deed);
	if (!deed.entry || at >= PORTKEEP_ANCHOR_MAX)
		return false;
	list->token = deed.entry->older;
	if (!alive)
		return true;
	out = list->ctx->optval + at * sizeof(*out);
	if ((void *)(out + 1) > list->ctx->optval_end)
		return false;
	out->start = bpf_htons(deed.start);
	out->count = deed.count;
	out->zero = 0;
	out->token = token;
	list->listed = at + 1;
	return list->token;
}

static long list_entry(__u64 i unused, struct listing *list)
{
	return !list_next(list);
}

/* Write the anchor's instances into the option buffer; returns how many. */
static __always_inline __u32 list_instances(struct bpf_sockopt *ctx,
					    const struct portkeep_socket *anchor)
{
	struct listing list = { .ctx = ctx, .token = anchor->newest, .listed = blur };

	/* Mostly there is one. */
	if (list_next(&list))
		bpf_loop(PORTKEEP_ANCHOR_MAX, list_entry, &list, 0);
	return list.listed;
}

#endif
