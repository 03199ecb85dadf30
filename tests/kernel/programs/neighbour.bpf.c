// Programs of somebody else on the hooks that we use too.
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SOL_SOCKET 1
#define SO_PRIORITY 12
#define PRIVATE_LEVEL 0x4E42
#define PORTKEEP_LEVEL 0x504B
#define EPERM 1

// Halves a priority, and keeps an option of its own level from the kernel.
SEC("cgroup/setsockopt")
int rewrite(struct bpf_sockopt *ctx)
{
	__u32 *value = ctx->optval;

	if (ctx->level == SOL_SOCKET && ctx->optname == SO_PRIORITY) {
		if ((void *)(value + 1) <= ctx->optval_end)
			*value /= 2;
	} else if (ctx->level == PRIVATE_LEVEL) {
		ctx->optlen = -1;
	}
	return 1;
}

// Answers its own level.
SEC("cgroup/getsockopt")
int respond(struct bpf_sockopt *ctx)
{
	__u32 *value = ctx->optval;

	if (ctx->level == PRIVATE_LEVEL && (void *)(value + 1) <= ctx->optval_end) {
		*value = 99;
		// Two writes: the verifier refuses them as the single one clang would make of them.
		*(volatile __s32 *)&ctx->optlen = sizeof(*value);
		ctx->retval = 0;
	}
	return 1;
}

// A policy that forbids every option of our level.
SEC("cgroup/setsockopt")
int forbid_set(struct bpf_sockopt *ctx)
{
	return ctx->level != PORTKEEP_LEVEL;
}

SEC("cgroup/getsockopt")
int forbid_get(struct bpf_sockopt *ctx)
{
	if (ctx->level != PORTKEEP_LEVEL)
		return 1;
	bpf_set_retval(-EPERM);
	return 0;
}

// A policy that forbids UDP over IPv4 to bind, before and after the fact.
SEC("cgroup/bind4")
int forbid_bind(struct bpf_sock_addr *ctx)
{
	return ctx->protocol != 17;
}

SEC("cgroup/post_bind4")
int forbid_bound(struct bpf_sock *sk)
{
	return sk->protocol != 17;
}

char LICENSE[] SEC("license") = "GPL";
