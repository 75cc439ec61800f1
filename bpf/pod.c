/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tc on the host side of a container's veth.
 *
 *	from_pod	what the container sends
 *	to_pod		what the node's stack sends to the container
 *
 * An established packet is one lookup in flows, a rewrite and a redirect. Everything else is a
 * flow's first packet, or not a flow at all.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "maps.h"
#include "parse.h"
#include "flow.h"
#include "decide.h"
#include "lb.h"
#include "nat.h"
#include "icmp.h"
#include "answer.h"

char __license[] SEC("license") = "Dual BSD/GPL";

const struct event *event_type_for_go __attribute__((unused));

/* Hands the packet to a local container, by its veth and MAC. */
static __always_inline int deliver(struct __sk_buff *skb, __u32 ifindex, const __u8 *mac)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return DROP(drop_malformed);
	__builtin_memcpy(eth->h_dest, mac, 6);
	__builtin_memcpy(eth->h_source, config_here()->gateway_mac, 6);
	return bpf_redirect_peer(ifindex, 0);
}

static __always_inline void count_service(struct __sk_buff *skb, __u32 service)
{
	struct service_stats *stats = stats_of(service);

	/* tc programs run with bottom halves off: nothing else adds on this CPU. */
	if (stats) {
		stats->packets++;
		stats->bytes += skb->len;
	}
}

/* Does what the flow's entry says, but for the delivery. */
static __always_inline int apply(struct __sk_buff *skb, const struct packet *pkt,
				 const struct flow *flow)
{
	if (flow->service)
		count_service(skb, flow->service);
	if (flow->flags & (FLOW_NAT_SRC | FLOW_NAT_DST))
		return rewrite(skb, pkt, flow);
	return 0;
}

static __always_inline int follow(struct __sk_buff *skb, const struct packet *pkt,
				  const struct flow *flow)
{
	if (apply(skb, pkt, flow))
		return DROP(drop_rewrite);
	if (!flow->out_ifindex)
		return PASS;
	return deliver(skb, flow->out_ifindex, flow->out_mac);
}

/*
 * Completes a fragment's tuple: a first fragment tells its ports, a later one asks for them.
 * Returns 0, or -1 when the first was not seen.
 */
static __noinline int fragment_ports(struct __sk_buff *skb, struct packet *pkt)
{
	struct frag_key key = {
		.saddr = pkt->tuple.saddr,
		.daddr = pkt->tuple.daddr,
		.id = pkt->frag_id,
		.ifindex = skb->ifindex,
		.proto = pkt->tuple.proto,
	};
	struct frag ports = { .sport = pkt->tuple.sport, .dport = pkt->tuple.dport };
	struct frag *known;

	if (pkt->fragment == FRAGMENT_FIRST) {
		bpf_map_update_elem(&frags, &key, &ports, BPF_ANY);
		return 0;
	}
	known = bpf_map_lookup_elem(&frags, &key);
	if (!known)
		return -1;
	pkt->tuple.sport = known->sport;
	pkt->tuple.dport = known->dport;
	return 0;
}

/* ICMP, and protocols without ports: no flows, a decision for each packet. */
static __noinline int from_pod_other(struct __sk_buff *skb, struct packet *pkt, bool icmp)
{
	const struct endpoint *dst;
	bool error = icmp && is_icmp_error(pkt);
	__u32 ifindex = 0;
	__u8 mac[6];
	int ret;

	if (icmp && pkt->v6 && pkt->icmp_type == ND_SOLICITATION) {
		ret = answer_nd(skb, pkt);
		return ret >= 0 ? ret : DROP(drop_link_local);
	}
	if (!sender(skb, pkt))
		return drop_foreign(pkt);
	if (error) {
		ret = icmp_error_translate(skb, pkt, skb->ifindex, &ifindex, mac);
		if (ret < 0)
			return DROP(drop_rewrite);
		if (ret && ifindex)
			return deliver(skb, ifindex, mac);
		if (ret)
			return PASS;
	}
	dst = bpf_map_lookup_elem(&endpoints, &pkt->tuple.daddr);
	if (dst)
		return deliver(skb, dst->ifindex, dst->mac);
	if (!is_vip(&pkt->tuple.daddr))
		return PASS;
	/* No error about an error (RFC 1122, 3.2.2). */
	return error ? DROP(drop_refused) : REFUSE;
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct packet pkt = {};
	struct scratch *work;
	struct flow *flow;
	int act;

	switch (parse(skb, &pkt)) {
	case PARSED_TRANSPORT:
		if (pkt.fragment && fragment_ports(skb, &pkt))
			return DROP(drop_fragment);
		flow = bpf_map_lookup_elem(&flows, &pkt.tuple);
		if (!flow || flow->in_ifindex != skb->ifindex || !sent_by(skb, flow->in_mac) ||
		    !flow_holds(&pkt, flow)) {
			work = scratch_here();
			if (!work)
				return TC_ACT_SHOT;
			act = from_pod_decide(skb, &pkt, flow, work);
			if (act != FOLLOW)
				break;
			flow = &work->fwd;
		}
		return follow(skb, &pkt, flow);
	case PARSED_ICMP:
		act = from_pod_other(skb, &pkt, true);
		break;
	case PARSED_IP:
		act = from_pod_other(skb, &pkt, false);
		break;
	case PARSED_ARP:
		return answer_arp(skb);
	case PARSED_OTHER:
		return PASS;
	case PARSED_EXTENSIONS:
		return DROP(drop_extensions);
	default:
		return DROP(drop_malformed);
	}
	return act == REFUSE ? refuse(skb, &pkt) : act;
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	struct packet pkt = {};
	struct scratch *work;
	struct flow *flow;
	__u32 ifindex;
	__u8 mac[6];
	int act;

	switch (parse(skb, &pkt)) {
	case PARSED_TRANSPORT:
		if (pkt.fragment && fragment_ports(skb, &pkt))
			return DROP(drop_fragment);
		flow = bpf_map_lookup_elem(&flows, &pkt.tuple);
		if (!flow || !flow_holds(&pkt, flow)) {
			work = scratch_here();
			if (!work)
				return TC_ACT_SHOT;
			act = to_pod_decide(skb, &pkt, flow, work);
			if (act != FOLLOW)
				return act;
			flow = &work->fwd;
		}
		return apply(skb, &pkt, flow) ? DROP(drop_rewrite) : PASS;
	case PARSED_ICMP:
		/* The stack has chosen the container already: only the error's content changes. */
		if (is_icmp_error(&pkt) && icmp_error_translate(skb, &pkt, 0, &ifindex, mac) < 0)
			return DROP(drop_rewrite);
		return PASS;
	case PARSED_EXTENSIONS:
		return DROP(drop_extensions);
	case PARSED_MALFORMED:
		return DROP(drop_malformed);
	default:
		return PASS;
	}
}
