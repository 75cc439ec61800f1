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
#include "lb.h"
#include "nat.h"
#include "icmp.h"
#include "answer.h"

char __license[] SEC("license") = "Dual BSD/GPL";

/* Let it go its way, past whatever other programs are attached here. */
#define PASS TC_ACT_UNSPEC
/* Not actions: the packet is to be answered by refuse(), or to do as the decision says. */
#define REFUSE (-100)
#define FOLLOW (-101)

#define DROP(reason)               \
	({                         \
		COUNT(reason);     \
		TC_ACT_SHOT;       \
	})

/* Whether the frame comes from this MAC. */
static __always_inline bool sent_by(struct __sk_buff *skb, const __u8 *mac)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const __u16 *a, *b = (const __u16 *)mac;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return false;
	a = (const __u16 *)eth->h_source;
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

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

/* The container that the packet comes from, or NULL when its address or MAC is not its own. */
static __always_inline const struct endpoint *sender(struct __sk_buff *skb,
						     const struct packet *pkt)
{
	const struct endpoint *src = bpf_map_lookup_elem(&endpoints, &pkt->tuple.saddr);

	if (src && src->ifindex == skb->ifindex && sent_by(skb, src->mac))
		return src;
	return NULL;
}

/* What to do with a packet from an address that is not the container's. */
static __always_inline int drop_foreign(const struct packet *pkt)
{
	const __u32 *w = (const __u32 *)&pkt->tuple.saddr;
	bool unspecified = !w[0] && !w[1] && !w[3] && (!w[2] || w[2] == bpf_htonl(0xffff));
	/* fe80::/10 and 169.254.0.0/16 */
	bool link_local = (w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
			  (addr_is_v4(&pkt->tuple.saddr) &&
			   (w[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000));

	/* DHCP, router solicitations, multicast reports: every container says them at its start. */
	if (unspecified || link_local)
		return DROP(drop_link_local);
	return DROP(drop_spoofed);
}

/* The service by whose VIP the packet's socket knows its peer, if a socket hook translated it. */
static __always_inline __u32 origin_service(struct __sk_buff *skb, const struct packet *pkt)
{
	struct sock_key key = {
		.cookie = bpf_get_socket_cookie(skb),
		.addr = pkt->tuple.daddr,
		.port = pkt->tuple.dport,
		.proto = pkt->tuple.proto,
	};
	struct sock_origin *origin;

	if (!key.cookie)
		return 0;
	origin = bpf_map_lookup_elem(&sock_origin, &key);
	return origin ? origin->service : 0;
}

/* Translates a new flow to a VIP. Returns 0, or REFUSE when nothing serves it. */
static __always_inline int translate(const struct packet *pkt, const struct found *svc,
				     struct flow *fwd)
{
	struct service_stats *stats = stats_of(svc->id);
	const struct backend *be;

	be = backend_choose(svc, &fwd->backend);
	if (!be) {
		if (stats)
			stats->refused++;
		return REFUSE;
	}
	fwd->daddr = be->addr;
	fwd->dport = be->port;
	fwd->service = svc->id;
	fwd->flags |= FLOW_NAT_DST;
	if (stats)
		stats->connections++;
	return 0;
}

/*
 * Enters the decision. An answer's decision that was kept renews its own entry only: whether the
 * other direction may stay with its backend is decided by that direction's packets.
 */
static __always_inline int enter(const struct packet *pkt, struct scratch *work,
				 const struct endpoint *dst, bool renewed)
{
	work->fwd.epoch = epoch_of(&work->fwd);
	if (!decision_stands(&work->fwd))
		work->fwd.epoch--;
	note_flags(pkt, &work->fwd);
	if (work->fwd.flags & FLOW_REPLY) {
		if (bpf_map_update_elem(&flows, &pkt->tuple, &work->fwd, BPF_ANY))
			return DROP(drop_flows_full);
		COUNT(flows_renewed);
		return FOLLOW;
	}
	switch (flow_create(pkt, work, dst)) {
	case CREATED_PORTS_SPENT:
		return DROP(drop_ports_spent);
	case CREATED_FULL:
		return DROP(drop_flows_full);
	}
	if (renewed)
		COUNT(flows_renewed);
	else
		COUNT(flows_created);
	return FOLLOW;
}

static __always_inline void begin(const struct packet *pkt, struct flow *fwd)
{
	__builtin_memset(fwd, 0, sizeof(*fwd));
	fwd->saddr = pkt->tuple.saddr;
	fwd->daddr = pkt->tuple.daddr;
	fwd->sport = pkt->tuple.sport;
	fwd->dport = pkt->tuple.dport;
	fwd->seen = clock();
}

/* Forgets the answering half of a flow that is decided as if it were new. */
static __always_inline void forget_reply(const struct flow *stale, __u8 proto)
{
	struct flow_key key;

	reply_key(&key, stale, proto);
	bpf_map_delete_elem(&flows, &key);
}

/* A packet from a container with no entry in flows, or with one that no longer holds. */
static __noinline int from_pod_decide(struct __sk_buff *skb, const struct packet *pkt,
				      const struct flow *stale, struct scratch *work)
{
	const struct endpoint *src, *dst;
	struct flow *fwd = &work->fwd;
	struct found svc;
	bool kept = false;

	src = sender(skb, pkt);
	if (!src)
		return drop_foreign(pkt);
	begin(pkt, fwd);
	fwd->in_ifindex = src->ifindex;
	__builtin_memcpy(fwd->in_mac, src->mac, 6);
	fwd->src_endpoint = src->id;

	if (stale) {
		kept = flow_keep(pkt, stale, fwd);
		if (!kept)
			forget_reply(stale, pkt->tuple.proto);
	}
	if (!kept) {
		fwd->backend = 0;
		if (service_find(&fwd->daddr, fwd->dport, pkt->tuple.proto, &svc) &&
		    translate(pkt, &svc, fwd))
			return REFUSE;
	}
	dst = bpf_map_lookup_elem(&endpoints, &fwd->daddr);
	if (dst) {
		fwd->dst_endpoint = dst->id;
		fwd->out_ifindex = dst->ifindex;
		__builtin_memcpy(fwd->out_mac, dst->mac, 6);
		if (dst->id == src->id && !kept) {
			/* Its own backend: an address of its own, come in from outside, is a martian. */
			fwd->saddr = pkt->v6 ? config_here()->hairpin_v6 : config_here()->gateway_v4;
			fwd->flags |= FLOW_NAT_SRC;
		}
	} else if (!(fwd->flags & (FLOW_NAT_SRC | FLOW_NAT_DST)) && is_vip(&fwd->daddr)) {
		return REFUSE;
	}
	if (!fwd->service)
		fwd->service = origin_service(skb, pkt);
	return enter(pkt, work, dst, stale);
}

/* A packet from the node's stack with no entry in flows, or with one that no longer holds. */
static __noinline int to_pod_decide(struct __sk_buff *skb, const struct packet *pkt,
				    const struct flow *stale, struct scratch *work)
{
	const struct endpoint *src, *dst;
	struct flow *fwd = &work->fwd;

	begin(pkt, fwd);
	if (stale && !flow_keep(pkt, stale, fwd)) {
		fwd->backend = 0;
		forget_reply(stale, pkt->tuple.proto);
	}
	dst = bpf_map_lookup_elem(&endpoints, &fwd->daddr);
	if (!dst || dst->ifindex != skb->ifindex)
		return PASS; /* not the container's: the stack's own business */
	fwd->dst_endpoint = dst->id;
	src = bpf_map_lookup_elem(&endpoints, &pkt->tuple.saddr);
	if (src)
		fwd->src_endpoint = src->id;
	if (!fwd->service)
		fwd->service = origin_service(skb, pkt);
	return enter(pkt, work, dst, stale);
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
		if (flow && flow->in_ifindex == skb->ifindex && sent_by(skb, flow->in_mac) &&
		    flow_holds(&pkt, flow))
			return follow(skb, &pkt, flow);
		work = scratch_here();
		if (!work)
			return TC_ACT_SHOT;
		act = from_pod_decide(skb, &pkt, flow, work);
		if (act == FOLLOW)
			return follow(skb, &pkt, &work->fwd);
		break;
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
