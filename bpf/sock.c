/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup hooks on sockets: a VIP becomes a backend when the socket is connected, or for each datagram
 * of one that is not. The application goes on seeing the VIP as its peer, and no packet pays
 * anything later.
 *
 * A hook cannot tell two VIPs of one backend apart where the source port does not: what came back from
 * the backend would be from either. In the namespaces of containers (see map namespaces) that is left
 * to from_pod, which gives one of the flows another source port. Elsewhere the VIP that was asked last
 * is shown as the sender.
 *
 * IPv6 sockets bring IPv4 peers as ::ffff:a.b.c.d, which is how all maps spell them.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "kernel.h"
#include "lb.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"
#include "peer.h"
#include "types.h"

char __license[] SEC("license") = "Dual BSD/GPL";

#define REJECT	0
#define PROCEED 1

#define ECONNREFUSED 111

/*
 * Fails the system call with ECONNREFUSED. A kernel without bpf_set_retval (Linux before 5.18) can
 * only fail it with EPERM; there a connect goes to port 0 of the loopback instead, where nothing
 * can ever listen, and is refused by the kernel itself.
 */
static __always_inline int refuse(struct bpf_sock_addr *ctx, const struct peer *peer, bool v6,
				  bool connect)
{
	struct addr loopback = {};
	__u32 *w = (__u32 *)&loopback;

	COUNT(sock_refused);
	if (cfg.set_retval) {
		bpf_set_retval(-ECONNREFUSED);
		return REJECT;
	}
	if (!connect)
		return REJECT;
	if (addr_is_v4(&peer->addr))
		addr_from_v4(&loopback, bpf_htonl(INADDR_LOOPBACK));
	else
		w[3] = bpf_htonl(1);
	set_peer(ctx, &loopback, 0, v6);
	return PROCEED;
}

static __always_inline void count_stats(__u32 service, bool refused)
{
	struct service_stats *stats = stats_of(service);

	if (!stats)
		return;
	if (refused)
		__sync_fetch_and_add(&stats->refused, 1);
	else
		__sync_fetch_and_add(&stats->connections, 1);
}

static __always_inline void sock_key_of(struct sock_key *key, struct bpf_sock_addr *ctx,
					const struct addr *addr, __u16 port)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->cookie = bpf_get_socket_cookie(ctx);
	key->addr = *addr;
	key->port = port;
	key->proto = ctx->protocol;
}

/* Remembers that the socket knows this backend by the VIP it asked for. */
static __always_inline void remember(struct bpf_sock_addr *ctx, const struct peer *vip,
				     const struct backend *be, __u32 service)
{
	struct sock_origin origin = { .addr = vip->addr, .port = vip->port, .service = service };
	struct sock_key key;

	sock_key_of(&key, ctx, &be->addr, be->port);
	origin_put(&key, &origin, tells_its_end(ctx));
}

/* The socket calls the peer by its own name now, whatever VIP it knew it by before. */
static __always_inline void forget(struct bpf_sock_addr *ctx, const struct peer *peer)
{
	struct sock_key key;

	if (!has_cookie(ctx))
		return;
	sock_key_of(&key, ctx, &peer->addr, peer->port);
	origin_forget(&key);
}

/* Whether every packet of the socket's namespace passes from_pod. */
static __always_inline bool passes_from_pod(struct bpf_sock_addr *ctx)
{
	/* The socket's own, not the task's. Linux 5.7 (net/core/filter.c, sock_addr_func_proto). */
	__u64 cookie = bpf_get_netns_cookie(ctx);

	/* The agent's own namespace is no container's. */
	if (cookie == cfg.home_netns)
		return false;
	return bpf_map_lookup_elem(&namespaces, &cookie) != NULL;
}

/*
 * Whether the socket has a source port already: by bind, or a datagram socket that was used before.
 * Any other is given one by the kernel after this hook, which no other connection to the same backend
 * has (inet_hash_connect; inet_autobind comes after the hook, too, see inet_dgram_connect).
 *
 * src_port is skc_num, in host order, and 0 until then (net/core/filter.c, bpf_sock_convert_ctx_access);
 * sock_addr programs can read it since Linux 5.3.
 */
static __always_inline bool is_bound(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk && sk->src_port != 0;
}

/*
 * Finds the service that the peer names. Returns -1 with *svc filled in when there is one; PROCEED
 * when it names none, and what refuse() says when it names a VIP's port that nothing serves.
 */
static __always_inline int find(struct bpf_sock_addr *ctx, const struct peer *peer, bool v6,
				bool connect, struct found *svc)
{
	if (service_find(&peer->addr, peer->port, ctx->protocol, svc))
		return -1;
	if (is_vip(&peer->addr) && has_ports(ctx->protocol))
		return refuse(ctx, peer, v6, connect);
	return PROCEED;
}

/*
 * Chooses a backend for a socket. Unlike a flow, it has no number yet that would lead to the same
 * backend again: any slot will do, of whatever algorithm, for in both kinds of run a backend has as many
 * as its weight asks for. It has no address yet either: who has affinity is the network namespace.
 */
static __always_inline const struct backend *socket_choose(struct bpf_sock_addr *ctx,
							   const struct found *svc, __u32 *id)
{
	struct affinity_key who = { .kind = AFFINITY_NETNS };
	const struct backend *be;
	__u32 hash = 0;
	__u64 cookie;

	if (svc->affinity_timeout) {
		cookie = bpf_get_netns_cookie(ctx);
		__builtin_memcpy(&who.client, &cookie, sizeof(cookie));
	}
	if (svc->run >> 32 > 1) /* else there is but one slot to fall on */
		hash = bpf_get_prandom_u32();
	be = backend_for(svc, &who, hash, id);
	if (be)
		mark_used(be);
	return be;
}

static __always_inline int on_connect(struct bpf_sock_addr *ctx, const struct peer *peer, bool v6)
{
	struct found svc;
	const struct backend *be;
	__u32 id;
	int ret;

	ret = find(ctx, peer, v6, true, &svc);
	if (ret >= 0) {
		if (has_ports(ctx->protocol))
			forget(ctx, peer);
		return ret;
	}
	if (has_backends(&svc) && is_bound(ctx) && passes_from_pod(ctx))
		return PROCEED;
	be = socket_choose(ctx, &svc, &id);
	if (!be) {
		count_stats(svc.id, true);
		return refuse(ctx, peer, v6, true);
	}
	remember(ctx, peer, be, svc.id);
	set_peer(ctx, &be->addr, be->port, v6);
	count_stats(svc.id, false);
	COUNT(sock_translated);
	return PROCEED;
}

/* The backend that this socket's datagrams to the VIP went to before, while it serves those it has. */
static __always_inline const struct backend *chosen_before(const struct sock_key *key,
							   const struct found *svc)
{
	struct sock_choice *choice = bpf_map_lookup_elem(&sock_choices, key);
	const struct backend *be;
	__u32 id;

	if (!choice)
		return NULL;
	id = choice->backend;
	be = bpf_map_lookup_elem(&backends, &id);
	if (be && backend_keeps(be) && be->epoch == choice->epoch && be->service == svc->id)
		return be;
	return NULL;
}

/* Whether the socket knows the backend by another VIP than this one. */
static __always_inline bool known_otherwise(struct bpf_sock_addr *ctx, const struct peer *vip,
					    const struct backend *be)
{
	struct sock_origin *origin;
	struct sock_key key;

	sock_key_of(&key, ctx, &be->addr, be->port);
	origin = origin_of(&key);
	return origin && (origin->port != vip->port || !addr_equal(&origin->addr, &vip->addr));
}

/*
 * Chooses for a socket's datagrams, and not a backend that it knows by another VIP if there is one that
 * it does not: their answers could not be told apart. Up to four are looked at, a quarter of the run
 * from each other; when the socket knows them all, or the service has affinity, the first will do.
 */
static __always_inline const struct backend *datagram_choose(struct bpf_sock_addr *ctx,
							     const struct peer *vip,
							     const struct found *svc, __u32 *id)
{
	const struct backend *first = socket_choose(ctx, svc, id), *be = first;
	__u32 hash = bpf_get_prandom_u32(), other;
	int i;

	if (!be || svc->affinity_timeout || !known_otherwise(ctx, vip, be))
		return be;
#pragma clang loop unroll(disable)
	for (i = 0; i < 4; i++) {
		be = backend_choose(svc, hash, &other);
		if (be && !known_otherwise(ctx, vip, be)) {
			mark_used(be);
			*id = other;
			return be;
		}
		hash += 1u << 30;
	}
	return first;
}

static __always_inline int on_sendmsg(struct bpf_sock_addr *ctx, const struct peer *peer, bool v6)
{
	struct found svc;
	const struct backend *be;
	struct sock_choice choice = {};
	struct sock_origin *origin;
	struct sock_key key;
	int ret;

	ret = find(ctx, peer, v6, false, &svc);
	if (ret >= 0) {
		if (!is_connected(ctx) && has_ports(ctx->protocol))
			forget(ctx, peer);
		return ret;
	}
	if (has_backends(&svc) && passes_from_pod(ctx))
		return PROCEED;
	sock_key_of(&key, ctx, &peer->addr, peer->port);
	be = chosen_before(&key, &svc);
	if (!be) {
		be = datagram_choose(ctx, peer, &svc, &choice.backend);
		if (!be) {
			count_stats(svc.id, true);
			return refuse(ctx, peer, v6, false);
		}
		choice.epoch = be->epoch;
		bpf_map_update_elem(&sock_choices, &key, &choice, BPF_ANY);
		remember(ctx, peer, be, svc.id);
		count_stats(svc.id, false);
		COUNT(sock_translated);
	} else {
		/* It may have been evicted since, or the backend be known by another VIP too. */
		sock_key_of(&key, ctx, &be->addr, be->port);
		origin = origin_of(&key);
		if (!origin || origin->port != peer->port ||
		    !addr_equal(&origin->addr, &peer->addr))
			remember(ctx, peer, be, svc.id);
	}
	set_peer(ctx, &be->addr, be->port, v6);
	return PROCEED;
}

/* Shows the application the peer it asked for: of a received datagram, or by getpeername. */
static __always_inline int show_origin(struct bpf_sock_addr *ctx, const struct peer *peer, bool v6)
{
	struct sock_origin *origin;
	struct sock_key key;

	sock_key_of(&key, ctx, &peer->addr, peer->port);
	origin = origin_of(&key);
	if (origin)
		set_peer(ctx, &origin->addr, origin->port, v6);
	return PROCEED;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	struct peer peer;

	peer_v4(ctx, &peer);
	return on_connect(ctx, &peer, false);
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	struct peer peer;

	peer_v6(ctx, &peer);
	return on_connect(ctx, &peer, true);
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct peer peer;

	peer_v4(ctx, &peer);
	return on_sendmsg(ctx, &peer, false);
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct peer peer;

	peer_v6(ctx, &peer);
	return on_sendmsg(ctx, &peer, true);
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct peer peer;

	peer_v4(ctx, &peer);
	return show_origin(ctx, &peer, false);
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct peer peer;

	peer_v6(ctx, &peer);
	return show_origin(ctx, &peer, true);
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	struct peer peer;

	peer_v4(ctx, &peer);
	return show_origin(ctx, &peer, false);
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	struct peer peer;

	peer_v6(ctx, &peer);
	return show_origin(ctx, &peer, true);
}

/* The socket is closed. Linux 5.9. */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *sk)
{
	if (closed_has_cookie(sk))
		origin_release(bpf_get_socket_cookie(sk));
	return PROCEED;
}
