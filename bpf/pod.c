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
#include "event.h"
#include "guard.h"
#include "lb.h"
#include "nat.h"
#include "icmp.h"
#include "answer.h"

char __license[] SEC("license") = "Dual BSD/GPL";

const struct event *event_type_for_go __attribute__((unused));

/* Puts the packet where the slow path works on it. */
static __always_inline struct scratch *keep(const struct packet *pkt)
{
	struct scratch *work = scratch_here();

	if (work)
		work->pkt = *pkt;
	return work;
}

static __noinline int drop_packet(struct __sk_buff *skb, const struct packet *pkt, __u32 reason)
{
	keep(pkt);
	return dropped(skb, reason);
}

/* Hands the packet to a local container, by its veth and MAC. */
static __always_inline int deliver(struct __sk_buff *skb, const struct packet *pkt,
				   const struct flow *flow)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return drop_packet(skb, pkt, REASON(drop_malformed));
	__builtin_memcpy(eth->h_dest, flow->out_mac, 6);
	__builtin_memcpy(eth->h_source, config_here()->gateway_mac, 6);
	return bpf_redirect_peer(flow->out_ifindex, 0);
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
		return drop_packet(skb, pkt, REASON(drop_rewrite));
	if (!flow->out_ifindex)
		return PASS;
	return deliver(skb, pkt, flow);
}

/*
 * Completes a fragment's tuple: a first fragment tells ports and protocol, a later one asks for them.
 * Of two datagrams with one name, whose first came last is asked for. Returns 0, or -1 when the first
 * was not seen.
 */
static __noinline int fragment_tuple(struct __sk_buff *skb, struct packet *pkt)
{
	struct frag_key key = {
		.saddr = pkt->tuple.saddr,
		.daddr = pkt->tuple.daddr,
		.id = pkt->frag_id,
		.ifindex = skb->ifindex,
		.proto = pkt->v6 ? 0 : pkt->tuple.proto,
	};
	struct frag first = {
		.sport = pkt->tuple.sport,
		.dport = pkt->tuple.dport,
		.proto = pkt->tuple.proto,
	};
	struct frag *known;

	if (pkt->fragment == FRAGMENT_FIRST) {
		bpf_map_update_elem(&frags, &key, &first, BPF_ANY);
		return 0;
	}
	known = bpf_map_lookup_elem(&frags, &key);
	if (!known)
		return -1;
	pkt->tuple.sport = known->sport;
	pkt->tuple.dport = known->dport;
	pkt->tuple.proto = known->proto;
	return 0;
}

/*
 * A neighbour message. Solicitations are answered or heard by no one; a true advertisement is the
 * stack's, but never another container's: to be believed it must not have passed a router.
 */
static __always_inline int from_pod_neighbour(struct __sk_buff *skb, struct scratch *work)
{
	struct packet *pkt = &work->pkt;
	int act;

	if (nd_lies(skb, pkt))
		return DROP(skb, drop_arp);
	if (pkt->icmp_type == ND_SOLICITATION) {
		act = answer_nd(skb, pkt);
		return act >= 0 ? act : DROP(skb, drop_link_local);
	}
	end_read(&work->src, &pkt->tuple.saddr);
	if (!own(skb, &work->src.ep))
		return drop_foreign(skb, pkt);
	if (bpf_map_lookup_elem(&endpoints, &pkt->tuple.daddr) || is_vip(&pkt->tuple.daddr))
		return DROP(skb, drop_link_local);
	/* Routers take it on like any other packet, so policies have their say. */
	return is_link_local(&pkt->tuple.daddr) ? PASS : SINGLE;
}

/*
 * Gives ICMP, the protocols without ports and later fragments a tuple, so that what answers is known for
 * it: echo has an identifier, the others have nothing. Returns FLOW, SINGLE for a message that is of no
 * flow, or -1 for a fragment whose first was not seen.
 */
static __noinline int other_tuple(struct __sk_buff *skb, struct packet *pkt)
{
	bool icmp = pkt->tuple.proto == (pkt->v6 ? NEXTHDR_ICMPV6 : IPPROTO_ICMP);
	bool echo;
	__be16 id;

	if (pkt->fragment == FRAGMENT_LATER)
		return fragment_tuple(skb, pkt) ? -1 : FLOW;
	echo = icmp && is_echo(pkt->v6, pkt->icmp_type);
	if (echo) {
		if (bpf_skb_load_bytes(skb, pkt->l4 + ICMP_ECHO_ID, &id, sizeof(id)))
			return -1;
		if (echo_ports(&pkt->tuple, pkt->v6, pkt->icmp_type, id))
			pkt->tcp_flags = TCP_SYN;
	}
	if (pkt->fragment)
		fragment_tuple(skb, pkt);
	return echo || !icmp ? FLOW : SINGLE;
}

/*
 * The packet in the scratch, from a container, which is neither TCP, UDP nor SCTP. Returns FLOW, SINGLE,
 * FOLLOW or an action.
 */
__noinline int from_pod_other(struct __sk_buff *skb, __u32 parsed)
{
	struct scratch *work = scratch_here();
	struct packet *pkt;
	int act;

	if (!work)
		return TC_ACT_SHOT;
	pkt = &work->pkt;
	switch (parsed) {
	case PARSED_ICMP:
	case PARSED_IP:
	case PARSED_LATER:
		break;
	case PARSED_ARP:
		return answer_arp(skb, pkt);
	case PARSED_OTHER:
		return is_vlan(skb->protocol) ? DROP(skb, drop_vlan) : PASS;
	case PARSED_EXTENSIONS:
		return DROP(skb, drop_extensions);
	case PARSED_SOURCE_ROUTE:
		return DROP(skb, drop_source_route);
	default:
		return DROP(skb, drop_malformed);
	}
	if (parsed == PARSED_ICMP) {
		if (is_router_message(pkt))
			return DROP(skb, drop_router);
		if (is_neighbour_message(pkt))
			return from_pod_neighbour(skb, work);
		if (is_icmp_error(pkt)) {
			end_read(&work->src, &pkt->tuple.saddr);
			if (!own(skb, &work->src.ep))
				return drop_foreign(skb, pkt);
			act = icmp_error(skb);
			if (act != SINGLE)
				return act;
		}
	}
	act = other_tuple(skb, pkt);
	return act == -1 ? DROP(skb, drop_fragment) : act;
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct packet pkt = { .direction = DIRECTION_EGRESS };
	struct flow *flow = NULL;
	struct scratch *work;
	enum parsed parsed;
	int act = FLOW;

	if (skb->vlan_present)
		return tag_lies(skb) ? drop_packet(skb, &pkt, REASON(drop_vlan)) : PASS;
	parsed = parse(skb, &pkt, true);
	if (parsed != PARSED_TRANSPORT) {
		work = keep(&pkt);
		if (!work)
			return TC_ACT_SHOT;
		act = from_pod_other(skb, parsed);
		pkt = work->pkt;
	} else if (pkt.fragment) {
		fragment_tuple(skb, &pkt);
	}
	if (act == FLOW) {
		flow = bpf_map_lookup_elem(&flows, &pkt.tuple);
		if (flow && flow->in_ifindex == skb->ifindex && sent_by(skb, flow->in_mac) &&
		    flow_holds(&pkt, flow))
			return follow(skb, &pkt, flow);
	}
	if (act == FLOW || act == SINGLE) {
		pkt.single = act == SINGLE;
		work = keep(&pkt);
		if (!work)
			return TC_ACT_SHOT;
		work->stale = !!flow;
		act = from_pod_decide(skb);
	}
	if (act == FOLLOW) {
		work = scratch_here();
		return work ? follow(skb, &pkt, &work->fwd) : TC_ACT_SHOT;
	}
	return act == REFUSE ? refuse(skb) : act;
}

/*
 * The packet in the scratch, to a container, which is neither TCP, UDP nor SCTP. Returns FLOW, SINGLE or
 * an action.
 */
__noinline int to_pod_other(struct __sk_buff *skb, __u32 parsed)
{
	struct scratch *work = scratch_here();
	int act;

	if (!work)
		return TC_ACT_SHOT;
	switch (parsed) {
	case PARSED_ICMP:
	case PARSED_IP:
	case PARSED_LATER:
		break;
	case PARSED_EXTENSIONS:
		return DROP(skb, drop_extensions);
	case PARSED_MALFORMED:
		return DROP(skb, drop_malformed);
	default:
		return PASS;
	}
	if (parsed == PARSED_ICMP && is_icmp_error(&work->pkt)) {
		act = icmp_error(skb);
		/* The stack has chosen the container already: only the error's content changes. */
		if (act != SINGLE)
			return act == FOLLOW ? PASS : act;
	}
	act = other_tuple(skb, &work->pkt);
	return act == -1 ? DROP(skb, drop_fragment) : act;
}

/*
 * Whether the entry was made for packets that come this way: from the same interface, or from the node
 * itself. One that was decided before there was the container says nothing of it.
 */
static __always_inline bool for_whom(struct __sk_buff *skb, const struct packet *pkt,
				     const struct flow *flow)
{
	if (!flow->dst_endpoint || (flow->in_ifindex && flow->in_ifindex != skb->ingress_ifindex))
		return false;
	return (flow->flags & (FLOW_NODE | FLOW_REPLY)) != FLOW_NODE || made_here(skb, pkt);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	struct packet pkt = { .direction = DIRECTION_INGRESS };
	struct flow *flow = NULL;
	struct scratch *work;
	enum parsed parsed;
	int act = FLOW;

	/* A network of its own, as at from_pod; a tag that means none is judged by what it hides. */
	if (skb->vlan_present && skb->vlan_tci & VLAN_VID)
		return PASS;
	parsed = parse(skb, &pkt, false);
	if (parsed != PARSED_TRANSPORT) {
		work = keep(&pkt);
		if (!work)
			return TC_ACT_SHOT;
		act = to_pod_other(skb, parsed);
		pkt = work->pkt;
	} else if (pkt.fragment) {
		fragment_tuple(skb, &pkt);
	}
	if (act == FLOW)
		flow = bpf_map_lookup_elem(&flows, &pkt.tuple);
	else if (act != SINGLE)
		return act;
	if (!flow || !for_whom(skb, &pkt, flow) || !flow_holds(&pkt, flow)) {
		pkt.single = act == SINGLE;
		work = keep(&pkt);
		if (!work)
			return TC_ACT_SHOT;
		work->stale = !!flow;
		act = to_pod_decide(skb);
		if (act != FOLLOW)
			return act;
		flow = &work->fwd;
	}
	return apply(skb, &pkt, flow) ? drop_packet(skb, &pkt, REASON(drop_rewrite)) : PASS;
}
