/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the loader knows when it loads a program. The map behind cfg is frozen before the program
 * is verified, so a branch on a field costs nothing and a dead one is never even checked.
 */
#ifndef SLUICE_CONFIG_H
#define SLUICE_CONFIG_H

#include <bpf/bpf_helpers.h>

#include "types.h"

/*
 * How long a flow may be silent, in ns, before another may have its tuple, and before an answer or a
 * datagram of it is a new flow's.
 */
struct lifetimes {
	__u64 tcp_opening; /* a SYN, and no answer yet */
	__u64 tcp_established;
	__u64 tcp_closing;   /* a FIN one way */
	__u64 tcp_time_wait; /* a FIN both ways */
	__u64 tcp_reset;     /* 0: over at once */
	__u64 udp_unanswered;
	__u64 udp_answered;
	__u64 sctp_opening; /* an INIT, and no answer yet */
	__u64 sctp_established;
	__u64 sctp_closing; /* a SHUTDOWN ACK or SHUTDOWN COMPLETE */
	__u64 other;	    /* other protocols */
};

struct config {
	/* The gateway of every container: answers ARP and neighbour solicitations. */
	struct addr gateway_v4; /* ::ffff:169.254.1.1 */
	struct addr gateway_v6; /* fe80::1 */
	/*
	 * The IPv6 client that a container sees when it is its own backend; of IPv4 it is the gateway.
	 * To a link-local client, a server that is bound to no address would answer from its own
	 * link-local address (RFC 6724, 5, rule 2).
	 */
	struct addr hairpin_v6; /* fd53:6c75:6963:65::1 */
	__u8 gateway_mac[6];	/* MAC of every veth's host side */
	__u8 set_retval;	/* 1: the kernel has bpf_set_retval for sock_addr programs (5.18) */
	__u8 kernel_ctx;	/* 1: the kernel has bpf_cast_to_kern_ctx (6.2) */
	struct lifetimes lifetimes;
	__u32 asked; /* entries of the map of that name; not 0 */
	__u32 tick; /* ns from one of the kernel's jiffies to the next; 0: they do not tell the time */
	__u64 epoch;	  /* CLOCK_MONOTONIC, in ns, when they were 0; wraps */
	__u32 sock_peers; /* entries of the map of that name; a power of two */
	__u32 pad;
	__u64 home_netns; /* cookie of the agent's own network namespace; 0: not known */
};

volatile const struct config cfg;

/*
 * The same for code that copies whole fields. A cast would drop the volatile, and clang then takes
 * the object for the zeros that it has at build time; it cannot see through the asm.
 */
static __always_inline const struct config *config_here(void)
{
	const struct config *c = (const struct config *)&cfg;

	asm volatile("" : "+r"(c));
	return c;
}

#endif
