/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path: what to do with a flow's first packet, and with the next one after something that
 * the flow was decided from has changed. The decision goes into flows.
 */
#ifndef SLUICE_DECIDE_H
#define SLUICE_DECIDE_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "config.h"
#include "flow.h"
#include "lb.h"
#include "maps.h"
#include "parse.h"

/* Let it go its way, past whatever other programs are attached here. */
#define PASS TC_ACT_UNSPEC
/* Not actions: the packet is to be answered by refuse(), or to do as the decision says. */
#define REFUSE (-100)
#define FOLLOW (-101)

#define DROP(reason)           \
	({                     \
		COUNT(reason); \
		TC_ACT_SHOT;   \
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

	be = backend_choose(svc, tuple_hash(&pkt->tuple), &fwd->backend);
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

/*
 * Forgets the answering half of a flow that is decided as if it were new. That of a closed connection
 * stays: it keeps others from the tuple while the far end has it in TIME_WAIT.
 */
static __always_inline void forget_reply(const struct flow *stale, __u8 proto)
{
	struct flow_key key;

	if (stale->flags & FLOW_FIN)
		return;
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
			fwd->saddr =
				pkt->v6 ? config_here()->hairpin_v6 : config_here()->gateway_v4;
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

#endif
