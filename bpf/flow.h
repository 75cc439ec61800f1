/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cache of decisions. A flow has two entries, one for each direction, made together by its
 * first packet:
 *
 *	key {client, VIP,     sport,  port }  ->  becomes {client, backend, sport', bport}
 *	key {backend, client, bport,  sport'} ->  becomes {VIP,    client,  port,   sport}
 *
 * The second is the exact inverse of the first. Flows through no VIP have the same two entries with
 * nothing rewritten, for a reason: a client's flow to VIP:80 that goes to B:7000 and its flow to
 * B:7000 itself, from one source port, are one tuple on B's side. Whichever comes second finds its
 * answering key taken and gets another source port.
 */
#ifndef SLUICE_FLOW_H
#define SLUICE_FLOW_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "asked.h"
#include "config.h"
#include "lb.h"
#include "maps.h"
#include "parse.h"
#include "scratch.h"
#include "types.h"

#define SECOND 1000000000ULL
/*
 * In an answering half's seen: no answer came yet. It is then so far back that the first one is noted
 * as what is noted once a second: telling the answered costs no packet anything more.
 */
#define SEEN_NONE 1ULL

/*
 * CLOCK_MONOTONIC, in ns. A tick's resolution will do: the JIT makes a load of bpf_jiffies64, where even
 * bpf_ktime_get_coarse_ns is three calls deep.
 */
static __always_inline __u64 clock(void)
{
	if (cfg.tick)
		return cfg.epoch + bpf_jiffies64() * cfg.tick;
	return bpf_ktime_get_ns();
}

/* The sum that struct flow remembers. Ids of 0 have an epoch that is never raised. */
static __always_inline __u32 epoch_of(const struct flow *flow)
{
	__u32 id, *epoch, sum = 0;
	const struct backend *be;

	id = flow->backend;
	be = bpf_map_lookup_elem(&backends, &id);
	if (be)
		sum += be->epoch;
	id = flow->src_endpoint;
	epoch = bpf_map_lookup_elem(&epochs, &id);
	if (epoch)
		sum += *epoch;
	id = flow->dst_endpoint;
	epoch = bpf_map_lookup_elem(&epochs, &id);
	if (epoch)
		sum += *epoch;
	return sum;
}

/*
 * Whether the backend that a flow was decided from is still so. Asked after the epochs were read, it
 * closes a gap: a change between the decision and the reading has raised an epoch already, and without
 * this the flow would keep the old decision with the new epoch. One that does not stand is entered as
 * stale. settle() does the same for containers.
 */
static __always_inline bool decision_stands(const struct flow *flow)
{
	const struct backend *be;
	__u32 id = flow->backend;

	/* Answers go back whatever became of the backend. */
	if (!id || flow->flags & FLOW_REPLY)
		return true;
	be = bpf_map_lookup_elem(&backends, &id);
	return be && backend_keeps(be) && be->service == flow->service;
}

/* The key under which the answers to what flow sends arrive. */
static __always_inline void reply_key(struct flow_key *reply, const struct flow *flow, __u8 proto)
{
	__builtin_memset(reply, 0, sizeof(*reply));
	reply->saddr = flow->daddr;
	reply->daddr = flow->saddr;
	reply->sport = flow->dport;
	reply->dport = flow->sport;
	reply->proto = proto;
}

/* Whether the entry turns answers into the exact inverse of key. */
static __always_inline bool answers(const struct flow *entry, const struct flow_key *key)
{
	return entry->sport == key->dport && entry->dport == key->sport &&
	       addr_equal(&entry->saddr, &key->daddr) && addr_equal(&entry->daddr, &key->saddr);
}

/* The others' flows are over when they were silent for a while. */
static __always_inline bool is_stream(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_SCTP;
}

/*
 * How long a flow may be silent. either and both: the flags that one and both of its halves have;
 * answered: packets went both ways.
 *
 * Global, so that to the verifier of its callers the result is any number: constants of the frozen config
 * would each be a path of their own.
 */
__noinline __u64 lifetime(__u32 proto, __u32 either, __u32 both, __u32 answered)
{
	switch (proto) {
	case IPPROTO_TCP:
		if (either & FLOW_RST)
			return cfg.lifetimes.tcp_reset;
		if (both & FLOW_FIN)
			return cfg.lifetimes.tcp_time_wait;
		if (either & FLOW_FIN)
			return cfg.lifetimes.tcp_closing;
		return answered ? cfg.lifetimes.tcp_established : cfg.lifetimes.tcp_opening;
	case IPPROTO_UDP:
		return answered ? cfg.lifetimes.udp_answered : cfg.lifetimes.udp_unanswered;
	case IPPROTO_SCTP:
		/* An association's verification tags tell it from the one before (RFC 9260, 8.5). */
		if (either & FLOW_RST)
			return 0;
		if (either & FLOW_FIN)
			return cfg.lifetimes.sctp_closing;
		return answered ? cfg.lifetimes.sctp_established : cfg.lifetimes.sctp_opening;
	}
	return cfg.lifetimes.other;
}

/*
 * Whether a living flow stands behind the entry: not long closed, not long idle. To who would begin
 * another flow in its own place (anew), one that was reset is over at once. Leaves in work->last when it
 * was last seen, and in work->rests whether it is a connection in TIME-WAIT.
 */
static __noinline bool alive(const struct flow *entry, __u8 proto, __u64 now, bool anew)
{
	__u64 seen = entry->seen, patience;
	__u8 either = entry->flags, both = entry->flags;
	bool answered = !(either & FLOW_REPLY && seen & SEEN_NONE);
	struct scratch *work = scratch_here();
	const struct flow *twin;

	if (!work)
		return true;
	reply_key(&work->half, entry, proto);
	twin = bpf_map_lookup_elem(&flows, &work->half);
	if (twin) {
		either |= twin->flags;
		both &= twin->flags;
		answered &= !(twin->flags & FLOW_REPLY && twin->seen & SEEN_NONE);
		if (twin->seen > seen)
			seen = twin->seen;
	}
	work->last = seen;
	work->rests = proto == IPPROTO_TCP && both & FLOW_FIN;
	if (anew && either & FLOW_RST)
		return false;
	patience = lifetime(proto, either, both, answered);
	return patience && now < seen + patience;
}

/* Whether the packet asks for something new: a SYN, an INIT, an echo request. None is an answer. */
static __always_inline bool opens(const struct packet *pkt)
{
	return (pkt->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* For how long a datagram's flow is certainly not over, whatever its other half says. */
static __always_inline __u64 datagram_patience(__u8 proto)
{
	if (proto != IPPROTO_UDP)
		return cfg.lifetimes.other;
	return cfg.lifetimes.udp_unanswered < cfg.lifetimes.udp_answered
		       ? cfg.lifetimes.udp_unanswered
		       : cfg.lifetimes.udp_answered;
}

/*
 * Whether the packet begins a new flow where the entry's has ended. A SYN to a connection that is open
 * is the far end's to answer (RFC 9293, 3.10.7.4): it goes where the connection goes.
 */
static __always_inline bool flow_over(const struct packet *pkt, const struct flow *flow, __u64 now)
{
	__u8 proto = pkt->tuple.proto;

	if (is_stream(proto))
		return opens(pkt) &&
		       (flow->flags & (FLOW_FIN | FLOW_RST) || !alive(flow, proto, now, true));
	return now > flow->seen + datagram_patience(proto) && !alive(flow, proto, now, false);
}

/*
 * Whether the other half of a flow is lost: it may have made room for another, which concerns translated
 * flows only, or its key have gone to a flow that began since. Answers would not be translated back, or be
 * taken for another's; requests would be decided as if there had been none before.
 *
 * Asking keeps that half: a look-up sets the bit by which the map's LRU tells what is in use
 * (kernel/bpf/bpf_lru_list.c). So neither half of a flow is evicted for the silence of its side alone.
 */
static __noinline bool twin_lost(const struct packet *pkt, const struct flow *flow, __u64 now)
{
	struct scratch *work = scratch_here();
	const struct flow *twin;
	bool translated = flow->flags & (FLOW_NAT_SRC | FLOW_NAT_DST);

	if (!work)
		return false;
	reply_key(&work->rkey, flow, pkt->tuple.proto);
	if (translated && !(flow->flags & FLOW_REPLY)) {
		work->pkt = *pkt;
		asked_note(now / SECOND);
	}
	twin = bpf_map_lookup_elem(&flows, &work->rkey);
	if (!twin)
		return translated;
	/* A client that uses its tuple for another connection owes the old one's answers nothing. */
	return !(flow->flags & FLOW_REPLY || answers(twin, &pkt->tuple));
}

/* Notes in the entry what a TCP segment or SCTP chunk says about the connection's life. */
static __always_inline void note_flags(const struct packet *pkt, struct flow *flow)
{
	/* A connection begins: what closed the one before it on this tuple is past. */
	if (pkt->tcp_flags & TCP_SYN)
		flow->flags &= ~(FLOW_FIN | FLOW_RST);
	if (pkt->tcp_flags & TCP_FIN)
		flow->flags |= FLOW_FIN;
	if (pkt->tcp_flags & TCP_RST)
		flow->flags |= FLOW_RST;
}

/* Whether the entry still decides the packet; notes what the packet tells about the flow. */
static __always_inline bool flow_holds(const struct packet *pkt, struct flow *flow)
{
	__u64 now = clock();

	if (flow->epoch != epoch_of(flow))
		return false;
	if (pkt->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) {
		if (flow_over(pkt, flow, now) || (opens(pkt) && flow->flags & FLOW_REPLY))
			return false;
		note_flags(pkt, flow);
	}
	/* Once a second: a line that is only read stays in every CPU's cache. */
	if (now > flow->seen + SECOND) {
		if (flow_over(pkt, flow, now) || twin_lost(pkt, flow, now))
			return false;
		flow->seen = now & ~SEEN_NONE;
	}
	return true;
}

/*
 * Whether a flow that was given a backend may stay with it. The backend's entry says so while it is
 * in service or drains. After that a connection may still be finished with a container that is there,
 * as kube-proxy does it; a datagram goes elsewhere at once.
 */
static __always_inline bool backend_legal(const struct packet *pkt, const struct flow *flow)
{
	__u32 id = flow->backend;
	const struct backend *be = bpf_map_lookup_elem(&backends, &id);

	if (id && be && backend_keeps(be) && be->service == flow->service &&
	    be->port == flow->dport && addr_equal(&be->addr, &flow->daddr))
		return true;
	if (pkt->tuple.proto == IPPROTO_UDP || opens(pkt))
		return false;
	return !flow->dst_endpoint || bpf_map_lookup_elem(&endpoints, &flow->daddr);
}

/*
 * Whether the packet can only be refused: the service's backend that its flow goes to was a container
 * which is no more. A stream has no other that knows of it. A datagram moves on, unless a socket hook
 * chose for it: then its address is the container's own, which nobody has now.
 */
static __noinline bool backend_gone(const struct packet *pkt, const struct flow *flow)
{
	const struct endpoint *ep;

	if (!flow->service || !flow->dst_endpoint || flow->flags & FLOW_REPLY || opens(pkt))
		return false;
	ep = bpf_map_lookup_elem(&endpoints, &flow->daddr);
	if (is_stream(pkt->tuple.proto))
		return !ep || ep->id != flow->dst_endpoint;
	return !ep && !(flow->flags & FLOW_NAT_DST);
}

/*
 * Takes over into *fwd what an entry of a living flow, whose epochs were raised, decided: what answers
 * what, and the translation. Returns false when the packet must be decided as if it were a flow's first.
 */
static __always_inline bool flow_keep(const struct packet *pkt, const struct flow *stale,
				      struct flow *fwd)
{
	if (!(stale->flags & (FLOW_REPLY | FLOW_NAT_SRC | FLOW_NAT_DST)))
		return false;
	fwd->backend = stale->backend;
	if (!(stale->flags & FLOW_REPLY) && stale->flags & FLOW_NAT_DST) {
		const struct backend *be;

		if (!backend_legal(pkt, stale))
			return false;
		be = bpf_map_lookup_elem(&backends, &fwd->backend);
		if (be && (!backend_keeps(be) || be->service != stale->service))
			fwd->backend = 0;
	}
	fwd->saddr = stale->saddr;
	fwd->daddr = stale->daddr;
	fwd->sport = stale->sport;
	fwd->dport = stale->dport;
	fwd->service = stale->service;
	fwd->flags = stale->flags;
	return true;
}

/* Whether the ids are those of the containers that have these addresses now. */
static __always_inline bool same_ends(const struct addr *saddr, __u32 src, const struct addr *daddr,
				      __u32 dst)
{
	const struct endpoint *ep = bpf_map_lookup_elem(&endpoints, saddr);

	if ((ep ? ep->id : 0) != src)
		return false;
	ep = bpf_map_lookup_elem(&endpoints, daddr);
	return (ep ? ep->id : 0) == dst;
}

/*
 * Whether an entry whose epochs were raised says no more about the packet than that there was a flow
 * once: the packet asks for something in the direction of the answers, or one of the two containers has
 * given its address to another, which never asked what the packet would answer.
 */
static __noinline bool answers_no_more(const struct packet *pkt, const struct flow *stale)
{
	if (!(stale->flags & FLOW_REPLY))
		return false;
	if (opens(pkt) && !(stale->flags & (FLOW_NAT_SRC | FLOW_NAT_DST)))
		return true;
	return !same_ends(&pkt->tuple.saddr, stale->src_endpoint, &stale->daddr,
			  stale->dst_endpoint);
}

/* The flags of the half that answers one with these. */
static __always_inline __u8 inverse_flags(__u8 flags)
{
	__u8 inverse = flags & FLOW_NODE;

	if (flags & FLOW_NAT_DST)
		inverse |= FLOW_NAT_SRC;
	if (flags & FLOW_NAT_SRC)
		inverse |= FLOW_NAT_DST;
	return inverse;
}

/*
 * Whether the packet, which has no entry, answers an untranslated flow that lost its other half. Notes
 * so in *fwd.
 */
static __noinline bool answers_known(const struct packet *pkt, struct flow *fwd)
{
	const struct flow *twin;
	struct flow_key key;

	if (pkt->single || opens(pkt))
		return false;
	reply_key(&key, fwd, pkt->tuple.proto);
	twin = bpf_map_lookup_elem(&flows, &key);
	if (!twin || twin->flags & (FLOW_REPLY | FLOW_NAT_SRC | FLOW_NAT_DST) ||
	    !alive(twin, pkt->tuple.proto, fwd->seen, false) ||
	    !same_ends(&fwd->saddr, twin->dst_endpoint, &fwd->daddr, twin->src_endpoint))
		return false;
	fwd->flags = FLOW_REPLY | (twin->flags & FLOW_NODE);
	fwd->service = twin->service;
	return true;
}

/* The same of the packet in the scratch and a translated flow. Notes the translation, too. */
__noinline int answers_asked(void)
{
	struct scratch *work = scratch_here();
	struct asked_bucket *bucket;
	const struct packet *pkt;
	const struct flow *twin;
	struct flow_key *key;
	struct flow *fwd;
	__u32 hash, i;

	if (!work)
		return 0;
	pkt = &work->pkt;
	fwd = &work->fwd;
	if (pkt->single || opens(pkt))
		return 0;
	hash = tuple_hash(&pkt->tuple);
	bucket = asked_bucket_of(hash);
	if (!bucket)
		return 0;
	for (i = 0; i < ASKED_WAYS; i++)
		if (bucket->ways[i].hash == hash)
			goto found;
	return 0;
found:
	/* A copy: another flow's may take its place at any time. */
	key = &work->rkey;
	*key = bucket->ways[i & (ASKED_WAYS - 1)].key;
	if (key->proto != pkt->tuple.proto)
		return 0;
	twin = bpf_map_lookup_elem(&flows, key);
	if (!twin || twin->flags & FLOW_REPLY || !answers(twin, &pkt->tuple) ||
	    !alive(twin, pkt->tuple.proto, fwd->seen, false) ||
	    !same_ends(&pkt->tuple.saddr, twin->dst_endpoint, &key->saddr, twin->src_endpoint))
		return 0;
	fwd->saddr = key->daddr;
	fwd->daddr = key->saddr;
	fwd->sport = key->dport;
	fwd->dport = key->sport;
	fwd->flags = FLOW_REPLY | inverse_flags(twin->flags);
	fwd->service = twin->service;
	fwd->backend = twin->backend;
	return 1;
}

#endif
