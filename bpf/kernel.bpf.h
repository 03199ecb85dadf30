/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The few kernel structures we read, with only the fields we read. Offsets are filled in at load
 * (CO-RE), so a kernel that moves them still works and one that lacks them refuses the object.
 * Floor: Linux 6.8, where the owners of a TCP bind bucket moved below bhash2 and the ephemeral
 * range became one word.
 */
#ifndef PORTKEEP_KERNEL_BPF_H
#define PORTKEEP_KERNEL_BPF_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ENOENT 2
#define EACCES 13
#define EBUSY 16
#define EEXIST 17
#define EINVAL 22
#define ENOPROTOOPT 92
#define EOPNOTSUPP 95
#define EADDRINUSE 98
#define ENOBUFS 105

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_MPTCP_NUMBER 262
#define SOL_SOCKET 1
#define SO_REUSEADDR 2
#define TCP_TIME_WAIT 6
#define CAP_NET_BIND_SERVICE 10
#define CAP_NET_ADMIN 12

#define __kernel_layout __attribute__((preserve_access_index))

struct hlist_node {
	struct hlist_node *next, **pprev;
} __kernel_layout;

struct hlist_head {
	struct hlist_node *first;
} __kernel_layout;

typedef struct {
	__u32 val;
} __kernel_layout kuid_t;

typedef struct {
	__u64 val;
} __kernel_layout kernel_cap_t;

struct user_namespace {
	struct user_namespace *parent;
	int level;
	kuid_t owner;
} __kernel_layout;

struct cred {
	kuid_t euid;
	kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
} __kernel_layout;

struct nsproxy {
	struct net *net_ns;
} __kernel_layout;

struct task_struct {
	__u32 tgid;
	__u64 start_boottime;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	const struct cred *cred;
	struct nsproxy *nsproxy;
	char comm[16];
} __kernel_layout;

struct net;

struct inet_bind_hashbucket {
	struct hlist_head chain;
} __kernel_layout;

struct inet_hashinfo {
	struct inet_bind_hashbucket *bhash;
	unsigned int bhash_size;
} __kernel_layout;

struct inet_timewait_death_row {
	struct inet_hashinfo *hashinfo;
} __kernel_layout;

struct local_ports {
	__u32 range; /* first | last << 16 */
} __kernel_layout;

struct udp_hslot {
	struct hlist_head head;
} __kernel_layout;

struct udp_table {
	struct udp_hslot *hash;
	unsigned int mask;
} __kernel_layout;

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
	struct udp_table *udp_table;
	struct local_ports ip_local_ports;
	unsigned long *sysctl_local_reserved_ports;
	int sysctl_ip_prot_sock;
} __kernel_layout;

struct net {
	struct user_namespace *user_ns;
	__u64 net_cookie;
	__u32 hash_mix;
	struct netns_ipv4 ipv4;
} __kernel_layout;

typedef struct {
	struct net *net;
} __kernel_layout possible_net_t;

struct inet_bind_bucket {
	possible_net_t ib_net;
	int l3mdev;
	unsigned short port;
	struct hlist_node node;
	struct hlist_head bhash2;
} __kernel_layout;

struct inet_bind2_bucket {
	possible_net_t ib_net;
	int l3mdev;
	unsigned short port;
	struct hlist_node bhash_node;
	struct hlist_head owners;
} __kernel_layout;

struct sock_common {
	__u16 skc_num;
	volatile unsigned char skc_state;
	struct hlist_node skc_bind_node;
	struct hlist_node skc_node;
	possible_net_t skc_net;
} __kernel_layout;

struct socket;
struct bpf_map;

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
} __kernel_layout;

struct inet_connection_sock {
	struct inet_bind2_bucket *icsk_bind2_hash;
} __kernel_layout;

struct inet_timewait_sock {
	struct inet_bind2_bucket *tw_tb2;
} __kernel_layout;

struct mptcp_sock {
	int flags_not_read;
} __kernel_layout;

/* What follows a node in its list belongs to the structure around it. */
#define around(node, type, member) \
	((type *)((__u64)(node) - bpf_core_field_offset(type, member)))

#define unused __attribute__((unused)) /* loop numbers that a callback does not need */
#define read_once(x) (*(volatile typeof(x) *)&(x))

/* Every atomic of the race protocol goes through this: clang turns one whose result is unused into a
 * form that orders nothing on arm64. */
#define ordered(atomic)                            \
	({                                         \
		typeof(atomic) __result = (atomic); \
		asm volatile("" ::"r"(__result));  \
		__result;                          \
	})

/* A full barrier: an atomic on the program's own stack, so that no cache line is shared. */
static __always_inline void full_fence(void)
{
	__u64 here = 0;

	ordered(__sync_fetch_and_or(&here, 1));
	barrier();
}

/* 0, but only once `value` has been read: an address made with it is read after that, on every
 * processor. Where there are but two reads to keep in order, this does it without a fence. */
static __always_inline __u32 after(__u64 value)
{
	asm volatile("%0 &= 0" : "+r"(value));
	return value;
}

/* Words that a step of a loop works on: the step itself costs more than a word. */
#define STRIDE 4
#define strides(words) (((words) + STRIDE - 1) / STRIDE)

/* A function the verifier judges once, by itself, whatever it is called with, and whose result tells
 * it nothing. For the parts that would otherwise multiply the paths through everything after them. */
#define judged_alone __attribute__((noinline))

/* A function with a stack frame of its own: all frames of a chain of calls may take 512 bytes. */
#define framed_alone static __attribute__((noinline))

/* Set hooks, bind hooks: 0 refuses. */
static __always_inline int refuse(int error)
{
	bpf_set_retval(-error);
	return 0;
}

/* The protocol a socket's ports are counted under, 0 for sockets we have no business with. Family
 * and type matter: a netlink socket can have protocol number 6, and never reports its end. */
static __always_inline __u32 port_protocol(struct bpf_sock *sk)
{
	__u32 family = sk->family, type = sk->type, protocol = sk->protocol;

	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (type == SOCK_STREAM &&
	    (protocol == PORTKEEP_TCP || protocol == IPPROTO_MPTCP_NUMBER))
		return PORTKEEP_TCP;
	return type == SOCK_DGRAM && protocol == PORTKEEP_UDP ? PORTKEEP_UDP : 0;
}

#endif
