/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Port spaces and their bitmaps.
 *
 * A table's memory is never freed while the engine is loaded: a value that was looked up stays a
 * table, though perhaps by now another port space's. (With deleted map entries a reader is shown
 * another key's data, and would write into it.) So the rules are:
 *
 *   - `live` counts the reservations in the table and the calls working on it. Only a caller that
 *     moved it from 0 to REKEYING may change whose table it is, and it removes the old index entry
 *     first and publishes the new one last. Hence an index entry always names a table that was its
 *     own when the entry was made, and nobody else removes it.
 *   - a table says that it is a space's (`space` is not 0) only from when the index names it.
 *   - whoever wants to reserve counts itself in and then compares the key; a mismatch counts out.
 *     (How tables are made, and what that has to do with it, is told in space.bpf.h.)
 *   - whoever only reads (bind hooks) compares the key after reading. To set `maybe` in a table
 *     that has changed hands does no harm: it says "look", never "free".
 */
#ifndef PORTKEEP_TABLE_BPF_H
#define PORTKEEP_TABLE_BPF_H

#include "maps.bpf.h"

/* A table that changes hands between lookup and check means: look up again. Each retry needs
 * another change within nanoseconds, so the bound is not reached in practice. */
#define TABLE_TRIES 4
#define NO_TABLE PORTKEEP_TABLES

/* The empty asm keeps the mask: the compiler knows a port's range, but a verifier that does not
 * follow byte swaps and 32-bit differences (6.12) must see it. */
static __always_inline __u32 word_of(__u32 port)
{
	asm volatile("" : "+r"(port));
	return (port >> 6) & (PORTKEEP_WORDS - 1);
}

#define bit_of(port) (1ULL << ((port)&63))

/* The ports first..last that fall into a word, as a mask. */
static __always_inline __u64 word_mask(__u32 word, __u32 first, __u32 last)
{
	__u64 mask = ~(__u64)blur;

	if (word == first >> 6)
		mask &= ~0ULL << (first & 63);
	if (word == last >> 6)
		mask &= ~0ULL >> (63 - (last & 63));
	return mask;
}

static __always_inline __u64 word_of_space(const struct portkeep_space *space)
{
	return space->netns << 1 | (space->protocol == PORTKEEP_UDP);
}

static __always_inline bool is_table_of(struct portkeep_table *table,
					const struct portkeep_space *space)
{
	return read_once(table->space) == word_of_space(space);
}

/* Where the index need not be asked: the table a space had when it was last looked for. A word, the
 * space in the upper 48 bits; never relied on, because the table says itself whose it is. */
static __always_inline __u64 *hint_of(const struct portkeep_space *space, __u64 *hint)
{
	struct portkeep_state *engine = state();
	__u64 mark = word_of_space(space);

	*hint = mark << 16;
	return engine ? &engine->hints[mark & (PORTKEEP_HINTS - 1)] : NULL;
}

/* The array knows of no number beyond the near ones. */
static __always_inline struct portkeep_table *table_at(__u32 number)
{
	struct portkeep_table *near = bpf_map_lookup_elem(&portkeep_near, &number);

	return near ?: bpf_map_lookup_elem(&portkeep_tables, &number);
}

static __always_inline struct portkeep_table *hinted_table(const struct portkeep_space *space,
							   __u32 *number)
{
	__u64 hint, word, *place = hint_of(space, &hint);

	if (!place)
		return NULL;
	word = read_once(*place);
	if (hint != (word & ~0xffffULL))
		return NULL;
	*number = word & 0xffff;
	return table_at(*number);
}

static __always_inline void remember_table(const struct portkeep_space *space, __u32 number)
{
	__u64 hint, *place = hint_of(space, &hint);

	if (place)
		read_once(*place) = hint | number;
}

static __always_inline struct portkeep_table *indexed_table(const struct portkeep_space *space,
							    __u32 *number)
{
	__u32 *index = bpf_map_lookup_elem(&portkeep_spaces, space);

	if (!index)
		return NULL;
	*number = *index;
	return table_at(*number);
}

static __always_inline struct portkeep_table *find_table(const struct portkeep_space *space,
							 __u32 *number)
{
	struct portkeep_table *table = hinted_table(space, number);

	if (table && is_table_of(table, space))
		return table;
	for (int i = 0; i < TABLE_TRIES; i++) {
		table = indexed_table(space, number);
		if (!table)
			return NULL;
		if (is_table_of(table, space)) {
			remember_table(space, *number);
			return table;
		}
	}
	return NULL;
}

static __always_inline void put_table(struct portkeep_table *table)
{
	ordered(__sync_fetch_and_add(&table->live, -1));
}

static __always_inline void leave_table(__u32 number)
{
	struct portkeep_table *table = table_at(number);

	if (table)
		put_table(table);
}

/* Count in; false when the table is changing hands or is no longer the space's. */
static __always_inline bool get_table(struct portkeep_table *table,
				      const struct portkeep_space *space)
{
	__u32 before = ordered(__sync_fetch_and_add(&table->live, 1));

	if (!(before & PORTKEEP_REKEYING) && is_table_of(table, space))
		return true;
	put_table(table);
	return false;
}

static __always_inline bool is_reserved(struct portkeep_table *table, __u32 port)
{
	return read_once(table->used[word_of(port)]) & bit_of(port);
}

/* Somebody has this port now. What is read at an address made with the result, which is 0, is read
 * after that: setting the bit is a fence, and otherwise the address waits for the bit. */
static __always_inline __u32 mark_maybe(struct portkeep_table *table, __u32 port)
{
	__u64 *word = &table->maybe[word_of(port)], bits = read_once(*word);

	if (!(bits & bit_of(port)))
		bits = ordered(__sync_fetch_and_or(word, bit_of(port)));
	return after(bits);
}

struct backward {
	struct portkeep_table *table;
	__u32 word;
	__u32 start;
};

/* floor(log2(bits)), for bits != 0. */
static __always_inline __u32 highest_bit(__u64 bits)
{
	return 63 - __builtin_clzll(bits);
}

static __always_inline __u32 lowest_bit(__u64 bits)
{
	return __builtin_ctzll(bits);
}

static long start_before(__u64 i, struct backward *scan)
{
	__u64 bits;

	if (i > scan->word || !scan->table)
		return 1;
	bits = scan->table->start[(scan->word - i) & (PORTKEEP_WORDS - 1)];
	if (!bits)
		return 0;
	scan->start = ((scan->word - i) << 6) + highest_bit(bits);
	return 1;
}

/* First port of the block a reserved port belongs to, 0 if there is none. Blocks do not overlap, so
 * it is the nearest start at or below the port. */
static __always_inline __u32 block_start(struct portkeep_table *table, __u32 port)
{
	struct backward scan = { .table = table, .word = port >> 6 };
	__u64 bits = table->start[word_of(port)] & (~0ULL >> (63 - (port & 63)));

	if (bits)
		return (port & ~63) + highest_bit(bits);
	if (!scan.word)
		return 0;
	scan.word--;
	bpf_loop(PORTKEEP_WORDS, start_before, &scan, 0);
	return scan.start;
}

#endif
