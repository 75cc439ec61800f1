/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel's own structures behind the contexts of programs tell, without a call. Programs may see
 * them since Linux 6.2; see config.
 */
#ifndef SLUICE_KERNEL_H
#define SLUICE_KERNEL_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "config.h"

/* Linux 6.2; the verifier makes a move of it (kernel/bpf/verifier.c). */
extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

/* Of include/net/sock.h and linux/skbuff.h, which have been so since before Linux 5.10. */
struct sock_common___named {
	struct {
		__s64 counter;
	} skc_cookie; /* 0: nobody has asked for it */
} __attribute__((preserve_access_index));

struct sock___named {
	struct sock_common___named __sk_common;
	__u8 sk_kern_sock : 1; /* the kernel opened it for itself */
} __attribute__((preserve_access_index));

struct sk_buff___known {
	struct sock___named *sk;
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

struct bpf_sock_addr_kern___named {
	struct sock___named *sk;
} __attribute__((preserve_access_index));

/* Values of ip_summed: what is known about a packet's transport checksum. */
enum summed {
	SUMMED_NONE = 0,	/* it is in the packet */
	SUMMED_UNNECESSARY = 1, /* the same, and was found right */
	SUMMED_COMPLETE = 2,	/* the same, and the device has summed up the whole packet */
	SUMMED_PARTIAL =
		3, /* the pseudo-header's is; a device completes it, or its receiver trusts it */
};

/* A kernel that does not tell has its helpers do all that SUMMED_COMPLETE asks for. */
static __always_inline enum summed summed(struct __sk_buff *skb)
{
	const struct sk_buff___known *kernel;

	if (!cfg.kernel_ctx)
		return SUMMED_COMPLETE;
	kernel = bpf_cast_to_kern_ctx(skb);
	return BPF_CORE_READ_BITFIELD(kernel, ip_summed);
}

/*
 * The cookie of the packet's socket; 0: it has no socket, or one by whose cookie no map knows anything,
 * for to ask gives a socket its cookie.
 */
static __always_inline __u64 packet_cookie(struct __sk_buff *skb)
{
	const struct sk_buff___known *kernel;
	const struct sock___named *sk;

	if (!cfg.kernel_ctx)
		return bpf_get_socket_cookie(skb);
	kernel = bpf_cast_to_kern_ctx(skb);
	sk = kernel->sk;
	return sk ? sk->__sk_common.skc_cookie.counter : 0;
}

/* Whether a map may know something by the cookie of the socket that a hook is called for. */
static __always_inline bool has_cookie(struct bpf_sock_addr *ctx)
{
	const struct bpf_sock_addr_kern___named *kernel;

	if (!cfg.kernel_ctx)
		return true;
	kernel = bpf_cast_to_kern_ctx(ctx);
	return kernel->sk->__sk_common.skc_cookie.counter != 0;
}

/* The same of a socket that is closed, and of sock_peers, where nothing is if the kernel does not tell. */
static __always_inline bool closed_has_cookie(struct bpf_sock *sk)
{
	const struct sock___named *kernel;

	if (!cfg.kernel_ctx)
		return false;
	kernel = bpf_cast_to_kern_ctx(sk);
	return kernel->__sk_common.skc_cookie.counter != 0;
}

/*
 * Whether sock_release will be called when the socket that a hook is called for is closed: not for one
 * that the kernel opened for itself (net/ipv4/af_inet.c, inet_release), as it does for MPTCP.
 */
static __always_inline bool tells_its_end(struct bpf_sock_addr *ctx)
{
	const struct bpf_sock_addr_kern___named *kernel;
	const struct sock___named *sk;

	if (!cfg.kernel_ctx)
		return false;
	kernel = bpf_cast_to_kern_ctx(ctx);
	sk = kernel->sk;
	return !BPF_CORE_READ_BITFIELD(sk, sk_kern_sock);
}

#endif
