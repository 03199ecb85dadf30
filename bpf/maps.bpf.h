/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The maps; what is in them is told in portkeep.bpf.h. Nothing large is allocated up front. */
#ifndef PORTKEEP_MAPS_BPF_H
#define PORTKEEP_MAPS_BPF_H

#include "kernel.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct portkeep_config);
} portkeep_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct portkeep_state);
} portkeep_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PORTKEEP_TABLES);
	__type(key, struct portkeep_space);
	__type(value, __u32);
} portkeep_spaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTKEEP_NEAR);
	__type(key, __u32);
	__type(value, struct portkeep_table);
} portkeep_near SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PORTKEEP_TABLES - PORTKEEP_NEAR);
	__type(key, __u32);
	__type(value, struct portkeep_table);
} portkeep_tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct portkeep_table);
} portkeep_blank SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PORTKEEP_RESERVATIONS);
	__type(key, __u64);
	__type(value, struct portkeep_reservation);
} portkeep_reservations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PORTKEEP_RESERVATIONS);
	__type(key, __u32);
	__type(value, struct portkeep_grant);
} portkeep_blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTKEEP_ACCOUNTS);
	__type(key, __u32);
	__type(value, struct portkeep_account);
} portkeep_accounts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct portkeep_socket);
} portkeep_sockets SEC(".maps");

/*
 * Always 0, but the verifier does not know. It follows every value that a loop's state can have,
 * one by one, and gives up when they are many. Two remedies: a constant put into the state as
 * `constant + blur` is just some number to it; and a branch on vague(state) does not teach it
 * anything about the state.
 */
volatile __u32 blur;
#define vague(state) ((state) + blur)

static __always_inline struct portkeep_config *config(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&portkeep_config, &only);
}

static __always_inline struct portkeep_state *state(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&portkeep_state, &only);
}

/* The socket's own network namespace, wherever its caller is. The verifier hides struct sock behind
 * struct bpf_sock; a pointer spilled to the stack and read back from a place it does not know exactly
 * is the plain address it is. */
static __always_inline struct net *net_of(struct bpf_sock *sk)
{
	struct bpf_sock *volatile spilled[2] = { sk, sk };
	struct sock *plain = *(struct sock *volatile *)((void *)spilled + (blur & 8));

	return BPF_CORE_READ(plain, __sk_common.skc_net.net);
}

#endif
