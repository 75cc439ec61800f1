/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whom a system call on a socket names, in the form that all maps have, and how to have it name another. */
#ifndef SLUICE_PEER_H
#define SLUICE_PEER_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>

#include "parse.h"
#include "types.h"

struct peer {
	struct addr addr;
	__u16 port; /* host order */
};

static __always_inline void peer_v4(struct bpf_sock_addr *ctx, struct peer *peer)
{
	addr_from_v4(&peer->addr, ctx->user_ip4);
	peer->port = bpf_ntohs(ctx->user_port);
}

static __always_inline void peer_v6(struct bpf_sock_addr *ctx, struct peer *peer)
{
	__u32 *w = (__u32 *)&peer->addr;

	w[0] = ctx->user_ip6[0];
	w[1] = ctx->user_ip6[1];
	w[2] = ctx->user_ip6[2];
	w[3] = ctx->user_ip6[3];
	peer->port = bpf_ntohs(ctx->user_port);
}

static __always_inline void set_peer_v4(struct bpf_sock_addr *ctx, const struct addr *addr,
					__u16 port)
{
	ctx->user_ip4 = addr_to_v4(addr);
	ctx->user_port = bpf_htons(port);
}

static __always_inline void set_peer_v6(struct bpf_sock_addr *ctx, const struct addr *addr,
					__u16 port)
{
	const __u32 *w = (const __u32 *)addr;

	ctx->user_ip6[0] = w[0];
	ctx->user_ip6[1] = w[1];
	ctx->user_ip6[2] = w[2];
	ctx->user_ip6[3] = w[3];
	ctx->user_port = bpf_htons(port);
}

static __always_inline void set_peer(struct bpf_sock_addr *ctx, const struct addr *addr, __u16 port,
				     bool v6)
{
	if (v6)
		set_peer_v6(ctx, addr, port);
	else
		set_peer_v4(ctx, addr, port);
}

/*
 * Whether a datagram socket is connected. When its peer is IPv4 and it is IPv6, the kernel itself names
 * the peer, which is the backend, with each datagram (net/ipv6/udp.c, udpv6_sendmsg).
 */
static __always_inline bool is_connected(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk && sk->state == BPF_TCP_ESTABLISHED;
}

#endif
