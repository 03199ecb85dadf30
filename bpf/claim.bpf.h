/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Looking at a block of one port space, and claiming it; the order in which an acquire does so is
 * told in acquire.bpf.h. All of it works on 64 ports at a time.
 */
#ifndef PORTKEEP_CLAIM_BPF_H
#define PORTKEEP_CLAIM_BPF_H

#include "grant.bpf.h"
#include "in_use.bpf.h"

#define PORTS 65536

/* A block of one port space that somebody wants. */
struct block {
	__u32 number; /* of the table */
	__u32 first, last;
	__u16 protocol;
	__u16 partial; /* sockets may be bound without our hooks */
	__u32 steps;   /* of walking left */
};

static __always_inline __u32 words_of(__u32 first, __u32 last)
{
	return (last >> 6) - (first >> 6) + 1;
}

/* The ports of a word that lie within first | last << 16. */
static __always_inline __u64 within(__u32 word, __u32 range)
{
	__u32 first = range & 0xffff, last = range >> 16;

	return word < first >> 6 || word > last >> 6 ? 0 : word_mask(word, first, last);
}

struct look {
	struct portkeep_table *table;
	struct ground ground;
	__u64 dirty; /* ports of the word before `word` that have to be walked */
	__u32 word;
	__u32 busy;  /* a port that stands in the way */
	__u16 first, last;
	__u8 partial;
	__u8 decisive; /* the second look */
};

#define LOOK_STEPS (PORTKEEP_WORDS + PORTS)

static __always_inline bool look_at_word(struct look *look, struct portkeep_table *table)
{
	__u32 word = look->word++, at = word & (PORTKEEP_WORDS - 1);
	__u64 mask = word_mask(word, look->first, look->last), taken, dirty;

	dirty = read_once(table->maybe[at]) & mask;
	if (!look->decisive) {
		taken = read_once(table->used[at]) & mask;
		if (taken) {
			look->busy = (word << 6) + highest_bit(taken);
			return true;
		}
	} else if (dirty) {
		dirty = mask & ordered(__sync_fetch_and_and(&table->maybe[at], ~mask));
	}
	/* Sockets can get these without our hooks, now or under an earlier range. */
	dirty |= mask & within(word, read_once(table->autobind));
	look->dirty = look->partial ? mask : dirty;
	return false;
}

/* One step: the next port that has to be walked, or else the next word. */
static long look_further(__u64 i unused, struct look *look)
{
	struct portkeep_table *table = look->table;
	__u64 dirty = look->dirty;
	__u32 port;

	if (!table)
		return 1;
	if (!dirty)
		return look->word > look->last >> 6 || look_at_word(look, table);
	look->dirty = dirty & (dirty - 1);
	port = ((look->word - 1) << 6) + lowest_bit(dirty);
	if (walk_port(&look->ground, port) != PORT_IN_USE)
		return 0;
	look->busy = port;
	return 1;
}

static long restore_maybe(__u64 i, struct look *look)
{
	__u32 word = (look->first >> 6) + i;

	if (!look->table)
		return 1;
	ordered(__sync_fetch_and_or(&look->table->maybe[word & (PORTKEEP_WORDS - 1)],
				    word_mask(word, look->first, look->last)));
	return 0;
}

/* Look at a block; a port that is in use (or, at the first look, reserved), or 0. */
judged_alone __u32 look_at(struct portkeep_table *table, struct block *block, __u64 net,
			   __u32 decisive)
{
	struct look look;

	if (!table || !block)
		return 1;
	__builtin_memset(&look, vague(0), sizeof(look));
	look.table = table;
	look.decisive = decisive;
	look.ground.protocol = block->protocol;
	look.first = block->first;
	look.last = block->last;
	look.word = look.first >> 6;
	look.partial = block->partial;
	look.ground.net = (struct net *)net;
	look.ground.steps = block->steps;
	bpf_loop(LOOK_STEPS, look_further, &look, 0);
	if (look.busy && decisive)
		bpf_loop(look.word - (look.first >> 6), restore_maybe, &look, 0);
	block->steps = look.ground.steps;
	return look.busy;
}

struct claim {
	struct portkeep_table *table;
	__u32 first, last;
	__u32 claimed; /* words */
	__u32 busy;
};

/* Neighbours in one word do not disturb each other: only our own bits are looked at, and what
 * others had already is not given back. */
static __always_inline bool claim_next(struct claim *claim)
{
	__u32 word = (claim->first >> 6) + claim->claimed, at = word & (PORTKEEP_WORDS - 1);
	__u64 mask = word_mask(word, claim->first, claim->last), taken;
	struct portkeep_table *table = claim->table;

	if (!table)
		return false;
	taken = ordered(__sync_fetch_and_or(&table->used[at], mask)) & mask;
	if (taken) {
		ordered(__sync_fetch_and_and(&table->used[at], ~(mask & ~taken)));
		claim->busy = (word << 6) + highest_bit(taken);
		return false;
	}
	claim->claimed++;
	return true;
}

static long claim_word(__u64 i unused, struct claim *claim)
{
	return !claim_next(claim);
}

struct handful {
	__u32 number;
	__u32 first;
	__u32 busy;
};

static long find_in_hand(__u64 i, struct handful *block)
{
	__u32 port = block->first + i, key = block_key(block->number, port) | PORTKEEP_IN_HAND;

	if (!bpf_map_lookup_elem(&portkeep_blocks, &key))
		return 0;
	block->busy = port;
	return 1;
}

/* Calls of former owners may be binding ports of a claimed block this very moment, or working on
 * their grant. */
static __always_inline __u32 in_hand(struct portkeep_table *table, const struct block *block)
{
	struct handful find = { .number = block->number, .first = block->first, .busy = blur };

	if (read_once(table->hands))
		bpf_loop(block->last - block->first + 1, find_in_hand, &find, 0);
	/* A port no longer in hand has "maybe" set; it is not to be read before we know. */
	full_fence();
	return find.busy;
}

/* Claim a block; a port that stands in the way, or 0. */
judged_alone __u32 claim_block(struct portkeep_table *table, const struct block *block)
{
	struct claim claim = { .claimed = blur, .busy = blur };
	__u32 words;

	if (!table || !block)
		return 1;
	claim.table = table;
	claim.first = block->first;
	claim.last = block->last;
	words = words_of(claim.first, claim.last);
	if (claim_next(&claim) && words > 1 && claim_next(&claim) && words > 2)
		bpf_loop(words - 2, claim_word, &claim, 0);
	if (!claim.busy)
		claim.busy = in_hand(table, block);
	if (claim.busy)
		unclaim(table, claim.first, claim.last, claim.claimed);
	return claim.busy;
}

struct quick {
	struct portkeep_table *table;
	__u32 word, end; /* whole words between the first and the last */
	__u32 done;	 /* the words before this one are claimed */
	__u64 obstacle;
};

static __always_inline __u64 look_quickly(struct portkeep_table *table, __u32 word, __u64 mask)
{
	__u32 at = word & (PORTKEEP_WORDS - 1);

	return (read_once(table->used[at]) | read_once(table->maybe[at])) & mask;
}

/* Claim a word and look at it again. What stands in the way; then it is not claimed. */
static __always_inline __u64 claim_quickly(struct portkeep_table *table, __u32 word, __u64 mask)
{
	__u32 at = word & (PORTKEEP_WORDS - 1), hands;
	__u64 taken = ordered(__sync_fetch_and_or(&table->used[at], mask)) & mask, obstacle = taken;

	if (!taken) {
		/* A port no longer in hand has "maybe" set, which is not to be read before. */
		hands = read_once(table->hands);
		obstacle = hands | (read_once(table->maybe[at + after(hands)]) & mask);
	}
	if (obstacle)
		ordered(__sync_fetch_and_and(&table->used[at], ~(mask & ~taken)));
	return obstacle;
}

static long look_at_words(__u64 i, struct quick *quick)
{
	struct portkeep_table *table = quick->table;
	__u32 word = quick->word + i * STRIDE;
	__u64 obstacle = 0;

	for (int k = 0; k < STRIDE; k++, word++) {
		if (!table || word >= quick->end)
			break;
		obstacle |= look_quickly(table, word, ~0ULL);
	}
	quick->obstacle = obstacle;
	return vague(obstacle) != 0;
}

static long claim_words(__u64 i, struct quick *quick)
{
	struct portkeep_table *table = quick->table;
	__u32 word = quick->word + i * STRIDE;

	for (int k = 0; k < STRIDE; k++, word++) {
		if (!table || word >= quick->end)
			return 1;
		if (claim_quickly(table, word, ~0ULL)) {
			quick->obstacle = 1 + blur;
			return 1;
		}
		quick->done = word + 1;
	}
	return 0;
}

/* Nearly always nobody is in the way of a block and nobody may have bound any of it. Then the look,
 * the claim and the second look are these few lines. False: anything else; nothing is done, and the
 * long way is to be gone. */
judged_alone int take_quickly(struct portkeep_table *table, const struct block *block)
{
	__u32 first, last, word, end, autobind;
	__u64 head, tail;
	struct quick quick;

	if (!table || !block || block->partial)
		return false;
	first = block->first;
	last = block->last;
	word = first >> 6;
	end = last >> 6;
	head = word_mask(word, first, last);
	tail = end > word ? word_mask(end, first, last) : 0;
	if (look_quickly(table, word, head) || (tail && look_quickly(table, end, tail)))
		return false;
	quick.table = table;
	quick.word = word + 1;
	quick.end = end;
	quick.done = word + 1;
	quick.obstacle = blur;
	if (quick.word < end)
		bpf_loop(strides(end - word), look_at_words, &quick, 0);
	if (quick.obstacle || claim_quickly(table, word, head))
		return false;
	if (quick.word < end)
		bpf_loop(strides(end - word), claim_words, &quick, 0);
	if (!quick.obstacle && !(tail && claim_quickly(table, end, tail))) {
		autobind = read_once(table->autobind);
		if (last < (autobind & 0xffff) || first > autobind >> 16)
			return true;
		quick.done = end + 1;
	}
	unclaim(table, first, last, quick.done - word);
	return false;
}

#endif
