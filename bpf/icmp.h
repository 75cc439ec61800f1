/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP: echo, which has flows, and errors, which belong to the flow that they are about. An error quotes
 * the packet as its reporter saw it, that is, translated; its receiver must see what it sent (RFC 5508,
 * 4.2), or path MTU discovery and refused datagrams would not work through a VIP.
 */
#ifndef SLUICE_ICMP_H
#define SLUICE_ICMP_H

#include <stddef.h>
#include <linux/bpf.h>

#include "flow.h"
#include "nat.h"
#include "parse.h"
#include "policy.h"

static __always_inline bool is_icmp_error(const struct packet *pkt)
{
	if (pkt->v6)
		return pkt->icmp_type < ICMP6_INFORMATIONAL;
	return pkt->icmp_type == ICMP_UNREACHABLE || pkt->icmp_type == ICMP_TIME_EXCEEDED ||
	       pkt->icmp_type == ICMP_PARAMETER_PROBLEM;
}

static __always_inline bool is_echo(bool v6, __u8 type)
{
	return v6 ? type == ICMP6_ECHO_REQUEST || type == ICMP6_ECHO_REPLY
		  : type == ICMP_ECHO_REQUEST || type == ICMP_ECHO_REPLY;
}

/* Puts the identifier in the place of the port of the side that asks (RFC 5508, 3.1). */
static __always_inline bool echo_ports(struct flow_key *key, bool v6, __u8 type, __be16 id)
{
	bool asks = type == (v6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO_REQUEST);

	key->sport = asks ? bpf_ntohs(id) : 0;
	key->dport = asks ? 0 : bpf_ntohs(id);
	return asks;
}

/*
 * Completes the tuple that a quoted packet without ports has in flows. Returns 0, or -1 when it is of no
 * flow.
 */
static __noinline int quoted_other(struct __sk_buff *skb, const struct packet *pkt,
				   struct packet *inner)
{
	struct flow_key *key = &inner->tuple;
	__u8 echo[ICMP_HLEN];
	__be16 id;

	if (key->proto != (pkt->v6 ? NEXTHDR_ICMPV6 : IPPROTO_ICMP))
		return 0;
	if (inner->l4 + sizeof(echo) > pkt->l4 + pkt->l4_len ||
	    bpf_skb_load_bytes(skb, inner->l4, echo, sizeof(echo)) || !is_echo(pkt->v6, echo[0]))
		return -1;
	__builtin_memcpy(&id, echo + ICMP_ECHO_ID, sizeof(id));
	echo_ports(key, pkt->v6, echo[0], id);
	return 0;
}

/* Reads the IPv6 headers that the error quotes. Returns 0, or -1 when they do not lead to a transport's. */
static __noinline int quoted_v6(struct __sk_buff *skb, const struct packet *pkt,
				struct packet *inner)
{
	__u32 off = pkt->l4 + ICMP_HLEN, extensions;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)))
		return -1;
	addr_from_v6(&inner->tuple.saddr, &ip.saddr);
	addr_from_v6(&inner->tuple.daddr, &ip.daddr);
	off += sizeof(ip);
	inner->l4 = off;
	/* A datagram that was sent in fragments is how path MTU errors come about. */
	if (skip_extensions(skb, inner, ip.nexthdr) || inner->fragment == FRAGMENT_LATER)
		return -1;
	extensions = inner->l4 - off;
	if (bpf_ntohs(ip.payload_len) > extensions)
		inner->l4_len = bpf_ntohs(ip.payload_len) - extensions;
	return 0;
}

/* The IPv4 twin of quoted_v6. */
static __always_inline int quoted_v4(struct __sk_buff *skb, const struct packet *pkt,
				     struct packet *inner)
{
	__u32 off = pkt->l4 + ICMP_HLEN;
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
	    ip.frag_off & bpf_htons(IP_OFFSET))
		return -1;
	addr_from_v4(&inner->tuple.saddr, ip.saddr);
	addr_from_v4(&inner->tuple.daddr, ip.daddr);
	inner->tuple.proto = ip.protocol;
	inner->fragment = ip.frag_off & bpf_htons(IP_MF) ? FRAGMENT_FIRST : FRAGMENT_NONE;
	inner->l4 = off + ip.ihl * 4;
	if (bpf_ntohs(ip.tot_len) > ip.ihl * 4)
		inner->l4_len = bpf_ntohs(ip.tot_len) - ip.ihl * 4;
	return 0;
}

/*
 * Reads into *inner what the error says of the packet that it quotes. Returns 0, or -1 when there is none
 * to follow (too short, a fragment that is not the first).
 */
static __noinline int quoted_packet(struct __sk_buff *skb, const struct packet *pkt,
				    struct packet *inner)
{
	__be16 ports[2];

	__builtin_memset(inner, 0, sizeof(*inner));
	if ((pkt->v6 ? quoted_v6(skb, pkt, inner) : quoted_v4(skb, pkt, inner)) ||
	    inner->l4 > pkt->l4 + pkt->l4_len)
		return -1;
	if (!has_ports(inner->tuple.proto))
		return quoted_other(skb, pkt, inner);
	/* Not from padding behind the message: its checksum does not cover that. */
	if (inner->l4 + sizeof(ports) > pkt->l4 + pkt->l4_len ||
	    bpf_skb_load_bytes(skb, inner->l4, ports, sizeof(ports)))
		return -1;
	inner->tuple.sport = bpf_ntohs(ports[0]);
	inner->tuple.dport = bpf_ntohs(ports[1]);
	return 0;
}

/*
 * Replaces words at off and adds what that changes to *sum. Returns 0 or an error. The sum of the
 * whole packet, which the kernel may keep (CHECKSUM_COMPLETE), stays: a checksum in the packet is
 * going to take back what changes here.
 */
static __always_inline int replace(struct __sk_buff *skb, __u32 off, const void *from,
				   const void *to, const int words, __u64 *sum)
{
	*sum += sum_words(from, to, words);
	return bpf_skb_store_bytes(skb, off, to, words * 4, 0);
}

static __noinline int error_rewrite_v4(struct __sk_buff *skb, const struct packet *pkt,
				       const struct flow *entry, struct scratch *work)
{
	const struct flow_key *quoted = &work->inner.tuple;
	const struct addr *saddr = &work->reporter;
	__u32 ip = pkt->l4 + ICMP_HLEN;
	__u64 inner = 0, outer = 0, ignore = 0;
	__be32 from[2] = { addr_to_v4(&quoted->saddr), addr_to_v4(&quoted->daddr) };
	__be32 to[2] = { addr_to_v4(&entry->daddr), addr_to_v4(&entry->saddr) };
	__be32 from_out[2] = { addr_to_v4(&pkt->tuple.saddr), addr_to_v4(&pkt->tuple.daddr) };
	__be32 to_out[2] = { addr_to_v4(saddr), addr_to_v4(&entry->daddr) };
	__u16 check, old;

	/* The quoted header's checksum takes back what its addresses add to the ICMP checksum. */
	if (replace(skb, ip + offsetof(struct iphdr, saddr), from, to, 2, &inner) ||
	    bpf_skb_load_bytes(skb, ip + offsetof(struct iphdr, check), &old, 2))
		return -1;
	check = ~fold16((__u64)(__u16)~old + fold16(inner));
	work->sum += inner + (__u64)(__u16)~old + check;
	if (bpf_skb_store_bytes(skb, ip + offsetof(struct iphdr, check), &check, 2, 0))
		return -1;
	outer = sum_words(from_out, to_out, 2);
	return bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, fold32(outer),
				   0) ||
	       replace(skb, ETH_HLEN + offsetof(struct iphdr, saddr), from_out, to_out, 2, &ignore);
}

static __noinline int error_rewrite_v6(struct __sk_buff *skb, const struct packet *pkt,
				       const struct flow *entry, struct scratch *work)
{
	const struct flow_key *quoted = &work->inner.tuple;
	const struct addr *saddr = &work->reporter;
	__u32 ip = pkt->l4 + ICMP_HLEN;
	__u64 *sum = &work->sum;

	/* ICMPv6's own checksum covers the outer addresses too (RFC 4443, 2.3). */
	return replace(skb, ip + offsetof(struct ipv6hdr, saddr), &quoted->saddr, &entry->daddr, 4,
		       sum) ||
	       replace(skb, ip + offsetof(struct ipv6hdr, daddr), &quoted->daddr, &entry->saddr, 4,
		       sum) ||
	       replace(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &pkt->tuple.saddr, saddr, 4,
		       sum) ||
	       replace(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &pkt->tuple.daddr,
		       &entry->daddr, 4, sum);
}

/*
 * Does for the CRC of a quoted SCTP packet what error_check does. It is the whole packet's: how long that
 * was tells the quoted IP header, if it was no fragment.
 */
static __noinline int error_crc(struct __sk_buff *skb, struct scratch *work, __u32 from, __u32 to)
{
	const struct packet *inner = &work->inner;
	__u32 at = inner->l4 + SCTP_CHECK, crc, changed;

	if (from == to || inner->fragment || inner->l4_len < SCTP_HLEN ||
	    at + sizeof(crc) > (__u32)work->pkt.l4 + work->pkt.l4_len ||
	    bpf_skb_load_bytes(skb, at, &crc, sizeof(crc)) || !crc)
		return 0;
	changed = crc ^ sctp_crc_change(from, to, inner->l4_len);
	return replace(skb, at, &crc, &changed, 1, &work->sum);
}

/*
 * Keeps the quoted transport header's own checksum right, where it was quoted: what the receiver is shown
 * is what it sent (RFC 5508, 4.2, REQ-4).
 */
static __noinline int error_check(struct __sk_buff *skb, const struct flow *entry,
				  struct scratch *work, __u32 from, __u32 to)
{
	const struct packet *inner = &work->inner;
	const struct flow_key *quoted = &inner->tuple;
	__u32 at = inner->l4;
	__u16 old, check;
	__u64 sum;

	if (quoted->proto == IPPROTO_SCTP)
		return error_crc(skb, work, from, to);
	if (quoted->proto == IPPROTO_TCP)
		at += offsetof(struct tcphdr, check);
	else if (quoted->proto == IPPROTO_UDP)
		at += offsetof(struct udphdr, check);
	else
		return 0;
	if (at + sizeof(old) > (__u32)work->pkt.l4 + work->pkt.l4_len ||
	    bpf_skb_load_bytes(skb, at, &old, sizeof(old)) ||
	    (!old && quoted->proto == IPPROTO_UDP))
		return 0;
	sum = sum_words((const __u32 *)&quoted->saddr, (const __u32 *)&entry->daddr, 4) +
	      sum_words((const __u32 *)&quoted->daddr, (const __u32 *)&entry->saddr, 4) +
	      sum_words(&from, &to, 1);
	check = ~fold16((__u64)(__u16)~old + fold32(sum));
	if (!check && quoted->proto == IPPROTO_UDP)
		check = 0xffff;
	work->sum += (__u64)(__u16)~old + check;
	return bpf_skb_store_bytes(skb, at, &check, sizeof(check), 0);
}

/* Turns the error about the quoted packet into one about what its receiver sent. */
static __noinline int error_translate(struct __sk_buff *skb, const struct packet *pkt,
				      const struct flow *entry, struct scratch *work)
{
	const struct flow_key *quoted = &work->inner.tuple;
	__u32 from_ports = port_word(quoted->sport, quoted->dport);
	__u32 to_ports = port_word(entry->dport, entry->sport);
	int err;

	/* The far end itself reports: it is known by its VIP. A router on the way keeps its name. */
	work->reporter = pkt->tuple.saddr;
	if (addr_equal(&work->reporter, &quoted->daddr))
		work->reporter = entry->saddr;
	work->sum = 0;
	if (replace(skb, work->inner.l4, &from_ports, &to_ports, 1, &work->sum) ||
	    error_check(skb, entry, work, from_ports, to_ports))
		return -1;
	if (pkt->v6)
		err = error_rewrite_v6(skb, pkt, entry, work);
	else
		err = error_rewrite_v4(skb, pkt, entry, work);
	if (err || bpf_l4_csum_replace(skb, pkt->l4 + ICMP_CHECK, 0, fold32(work->sum), 0))
		return -1;
	COUNT(icmp_translated);
	return 0;
}

/*
 * Whether the flow that an entry at work->rkey belongs to may be, also by the policies of now. Puts into
 * work->fwd where its packets go.
 */
static __always_inline int flow_judge(struct __sk_buff *skb, const struct flow *entry,
				      struct scratch *work)
{
	work->fwd = *entry;
	if (entry->epoch == epoch_of(entry))
		return 0;
	work->fresh = 0;
	work->answer = !!(entry->flags & FLOW_REPLY);
	work->proto = work->rkey.proto;
	work->dport = work->answer ? work->rkey.sport : entry->dport;
	end_read(&work->src, &work->rkey.saddr);
	end_read(&work->dst, &entry->daddr);
	if (settle())
		return DROP(skb, drop_closed);
	forget_foreign(skb, work);
	/* To whom was judged, who may have the address since the entry was made. */
	work->fwd.out_ifindex = work->dst.ep.ifindex;
	__builtin_memcpy(work->fwd.out_mac, work->dst.ep.mac, 6);
	return judge(skb);
}

/*
 * Finds the flow that the error in the scratch is about, and undoes its translation in the error.
 * Returns FOLLOW with work->fwd telling where to, SINGLE when the error is about nothing known, or an
 * action.
 *
 * An error from a container may only speak of that container's flows.
 */
__noinline int icmp_error(struct __sk_buff *skb)
{
	struct scratch *work = scratch_here();
	struct flow_key *quoted, *key;
	struct packet *pkt;
	struct flow *entry;
	int act;

	if (!work)
		return TC_ACT_SHOT;
	pkt = &work->pkt;
	quoted = &work->inner.tuple;
	key = &work->rkey;
	/* An error goes to whom its packet came from, or is about something else. */
	if (quoted_packet(skb, pkt, &work->inner) || !addr_equal(&quoted->saddr, &pkt->tuple.daddr))
		return SINGLE;
	/* The flow's other direction knows how to undo the quoted packet's translation. */
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr = quoted->daddr;
	key->daddr = quoted->saddr;
	key->sport = quoted->dport;
	key->dport = quoted->sport;
	key->proto = quoted->proto;
	entry = bpf_map_lookup_elem(&flows, key);
	if (!entry || (pkt->direction == DIRECTION_EGRESS && entry->in_ifindex != skb->ifindex))
		return SINGLE;
	act = flow_judge(skb, entry, work);
	if (act)
		return act;
	if (entry->flags & (FLOW_NAT_SRC | FLOW_NAT_DST) && error_translate(skb, pkt, entry, work))
		return DROP(skb, drop_rewrite);
	work->fwd.service = 0;
	work->fwd.flags = 0; /* it is translated already */
	return FOLLOW;
}

#endif
