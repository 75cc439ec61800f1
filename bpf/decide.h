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
#include "event.h"
#include "create.h"
#include "flow.h"
#include "guard.h"
#include "kernel.h"
#include "lb.h"
#include "maps.h"
#include "origin.h"
#include "parse.h"
#include "policy.h"

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

/* Whether the packet comes from this container, by its veth and with its MAC. */
static __always_inline bool own(struct __sk_buff *skb, const struct endpoint *src)
{
	return src->ifindex == skb->ifindex && sent_by(skb, src->mac);
}

/* What to do with a packet from an address that is not the container's. */
static __always_inline int drop_foreign(struct __sk_buff *skb, const struct packet *pkt)
{
	/* DHCP, router solicitations, multicast reports: every container says them at its start. */
	if (is_unspecified(&pkt->tuple.saddr) || is_link_local(&pkt->tuple.saddr))
		return DROP(skb, drop_link_local);
	return DROP(skb, drop_spoofed);
}

/* The service by whose VIP the packet's socket knows its peer, if a socket hook translated it. */
static __noinline __u32 origin_service(struct __sk_buff *skb, const struct packet *pkt)
{
	struct sock_key key = {
		.cookie = packet_cookie(skb),
		.addr = pkt->tuple.daddr,
		.port = pkt->tuple.dport,
		.proto = pkt->tuple.proto,
	};
	struct sock_origin *origin;

	if (!key.cookie)
		return 0;
	origin = origin_of(&key);
	return origin ? origin->service : 0;
}

/*
 * Gives a new flow to a VIP a backend. Returns 0, or REFUSE when nothing serves it. Functions that need
 * much stack are apart from those that judge: together they may have 512 bytes, and Linux 5.10 counts
 * 32 at least for each.
 */
static __noinline int translate(const struct packet *pkt, struct flow *fwd)
{
	struct affinity_key who = { .kind = AFFINITY_ADDRESS };
	struct service_stats *stats;
	const struct backend *be;
	struct found svc;

	if (!service_find(&fwd->daddr, fwd->dport, pkt->tuple.proto, &svc))
		return 0;
	stats = stats_of(svc.id);
	who.client = pkt->tuple.saddr;
	be = backend_for(&svc, &who, tuple_hash(&pkt->tuple), &fwd->backend);
	if (!be) {
		if (stats)
			stats->refused++;
		return REFUSE;
	}
	fwd->daddr = be->addr;
	fwd->dport = be->port;
	fwd->service = svc.id;
	fwd->flags |= FLOW_NAT_DST;
	if (stats)
		stats->connections++;
	return 0;
}

/*
 * Enters the decision. An answer's decision renews its own entry only: whether the other direction may
 * stay with its backend is decided by that direction's packets.
 */
static __always_inline int enter(struct __sk_buff *skb, struct scratch *work, bool renewed)
{
	const struct packet *pkt = &work->pkt;

	if (pkt->single)
		return FOLLOW;
	/* What a container that plays DHCP server would answer must not find an entry that holds. */
	if (!decision_stands(&work->fwd) ||
	    (work->dst.ep.ifindex &&
	     is_dhcp_answer(pkt->v6, pkt->tuple.proto, work->fwd.dport, work->fwd.sport)))
		work->fwd.epoch--;
	note_flags(pkt, &work->fwd);
	if (work->fwd.flags & FLOW_REPLY) {
		if (bpf_map_update_elem(&flows, &pkt->tuple, &work->fwd, BPF_ANY))
			return DROP(skb, drop_flows_full);
		flow_restore();
		COUNT(flows_renewed);
		return FOLLOW;
	}
	switch (flow_create()) {
	case CREATED_PORTS_SPENT:
		return DROP(skb, drop_ports_spent);
	case CREATED_FULL:
		return DROP(skb, drop_flows_full);
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
	fwd->seen = clock() & ~SEEN_NONE;
}

/*
 * Forgets the answering half of a flow that is decided as if it were new. That of a closed connection
 * stays: it keeps others from the tuple while the far end has it in TIME_WAIT.
 */
static __noinline void forget_reply(const struct flow *stale, __u8 proto)
{
	struct flow_key key;

	if (stale->flags & FLOW_FIN)
		return;
	reply_key(&key, stale, proto);
	bpf_map_delete_elem(&flows, &key);
}

/* What becomes of the entry that no longer decides a packet. */
enum stale {
	STALE_NONE = 0, /* there is none */
	STALE_OVER,	/* the flow has ended: the packet begins another */
	STALE_ANEW,	/* the flow is decided anew, as if it were new */
	STALE_KEPT,	/* so is whether it may be, but not its translation */
};

/* The packet's entry in flows, if it has one. */
static __always_inline const struct flow *stale_entry(const struct scratch *work)
{
	return work->stale ? bpf_map_lookup_elem(&flows, &work->pkt.tuple) : NULL;
}

/* Begins to decide: puts into *fwd what the packet is, or what is kept of the stale entry. */
static __always_inline enum stale begin_from(const struct packet *pkt, const struct flow *stale,
					     struct flow *fwd)
{
	begin(pkt, fwd);
	if (!stale)
		return answers_known(pkt, fwd) || answers_asked() ? STALE_KEPT : STALE_NONE;
	if (flow_over(pkt, stale, fwd->seen) || answers_no_more(pkt, stale))
		return STALE_OVER;
	if (flow_keep(pkt, stale, fwd))
		return STALE_KEPT;
	fwd->backend = 0;
	return STALE_ANEW;
}

/* Judges the decision and enters it. A denied flow's entries stay as they are, stale. */
static __always_inline int conclude(struct __sk_buff *skb, const struct flow *stale,
				    struct scratch *work, enum stale how)
{
	const struct packet *pkt = &work->pkt;
	struct flow *fwd = &work->fwd;
	int act;

	work->fresh = how == STALE_NONE || how == STALE_OVER;
	/* A request in the answering direction is no answer. */
	work->answer = fwd->flags & FLOW_REPLY && !opens(pkt);
	work->proto = pkt->tuple.proto;
	work->dport = work->answer ? pkt->tuple.sport : fwd->dport;
	act = judge(skb);
	if (act)
		return act;
	if (stale && how == STALE_ANEW &&
	    !((stale->flags | fwd->flags) & (FLOW_NAT_SRC | FLOW_NAT_DST)))
		fwd->flags |= stale->flags & (FLOW_FIN | FLOW_RST);
	else if (stale && how != STALE_KEPT)
		forget_reply(stale, pkt->tuple.proto);
	return enter(skb, work, stale);
}

/* Whether the address is one that stands for the node towards its containers. */
static __always_inline bool is_gateway(const struct addr *addr)
{
	const struct config *c = config_here();

	return addr_equal(addr, &c->gateway_v4) || addr_equal(addr, &c->gateway_v6) ||
	       addr_equal(addr, &c->hairpin_v6);
}

/* The packet in the scratch, from a container, with no entry in flows, or with one that no longer holds. */
__noinline int from_pod_decide(struct __sk_buff *skb)
{
	struct scratch *work = scratch_here();
	const struct packet *pkt;
	const struct flow *stale;
	struct flow *fwd;
	enum stale how;
	bool ports;

	if (!work)
		return TC_ACT_SHOT;
	pkt = &work->pkt;
	fwd = &work->fwd;
	stale = stale_entry(work);
	ports = has_ports(pkt->tuple.proto);
	if (is_dhcp_answer(pkt->v6, pkt->tuple.proto, pkt->tuple.sport, pkt->tuple.dport))
		return DROP(skb, drop_dhcp);
	end_read(&work->src, &pkt->tuple.saddr);
	if (!own(skb, &work->src.ep))
		return drop_foreign(skb, pkt);
	if (stale && backend_gone(pkt, stale))
		goto refuse;
	how = begin_from(pkt, stale, fwd);
	if (how != STALE_KEPT && ports && translate(pkt, fwd))
		goto refuse;
	/* No one has these addresses, so that nothing to them must leave the node. */
	if (!(fwd->flags & FLOW_REPLY) && is_gateway(&fwd->daddr))
		return DROP(skb, drop_link_local);
	end_read(&work->dst, &fwd->daddr);
	if (!work->dst.ep.ifindex && !(fwd->flags & (FLOW_REPLY | FLOW_NAT_SRC | FLOW_NAT_DST)) &&
	    is_vip(&fwd->daddr))
		goto refuse;
	if (settle())
		return DROP(skb, drop_closed);
	if (!own(skb, &work->src.ep))
		return drop_foreign(skb, pkt);
	fwd->in_ifindex = work->src.ep.ifindex;
	__builtin_memcpy(fwd->in_mac, work->src.ep.mac, 6);
	fwd->out_ifindex = work->dst.ep.ifindex;
	__builtin_memcpy(fwd->out_mac, work->dst.ep.mac, 6);
	if (work->dst.ep.id == work->src.ep.id && how != STALE_KEPT && ports) {
		/* Its own backend: an address of its own, come in from outside, is a martian. */
		fwd->saddr = pkt->v6 ? config_here()->hairpin_v6 : config_here()->gateway_v4;
		fwd->flags |= FLOW_NAT_SRC;
	}
	if (!fwd->service && ports)
		fwd->service = origin_service(skb, pkt);
	return conclude(skb, stale, work, how);
refuse:
	if (stale)
		forget_reply(stale, pkt->tuple.proto);
	return REFUSE;
}

/* The packet in the scratch, from the node's stack, with no entry in flows, or with one that no longer holds. */
__noinline int to_pod_decide(struct __sk_buff *skb)
{
	struct scratch *work = scratch_here();
	const struct packet *pkt;
	const struct flow *stale;
	struct flow *fwd;
	enum stale how;

	if (!work)
		return TC_ACT_SHOT;
	pkt = &work->pkt;
	fwd = &work->fwd;
	stale = stale_entry(work);
	how = begin_from(pkt, stale, fwd);
	end_read(&work->src, &pkt->tuple.saddr);
	end_read(&work->dst, &fwd->daddr);
	if (settle())
		return DROP(skb, drop_closed);
	if (work->dst.ep.ifindex != skb->ifindex)
		return PASS; /* not the container's: the stack's own business */
	if (!(fwd->flags & FLOW_REPLY))
		fwd->flags = made_here(skb, pkt) ? fwd->flags | FLOW_NODE : fwd->flags & ~FLOW_NODE;
	forget_foreign(skb, work);
	if (!fwd->service && has_ports(pkt->tuple.proto))
		fwd->service = origin_service(skb, pkt);
	return conclude(skb, stale, work, how);
}

#endif
