/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewrites a packet's tuple and keeps every checksum right by the difference (RFC 1624). */
#ifndef SLUICE_NAT_H
#define SLUICE_NAT_H

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/udp.h>

#include "kernel.h"
#include "parse.h"
#include "types.h"

/* One's complement sum of what replacing from by to adds; neither need be aligned to anything. */
static __always_inline __u64 sum_words(const __u32 *from, const __u32 *to, int words)
{
	__u64 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < words; i++)
		sum += (__u64)(__u32)~from[i] + to[i];
	return sum;
}

/* Folds a sum to the 32 bits that the checksum helpers take. */
static __always_inline __u32 fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}

static __always_inline __u16 fold16(__u64 sum)
{
	__u32 s = fold32(sum);

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return s;
}

/* Ports as one big-endian word, the way they stand in a packet. */
static __always_inline __u32 port_word(__u16 sport, __u16 dport)
{
	return bpf_htonl((__u32)sport << 16 | dport);
}

/*
 * SCTP's checksum is a CRC32c of the whole packet (RFC 9260, 6.8 and appendix A). A CRC is linear:
 * crc(m ^ d) = crc(m) ^ crc0(d), where crc0 starts from 0 and is not inverted. Here d is zero but
 * for its first 4 bytes, the ports: crc0(d) is the CRC of those, carried on over len - 4 zero
 * bytes, that is, multiplied by x^(8 * (len - 4)) modulo the polynomial; x^(8 * 2^k) comes from a
 * table. Values are bit-reflected: bit 31 is x^0.
 */
static const __u32 crc32c_shift[16] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a,
	0xb82be955, 0xb8fdb1e7, 0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a,
	0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

#define CRC32C_POLY 0x82f63b78

static __always_inline __u32 crc32c_multiply(__u32 a, __u32 b)
{
	__u32 product = 0;
	int i;

	for (i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = (b >> 1) ^ (CRC32C_POLY & -(b & 1));
	}
	return product;
}

/* What exchanging the ports changes in the checksum of a packet of len bytes. */
static __noinline __u32 sctp_crc_change(__u32 from, __u32 to, __u32 len)
{
	__u32 delta = from ^ to; /* big-endian words are byte strings: reflected already */
	int k;

	delta = crc32c_multiply(delta, CRC32C_POLY /* x^32 */);
	len -= 4;
	for (k = 0; k < 16; k++)
		if (len >> k & 1)
			delta = crc32c_multiply(delta, crc32c_shift[k]);
	return delta;
}

static __always_inline int sctp_ports_replace(struct __sk_buff *skb, __u32 l4, __u32 from, __u32 to,
					      __u32 len)
{
	__u32 crc;

	/* Zero: the kernel's SCTP left it to be filled in by the device (CHECKSUM_PARTIAL). */
	if (bpf_skb_load_bytes(skb, l4 + SCTP_CHECK, &crc, sizeof(crc)) || !crc)
		return 0;
	crc ^= sctp_crc_change(from, to, len);
	return bpf_skb_store_bytes(skb, l4 + SCTP_CHECK, &crc, sizeof(crc), BPF_F_RECOMPUTE_CSUM);
}

/* What a rewrite changes in the sum that a transport checksum is of. */
struct change {
	__u64 addrs; /* in the pseudo-header */
	__u32 from_ports;
	__u32 to_ports;
};

/*
 * Has the kernel change the checksum at offset check. Its helpers know what a partial one wants, the
 * pseudo-header's part only: so addresses go with BPF_F_PSEUDO_HDR and ports without.
 */
static __always_inline int check_by_helper(struct __sk_buff *skb, __u32 check, __u64 flags,
					   const struct change *by)
{
	if (bpf_l4_csum_replace(skb, check, 0, fold32(by->addrs), flags | BPF_F_PSEUDO_HDR))
		return -1;
	if (by->from_ports != by->to_ports)
		return bpf_l4_csum_replace(skb, check, by->from_ports, by->to_ports, flags | 4);
	return 0;
}

/* The same without a call: two of them cost more than the look-up of a flow does. */
static __always_inline int check_here(struct __sk_buff *skb, __u32 check, __u64 flags,
				      enum summed kind, const struct change *by)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u16 *sum = data + check, now;

	if ((void *)(sum + 1) > end)
		return -1;
	/* UDP over IPv4 without a checksum (RFC 768). */
	if (flags && !*sum)
		return 0;
	if (kind == SUMMED_PARTIAL)
		now = fold16(by->addrs + *sum);
	else
		now = ~fold16(by->addrs + sum_words(&by->from_ports, &by->to_ports, 1) +
			      (__u16) ~*sum);
	*sum = flags && !now ? 0xffff : now;
	return 0;
}

/* Gives the packet the addresses; adds to *sum what that changes. */
static __always_inline int addresses_replace(struct __sk_buff *skb, const struct packet *pkt,
					     const struct flow *to, __u64 *sum)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (pkt->v6) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		if ((void *)(ip + 1) > end)
			return -1;
		*sum = sum_words((const __u32 *)&pkt->tuple.saddr, (const __u32 *)&to->saddr, 4) +
		       sum_words((const __u32 *)&pkt->tuple.daddr, (const __u32 *)&to->daddr, 4);
		__builtin_memcpy(&ip->saddr, &to->saddr, 16);
		__builtin_memcpy(&ip->daddr, &to->daddr, 16);
	} else {
		struct iphdr *ip = data + ETH_HLEN;
		__be32 from[2], into[2];

		if ((void *)(ip + 1) > end)
			return -1;
		from[0] = addr_to_v4(&pkt->tuple.saddr);
		from[1] = addr_to_v4(&pkt->tuple.daddr);
		into[0] = addr_to_v4(&to->saddr);
		into[1] = addr_to_v4(&to->daddr);
		*sum = sum_words(from, into, 2);
		ip->saddr = into[0];
		ip->daddr = into[1];
		ip->check = ~fold16((__u64)(__u16)~ip->check + fold16(*sum));
	}
	return 0;
}

/*
 * Gives the packet the tuple {saddr, daddr, sport, dport}. Returns 0, or -1 when the kernel would
 * not: the packet is then half written and must be dropped.
 */
static __always_inline int rewrite(struct __sk_buff *skb, const struct packet *pkt,
				   const struct flow *to)
{
	struct change by = {
		.from_ports = port_word(pkt->tuple.sport, pkt->tuple.dport),
		.to_ports = port_word(to->sport, to->dport),
	};
	__u32 l4 = pkt->l4 & MAX_L4_OFFSET, check, flags = 0;
	enum summed kind = summed(skb);
	void *data, *end;
	__u32 *ports;

	if (addresses_replace(skb, pkt, to, &by.addrs))
		return -1;
	/*
	 * A device's sum of the whole packet, if there is one, must follow. IPv4's header takes back what
	 * its addresses add; IPv6's has no checksum.
	 */
	if (pkt->v6 && kind == SUMMED_COMPLETE)
		bpf_csum_update(skb, fold32(by.addrs));
	if (pkt->fragment == FRAGMENT_LATER)
		return 0;

	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	ports = data + l4;
	if ((void *)(ports + 1) > end)
		return -1;
	*ports = by.to_ports;
	switch (pkt->tuple.proto) {
	case IPPROTO_TCP:
		check = l4 + offsetof(struct tcphdr, check);
		break;
	case IPPROTO_UDP:
		check = l4 + offsetof(struct udphdr, check);
		flags = BPF_F_MARK_MANGLED_0;
		break;
	case IPPROTO_SCTP:
		/* No pseudo-header: addresses do not count. */
		if (by.from_ports == by.to_ports)
			return 0;
		/* The CRC is the whole datagram's, of which a fragment does not know the length. */
		if (pkt->fragment != FRAGMENT_NONE)
			return -1;
		bpf_csum_update(skb, fold32(sum_words(&by.from_ports, &by.to_ports, 1)));
		return sctp_ports_replace(skb, l4, by.from_ports, by.to_ports, pkt->l4_len);
	default:
		return -1;
	}
	if (kind == SUMMED_COMPLETE)
		return check_by_helper(skb, check, flags, &by);
	return check_here(skb, check, flags, kind, &by);
}

#endif
