/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Where to put a wildcard: the first free run of the pool from a random start, found a word at a
 * time; and which ports the kernel itself may hand out, where no block may be.
 */
#ifndef PORTKEEP_SEARCH_BPF_H
#define PORTKEEP_SEARCH_BPF_H

#include "claim.bpf.h"

struct search {
	struct portkeep_table *own, *other;
	struct place place;
	__u64 grid;  /* bits a block may start at within a word */
	__u32 run;   /* first port of the free run that reaches up to the current word */
	__u32 found; /* 0: nothing yet */
};

/* The ports of a word the kernel itself may hand out: in the ephemeral range, not spared. */
static __always_inline __u64 handed_out(const struct place *place, __u32 word)
{
	__u64 mask = within(word, place->range), spared = 0;

	if (mask) {
		struct net *net = place->net;
		__u64 *list = (__u64 *)BPF_CORE_READ(net, ipv4.sysctl_local_reserved_ports);

		bpf_probe_read_kernel(&spared, sizeof(spared), list + word);
	}
	return mask & ~spared;
}

static long find_handed_out(__u64 i, struct search *search)
{
	__u32 word = (search->place.from >> 6) + i;
	__u64 mask = word_mask(word, search->place.from, search->place.to);

	search->found = (handed_out(&search->place, word) & mask) != 0;
	return vague(search->found) != 0;
}

/* May the kernel hand out one of from..to? */
judged_alone __u32 in_autobind_range(const struct place *place)
{
	struct search search = { .found = blur };

	if (!place)
		return 1;
	search.place = *place;
	bpf_loop(words_of(place->from, place->to), find_handed_out, &search, 0);
	return search.found;
}

/* Shift-and steps that shrink runs of up to 64 bits to their first bit. */
#define RUN_STEPS 6

/* The bits at which `count` set bits in a row start. */
static __always_inline __u64 run_starts(__u64 bits, __u32 count)
{
	__u32 have = 1;

	for (int i = 0; i < RUN_STEPS; i++) {
		__u32 step = count - have < have ? count - have : have;

		bits &= bits >> (step & 63);
		have += step;
	}
	return bits;
}

static long search_word(__u64 i, struct search *search)
{
	__u32 word = (search->place.from >> 6) + i, at = word & (PORTKEEP_WORDS - 1), base = word << 6;
	__u32 count = search->place.count, start, head = 64;
	struct portkeep_table *own = search->own, *other = search->other;
	__u64 taken, starts;

	if (!own || !other)
		return 1;
	taken = own->used[at] | other->used[at] | handed_out(&search->place, word) |
		~word_mask(word, search->place.from, search->place.to);
	if (taken == ~0ULL) {
		search->run = base + 64;
		return 0;
	}
	if (taken)
		head = lowest_bit(taken);
	/* A run that comes from below, or starts with the word. */
	start = (search->run + search->place.alignment - 1) & -search->place.alignment;
	if (start + count <= base + head) {
		search->found = start;
		return 1;
	}
	if (!taken)
		return 0;
	if (count <= 64) {
		starts = run_starts(~taken, count) & search->grid;
		if (starts) {
			search->found = base + lowest_bit(starts);
			return 1;
		}
	}
	search->run = base + highest_bit(taken) + 1;
	return 0;
}

/* First port of a free run between `from` and `to`, or 0. `own` and `other` may be the same. */
judged_alone __u32 search_run(struct portkeep_table *own, struct portkeep_table *other,
			      const struct place *place)
{
	struct search search = { .found = blur };
	__u32 alignment;

	if (!own || !other || !place || place->from > place->to)
		return 0;
	alignment = place->alignment;
	search.own = own;
	search.other = other;
	search.place = *place;
	/* Multiples of the alignment, as a mask: 1, 1 + 2^a, 1 + 2^a + 2^2a ... A run that starts
	 * at a multiple of 64 is found as one that starts with a word. */
	search.grid = alignment < 64 ? ~0ULL / ((1ULL << alignment) - 1) : 0;
	search.run = place->from & ~63;
	bpf_loop(words_of(place->from, place->to), search_word, &search, 0);
	return search.found;
}

#endif
