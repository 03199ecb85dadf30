/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Reservations: their tokens, whose they are, how they end.
 *
 * The memory of a deleted entry is reused at once, so an entry that was looked up is trusted only
 * as long as its token is the one asked for. Tokens do not return: reading fields and then finding
 * the token still there means that the fields were this reservation's; swapping the token for 0
 * succeeds for exactly one caller, who then ends the reservation.
 */
#ifndef PORTKEEP_RESERVATION_BPF_H
#define PORTKEEP_RESERVATION_BPF_H

#include "quota.bpf.h"
#include "table.bpf.h"
#include "task.bpf.h"

#define SIPHASH_ROUND(a, b, c, d)                       \
	do {                                            \
		a += b, b = b << 13 | b >> 51, b ^= a;  \
		a = a << 32 | a >> 32;                  \
		c += d, d = d << 16 | d >> 48, d ^= c;  \
		a += d, d = d << 21 | d >> 43, d ^= a;  \
		c += b, b = b << 17 | b >> 47, b ^= c;  \
		c = c << 32 | c >> 32;                  \
	} while (0)

/* SipHash-2-4 of one 64-bit number. */
static __always_inline __u64 siphash(const __u64 key[2], __u64 number)
{
	__u64 a = key[0] ^ 0x736f6d6570736575ULL, b = key[1] ^ 0x646f72616e646f6dULL;
	__u64 c = key[0] ^ 0x6c7967656e657261ULL, d = key[1] ^ 0x7465646279746573ULL;
	__u64 length = 8ULL << 56;

	d ^= number;
	SIPHASH_ROUND(a, b, c, d);
	SIPHASH_ROUND(a, b, c, d);
	a ^= number;
	d ^= length;
	SIPHASH_ROUND(a, b, c, d);
	SIPHASH_ROUND(a, b, c, d);
	a ^= length;
	c ^= 0xff;
	SIPHASH_ROUND(a, b, c, d);
	SIPHASH_ROUND(a, b, c, d);
	SIPHASH_ROUND(a, b, c, d);
	SIPHASH_ROUND(a, b, c, d);
	return a ^ b ^ c ^ d;
}

/* bpf_get_prandom_u32 alone could be guessed. 0 is no token. */
static __always_inline __u64 new_token(void)
{
	struct portkeep_config *settings = config();
	struct portkeep_state *engine = state();

	if (!settings || !engine)
		return 0;
	return siphash(settings->key, __sync_fetch_and_add(&engine->tokens, 1));
}

static __always_inline __u32 block_key(__u32 table, __u32 port)
{
	return table << 16 | port;
}

/* The parts of a reservation that decide who may use it, read as one. */
struct deed {
	struct portkeep_reservation *entry;
	__u64 token;
	__u64 owner;
	__u64 netns;
	__u32 start;
	__u32 count;
	__u32 protocol;
	__u32 kind;
	__u32 table;
};

static __always_inline bool read_deed(__u64 token, struct deed *deed)
{
	struct portkeep_reservation *entry;

	if (!token)
		return false;
	entry = bpf_map_lookup_elem(&portkeep_reservations, &token);
	if (!entry)
		return false;
	deed->entry = entry;
	deed->token = token;
	deed->owner = read_once(entry->owner);
	deed->netns = read_once(entry->netns);
	deed->start = read_once(entry->start);
	deed->count = read_once(entry->count);
	deed->protocol = read_once(entry->protocol);
	deed->kind = read_once(entry->kind);
	deed->table = read_once(entry->table);
	return read_once(entry->token) == token;
}

static __always_inline bool covers(const struct deed *deed, const struct portkeep_space *space,
				   __u32 port)
{
	return deed->netns == space->netns && deed->protocol == space->protocol &&
	       port - deed->start < deed->count;
}

struct finding {
	struct portkeep_space space;
	__u32 port;
	__u64 token;
};

static long find_holder(struct bpf_map *map unused, __u64 *token,
			struct portkeep_reservation *entry, struct finding *find)
{
	if (read_once(entry->netns) != find->space.netns ||
	    read_once(entry->protocol) != find->space.protocol ||
	    find->port - read_once(entry->start) >= read_once(entry->count) ||
	    !read_once(entry->token))
		return 0;
	find->token = *token;
	return 1;
}

/* The token of the reservation a port belongs to, or 0. Goes through all reservations: keeping an
 * index would make every acquire dearer for a question that is asked by people. */
static __always_inline __u64 holder_of(const struct portkeep_space *space, __u32 port)
{
	struct finding find = { .space = *space, .port = port };

	bpf_for_each_map_elem(&portkeep_reservations, find_holder, &find, 0);
	return find.token;
}

/* Whole words between a block's first and its last. */
struct unclaim {
	struct portkeep_table *table;
	__u32 word, end;
};

static long unclaim_words(__u64 i, struct unclaim *block)
{
	struct portkeep_table *table = block->table;
	__u32 word = block->word + i * STRIDE;

	for (int k = 0; k < STRIDE; k++, word++) {
		if (!table || word >= block->end)
			return 1;
		ordered(__sync_fetch_and_and(&table->used[word & (PORTKEEP_WORDS - 1)], 0));
	}
	return 0;
}

static __always_inline void unclaim_word(struct portkeep_table *table, __u32 word, __u64 mask)
{
	ordered(__sync_fetch_and_and(&table->used[word & (PORTKEEP_WORDS - 1)], ~mask));
}

/* Give up the claim on the first `words` words of first..last. */
static __always_inline void unclaim(struct portkeep_table *table, __u32 first, __u32 last,
				    __u32 words)
{
	struct unclaim block = { .table = table };
	__u32 word = first >> 6, end = last >> 6;

	if (!words)
		return;
	unclaim_word(table, word, word_mask(word, first, last));
	if (words == 1)
		return;
	block.word = word + 1;
	block.end = word + words <= end ? word + words : end;
	if (block.word < block.end)
		bpf_loop(strides(words), unclaim_words, &block, 0);
	if (word + words > end)
		unclaim_word(table, end, word_mask(end, first, last));
}

/* A reservation that is to end, and what its anchor needs to drop the entry. */
struct ending {
	__u64 token;
	__u64 owner; /* 0: whoever it is. Otherwise only a runtime one of his, in this port space: */
	__u64 netns;
	__u64 protocol;
	__u64 older; /* from here on: what was found */
	__u64 accounts;
};

/* End a reservation: false if it was not alive. The entry stays, as a link in its anchor's list, and
 * only the anchor deletes it. Nothing of the entry is read once the token is gone. */
judged_alone int end_reservation(struct ending *end)
{
	struct portkeep_table *table;
	__u32 number, outside, first, last, key;
	struct deed deed;
	__u64 token;

	if (!end)
		return false;
	token = end->token;
	if (!read_deed(token, &deed))
		return false;
	if (end->owner &&
	    (deed.owner != end->owner || deed.netns != end->netns ||
	     deed.protocol != end->protocol || deed.kind != PORTKEEP_KIND_RUNTIME))
		return false;
	end->older = deed.entry->older;
	end->accounts = deed.entry->accounts;
	outside = deed.entry->outside;
	if (__sync_val_compare_and_swap(&deed.entry->token, token, 0) != token)
		return false;
	number = deed.table;
	first = deed.start;
	last = first + deed.count - 1;
	table = table_at(number);
	if (!table)
		return true;
	/* Asked only now, with the token gone: a GRANT that enters it later finds the token gone. */
	if (read_once(table->granted)) {
		key = block_key(number, first);
		if (bpf_map_lookup_elem(&portkeep_blocks, &key))
			bpf_map_delete_elem(&portkeep_blocks, &key);
	}
	ordered(__sync_fetch_and_and(&table->start[word_of(first)], ~bit_of(first)));
	unclaim(table, first, last, (last >> 6) - (first >> 6) + 1);
	refund_ports(end->accounts, deed.count, outside);
	put_table(table);
	return true;
}

#endif
