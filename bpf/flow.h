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

#include "config.h"
#include "lb.h"
#include "maps.h"
#include "parse.h"
#include "types.h"

#define SECOND 1000000000ULL
/* A datagram flow that was idle for so long is over (RFC 4787, REQ-5: not less than 2 minutes). */
#define IDLE_DATAGRAM (120 * SECOND)
/* The same for a stream that was not seen to close (RFC 5382, REQ-5: 2 hours 4 minutes). */
#define IDLE_STREAM (7440 * SECOND)
/*
 * How long a closed connection's tuple is still the far end's: Linux keeps TIME_WAIT for 60 seconds
 * (TCP_TIMEWAIT_LEN), and a second more makes up for a stale seen. A connection to another
 * destination that became the same tuple would come with another clock in its timestamps (RFC 7323,
 * 5; the kernel's ts_off depends on the destination), and its SYN would be turned away as old.
 */
#define TIME_WAIT (61 * SECOND)
/* How many source ports are tried for a flow that collides. */
#define PORT_TRIES 16
/* Where other source ports are taken from: Linux's default ephemeral range begins here too. */
#define PORT_FIRST 32768
#define PORT_COUNT 28232

#define EEXIST 17

/*
 * Where a new flow is put together: these would not fit on a stack of 512 bytes together with what
 * the callers keep there. Programs at tc run with bottom halves off, so a CPU's copy is theirs.
 */
struct scratch {
	struct flow fwd;
	struct flow reply;
	struct flow_key rkey;
	/* icmp.h: the tuple an ICMP error quotes, its new source, what changed in its checksum. */
	struct flow_key quoted;
	struct addr reporter;
	__u8 pad[4];
	__u64 sum;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *scratch_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

enum created {
	CREATED = 0,
	CREATED_PORTS_SPENT,
	CREATED_FULL,
};

static __always_inline __u64 clock(void)
{
	/* A tick's resolution will do, and costs a load instead of reading the clock. */
	if (cfg.coarse_clock)
		return bpf_ktime_get_coarse_ns();
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
 * Whether what a flow was decided from is still so. Asked after the epochs were read, it closes a gap:
 * a change between the decision and the reading has raised an epoch already, and without this the
 * flow would keep the old decision with the new epoch. One that does not stand is entered as stale.
 */
static __always_inline bool decision_stands(const struct flow *flow)
{
	const struct endpoint *dst;
	const struct backend *be;
	__u32 id = flow->backend;

	/* Answers go back whatever became of the backend. */
	if (id && !(flow->flags & FLOW_REPLY)) {
		be = bpf_map_lookup_elem(&backends, &id);
		if (!be || be->state != BACKEND_ACTIVE || be->service != flow->service)
			return false;
	}
	if (!flow->dst_endpoint)
		return true;
	dst = bpf_map_lookup_elem(&endpoints, &flow->daddr);
	return dst && dst->id == flow->dst_endpoint &&
	       (!flow->out_ifindex || dst->ifindex == flow->out_ifindex);
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

/* Whether a living flow stands behind the entry: not reset, not long closed, not long idle. */
static __noinline bool alive(const struct flow *entry, __u8 proto, __u64 now)
{
	const struct flow *twin;
	struct flow_key key;
	__u64 seen = entry->seen, patience = IDLE_STREAM;
	__u8 either = entry->flags, both = entry->flags;

	reply_key(&key, entry, proto);
	twin = bpf_map_lookup_elem(&flows, &key);
	if (twin) {
		either |= twin->flags;
		both &= twin->flags;
		if (twin->seen > seen)
			seen = twin->seen;
	}
	if (proto == IPPROTO_UDP)
		patience = IDLE_DATAGRAM;
	else if (both & FLOW_FIN)
		patience = TIME_WAIT;
	return !(either & FLOW_RST) && now <= seen + patience;
}

/* Whether the packet begins a new flow where the entry's has ended. */
static __always_inline bool flow_over(const struct packet *pkt, const struct flow *flow, __u64 now)
{
	if (pkt->tuple.proto == IPPROTO_TCP)
		return (pkt->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
		       flow->flags & (FLOW_FIN | FLOW_RST);
	return pkt->tuple.proto == IPPROTO_UDP && now > flow->seen + IDLE_DATAGRAM &&
	       !alive(flow, IPPROTO_UDP, now);
}

/*
 * Whether answers to the translated packet would not be translated back: the other half of a flow
 * that was idle may have made room for another, or its key have gone to a flow that began since.
 */
static __noinline bool reply_lost(const struct packet *pkt, const struct flow *flow)
{
	const struct flow *twin;
	struct flow_key key;

	if (flow->flags & FLOW_REPLY || !(flow->flags & (FLOW_NAT_SRC | FLOW_NAT_DST)))
		return false;
	reply_key(&key, flow, pkt->tuple.proto);
	twin = bpf_map_lookup_elem(&flows, &key);
	return !twin || !answers(twin, &pkt->tuple);
}

/* Notes in the entry what a TCP segment says about the connection's life. */
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
		if (flow_over(pkt, flow, now))
			return false;
		note_flags(pkt, flow);
	}
	/* Once a second: a line that is only read stays in every CPU's cache. */
	if (now > flow->seen + SECOND) {
		if (flow_over(pkt, flow, now) || reply_lost(pkt, flow))
			return false;
		flow->seen = now;
	}
	return true;
}

/*
 * Whether a flow that was given a backend may stay with it. The backend's entry says so while it is
 * in service. After that a connection may still be finished with a container that is there, as
 * kube-proxy does it; a datagram goes elsewhere at once.
 */
static __always_inline bool backend_legal(const struct packet *pkt, const struct flow *flow)
{
	__u32 id = flow->backend;
	const struct backend *be = bpf_map_lookup_elem(&backends, &id);

	if (id && be && be->state == BACKEND_ACTIVE && be->service == flow->service &&
	    be->port == flow->dport && addr_equal(&be->addr, &flow->daddr))
		return true;
	if (pkt->tuple.proto == IPPROTO_UDP || pkt->tcp_flags & TCP_SYN)
		return false;
	return !flow->dst_endpoint || bpf_map_lookup_elem(&endpoints, &flow->daddr);
}

/*
 * Takes over into *fwd what an entry, whose epochs were raised, decided about translation. Returns
 * false when the flow must be decided as if it were new.
 */
static __always_inline bool flow_keep(const struct packet *pkt, const struct flow *stale,
				      struct flow *fwd)
{
	if (!(stale->flags & (FLOW_NAT_SRC | FLOW_NAT_DST)))
		return false;
	if (flow_over(pkt, stale, fwd->seen))
		return false;
	fwd->backend = stale->backend;
	if (!(stale->flags & FLOW_REPLY) && stale->flags & FLOW_NAT_DST) {
		const struct backend *be;

		if (!backend_legal(pkt, stale))
			return false;
		be = bpf_map_lookup_elem(&backends, &fwd->backend);
		if (be && (be->state != BACKEND_ACTIVE || be->service != stale->service))
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

/*
 * Enters the flow whose first packet has the tuple key and which becomes what *fwd says, both
 * directions. The entry for answers goes in first and only if its key is free: that is what claims
 * the tuple on the far side, also against another CPU. Changes fwd->sport where a living flow has
 * the tuple.
 */
static __noinline int flow_create(const struct packet *pkt, struct scratch *work,
				  const struct endpoint *dst)
{
	const struct flow_key *key = &pkt->tuple;
	struct flow *fwd = &work->fwd, *reply = &work->reply, *old;
	struct flow_key *rkey = &work->rkey;
	__u16 sport = fwd->sport;
	int i, err;

	__builtin_memset(reply, 0, sizeof(*reply));
	reply->saddr = key->daddr;
	reply->daddr = key->saddr;
	reply->sport = key->dport;
	reply->dport = key->sport;
	reply->flags = ~fwd->flags & FLOW_REPLY;
	if (fwd->flags & FLOW_NAT_DST)
		reply->flags |= FLOW_NAT_SRC;
	if (fwd->flags & FLOW_NAT_SRC)
		reply->flags |= FLOW_NAT_DST;
	if (dst) {
		reply->in_ifindex = dst->ifindex;
		__builtin_memcpy(reply->in_mac, dst->mac, 6);
	}
	reply->out_ifindex = fwd->in_ifindex;
	__builtin_memcpy(reply->out_mac, fwd->in_mac, 6);
	reply->service = fwd->service;
	reply->backend = fwd->backend;
	reply->src_endpoint = fwd->dst_endpoint;
	reply->dst_endpoint = fwd->src_endpoint;
	reply->epoch = fwd->epoch;
	reply->seen = fwd->seen;

	reply_key(rkey, fwd, key->proto);
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
			if (bpf_map_update_elem(&flows, rkey, reply, BPF_ANY))
				return CREATED_FULL;
			goto claimed;
		}
		if (!alive(old, key->proto, fwd->seen)) {
			bpf_map_delete_elem(&flows, rkey);
			continue;
		}
		fwd->sport = PORT_FIRST + (bpf_get_prandom_u32() % PORT_COUNT);
		fwd->flags |= FLOW_NAT_SRC;
		reply->flags |= FLOW_NAT_DST;
		rkey->dport = fwd->sport;
	}
	return CREATED_PORTS_SPENT;
claimed:
	if (fwd->sport != sport)
		COUNT(ports_rewritten);
	if (bpf_map_update_elem(&flows, key, fwd, BPF_ANY)) {
		bpf_map_delete_elem(&flows, rkey);
		return CREATED_FULL;
	}
	return CREATED;
}

#endif
