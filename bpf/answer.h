/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets that the node itself answers: for the gateway that no interface has, and for VIPs with no
 * backend. An answer is made of the packet in hand and delivered to the container that sent it with
 * bpf_redirect_peer, past every other program.
 */
#ifndef SLUICE_ANSWER_H
#define SLUICE_ANSWER_H

#include <stddef.h>
#include <linux/bpf.h>

#include "config.h"
#include "event.h"
#include "guard.h"
#include "icmp.h"
#include "lb.h"
#include "nat.h"
#include "parse.h"

/* Router, solicited, override (RFC 4861, 4.4). */
#define ND_FLAGS 0xe0000000

#define ANSWER_TTL 64

/* Back to the sender by its own veth, from the gateway's MAC. */
static __always_inline int answer_send(struct __sk_buff *skb)
{
	__u8 macs[12];

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), macs, 6))
		goto drop;
	__builtin_memcpy(macs + 6, config_here()->gateway_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		goto drop;
	return bpf_redirect_peer(skb->ifindex, 0);
drop:
	return DROP(skb, drop_rewrite);
}

/* An ARP packet for IPv4 over Ethernet, RFC 826. */
struct arp {
	__be16 hw;
	__be16 proto;
	__u8 hw_len;
	__u8 proto_len;
	__be16 op;
	__u8 sha[6]; /* sender: hardware and protocol address */
	__u8 spa[4];
	__u8 tha[6]; /* target */
	__u8 tpa[4];
};

#define ARPOP_REQUEST 1
#define ARPOP_REPLY   2

/* Whether an ARP packet claims an address or a MAC that is not the container's. */
static __always_inline bool arp_lies(struct __sk_buff *skb, const struct packet *pkt,
				     const struct arp *arp)
{
	__u8 mac[6];

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), mac, 6) ||
	    !mac_equal(arp->sha, mac))
		return true;
	/* A sender of 0 claims nothing: it probes whether an address is free (RFC 5227). */
	return !is_unspecified(&pkt->tuple.saddr) && !owns(skb, &pkt->tuple.saddr, mac);
}

/* RFC 826: who has the gateway's address? Nothing else is on this link. */
static __noinline int answer_arp(struct __sk_buff *skb, struct packet *pkt)
{
	struct arp arp;
	__be32 gateway = addr_to_v4(&config_here()->gateway_v4);
	__be32 sender, target;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)) || arp.hw_len != 6 ||
	    arp.proto_len != 4)
		return DROP(skb, drop_malformed);
	__builtin_memcpy(&sender, arp.spa, 4);
	__builtin_memcpy(&target, arp.tpa, 4);
	addr_from_v4(&pkt->tuple.saddr, sender);
	addr_from_v4(&pkt->tuple.daddr, target);
	if (arp_lies(skb, pkt, &arp))
		return DROP(skb, drop_arp);
	/* Silence tells who probes that the address is free. */
	if (arp.op != bpf_htons(ARPOP_REQUEST) || arp.proto != bpf_htons(ETH_P_IP) ||
	    target != gateway || !sender)
		return DROP(skb, drop_link_local);
	arp.op = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(arp.tha, arp.sha, 6);
	__builtin_memcpy(arp.tpa, arp.spa, 4);
	__builtin_memcpy(arp.sha, config_here()->gateway_mac, 6);
	__builtin_memcpy(arp.spa, &gateway, 4);
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &arp, sizeof(arp), 0))
		return DROP(skb, drop_rewrite);
	COUNT(arp_replies);
	return answer_send(skb);
}

/* The sum of an IPv6 pseudo-header's fields (RFC 8200, 8.1) to begin a checksum with. */
static __always_inline __u32 pseudo_v6(const struct addr *a, const struct addr *b, __u32 len,
				       __u8 proto)
{
	__u64 sum = bpf_htonl(len) + (__u64)bpf_htonl(proto);
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++)
		sum += (__u64)x[i] + y[i];
	return fold32(sum);
}

struct nd {
	struct {
		__u8 type;
		__u8 code;
		__be16 check;
		__be32 flags;
	} hdr;
	struct addr target;
	__u8 option;
	__u8 option_len; /* in units of 8 bytes */
	__u8 mac[6];
};

/* RFC 4861, 7.2.4: the IPv6 twin of answer_arp. Returns -1 when the packet asks for nothing of ours. */
static __noinline int answer_nd(struct __sk_buff *skb, struct packet *pkt)
{
	struct ipv6hdr ip;
	struct nd nd = {};
	__u32 len = ETH_HLEN + sizeof(ip) + sizeof(nd);

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.hop_limit != 255 ||
	    pkt->l4 != ETH_HLEN + sizeof(ip) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &nd, offsetof(struct nd, option)))
		return -1;
	/* From the unspecified address: a probe whether the address is free (RFC 4862, 5.4). */
	if (!addr_equal(&nd.target, &config_here()->gateway_v6) ||
	    !(ip.saddr.in6_u.u6_addr32[0] | ip.saddr.in6_u.u6_addr32[1] |
	      ip.saddr.in6_u.u6_addr32[2] | ip.saddr.in6_u.u6_addr32[3]))
		return -1;
	if (bpf_skb_change_tail(skb, len, 0))
		goto drop;

	ip.payload_len = bpf_htons(sizeof(nd));
	ip.daddr = ip.saddr;
	__builtin_memcpy(&ip.saddr, &config_here()->gateway_v6, 16);
	nd.hdr.type = ND_ADVERTISEMENT;
	nd.hdr.code = 0;
	nd.hdr.check = 0;
	nd.hdr.flags = bpf_htonl(ND_FLAGS);
	nd.option = ND_TARGET_LLADDR;
	nd.option_len = 1;
	__builtin_memcpy(nd.mac, config_here()->gateway_mac, 6);
	nd.hdr.check = ~fold16(bpf_csum_diff(NULL, 0, (__be32 *)&nd, sizeof(nd),
					     pseudo_v6((const struct addr *)&ip.saddr,
						       (const struct addr *)&ip.daddr, sizeof(nd),
						       NEXTHDR_ICMPV6)));
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), &nd, sizeof(nd), BPF_F_RECOMPUTE_CSUM))
		goto drop;
	COUNT(arp_replies);
	return answer_send(skb);
drop:
	return DROP(skb, drop_rewrite);
}

/*
 * Turns the packet's own IP header into the answer's: addresses swapped (so the checksum stays),
 * the given number of bytes behind it, a fresh TTL. Options and extension headers stay where they are.
 */
static __always_inline int answer_ip(struct __sk_buff *skb, const struct packet *pkt, __u32 payload)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (pkt->v6) {
		struct ipv6hdr *ip = data + ETH_HLEN;
		__u64 sum;

		if ((void *)(ip + 1) > end)
			return -1;
		sum = (__u16)~ip->payload_len + (__u64)(__u16)~bpf_htons(ip->hop_limit);
		ip->payload_len = bpf_htons(payload + pkt->l4 - ETH_HLEN - sizeof(*ip));
		ip->hop_limit = ANSWER_TTL;
		sum += ip->payload_len + (__u64)bpf_htons(ANSWER_TTL);
		__builtin_memcpy(&ip->saddr, &pkt->tuple.daddr, 16);
		__builtin_memcpy(&ip->daddr, &pkt->tuple.saddr, 16);
		/* See rewrite(). */
		bpf_csum_update(skb, fold32(sum));
	} else {
		struct iphdr *ip = data + ETH_HLEN;
		__u64 sum;

		if ((void *)(ip + 1) > end)
			return -1;
		sum = (__u16)~ip->check + (__u64)(__u16)~ip->tot_len +
		      (__u16)~bpf_htons(ip->ttl << 8) + (__u16)~ip->frag_off;
		ip->tot_len = bpf_htons(payload + pkt->l4 - ETH_HLEN);
		ip->ttl = ANSWER_TTL;
		ip->frag_off = 0;
		sum += ip->tot_len + (__u64)bpf_htons(ANSWER_TTL << 8);
		ip->check = ~fold16(sum);
		ip->saddr = addr_to_v4(&pkt->tuple.daddr);
		ip->daddr = addr_to_v4(&pkt->tuple.saddr);
	}
	return 0;
}

/* A reset for a segment that no one expects, RFC 9293, 3.10.7.1. */
static __noinline int refuse_tcp(struct __sk_buff *skb, struct packet *pkt)
{
	struct tcphdr th;
	__u32 l4 = pkt->l4 & MAX_L4_OFFSET, len = pkt->l4_len, sum;

	if (bpf_skb_load_bytes(skb, l4, &th, sizeof(th)))
		goto drop;
	if (th.doff * 4 < sizeof(th) || len < th.doff * 4) {
		return DROP(skb, drop_malformed);
	}
	if (th.ack) {
		th.seq = th.ack_seq;
		th.ack_seq = 0;
	} else {
		th.ack_seq = bpf_htonl(bpf_ntohl(th.seq) + len - th.doff * 4 + th.syn + th.fin);
		th.seq = 0;
	}
	/* Byte 12 and 13: a header of 5 words; RST, and ACK if there was none. */
	((__u8 *)&th)[12] = 5 << 4;
	((__u8 *)&th)[13] = TCP_RST | (pkt->tcp_flags & TCP_ACK ? 0 : TCP_ACK);
	th.window = 0;
	th.urg_ptr = 0;
	th.check = 0;
	th.source = bpf_htons(pkt->tuple.dport);
	th.dest = bpf_htons(pkt->tuple.sport);
	/* IPv4's pseudo-header sums to the same: what ::ffff:0:0/96 adds, 2 * 0xffff, is zero. */
	sum = pseudo_v6(&pkt->tuple.saddr, &pkt->tuple.daddr, sizeof(th), IPPROTO_TCP);
	th.check = ~fold16(bpf_csum_diff(NULL, 0, (__be32 *)&th, sizeof(th), sum));

	if (bpf_skb_change_tail(skb, l4 + sizeof(th), 0) || answer_ip(skb, pkt, sizeof(th)) ||
	    bpf_skb_store_bytes(skb, l4, &th, sizeof(th), BPF_F_RECOMPUTE_CSUM))
		goto drop;
	COUNT(refused);
	return answer_send(skb);
drop:
	return DROP(skb, drop_rewrite);
}

/* Of the refused packet, what an unreachable message quotes: RFC 792's 8 bytes of transport. */
#define QUOTED_TRANSPORT 8
#define QUOTE_MAX	 96

struct unreachable {
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 unused;
	__u8 quote[QUOTE_MAX];
};

/*
 * Makes the packet a "port unreachable" about itself: ICMP type 3 code 3 (RFC 792) or ICMPv6 type 1
 * code 4 (RFC 4443, 3.1). Returns 0, or -1 when it must be dropped: of the stack this leaves nothing to
 * report it or to send.
 */
static __noinline int refuse_icmp(struct __sk_buff *skb, struct packet *pkt)
{
	__u32 quote = (pkt->l4 & MAX_L4_OFFSET) - ETH_HLEN + QUOTED_TRANSPORT, header, sum = 0;
	struct unreachable msg = {};

	if (pkt->l4_len < QUOTED_TRANSPORT)
		quote -= QUOTED_TRANSPORT - pkt->l4_len;
	if (quote > QUOTE_MAX)
		quote = QUOTE_MAX;
	/*
	 * Up to Linux 6.1 the verifier learns no lower bound from "if w7 == 0", and clang 19 tests one
	 * copy of quote (w3) and passes another (w4 = w7). So 1 is added after the test of a value
	 * that clang must keep in one place.
	 */
	quote--;
	asm volatile("" : "+r"(quote));
	if (quote >= QUOTE_MAX)
		goto drop;
	quote++;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, msg.quote, quote))
		goto drop;
	/* The header that goes in front has neither options nor extensions. */
	pkt->l4 = ETH_HLEN + (pkt->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	header = pkt->l4;
	if (pkt->v6) {
		msg.type = ICMP6_UNREACHABLE;
		msg.code = ICMP6_UNREACHABLE_PORT;
		sum = pseudo_v6(&pkt->tuple.saddr, &pkt->tuple.daddr, 8 + quote, NEXTHDR_ICMPV6);
	} else {
		msg.type = ICMP_UNREACHABLE;
		msg.code = ICMP_UNREACHABLE_PORT;
	}
	/* What quote leaves of the buffer is zero and adds nothing. */
	msg.check = ~fold16(bpf_csum_diff(NULL, 0, (__be32 *)&msg, sizeof(msg), sum));

	if (bpf_skb_change_tail(skb, header + 8 + quote, 0))
		goto drop;
	if (pkt->v6) {
		struct ipv6hdr ip = { .version = 6 };

		ip.nexthdr = NEXTHDR_ICMPV6;
		ip.hop_limit = ANSWER_TTL;
		ip.payload_len = bpf_htons(8 + quote);
		__builtin_memcpy(&ip.saddr, &pkt->tuple.daddr, 16);
		__builtin_memcpy(&ip.daddr, &pkt->tuple.saddr, 16);
		if (bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM))
			goto drop;
	} else {
		struct iphdr ip = { .version = 4, .ihl = 5 };

		ip.protocol = IPPROTO_ICMP;
		ip.ttl = ANSWER_TTL;
		ip.tot_len = bpf_htons(header - ETH_HLEN + 8 + quote);
		ip.saddr = addr_to_v4(&pkt->tuple.daddr);
		ip.daddr = addr_to_v4(&pkt->tuple.saddr);
		ip.check = ~fold16(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
		if (bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM))
			goto drop;
	}
	if (bpf_skb_store_bytes(skb, header, &msg, 8, BPF_F_RECOMPUTE_CSUM) ||
	    bpf_skb_store_bytes(skb, header + 8, msg.quote, quote, BPF_F_RECOMPUTE_CSUM))
		goto drop;
	COUNT(refused);
	return 0;
drop:
	return -1;
}

static __always_inline bool is_echo_request(const struct packet *pkt)
{
	if (pkt->v6)
		return pkt->tuple.proto == NEXTHDR_ICMPV6 && pkt->icmp_type == ICMP6_ECHO_REQUEST;
	return pkt->tuple.proto == IPPROTO_ICMP && pkt->icmp_type == ICMP_ECHO_REQUEST;
}

/*
 * A VIP is there, whatever its ports are: an echo request is answered (RFC 1122, 3.2.2.6; RFC 4443, 4.2).
 * The type is all of the message that changes; what the checksum lacked before it lacks then.
 */
static __noinline int answer_echo(struct __sk_buff *skb, struct packet *pkt)
{
	__u32 l4 = pkt->l4 & MAX_L4_OFFSET;
	__be16 head[2], from; /* type and code; checksum */

	if (bpf_skb_load_bytes(skb, l4, head, sizeof(head)))
		goto drop;
	from = head[0];
	*(__u8 *)head = pkt->v6 ? ICMP6_ECHO_REPLY : ICMP_ECHO_REPLY;
	/* All of an ICMP message may be zero now. Its checksum is then the other zero, and nowhere wrong. */
	head[1] = ~fold16((__u64)(__u16)~head[1] + (__u16)~from + head[0]);
	if (!head[1])
		head[1] = 0xffff;
	if (answer_ip(skb, pkt, pkt->l4_len) || bpf_skb_store_bytes(skb, l4, head, sizeof(head), 0))
		goto drop;
	COUNT(echo_replies);
	return answer_send(skb);
drop:
	return DROP(skb, drop_rewrite);
}

/*
 * Tells the sender of the packet in the scratch, which is to a VIP, that nothing serves it, or that the
 * VIP is there if that is what it asks; of an echo request in fragments no fragment knows all. Nothing is
 * said about a reset (RFC 9293, 3.10.7.1), nor about an ICMP error or a fragment that is not the
 * first (RFC 1122, 3.2.2); and no stack cuts a TCP segment to pieces.
 */
__noinline int refuse(struct __sk_buff *skb)
{
	struct scratch *work = scratch_here();
	struct packet *pkt;

	if (!work)
		return TC_ACT_SHOT;
	pkt = &work->pkt;
	if (pkt->fragment == FRAGMENT_LATER || (pkt->single && is_icmp_error(pkt)) ||
	    (pkt->fragment && is_echo_request(pkt)) ||
	    (pkt->tuple.proto == IPPROTO_TCP && (pkt->fragment || pkt->tcp_flags & TCP_RST))) {
		return DROP(skb, drop_refused);
	}
	if (pkt->tuple.proto == IPPROTO_TCP)
		return refuse_tcp(skb, pkt);
	if (is_echo_request(pkt))
		return answer_echo(skb, pkt);
	if (refuse_icmp(skb, pkt))
		return DROP(skb, drop_rewrite);
	return answer_send(skb);
}

#endif
