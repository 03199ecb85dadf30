/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Who is calling: identity, ancestry, capability, and whom to charge. Never used by sock_release,
 * which runs in the context of whoever dropped the last reference. */
#ifndef PORTKEEP_TASK_BPF_H
#define PORTKEEP_TASK_BPF_H

#include "maps.bpf.h"

/* A user namespace nests 32 deep at most; ancestors beyond 64 generations are not looked for. */
#define USER_NAMESPACES 33
#define GENERATIONS 64

/* A pointer followed in a task costs the verifier half a millisecond, because it searches all kernel
 * types by name to judge it; read by probing it costs a call each time. So the caller's own few are
 * followed, once a program, and those in loops are probed. */
static __always_inline __u64 pack_identity(__u32 tgid, __u64 start)
{
	return (__u64)tgid << PORTKEEP_START_BITS |
	       ((start >> 20) & ((1ULL << PORTKEEP_START_BITS) - 1));
}

judged_alone __u64 caller(void)
{
	struct task_struct *leader = ((struct task_struct *)bpf_get_current_task_btf())->group_leader;

	return pack_identity(leader->tgid, leader->start_boottime);
}

static __always_inline __u64 identity_of_leader(struct task_struct *leader)
{
	return pack_identity(BPF_CORE_READ(leader, tgid), BPF_CORE_READ(leader, start_boottime));
}

static __always_inline const struct cred *credentials(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, cred);
}

struct ascent {
	struct task_struct *task;
	__u64 owner;
	__u32 found;
};

static long look_above(__u64 i unused, struct ascent *line)
{
	struct task_struct *task = line->task, *leader = BPF_CORE_READ(task, group_leader);

	if (identity_of_leader(leader) == line->owner) {
		line->found = true;
		return 1;
	}
	line->task = BPF_CORE_READ(leader, real_parent);
	return BPF_CORE_READ(leader, tgid) <= 1;
}

judged_alone int caller_is_below(__u64 owner)
{
	struct ascent line = { .owner = owner, .found = blur };

	line.task = (struct task_struct *)bpf_get_current_task();
	bpf_loop(GENERATIONS, look_above, &line, 0);
	return line.found;
}

/* As the kernel's ns_capable(): the capability counts in the caller's own user namespace and all
 * below it, and whoever owns a namespace has them all in it. cap_effective alone is all ones for
 * anybody after unshare(CLONE_NEWUSER). */
judged_alone int capable(__u64 namespace, int capability)
{
	struct net *net = (struct net *)namespace;
	const struct cred *cred = credentials();
	struct user_namespace *mine = BPF_CORE_READ(cred, user_ns);
	struct user_namespace *ns = BPF_CORE_READ(net, user_ns);
	__u64 effective = BPF_CORE_READ(cred, cap_effective.val);
	__u32 euid = BPF_CORE_READ(cred, euid.val);
	int level = BPF_CORE_READ(mine, level);

	for (int i = 0; i < USER_NAMESPACES; i++) {
		struct user_namespace *parent = BPF_CORE_READ(ns, parent);

		if (ns == mine)
			return effective >> capability & 1;
		if (BPF_CORE_READ(ns, level) <= level)
			return false;
		if (parent == mine && BPF_CORE_READ(ns, owner.val) == euid)
			return true;
		ns = parent;
	}
	return false;
}

/* Administrators of the machine, not of some container, are free of the global quotas. */
static __always_inline bool administrator(void)
{
	const struct cred *cred = credentials();

	return !BPF_CORE_READ(cred, user_ns, level) &&
	       (BPF_CORE_READ(cred, cap_effective.val) >> CAP_NET_ADMIN & 1);
}

/* Whom and where an acquire is from. */
struct origin {
	__u64 netns; /* of the socket, and given */
	__u64 payer; /* the user to charge */
};

/* Where a block may go. */
struct place {
	struct net *net;
	__u32 range; /* ip_local_port_range: first | last << 16 */
	__u32 count, alignment;
	__u32 from, to;
};

#define ELSEWHERE (-1)

/* One person can have 65,536 user ids inside a user namespace, so those are charged to the owner of
 * the outermost one. */
static __always_inline __u32 payer_in(struct user_namespace *ns)
{
	for (int i = 0; i < USER_NAMESPACES; i++) {
		if (BPF_CORE_READ(ns, level) == 1)
			break;
		ns = BPF_CORE_READ(ns, parent);
	}
	return BPF_CORE_READ(ns, owner.val);
}

/* Nearly always the socket's network namespace is the caller's; then what is known of the place is
 * filled in as well, all of it read from the current task without a call, and the result is the
 * ip_unprivileged_port_start. Otherwise it is ELSEWHERE. */
judged_alone int locate(struct origin *from, struct place *place)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	const struct cred *cred = task->cred;
	struct user_namespace *ns = cred->user_ns;
	struct net *net = task->nsproxy->net_ns;

	if (!from || !place)
		return ELSEWHERE;
	from->payer = ns->level ? payer_in(ns) : cred->euid.val;
	if (net->net_cookie != from->netns)
		return ELSEWHERE;
	place->net = net;
	place->range = net->ipv4.ip_local_ports.range;
	return net->ipv4.sysctl_ip_prot_sock;
}

/* Enter the caller as the owner. */
judged_alone int sign(struct portkeep_reservation *entry)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	struct task_struct *leader = task->group_leader;
	__u64 *comm;

	if (!entry)
		return 0;
	comm = (__u64 *)entry->comm;
	comm[0] = read_once(*(__u64 *)task->comm);
	comm[1] = read_once(*(__u64 *)(task->comm + 8));
	entry->uid = task->cred->euid.val;
	read_once(entry->owner) = pack_identity(leader->tgid, leader->start_boottime);
	return 0;
}

#endif
