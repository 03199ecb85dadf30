// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What any pair of programs that serves an option level of its own costs at the least: it takes
 * every option of ours, answers nothing and leaves the other levels alone. benches/kernel.rs
 * compiles it and compares the kernel engine with it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../bpf/portkeep.bpf.h"

SEC("cgroup/setsockopt")
int empty_set(struct bpf_sockopt *ctx)
{
	if (ctx->level == SOL_PORTKEEP)
		ctx->optlen = -1; /* the kernel need not see it */
	return 1;
}

SEC("cgroup/getsockopt")
int empty_get(struct bpf_sockopt *ctx)
{
	if (ctx->level == SOL_PORTKEEP)
		ctx->retval = 0;
	return 1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
