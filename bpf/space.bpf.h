/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Entering a port space to acquire in it: its table, made if need be, and what it costs the user.
 *
 * Tables are what a machine can run out of. So a table is made by an acquire only, and only after
 * everything has been refused that can be refused without one: malformed requests, privileges, the
 * ephemeral range, quotas. What is left is whether the ports are free; an acquire that fails then
 * leaves a table in which nothing lives, and any other space may have it.
 *
 * A user can have user_spaces tables made. As that is asked only when one is made, they are simply
 * counted then, before (to refuse cheaply) and after (when of two at once each sees the other). The
 * last SPARE_TABLES are for the machine's administrators. So one user, however many namespaces he
 * makes, keeps nobody from a first acquire. (PORTKEEP_TABLES - SPARE_TABLES) / user_spaces = 14
 * users together can: in spaces without a table, all but administrators get ENOBUFS as long as
 * they keep theirs filled. Spaces that have one are not affected.
 *
 * How a table changes hands: live 0 -> REKEYING, old index entry out, new contents but nobody's,
 * live -> 1, index entry in, its space's. It counts its maker in *before* it is published, so that
 * others need not wait for a maker that is interrupted: whoever counts in and finds that the index
 * names the table puts his space in himself. When the index has another table already, because
 * somebody was faster, the new one stays nobody's.
 */
#ifndef PORTKEEP_SPACE_BPF_H
#define PORTKEEP_SPACE_BPF_H

#include "quota.bpf.h"
#include "table.bpf.h"
#include "task.bpf.h"

#define SPARE_TABLES 64
#define NEAR_REST 256 /* jiffies: a second, give or take how fast this kernel's clock ticks */

struct census {
	__u32 user;
	__u32 his, all; /* tables something lives in */
};

static long count_table(__u64 i, struct census *census)
{
	__u32 number = i;
	struct portkeep_table *table = table_at(number);

	if (!table || !read_once(table->live))
		return 0;
	census->all++;
	if (read_once(table->maker) == census->user)
		census->his++;
	return 0;
}

/* May a user have `more` tables made? */
judged_alone int grant_table(__u32 user, __u32 more)
{
	struct census census = { .user = user, .his = blur, .all = blur };
	struct portkeep_config *settings = config();

	if (!settings)
		return false;
	full_fence();
	bpf_loop(PORTKEEP_TABLES, count_table, &census, 0);
	return (!settings->user_spaces || census.his + more <= settings->user_spaces) &&
	       census.all + more <= PORTKEEP_TABLES - SPARE_TABLES;
}

struct new_table {
	struct portkeep_table *table;
	__u32 number;
	__u32 rest; /* how long nobody must have entered a near table */
};

static long empty_word(__u64 i, struct new_table *new)
{
	struct portkeep_table *table = new->table;

	if (!table)
		return 1;
	/* Nothing is known about a new space: everything may be bound. */
	table->maybe[i & (PORTKEEP_WORDS - 1)] = ~0ULL;
	return 0;
}

static __always_inline bool take_over(struct new_table *new, struct portkeep_table *table)
{
	struct portkeep_space old;
	__u64 word;

	if (!table || __sync_val_compare_and_swap(&table->live, 0, PORTKEEP_REKEYING))
		return false;
	word = table->space;
	table->space = 0;
	old = (struct portkeep_space){
		.netns = word >> 1,
		.protocol = word & 1 ? PORTKEEP_UDP : PORTKEEP_TCP,
	};
	if (word)
		bpf_map_delete_elem(&portkeep_spaces, &old);
	new->table = table;
	return true;
}

/* Try a near table. */
static long try_near(__u64 i, struct new_table *new)
{
	__u32 number = i;
	struct portkeep_table *table = bpf_map_lookup_elem(&portkeep_near, &number);

	new->number = number;
	if (!table || (read_once(table->space) &&
		       (__u32)bpf_jiffies64() - read_once(table->entered) < new->rest))
		return 0;
	return take_over(new, table);
}

/* Try the table after number `new->number`: make it if it never existed, take it over if nothing
 * lives in it. */
static long try_far(__u64 i unused, struct new_table *new)
{
	struct portkeep_table *table, *blank;
	__u32 only = 0, number = new->number + 1;

	if (number < PORTKEEP_NEAR || number >= PORTKEEP_TABLES)
		number = PORTKEEP_NEAR;
	new->number = number;
	table = bpf_map_lookup_elem(&portkeep_tables, &number);
	if (!table) {
		blank = bpf_map_lookup_elem(&portkeep_blank, &only);
		if (blank)
			bpf_map_update_elem(&portkeep_tables, &number, blank, BPF_NOEXIST);
		table = bpf_map_lookup_elem(&portkeep_tables, &number);
	}
	return take_over(new, table);
}

/* A near table if there is one that was nobody's, or that nobody has entered for a while: those are
 * the fastest, but spaces that acquire and release in turns must not take them from each other all
 * the time. Then the others, from where the last search ended, so that an old one is reused as late
 * as possible. */
static __always_inline void choose_table(struct new_table *new, struct portkeep_state *engine)
{
	new->rest = NEAR_REST;
	bpf_loop(PORTKEEP_NEAR, try_near, new, 0);
	if (new->table)
		return;
	new->number = read_once(engine->next_table);
	bpf_loop(PORTKEEP_TABLES - PORTKEEP_NEAR, try_far, new, 0);
	engine->next_table = new->number;
	if (new->table)
		return;
	new->rest = 0;
	bpf_loop(PORTKEEP_NEAR, try_near, new, 0);
}

/* Make the space's table and count in; its number. NO_TABLE: all tables live, the user may not have
 * one, or another caller made it meanwhile. */
judged_alone __u32 make_table(__u64 netns, __u32 protocol, __u32 user, __u32 privilege)
{
	struct portkeep_space space = { .netns = netns, .protocol = protocol };
	struct portkeep_state *engine = state();
	struct new_table new = {};
	struct portkeep_table *table;
	bool limited = privilege != FREE_OF_ALL_LIMITS;

	if (!engine || (limited && !grant_table(user, 1)))
		return NO_TABLE;
	choose_table(&new, engine);
	table = new.table;
	if (!table)
		return NO_TABLE;
	bpf_loop(PORTKEEP_WORDS, empty_word, &new, 0);
	table->maker = user;
	table->autobind = 0;
	table->granted = 0;
	table->entered = bpf_jiffies64();
	/* By addition, because somebody with an old index may be counting in and out. */
	ordered(__sync_fetch_and_add(&table->live, 1 - PORTKEEP_REKEYING));
	if ((limited && !grant_table(user, 0)) ||
	    bpf_map_update_elem(&portkeep_spaces, &space, &new.number, BPF_NOEXIST)) {
		put_table(table);
		return NO_TABLE;
	}
	read_once(table->space) = word_of_space(&space);
	return new.number;
}

/* Count in; false when the table is not the space's. */
static __always_inline bool enter_if_ours(struct portkeep_table *table, __u32 number,
					  const struct portkeep_space *space)
{
	if (!(ordered(__sync_fetch_and_add(&table->live, 1)) & PORTKEEP_REKEYING)) {
		__u32 *index;

		read_once(table->entered) = bpf_jiffies64();
		if (is_table_of(table, space))
			return true;
		/* From now on it cannot change hands, so if the index names it, it is ours. */
		index = bpf_map_lookup_elem(&portkeep_spaces, space);
		if (index && *index == number) {
			read_once(table->space) = word_of_space(space);
			return true;
		}
	}
	put_table(table);
	return false;
}

/* Count into a space's table, making it if need be; its number, or NO_TABLE. */
judged_alone __u32 enter_table(__u64 netns, __u32 protocol, __u32 user, __u32 privilege)
{
	struct portkeep_space space = { .netns = netns, .protocol = protocol };
	__u32 number = NO_TABLE;
	struct portkeep_table *table = hinted_table(&space, &number);

	if (table && enter_if_ours(table, number, &space))
		return number;
	for (int i = 0; i < TABLE_TRIES; i++) {
		table = indexed_table(&space, &number);
		if (!table) {
			number = make_table(netns, protocol, user, privilege);
			if (number != NO_TABLE)
				return number;
		} else if (enter_if_ours(table, number, &space)) {
			remember_table(&space, number);
			return number;
		}
	}
	return NO_TABLE;
}

/* What an acquire wants of a space, and what it was given. */
struct stake {
	__u64 netns;
	__u64 accounts; /* charged */
	__u32 protocol;
	__u32 user;
	__u32 ports, outside;
	__u32 privilege;
	__u32 number; /* of the table it was counted into */
};

/* Count into the space's table and charge the user. 0, or ENOBUFS and nothing is done. */
judged_alone int enter_space(struct stake *stake)
{
	__u32 own, account;
	__u64 more;

	if (!stake)
		return ENOBUFS;
	more = amounts(stake->ports, stake->outside);
	if (!within_limits(more, port_limits(stake->privilege)))
		return ENOBUFS;
	own = charge_reservation(stake->user, stake->privilege);
	if (own == NO_ACCOUNT && stake->privilege != FREE_OF_ALL_LIMITS)
		return ENOBUFS;
	stake->number = enter_table(stake->netns, stake->protocol, stake->user, stake->privilege);
	if (stake->number == NO_TABLE) {
		give_back(own, amounts(1, 0));
		return ENOBUFS;
	}
	account = charge_ports(stake->user, stake->number, more, stake->privilege);
	stake->accounts = pair(account, own);
	if (account != NO_ACCOUNT || stake->privilege == FREE_OF_ALL_LIMITS)
		return 0;
	give_back(own, amounts(1, 0));
	leave_table(stake->number);
	return ENOBUFS;
}

/* Widen a space's idea of what the kernel hands out by `range`. */
static __always_inline void widen_autobind(struct portkeep_table *table, __u32 range)
{
	__u32 seen = read_once(table->autobind);

	if (seen && (seen & 0xffff) < (range & 0xffff))
		range = (range & ~0xffffU) | (seen & 0xffff);
	if (seen >> 16 > range >> 16)
		range = (range & 0xffff) | (seen & ~0xffffU);
	if (range != seen)
		ordered(__sync_lock_test_and_set(&table->autobind, range));
}

#endif
