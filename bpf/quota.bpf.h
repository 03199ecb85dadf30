/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Accounts: what each user has, so that no user can take everything.
 *
 * One account per user and table (ports, and how many of them are outside the pool) and one per
 * user (entries in portkeep_reservations). No account says anything about another, so each is one word that is added to
 * and subtracted from, and nothing can drift. How many port spaces a user fills is not kept in an
 * account but counted when a table is made (space.bpf.h).
 *
 * An account is found by probing an array from a hash of its key. Like tables, accounts are never
 * freed; one that nothing is charged to is given to another key by whoever moves `charged` from 0
 * to CLOSING. When a key's probes are all charged to others, its user gets ENOBUFS; that takes
 * PROBES accounts in one place, more than a few users together can have there. Administrators go
 * uncharged then.
 *
 * charged: low 24 bits the first amount, next 24 bits the second.
 */
#ifndef PORTKEEP_QUOTA_BPF_H
#define PORTKEEP_QUOTA_BPF_H

#include "maps.bpf.h"

#define PROBES 128
#define CHARGE_TRIES 4 /* an account given away between finding and charging it */
#define CLOSING (1ULL << 63)
#define AMOUNT_BITS 24
#define NO_ACCOUNT 0xffffffffU

#define amounts(first, second) ((__u64)(first) | ((__u64)(second) << AMOUNT_BITS))
#define first_amount(charged) ((__u32)((charged) & ((1ULL << AMOUNT_BITS) - 1)))
#define second_amount(charged) ((__u32)(((charged) >> AMOUNT_BITS) & ((1ULL << AMOUNT_BITS) - 1)))

/* The key of a user in a table; the user as a whole is USER_AS_A_WHOLE. Never 0. */
#define USER_AS_A_WHOLE 0
#define account_key(user, table) (((__u64)(user) << 32) | (table) | 0x80000000ULL)
#define in_table(number) ((number) + 1)

static __always_inline struct portkeep_account *account(__u32 index)
{
	return bpf_map_lookup_elem(&portkeep_accounts, &index);
}

struct probe {
	__u64 key;
	__u32 hash;
	__u32 found, empty;
};

static long probe_account(__u64 i, struct probe *probe)
{
	__u32 index = (probe->hash + i) % PORTKEEP_ACCOUNTS;
	struct portkeep_account *at = account(index);

	if (!at || read_once(at->charged) & CLOSING)
		return 0;
	if (read_once(at->key) == probe->key) {
		probe->found = index;
		return 1;
	}
	if (probe->empty == NO_ACCOUNT && !read_once(at->charged))
		probe->empty = index;
	return 0;
}

static __always_inline __u32 hash_key(__u64 key)
{
	return (key * 0x9E3779B97F4A7C15ULL) >> 40;
}

/* Find the account of a key, or give it one that nothing is charged to. Two callers may do that at
 * once; a user's limit is then loose until one is given away again, and nothing is ever lost,
 * because a reservation remembers the account it was charged to. */
static __always_inline __u32 open_account(__u64 key)
{
	struct probe probe = { .key = key, .found = NO_ACCOUNT, .empty = NO_ACCOUNT };
	struct portkeep_account *at;

	probe.hash = hash_key(key);
	bpf_loop(PROBES, probe_account, &probe, 0);
	if (probe.found != NO_ACCOUNT)
		return probe.found;
	at = account(probe.empty);
	if (!at || __sync_val_compare_and_swap(&at->charged, 0, CLOSING))
		return NO_ACCOUNT;
	ordered(__sync_lock_test_and_set(&at->key, key));
	ordered(__sync_fetch_and_add(&at->charged, -CLOSING));
	return probe.empty;
}

struct limits {
	__u32 first, second; /* 0: none */
};

static __always_inline bool within_limits(__u64 charged, struct limits limits)
{
	return (!limits.first || first_amount(charged) <= limits.first) &&
	       (!limits.second || second_amount(charged) <= limits.second);
}

static __always_inline void give_back(__u32 index, __u64 less)
{
	struct portkeep_account *at = account(index);

	if (at)
		ordered(__sync_fetch_and_add(&at->charged, -less));
}

/* Charge an account. By addition and, if need be, subtraction, so that no number of others doing the
 * same can keep us from it. NOT_HIS: it is another key's by now, or always was. */
enum { CHARGED, TOO_MUCH, NOT_HIS };

static __always_inline int charge_at(__u32 index, __u64 key, __u64 more, struct limits limits)
{
	struct portkeep_account *at = account(index);
	int result = NOT_HIS;
	__u64 before;

	if (!at || read_once(at->key) != key)
		return NOT_HIS;
	before = ordered(__sync_fetch_and_add(&at->charged, more));
	if (!(before & CLOSING) && read_once(at->key) == key) {
		if (within_limits(before + more, limits))
			return CHARGED;
		result = TOO_MUCH;
	}
	ordered(__sync_fetch_and_add(&at->charged, -more));
	return result;
}

judged_alone __u32 charge_searching(__u64 key, __u64 more, __u64 packed_limits)
{
	struct limits limits = { packed_limits, packed_limits >> 32 };

	for (int i = 0; i < CHARGE_TRIES; i++) {
		__u32 index = open_account(key);
		int result = charge_at(index, key, more, limits);

		if (result != NOT_HIS)
			return result == CHARGED ? index : NO_ACCOUNT;
	}
	return NO_ACCOUNT;
}

/* Charge a key's account; its number, or NO_ACCOUNT if that is too much. Mostly the account is where
 * its hash says. What is too much by itself is not even added for a moment. */
static __always_inline __u32 charge(__u64 key, __u64 more, struct limits limits)
{
	__u32 index = hash_key(key) % PORTKEEP_ACCOUNTS;
	int result;

	if (!within_limits(more, limits))
		return NO_ACCOUNT;
	result = charge_at(index, key, more, limits);
	if (result == NOT_HIS)
		return charge_searching(key, more, (__u64)limits.second << 32 | limits.first);
	return result == CHARGED ? index : NO_ACCOUNT;
}

/* Two accounts: the user's in a table, and the user's own. */
#define pair(account, own) ((__u64)(account) << 32 | (own))

/* Give back what charge_ports() took: when the reservation ends. */
static __always_inline void refund_ports(__u64 pair, __u32 ports, __u32 outside)
{
	give_back(pair >> 32, amounts(ports, outside));
}

/* Give back what charge_reservation() took: when its entry is deleted. Dead entries wait for their
 * anchor; if they were free of charge, a user could fill the map with them. */
static __always_inline void refund_entry(__u64 pair)
{
	give_back((__u32)pair, amounts(1, 0));
}

/* What a caller is free of. */
enum { NO_PRIVILEGE, FREE_OF_PORT_LIMITS, FREE_OF_ALL_LIMITS };

static __always_inline __u32 charge_reservation(__u32 user, __u32 privilege)
{
	struct portkeep_config *settings = config();
	struct limits limits = {};

	if (settings && privilege != FREE_OF_ALL_LIMITS)
		limits.first = settings->user_reservations;
	return charge(account_key(user, USER_AS_A_WHOLE), amounts(1, 0), limits);
}

static __always_inline struct limits port_limits(__u32 privilege)
{
	struct portkeep_config *settings = config();
	struct limits limits = {};

	if (settings && privilege == NO_PRIVILEGE) {
		limits.first = settings->user_ports;
		limits.second = settings->user_outside;
	}
	return limits;
}

static __always_inline __u32 charge_ports(__u32 user, __u32 table, __u64 more, __u32 privilege)
{
	return charge(account_key(user, in_table(table)), more, port_limits(privilege));
}

#endif
