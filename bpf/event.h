/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is reported to the agent: drops, verdicts on new flows, and what only audit mode let pass. Nothing
 * here is on the path of an established packet.
 */
#ifndef SLUICE_EVENT_H
#define SLUICE_EVENT_H

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "lb.h"
#include "maps.h"
#include "parse.h"

/* A reason's number: see struct event. */
#define REASON(field) (offsetof(struct counters, field) / sizeof(__u64))
#define REASONS	      (sizeof(struct counters) / sizeof(__u64))

/* What an event is about, in one word: enum event_type, enum direction, reason. */
#define WHY(type, direction, reason) ((type) | (direction) << 8 | (reason) << 16)
#define TRANSLATED		     (1 << 24)

/* Drops the packet in the scratch, for a reason that is a field of struct counters. */
#define DROP(skb, reason) dropped(skb, REASON(reason))

static __always_inline const struct settings *settings_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

/*
 * Takes a token from the CPU's bucket, which holds a second's worth. Programs at tc run with bottom
 * halves off, so nothing else changes the bucket meanwhile.
 */
static __always_inline bool event_due(struct event_limit *limit, __u32 rate)
{
	__u64 now = bpf_ktime_get_ns(), passed = now - limit->refilled, tokens;

	if (passed >= SECOND) {
		limit->refilled = now;
		limit->tokens = rate;
	} else {
		tokens = passed * rate / SECOND;
		if (tokens) {
			/* Only what became a whole token is used up. */
			limit->refilled += tokens * SECOND / rate;
			tokens += limit->tokens;
			limit->tokens = tokens > rate ? rate : tokens;
		}
	}
	if (!limit->tokens)
		return false;
	limit->tokens--;
	return true;
}

/* The identity of an address that no container of this node has. */
static __always_inline __u32 identity_of(const struct addr *addr)
{
	struct prefix_key key = { .length = 128, .addr = *addr };
	const struct prefix *prefix = bpf_map_lookup_elem(&prefixes, &key);

	return prefix ? prefix->identity : IDENTITY_WORLD;
}

/*
 * Says who the address is. What a container sends under another's address is no one's: the event's
 * ifindex tells who it was.
 */
static __always_inline void name_party(const struct addr *addr, __u32 sent_by, __u32 *identity,
				       __u32 *id)
{
	const struct endpoint *ep = bpf_map_lookup_elem(&endpoints, addr);

	if (ep && (!sent_by || ep->ifindex == sent_by)) {
		*identity = ep->identity;
		*id = ep->id;
	} else if (!sent_by) {
		*identity = identity_of(addr);
	}
}

/*
 * Reports the packet in the scratch; where it goes is said by work->fwd if TRANSLATED is part of why. A
 * policy of 0 is none.
 */
__noinline int report(struct __sk_buff *skb, __u32 why, __u32 policy)
{
	const struct settings *set = settings_here();
	struct scratch *work = scratch_here();
	struct event_limit *limit;
	struct event *e = NULL;
	__u32 zero = 0;

	limit = bpf_map_lookup_elem(&event_limits, &zero);
	if (!work || !limit || !set || !set->event_rate)
		return 0;
	if (event_due(limit, set->event_rate))
		e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		limit->lost++;
		COUNT(events_lost);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	e->saddr = work->pkt.tuple.saddr;
	e->sport = work->pkt.tuple.sport;
	e->daddr = work->pkt.tuple.daddr;
	e->dport = work->pkt.tuple.dport;
	if (why & TRANSLATED) {
		e->daddr = work->fwd.daddr;
		e->dport = work->fwd.dport;
		e->service = work->fwd.service;
	}
	e->proto = work->pkt.tuple.proto;
	e->type = why;
	e->direction = why >> 8;
	e->reason = why >> 16 & 0xff;
	e->policy = policy;
	e->ifindex = skb->ifindex;
	e->lost = limit->lost;
	limit->lost = 0;
	name_party(&work->pkt.tuple.saddr,
		   work->pkt.direction == DIRECTION_EGRESS ? skb->ifindex : 0, &e->src_identity,
		   &e->src_endpoint);
	name_party(why & TRANSLATED ? &work->fwd.daddr : &work->pkt.tuple.daddr, 0,
		   &e->dst_identity, &e->dst_endpoint);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline void count_reason(__u32 reason)
{
	struct counters *c = counters_here();
	__u64 place = reason;

	/* Before Linux 5.12 a test of the lower half tells the verifier nothing of the whole. */
	asm volatile("" : "+r"(place));
	if (c && place < REASONS)
		__sync_fetch_and_add((__u64 *)c + place, 1);
}

/* Drops the packet in the scratch. */
__noinline int dropped(struct __sk_buff *skb, __u32 reason)
{
	struct scratch *work = scratch_here();

	count_reason(reason);
	if (work)
		report(skb, WHY(EVENT_DROP, work->pkt.direction, reason), 0);
	return TC_ACT_SHOT;
}

#endif
