// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * portkeep's kernel engine: every hook, in the order a socket meets them.
 *
 *   portkeep.bpf.h     the contract: options, maps
 *   kernel.bpf.h       the kernel structures we read
 *   maps.bpf.h         the maps
 *   task.bpf.h         who is calling
 *   table.bpf.h        port spaces and their bitmaps
 *   quota.bpf.h        what each user has
 *   reservation.bpf.h  tokens, owners, ends
 *   grant.bpf.h        who may consume, and ports in hand
 *   anchor.bpf.h       the reservations of one socket
 *   in_use.bpf.h       is a port in use?
 *   claim.bpf.h        looking at a block and claiming it
 *   search.bpf.h       where to put a wildcard
 *   space.bpf.h        entering a port space: its table, its cost
 *   acquire.bpf.h      ACQUIRE: the acquirer's half of the race protocol
 *   consume.bpf.h      bind, post_bind, connect: the binder's half
 *
 * The source is MIT or GPL-2.0. The kernel wants to be told in the words below; it offers some of
 * the helpers used here (bpf_probe_read_kernel above all) to GPL-compatible
 * programs only.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_helpers.h>

#include "portkeep.bpf.h"
#include "acquire.bpf.h"
#include "consume.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Options of other levels are none of our business, and touching them breaks other programs. Only
 * when the kernel could not show us the whole value must it be told to use the caller's. */
static __always_inline int pass_by(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > ctx->optval_end - ctx->optval)
		ctx->optlen = 0;
	return 1;
}

static __always_inline bool engine_ready(void)
{
	struct portkeep_config *settings = config();

	return settings && settings->interface;
}

static __always_inline int take_option(struct bpf_sockopt *ctx)
{
	ctx->optlen = -1; /* the kernel need not see it */
	return 1;
}

static __always_inline int set_acquire(struct bpf_sockopt *ctx, struct bpf_sock *sk,
				       __u32 protocol)
{
	struct portkeep_request request = {}, *whole = ctx->optval;
	struct portkeep_range *range = ctx->optval;
	struct portkeep_socket *anchor;
	int error;

	if (ctx->optlen == sizeof(*whole) && (void *)(whole + 1) <= ctx->optval_end)
		request = *whole;
	else if (ctx->optlen == sizeof(*range) && (void *)(range + 1) <= ctx->optval_end)
		request.range = *range;
	else
		return refuse(EINVAL);
	anchor = bpf_sk_storage_get(&portkeep_sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!anchor)
		return refuse(ENOBUFS);
	error = acquire_block(ctx, sk, protocol, anchor, &request);
	return error ? refuse(error) : take_option(ctx);
}

static __always_inline int set_associate(struct bpf_sockopt *ctx, struct bpf_sock *sk,
					 const struct portkeep_space *space, __u64 token)
{
	struct portkeep_state *engine = state();
	struct portkeep_socket *own;
	int error;

	if (sk->src_port)
		return refuse(EINVAL);
	error = judge_taking(token, space->netns, space->protocol, 0);
	if (error)
		return refuse(error);
	own = bpf_sk_storage_get(&portkeep_sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!own)
		return refuse(ENOBUFS);
	own->association = token;
	if (sk->protocol == IPPROTO_MPTCP_NUMBER && engine)
		engine->mptcp = 1;
	return take_option(ctx);
}

static __always_inline int set_release(struct bpf_sockopt *ctx, struct bpf_sock *sk,
				       const struct portkeep_space *space, __u64 token)
{
	struct ending end = {
		.token = token,
		.owner = caller(),
		.netns = space->netns,
		.protocol = space->protocol,
	};
	struct portkeep_socket *own;

	if (!end_reservation(&end))
		return refuse(EINVAL);
	own = bpf_sk_storage_get(&portkeep_sockets, sk, NULL, 0);
	if (own)
		drop(own, &end);
	return take_option(ctx);
}

static __always_inline int set_adopt(struct bpf_sockopt *ctx, struct bpf_sock *sk, __u64 token)
{
	struct portkeep_socket *own = bpf_sk_storage_get(&portkeep_sockets, sk, NULL, 0);

	if (!own || !own->anchor || !adopt_reservation(token, own->anchor))
		return refuse(EINVAL);
	return take_option(ctx);
}

static __always_inline int set_grant(struct bpf_sockopt *ctx, const struct portkeep_space *space)
{
	struct portkeep_regrant *wish = ctx->optval;
	int error;

	if (ctx->optlen != sizeof(*wish) || (void *)(wish + 1) > ctx->optval_end || wish->zero ||
	    wish->grant_id || wish->grant > PORTKEEP_GRANT_BEARER)
		return refuse(EINVAL);
	if (wish->grant > PORTKEEP_GRANT_DESCENDANTS)
		return refuse(EOPNOTSUPP);
	error = change_grant(wish->token, space->netns, space->protocol, wish->grant);
	return error ? refuse(error) : take_option(ctx);
}

/* The options whose value starts with a token. */
framed_alone int set_by_token(struct bpf_sockopt *ctx, struct bpf_sock *sk,
					__u32 protocol, int option)
{
	struct portkeep_space space = { .netns = bpf_get_netns_cookie(ctx), .protocol = protocol };
	__u64 *token = ctx->optval;

	if (option == PORTKEEP_GRANT)
		return set_grant(ctx, &space);
	if (ctx->optlen < (int)sizeof(*token) || (void *)(token + 1) > ctx->optval_end)
		return refuse(EINVAL);
	if (option == PORTKEEP_ASSOCIATE)
		return set_associate(ctx, sk, &space, *token);
	if (option == PORTKEEP_RELEASE)
		return set_release(ctx, sk, &space, *token);
	if (option == PORTKEEP_ADOPT)
		return set_adopt(ctx, sk, *token);
	return refuse(EINVAL);
}

static __always_inline int on_setsockopt(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 protocol;

	if (ctx->level != SOL_PORTKEEP)
		return pass_by(ctx);
	if (!sk || !engine_ready() || bpf_get_retval() < 0)
		return 1;
	protocol = port_protocol(sk);
	if (!protocol)
		return refuse(EOPNOTSUPP);
	if (ctx->optname == PORTKEEP_ACQUIRE)
		return set_acquire(ctx, sk, protocol);
	return set_by_token(ctx, sk, protocol, ctx->optname);
}

static __always_inline int answer(struct bpf_sockopt *ctx, int size)
{
	/* Two writes: the verifier refuses them as the single one clang would make of them. */
	read_once(ctx->optlen) = size;
	ctx->retval = 0;
	return 1;
}

static __always_inline int get_instance(struct bpf_sockopt *ctx, struct bpf_sock *sk)
{
	struct portkeep_socket *own = bpf_sk_storage_get(&portkeep_sockets, sk, NULL, 0);
	struct portkeep_instance *first = ctx->optval;
	__u32 listed;

	if (ctx->optlen < (int)sizeof(*first) || (void *)(first + 1) > ctx->optval_end)
		return refuse(EINVAL);
	listed = own ? list_instances(ctx, own) : 0;
	/* A length of 0 would mean that the caller's own length stands. */
	return listed ? answer(ctx, listed * sizeof(*first)) : refuse(ENOENT);
}

static __always_inline int get_version(struct bpf_sockopt *ctx)
{
	struct portkeep_version *version = ctx->optval;
	struct portkeep_config *settings = config();

	if (ctx->optlen < (int)sizeof(*version) || (void *)(version + 1) > ctx->optval_end ||
	    !settings)
		return refuse(EINVAL);
	version->interface = PORTKEEP_INTERFACE;
	version->features = PORTKEEP_HAS_DESCENDANTS | PORTKEEP_HAS_SAME_NUMBERS |
			    (settings->flags & PORTKEEP_PARTIAL ? 0 : PORTKEEP_HAS_EXCLUSIVE);
	return answer(ctx, sizeof(*version));
}

static __always_inline int get_pool(struct bpf_sockopt *ctx)
{
	struct portkeep_range *range = ctx->optval;
	struct portkeep_config *settings = config();
	__u32 pool;

	if (ctx->optlen < (int)sizeof(*range) || (void *)(range + 1) > ctx->optval_end || !settings)
		return refuse(EINVAL);
	pool = read_once(settings->pool);
	range->start = bpf_htons(pool);
	range->count = (pool >> 16) - (pool & 0xffff) + 1;
	return answer(ctx, sizeof(*range));
}

static __always_inline int get_holder(struct bpf_sockopt *ctx, __u32 protocol,
				      __u32 port)
{
	struct portkeep_space space = { .netns = bpf_get_netns_cookie(ctx), .protocol = protocol };
	struct portkeep_holder *holder = ctx->optval;
	struct portkeep_reservation *entry;
	struct portkeep_table *table;
	__u32 number;
	struct deed deed;

	if (ctx->optlen < (int)sizeof(*holder) || (void *)(holder + 1) > ctx->optval_end)
		return refuse(EINVAL);
	__builtin_memset(holder, 0, sizeof(*holder));
	table = find_table(&space, &number);
	if (!table || !is_reserved(table, port))
		return answer(ctx, sizeof(*holder));
	if (!read_deed(holder_of(&space, port), &deed) || !covers(&deed, &space, port))
		return answer(ctx, sizeof(*holder));
	entry = deed.entry;
	holder->start = bpf_htons(deed.start);
	holder->count = deed.count;
	holder->kind = deed.kind;
	holder->tgid = deed.owner >> PORTKEEP_START_BITS;
	holder->uid = entry->uid;
	holder->acquired = entry->acquired;
	__builtin_memcpy(holder->comm, entry->comm, sizeof(holder->comm));
	/* Gone meanwhile, and the entry perhaps another's by now: nobody has the port. */
	if (read_once(entry->token) != deed.token)
		__builtin_memset(holder, 0, sizeof(*holder));
	return answer(ctx, sizeof(*holder));
}

static __always_inline int on_getsockopt(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	int option = ctx->optname, error;
	__u32 protocol;

	if (ctx->level != SOL_PORTKEEP)
		return pass_by(ctx);
	/* The kernel's own answer came first: it knows no such level. Anything else is somebody
	 * else's word, which stands. */
	error = ctx->retval;
	if (!sk || !engine_ready() || (error != -ENOPROTOOPT && error != -EOPNOTSUPP))
		return 1;
	protocol = port_protocol(sk);
	if (!protocol)
		return refuse(EOPNOTSUPP);
	if (option == PORTKEEP_INSTANCE)
		return get_instance(ctx, sk);
	if (option == PORTKEEP_VERSION)
		return get_version(ctx);
	if (option == PORTKEEP_POOL)
		return get_pool(ctx);
	if (option > PORTKEEP_QUERY && option < PORTKEEP_QUERY + PORTS)
		return get_holder(ctx, protocol, option - PORTKEEP_QUERY);
	return refuse(EINVAL);
}

static __always_inline int on_release(struct bpf_sock *sk)
{
	struct portkeep_socket *own = bpf_sk_storage_get(&portkeep_sockets, sk, NULL, 0);

	if (own && own->newest)
		end_all(own);
	return 1;
}

SEC("cgroup/setsockopt")
int portkeep_set(struct bpf_sockopt *ctx)
{
	return on_setsockopt(ctx);
}

SEC("cgroup/getsockopt")
int portkeep_get(struct bpf_sockopt *ctx)
{
	return on_getsockopt(ctx);
}

SEC("cgroup/bind4")
int portkeep_bind4(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx);
}

SEC("cgroup/bind6")
int portkeep_bind6(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx);
}

SEC("cgroup/post_bind4")
int portkeep_post4(struct bpf_sock *sk)
{
	return on_post_bind(sk);
}

SEC("cgroup/post_bind6")
int portkeep_post6(struct bpf_sock *sk)
{
	return on_post_bind(sk);
}

SEC("cgroup/connect4")
int portkeep_conn4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx);
}

SEC("cgroup/connect6")
int portkeep_conn6(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx);
}

SEC("cgroup/sock_release")
int portkeep_free(struct bpf_sock *sk)
{
	return on_release(sk);
}
