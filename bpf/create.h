/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Enters a flow: both halves, and another source port where a living flow has the tuple on the far side.
 */
#ifndef SLUICE_CREATE_H
#define SLUICE_CREATE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "asked.h"
#include "flow.h"
#include "lb.h"
#include "maps.h"
#include "scratch.h"
#include "types.h"

/* How many source ports are tried for a flow that collides. */
#define PORT_TRIES 16
/* Where other source ports are taken from: Linux's default ephemeral range begins here too. */
#define PORT_FIRST 32768
#define PORT_COUNT 28232

#define EEXIST 17

enum created {
	CREATED = 0,
	CREATED_PORTS_SPENT,
	CREATED_FULL,
};

/*
 * Puts into work->reply what the answers to work->fwd become: the exact inverse of work->pkt, under the
 * key work->rkey.
 */
static __always_inline void invert(struct scratch *work)
{
	const struct flow_key *key = &work->pkt.tuple;
	const struct flow *fwd = &work->fwd;
	struct flow *reply = &work->reply;

	__builtin_memset(reply, 0, sizeof(*reply));
	reply->saddr = key->daddr;
	reply->daddr = key->saddr;
	reply->sport = key->dport;
	reply->dport = key->sport;
	reply->flags = inverse_flags(fwd->flags);
	reply->in_ifindex = work->dst.ep.ifindex;
	__builtin_memcpy(reply->in_mac, work->dst.ep.mac, 6);
	reply->out_ifindex = fwd->in_ifindex;
	__builtin_memcpy(reply->out_mac, fwd->in_mac, 6);
	reply->service = fwd->service;
	reply->backend = fwd->backend;
	reply->src_endpoint = fwd->dst_endpoint;
	reply->dst_endpoint = fwd->src_endpoint;
	reply->epoch = fwd->epoch;
	reply_key(&work->rkey, fwd, key->proto);
}

/*
 * Makes the asking half of a translated flow again, when work->fwd is the answering one and the other was
 * lost. Only so does the flow surely keep its backend and its source port. Who asks decides whether
 * it may: the half is entered as stale.
 */
__noinline int flow_restore(void)
{
	struct scratch *work = scratch_here();

	if (!work || !(work->fwd.flags & (FLOW_NAT_SRC | FLOW_NAT_DST)))
		return 0;
	invert(work);
	work->reply.epoch--;
	work->reply.seen = work->fwd.seen;
	return bpf_map_update_elem(&flows, &work->rkey, &work->reply, BPF_NOEXIST);
}

/* The source port that the flow in the scratch tries in the i-th place. */
static __always_inline __u16 port_try(const struct scratch *work, __u32 i)
{
	__u32 hash = tuple_hash(&work->pkt.tuple);

	return PORT_FIRST + hash_words(&hash, 1, i + 2) % PORT_COUNT;
}

/* Gives the flow in the scratch another source port. */
static __always_inline void port_take(struct scratch *work, __u16 port)
{
	work->fwd.sport = port;
	work->fwd.flags |= FLOW_NAT_SRC;
	work->reply.flags |= FLOW_NAT_DST;
	work->rkey.dport = port;
}

/*
 * Looks whether the flow, which does not begin with this packet, had another source port before its asking
 * half was evicted: the one that it would have been given first.
 */
static __always_inline void port_again(struct scratch *work)
{
	const struct flow *old;
	__u16 own = work->rkey.dport;

	if (opens(&work->pkt) || own != work->pkt.tuple.sport)
		return;
	work->rkey.dport = port_try(work, 0);
	old = bpf_map_lookup_elem(&flows, &work->rkey);
	if (old && answers(old, &work->pkt.tuple))
		port_take(work, work->rkey.dport);
	else
		work->rkey.dport = own;
}

/*
 * Remembers which flow of datagrams, or connection that both ends have closed, was silent for longest, of those
 * that have a tuple which the flow in the scratch tried. An entry that asks, for the far end began its flow,
 * cannot give way: what comes by it would be taken for answers.
 */
static __always_inline void eldest_note(struct scratch *work, const struct flow *old)
{
	if ((work->pkt.tuple.proto != IPPROTO_UDP && !work->rests) || !(old->flags & FLOW_REPLY) ||
	    work->last >= work->eldest)
		return;
	work->eldest = work->last;
	work->eldest_port = work->rkey.dport;
}

/*
 * Has that flow give way to the one in the scratch, when it is silent now: a client that asks much has
 * thousands of flows to one backend that nobody will use again, and each has its port for minutes. So does
 * conntrack when its table is full (early_drop in net/netfilter/nf_conntrack_core.c), and a server's TIME-WAIT
 * where the client's timestamps or sequence numbers went on (RFC 6191, 2). Should a flow of datagrams go on
 * after all, it gets another port; see twin_lost. Returns whether there was one.
 */
static __always_inline bool eldest_replace(struct scratch *work)
{
	if (!work->eldest_port || work->eldest + 2 * SECOND > work->fwd.seen)
		return false;
	port_take(work, work->eldest_port);
	return !bpf_map_update_elem(&flows, &work->rkey, &work->reply, BPF_ANY);
}

/*
 * Enters the flow whose first packet is work->pkt and which becomes what work->fwd says, both
 * directions. The entry for answers goes in first and only if its key is free: that is what claims
 * the tuple on the far side, also against another CPU. Changes work->fwd.sport where a living
 * flow has the tuple, to ports that follow from the tuple: should both entries be evicted, the flow
 * is given the same again.
 */
__noinline int flow_create(void)
{
	struct scratch *work = scratch_here();
	struct flow *fwd, *reply, *old;
	struct flow_key *key, *rkey;
	__u16 sport;
	int i, err;

	if (!work)
		return CREATED_FULL;
	key = &work->pkt.tuple;
	rkey = &work->rkey;
	fwd = &work->fwd;
	reply = &work->reply;
	sport = fwd->sport;
	invert(work);
	reply->flags |= FLOW_REPLY;
	/* A connection that was there before its entries has been answered. */
	if (is_stream(key->proto) && !opens(&work->pkt))
		reply->seen = fwd->seen;
	else
		reply->seen = (fwd->seen - SECOND - 1) | SEEN_NONE;
	work->eldest = fwd->seen;
	work->eldest_port = 0;
	port_again(work);
	for (i = 0; i < PORT_TRIES; i++) {
		err = bpf_map_update_elem(&flows, rkey, reply, BPF_NOEXIST);
		if (!err)
			goto claimed;
		if (err != -EEXIST)
			return CREATED_FULL;
		old = bpf_map_lookup_elem(&flows, rkey);
		if (!old)
			continue; /* gone in between: once more */
		if (answers(old, key)) {
			/* Our own: the other half was lost, or is decided anew. */
			reply->flags |= old->flags & (FLOW_FIN | FLOW_RST);
			reply->seen = old->seen;
			if (bpf_map_update_elem(&flows, rkey, reply, BPF_ANY))
				return CREATED_FULL;
			goto claimed;
		}
		if (!alive(old, key->proto, fwd->seen, false)) {
			bpf_map_delete_elem(&flows, rkey);
			continue;
		}
		eldest_note(work, old);
		port_take(work, port_try(work, i));
	}
	if (!eldest_replace(work))
		return CREATED_PORTS_SPENT;
claimed:
	if (fwd->sport != sport)
		COUNT(ports_rewritten);
	if (bpf_map_update_elem(&flows, key, fwd, BPF_ANY)) {
		bpf_map_delete_elem(&flows, rkey);
		return CREATED_FULL;
	}
	if (fwd->flags & (FLOW_NAT_SRC | FLOW_NAT_DST))
		asked_note(fwd->seen / SECOND);
	return CREATED;
}

#endif
