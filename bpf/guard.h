/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What no container may say: that it is its neighbour, its router, or its DHCP server. All containers
 * hang on veths of their own, so that of such messages hardly one would find someone to believe it; they
 * are dropped wherever they go, and counted each by its kind.
 */
#ifndef SLUICE_GUARD_H
#define SLUICE_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>

#include "event.h"
#include "maps.h"
#include "parse.h"

#define DHCP_SERVER  67 /* RFC 2131, 4.1 */
#define DHCP_CLIENT  68
#define DHCP6_SERVER 547 /* RFC 8415, 7.2 */
#define DHCP6_CLIENT 546

#define ICMP_REDIRECT		5 /* RFC 792 */
#define ICMP_ROUTER		9 /* RFC 1256 */
#define ND_ROUTER_SOLICITATION	133
#define ND_ROUTER_ADVERTISEMENT 134
#define ND_SOLICITATION		135
#define ND_ADVERTISEMENT	136
#define ND_REDIRECT		137
#define ND_SOURCE_LLADDR	1
#define ND_TARGET_LLADDR	2
#define ND_MAX_OPTIONS		8
#define ND_HLEN			24 /* of solicitations and advertisements, before the options */

#define VLAN_VID 0x0fff

static __always_inline bool is_dhcp_answer(bool v6, __u8 proto, __u16 sport, __u16 dport)
{
	if (proto != IPPROTO_UDP)
		return false;
	return v6 ? sport == DHCP6_SERVER && dport == DHCP6_CLIENT
		  : sport == DHCP_SERVER && dport == DHCP_CLIENT;
}

static __always_inline bool is_vlan(__u32 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/*
 * Whether the frame has a VLAN tag that hides another, or hides nothing: the kernel takes one with
 * VID 0 for untagged (a priority tag, IEEE 802.1Q, 6.9.1).
 */
static __always_inline bool tag_lies(struct __sk_buff *skb)
{
	return is_vlan(skb->protocol) || !(skb->vlan_tci & VLAN_VID);
}

/* Messages of routers and redirects: a container is none. */
static __always_inline bool is_router_message(const struct packet *pkt)
{
	if (pkt->v6)
		return pkt->icmp_type == ND_ROUTER_ADVERTISEMENT || pkt->icmp_type == ND_REDIRECT;
	return pkt->icmp_type == ICMP_REDIRECT || pkt->icmp_type == ICMP_ROUTER;
}

static __always_inline bool is_neighbour_message(const struct packet *pkt)
{
	return pkt->v6 && (pkt->icmp_type == ND_SOLICITATION || pkt->icmp_type == ND_ADVERTISEMENT);
}

static __always_inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

/* fe80::/10 and 169.254.0.0/16 */
static __always_inline bool is_link_local(const struct addr *addr)
{
	const __u32 *w = (const __u32 *)addr;

	return (w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
	       (addr_is_v4(addr) && (w[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000));
}

static __always_inline bool is_unspecified(const struct addr *addr)
{
	const __u32 *w = (const __u32 *)addr;

	return !w[0] && !w[1] && !w[3] && (!w[2] || w[2] == bpf_htonl(0xffff));
}

/* Whether the address is one of the container's behind this veth, and the MAC its own. */
static __always_inline bool owns(struct __sk_buff *skb, const struct addr *addr, const __u8 *mac)
{
	const struct endpoint *ep = bpf_map_lookup_elem(&endpoints, addr);

	return ep && ep->ifindex == skb->ifindex && mac_equal(ep->mac, mac);
}

/* Whether a neighbour message's link-layer options name another MAC, or cannot all be read. */
static __noinline bool nd_options_lie(struct __sk_buff *skb, const struct packet *pkt,
				      const __u8 *mac)
{
	__u32 at = ND_HLEN, i;
	struct {
		__u8 type;
		__u8 len; /* in units of 8 bytes */
		__u8 mac[6];
	} option;

	for (i = 0; i < ND_MAX_OPTIONS; i++) {
		if (at + sizeof(option) > pkt->l4_len)
			return false;
		if (bpf_skb_load_bytes(skb, pkt->l4 + at, &option, sizeof(option)))
			return true;
		/* The receiver throws away a message with such an option (RFC 4861, 4.6). */
		if (!option.len)
			return false;
		if ((option.type == ND_SOURCE_LLADDR || option.type == ND_TARGET_LLADDR) &&
		    !mac_equal(option.mac, mac))
			return true;
		at += option.len * 8;
	}
	return true;
}

/*
 * Whether a neighbour solicitation or advertisement claims an address or a MAC that is not the
 * container's. Of link-local addresses it is not known whose they are: a message may speak of its own
 * sender's only.
 */
static __noinline bool nd_lies(struct __sk_buff *skb, const struct packet *pkt)
{
	struct addr target;
	__u8 mac[6];

	/* RFC 6980: never in fragments. */
	if (pkt->fragment || bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), mac, 6))
		return true;
	if (bpf_skb_load_bytes(skb, pkt->l4 + 8, &target, sizeof(target)))
		return false; /* too short to claim anything */
	if (!is_unspecified(&pkt->tuple.saddr) && !is_link_local(&pkt->tuple.saddr) &&
	    !owns(skb, &pkt->tuple.saddr, mac))
		return true;
	if (pkt->icmp_type == ND_ADVERTISEMENT && !addr_equal(&target, &pkt->tuple.saddr) &&
	    !owns(skb, &target, mac))
		return true;
	return nd_options_lie(skb, pkt, mac);
}

#endif
