/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From bytes to a tuple. After parse() the packet's headers, up to the ports or 20 bytes of the
 * transport header, lie in the linear area and may be read and written through pointers.
 */
#ifndef SLUICE_PARSE_H
#define SLUICE_PARSE_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

#define IP_MF	   0x2000 /* more fragments, RFC 791 */
#define IP_OFFSET  0x1fff
#define IP6_MF	   0x0001 /* RFC 8200, 4.5 */
#define IP6_OFFSET 0xfff8

#define NEXTHDR_HOP	 0
#define NEXTHDR_ROUTING	 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_AUTH	 51
#define NEXTHDR_ICMPV6	 58
#define NEXTHDR_DEST	 60
#define NEXTHDR_MOBILITY 135

/* The uapi headers for ICMP drag in libc; both versions' headers begin alike. */
#define ICMP_HLEN	       8
#define ICMP_CHECK	       2 /* offset of the checksum */
#define ICMP_UNREACHABLE       3 /* RFC 792 */
#define ICMP_UNREACHABLE_PORT  3
#define ICMP_TIME_EXCEEDED     11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMP6_UNREACHABLE      1 /* RFC 4443 */
#define ICMP6_UNREACHABLE_PORT 4
#define ICMP6_INFORMATIONAL    128 /* and above: no errors */
#define ICMP_ECHO_REPLY	       0
#define ICMP_ECHO_REQUEST      8
#define ICMP6_ECHO_REQUEST     128
#define ICMP6_ECHO_REPLY       129
#define ICMP_ECHO_ID	       4 /* offset of the identifier */

#define UDP_HLEN      8
#define FRAGMENT_HLEN 8
#define FRAGMENT_ID   4 /* offset of the identification */

#define SCTP_HLEN  12
#define SCTP_CHECK 8 /* offset of the checksum */

/* Types of SCTP chunks (RFC 9260, 3.2). */
#define SCTP_INIT_ACK	       2
#define SCTP_ABORT	       6
#define SCTP_SHUTDOWN_ACK      8
#define SCTP_SHUTDOWN_COMPLETE 14

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Extension headers that are followed before a packet is given up as hostile. */
#define MAX_EXTENSIONS 8
/* Bytes from the frame's start within which the transport header must begin. */
#define MAX_L4_OFFSET 511

enum parsed {
	PARSED_TRANSPORT = 0, /* TCP, UDP, SCTP: the tuple is whole */
	PARSED_ICMP,	      /* ICMP or ICMPv6: type stands in icmp_type */
	PARSED_IP,	      /* another protocol: addresses only */
	PARSED_LATER, /* a fragment that is not the first: addresses only; IPv6: proto may be wrong */
	PARSED_ARP,
	PARSED_OTHER, /* not ARP, not IP */
	PARSED_MALFORMED,
	PARSED_EXTENSIONS, /* too many extension headers */
	PARSED_SOURCE_ROUTE,
};

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST, /* carries the ports */
	FRAGMENT_LATER, /* does not: tuple's ports and proto are what frags tells */
};

struct packet {
	struct flow_key tuple;
	__u32 frag_id;	/* as on the wire */
	__u16 l4;	/* offset of the transport header from the frame's start */
	__u8 v6;	/* 1: IPv6 */
	__u8 fragment;	/* enum fragment */
	__u8 tcp_flags; /* TCP_FIN ...; of SCTP see sctp_flags; TCP_SYN of what asks for an echo */
	__u8 icmp_type;
	__u16 l4_len;	/* bytes from l4 to the end that the IP header gives; at most 65535 */
	__u8 direction; /* enum direction: EGRESS at from_pod, INGRESS at to_pod */
	__u8 single;	/* 1: of no flow; is decided by itself and leaves no entry */
	__u8 routed;	/* 1: the sender names routers (IPv6 routing header with segments left) */
	__u8 pad;
};

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	return x[3] == y[3] && x[2] == y[2] && x[1] == y[1] && x[0] == y[0];
}

static __always_inline void addr_from_v4(struct addr *a, __be32 v4)
{
	__u32 *w = (__u32 *)a;

	w[0] = 0;
	w[1] = 0;
	w[2] = bpf_htonl(0xffff);
	w[3] = v4;
}

static __always_inline __be32 addr_to_v4(const struct addr *a)
{
	return ((const __u32 *)a)[3];
}

static __always_inline void addr_from_v6(struct addr *a, const void *v6)
{
	__builtin_memcpy(a, v6, sizeof(*a));
}

static __always_inline bool addr_is_v4(const struct addr *a)
{
	const __u32 *w = (const __u32 *)a;

	return w[0] == 0 && w[1] == 0 && w[2] == bpf_htonl(0xffff);
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* Makes the first len bytes linear, or as many as there are. */
static __always_inline void pull(struct __sk_buff *skb, __u32 len)
{
	__u32 linear = (__u32)skb->data_end - (__u32)skb->data;

	if (linear < len && linear < skb->len)
		bpf_skb_pull_data(skb, len < skb->len ? len : skb->len);
}

/* What walk_extensions returns if it is not negative. */
#define WALK_L4(walk)	    ((walk) & MAX_L4_OFFSET) /* offset of the transport header */
#define WALK_PROTO(walk)    ((walk) >> 9 & 0xff)
#define WALK_FRAGMENT(walk) ((walk) >> 17 & 3) /* enum fragment */
#define WALK_ROUTED(walk)   ((walk) >> 19 & 1) /* a routing header has segments left */
#define WALK_FRAG_HDR(walk) ((walk) >> 20)     /* offset of the fragment header, if there is one */

/*
 * Walks IPv6's extension headers from the one of type nexthdr at offset off (RFC 8200, 4; the
 * authentication header counts in 4-byte units, RFC 4302), up to a later fragment's or the transport's.
 * Returns what it found (WALK_...), -1 for a malformed packet or -2 for one with too many headers.
 * Global, so that the verifier looks at it once.
 */
__noinline int walk_extensions(struct __sk_buff *skb, __u32 off, __u32 nexthdr)
{
	__u32 fragment = FRAGMENT_NONE, routed = 0, header = 0, i;
	struct {
		__u8 nexthdr;
		__u8 len;
		__be16 offset;
	} ext;

	for (i = 0; i <= MAX_EXTENSIONS; i++) {
		if (off > MAX_L4_OFFSET)
			return -2;
		if (fragment == FRAGMENT_LATER ||
		    (nexthdr != NEXTHDR_HOP && nexthdr != NEXTHDR_ROUTING &&
		     nexthdr != NEXTHDR_DEST && nexthdr != NEXTHDR_MOBILITY &&
		     nexthdr != NEXTHDR_AUTH && nexthdr != NEXTHDR_FRAGMENT))
			return off | (nexthdr & 0xff) << 9 | fragment << 17 | routed << 19 |
			       header << 20;
		if (bpf_skb_load_bytes(skb, off, &ext, sizeof(ext)))
			return -1;
		if (nexthdr == NEXTHDR_FRAGMENT) {
			/* Fragments of fragments: no one makes them, and Linux drops them, too. */
			if (header)
				return -1;
			header = off;
			if (ext.offset & bpf_htons(IP6_OFFSET))
				fragment = FRAGMENT_LATER;
			else if (ext.offset & bpf_htons(IP6_MF))
				fragment = FRAGMENT_FIRST;
			off += FRAGMENT_HLEN;
		} else if (nexthdr == NEXTHDR_AUTH) {
			off += (ext.len + 2) * 4;
		} else {
			/* Type and segments left follow (RFC 8200, 4.4). */
			if (nexthdr == NEXTHDR_ROUTING && ext.offset & bpf_htons(0xff))
				routed = 1;
			off += (ext.len + 1) * 8;
		}
		nexthdr = ext.nexthdr;
	}
	return -2;
}

/* Goes on from the header of type nexthdr at pkt->l4 to the transport's. Returns 0, or as walk_extensions. */
static __always_inline int skip_extensions(struct __sk_buff *skb, struct packet *pkt, __u8 nexthdr)
{
	int walk = walk_extensions(skb, pkt->l4, nexthdr);

	if (walk < 0)
		return walk;
	pkt->l4 = WALK_L4(walk);
	pkt->tuple.proto = WALK_PROTO(walk);
	pkt->fragment = WALK_FRAGMENT(walk);
	pkt->routed = WALK_ROUTED(walk);
	if (pkt->fragment && bpf_skb_load_bytes(skb, WALK_FRAG_HDR(walk) + FRAGMENT_ID,
						&pkt->frag_id, sizeof(pkt->frag_id)))
		return -1;
	return 0;
}

/*
 * What the first chunk of an SCTP packet is to its association, in TCP's words. None of these is bundled
 * behind another, but for an ABORT behind control chunks (RFC 9260, 3.3.7 and 6.10).
 */
static __always_inline __u8 sctp_flags(__u8 chunk)
{
	switch (chunk) {
	case SCTP_INIT_ACK:
		return TCP_SYN | TCP_ACK;
	case SCTP_ABORT:
		return TCP_RST;
	case SCTP_SHUTDOWN_ACK:
	case SCTP_SHUTDOWN_COMPLETE:
		return TCP_FIN;
	}
	return 0;
}

/* Reads what the transport header at pkt->l4 says. */
static __always_inline enum parsed parse_transport(struct __sk_buff *skb, struct packet *pkt)
{
	__u8 proto = pkt->tuple.proto;
	void *data, *end;
	__be16 *ports;
	__u32 l4;

	if (pkt->fragment == FRAGMENT_LATER)
		return PARSED_LATER;
	if (proto == IPPROTO_ICMP || proto == NEXTHDR_ICMPV6) {
		/* Each belongs to its own IP version. */
		if ((proto == NEXTHDR_ICMPV6) != pkt->v6)
			return PARSED_IP;
		if (pkt->l4_len < ICMP_HLEN || bpf_skb_load_bytes(skb, pkt->l4, &pkt->icmp_type, 1))
			return PARSED_MALFORMED;
		return PARSED_ICMP;
	}
	if (!has_ports(proto))
		return PARSED_IP;

	/*
	 * The mask tells the verifier that the offset cannot leave a packet's 64 KiB; it forgets
	 * what it knew of a value that went through the stack (before Linux 5.16).
	 */
	l4 = pkt->l4 & MAX_L4_OFFSET;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	ports = data + l4;
	if ((void *)ports + UDP_HLEN > end || pkt->l4_len < UDP_HLEN)
		return PARSED_MALFORMED;
	pkt->tuple.sport = bpf_ntohs(ports[0]);
	pkt->tuple.dport = bpf_ntohs(ports[1]);
	if (proto == IPPROTO_TCP) {
		if ((void *)ports + sizeof(struct tcphdr) > end ||
		    pkt->l4_len < sizeof(struct tcphdr))
			return PARSED_MALFORMED;
		pkt->tcp_flags = *((__u8 *)ports + 13);
	} else if (proto == IPPROTO_SCTP) {
		if ((void *)ports + SCTP_HLEN > end || pkt->l4_len < SCTP_HLEN)
			return PARSED_MALFORMED;
		/* Only an INIT has verification tag 0 (RFC 9260, 8.5.1). */
		if (!((__be32 *)ports)[1])
			pkt->tcp_flags = TCP_SYN;
		else if ((void *)ports + SCTP_HLEN < end && pkt->l4_len > SCTP_HLEN)
			pkt->tcp_flags = sctp_flags(*((__u8 *)ports + SCTP_HLEN));
	}
	return PARSED_TRANSPORT;
}

/* What l4_len is for an IP packet that ends at the frame's byte end. */
static __always_inline __u16 l4_length(__u32 end, __u32 l4)
{
	return end - l4 > 0xffff ? 0xffff : end - l4;
}

/*
 * Whether len bytes of IPv4 options hold a source route. What the kernel cannot read, it drops. Global,
 * so that the verifier looks at it once.
 */
__noinline int source_routed(struct __sk_buff *skb, __u32 len)
{
	__u8 option[2]; /* type, length */
	__u32 i, at = 0;

	for (i = 0; i < 40 && at < len; i++) {
		/* Behind the last option there is a transport header, or nothing to route. */
		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr) + at, option, 2))
			return 0;
		if (option[0] == IPOPT_LSRR || option[0] == IPOPT_SSRR)
			return 1;
		if (option[0] == IPOPT_END)
			return 0;
		if (option[0] == IPOPT_NOOP) {
			at++;
			continue;
		}
		if (option[1] < 2)
			return 0;
		at += option[1];
	}
	return 0;
}

/* strict: packets whose sender names routers are told apart. */
static __always_inline enum parsed parse_v4(struct __sk_buff *skb, struct packet *pkt, bool strict)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	__u32 hlen, total;

	if ((void *)(ip + 1) > end)
		return PARSED_MALFORMED;
	hlen = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	/* A GSO packet of more than 64 KiB says 0 (BIG TCP, Linux 6.3). */
	if (!total && skb->len > 0xffff)
		total = skb->len - ETH_HLEN;
	if (ip->version != 4 || hlen < sizeof(*ip) || total < hlen || ETH_HLEN + total > skb->len)
		return PARSED_MALFORMED;
	addr_from_v4(&pkt->tuple.saddr, ip->saddr);
	addr_from_v4(&pkt->tuple.daddr, ip->daddr);
	pkt->tuple.proto = ip->protocol;
	pkt->l4 = ETH_HLEN + hlen;
	pkt->l4_len = l4_length(ETH_HLEN + total, pkt->l4);
	if (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)) {
		pkt->fragment =
			ip->frag_off & bpf_htons(IP_OFFSET) ? FRAGMENT_LATER : FRAGMENT_FIRST;
		pkt->frag_id = ip->id;
	}
	if (hlen > sizeof(*ip)) {
		if (strict && source_routed(skb, hlen - sizeof(*ip)))
			return PARSED_SOURCE_ROUTE;
		pull(skb, pkt->l4 + sizeof(struct tcphdr));
	}
	return parse_transport(skb, pkt);
}

static __always_inline enum parsed parse_v6(struct __sk_buff *skb, struct packet *pkt, bool strict)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + ETH_HLEN;
	__u32 length;
	int err;

	if ((void *)(ip + 1) > end)
		return PARSED_MALFORMED;
	length = ETH_HLEN + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	/* A GSO packet of more than 64 KiB says 0 (BIG TCP, Linux 5.19). */
	if (!ip->payload_len && skb->len > 0xffff)
		length = skb->len;
	if (ip->version != 6 || length > skb->len)
		return PARSED_MALFORMED;
	addr_from_v6(&pkt->tuple.saddr, &ip->saddr);
	addr_from_v6(&pkt->tuple.daddr, &ip->daddr);
	/* Never on a wire (RFC 4038, 4.2), and here it would pass for IPv4. */
	if (addr_is_v4(&pkt->tuple.saddr) || addr_is_v4(&pkt->tuple.daddr))
		return PARSED_MALFORMED;
	pkt->v6 = 1;
	pkt->l4 = ETH_HLEN + sizeof(*ip);
	pkt->tuple.proto = ip->nexthdr;
	if (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP &&
	    ip->nexthdr != NEXTHDR_ICMPV6) {
		err = skip_extensions(skb, pkt, ip->nexthdr);
		if (err)
			return err == -1 ? PARSED_MALFORMED : PARSED_EXTENSIONS;
		if (pkt->l4 > length)
			return PARSED_MALFORMED;
		if (strict && pkt->routed)
			return PARSED_SOURCE_ROUTE;
		pull(skb, pkt->l4 + sizeof(struct tcphdr));
	}
	pkt->l4_len = l4_length(length, pkt->l4);
	return parse_transport(skb, pkt);
}

/*
 * Fills in *pkt, which must be zeroed but for its direction, from the Ethernet frame in skb. Only where
 * strict is set is PARSED_SOURCE_ROUTE returned.
 */
static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *pkt, bool strict)
{
	/*
	 * What TCP without options needs, and no more: the kernel keeps a segment's data apart from its
	 * headers, and to pull some of it costs as much as all else that is done here.
	 */
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		pull(skb, ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr));
		return parse_v4(skb, pkt, strict);
	case bpf_htons(ETH_P_IPV6):
		pull(skb, ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct tcphdr));
		return parse_v6(skb, pkt, strict);
	case bpf_htons(ETH_P_ARP):
		return PARSED_ARP;
	}
	return PARSED_OTHER;
}

#endif
