/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a flow may be. The sender's egress and the receiver's ingress are judged by one program, the
 * one that sees the flow's first packet, after the translation of a VIP: the number of look-ups does
 * not depend on how many policies there are.
 *
 * What cannot be read as it should be, for whatever reason, is denied.
 */
#ifndef SLUICE_POLICY_H
#define SLUICE_POLICY_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "event.h"
#include "flow.h"
#include "maps.h"
#include "parse.h"

/* Let it go its way, past whatever other programs are attached here. */
#define PASS TC_ACT_UNSPEC
/*
 * Not actions: the packet is to be answered by refuse(), to do as the decision in work->fwd says, to be
 * looked up in flows, or to be decided by itself.
 */
#define REFUSE (-100)
#define FOLLOW (-101)
#define FLOW   (-102)
#define SINGLE (-103)

/* How often what changes under the reader's eyes is read again. */
#define READ_TRIES 3

static __always_inline __u32 subject_default(const struct subject *s, __u32 direction)
{
	if (direction == DIRECTION_EGRESS)
		return *(const volatile __u32 *)&s->egress;
	return *(const volatile __u32 *)&s->ingress;
}

/* What the ruleset says of the flow, or NULL if it leads nowhere. */
static __always_inline const struct outcome *outcome_find(__u32 ruleset, __u8 proto, __u16 dport)
{
	const struct ruleset *rules;
	const struct port_node *node;
	__u32 ref;

	if (ruleset < RULESET_FIRST)
		return NULL;
	rules = bpf_map_lookup_elem(&rulesets, &ruleset);
	if (!rules)
		return NULL;
	switch (proto) {
	case IPPROTO_TCP:
		ref = rules->tcp;
		break;
	case IPPROTO_UDP:
		ref = rules->udp;
		break;
	case IPPROTO_SCTP:
		ref = rules->sctp;
		break;
	default:
		ref = rules->other;
		if (!(ref & LEAF))
			return NULL;
	}
	if (!(ref & LEAF)) {
		node = bpf_map_lookup_elem(&port_nodes, &ref);
		if (!node)
			return NULL;
		ref = node->refs[dport >> 8];
		if (!(ref & LEAF)) {
			node = bpf_map_lookup_elem(&port_nodes, &ref);
			if (!node)
				return NULL;
			ref = node->refs[dport & 0xff];
			if (!(ref & LEAF))
				return NULL;
		}
	}
	ref &= ~LEAF;
	return bpf_map_lookup_elem(&outcomes, &ref);
}

/*
 * Judges one side of the flow in the scratch: what the subject may exchange with the peer. Returns 0, or
 * the reason why not. Notes in work->judged what was asked.
 *
 * A subject's default and its entry for a peer are two reads, and an entry of a hash map may be recycled
 * while it is read. Whoever finds both the same again has read what was there at one moment.
 */
__noinline int judge_side(__u32 direction)
{
	struct scratch *work = scratch_here();
	const struct end *subject, *peer;
	struct policy_key key = {};
	const struct policy *entry;
	const struct outcome *outcome;
	const struct subject *s;
	__u32 any, again, ruleset;
	int i;

	if (!work)
		return REASON(drop_closed);
	subject = peer = &work->src;
	if ((direction == DIRECTION_INGRESS) != work->answer)
		subject = &work->dst;
	else
		peer = &work->dst;
	work->judged[direction & 1].policy = work->judged[direction & 1].flags = 0;
	key.subject = subject->ep.identity;
	key.direction = direction;
	/* Written by a version that knew no policies. */
	if (!key.subject)
		return 0;
	s = bpf_map_lookup_elem(&subjects, &key.subject);
	if (!s)
		return REASON(drop_closed);
	any = subject_default(s, direction);
	if (any == RULESET_OPEN)
		return 0;
	key.peer = peer->ep.ifindex ? peer->ep.identity : identity_of(&peer->addr);
	if (key.peer == IDENTITY_NODE) {
		if (direction == DIRECTION_EGRESS)
			return 0;
		/* What the node sends is known by other signs: whoever only has its address is no one. */
		key.peer = IDENTITY_WORLD;
	}
	for (i = 0; i < READ_TRIES; i++) {
		ruleset = any;
		entry = bpf_map_lookup_elem(&policy, &key);
		if (entry)
			ruleset = *(const volatile __u32 *)&entry->ruleset;
		entry = bpf_map_lookup_elem(&policy, &key);
		again = subject_default(s, direction);
		if (again == any &&
		    ruleset == (entry ? *(const volatile __u32 *)&entry->ruleset : any))
			goto found;
		any = again;
		if (any == RULESET_OPEN)
			return 0;
	}
	return REASON(drop_closed);
found:
	if (any == RULESET_CLOSED)
		return REASON(drop_closed);
	outcome = outcome_find(ruleset, work->proto, work->dport);
	if (!outcome)
		return REASON(drop_closed);
	work->judged[direction & 1].policy = outcome->policy;
	work->judged[direction & 1].flags = outcome->flags;
	if (outcome->flags & OUTCOME_ALLOW)
		return 0;
	return direction == DIRECTION_EGRESS ? REASON(drop_egress) : REASON(drop_ingress);
}

static __always_inline struct policy_stats *policy_stats_of(__u32 policy)
{
	return policy ? bpf_map_lookup_elem(&policy_stats, &policy) : NULL;
}

/* Counts and reports a side that lets the flow pass. Returns whether it did so for audit mode only. */
static __always_inline bool side_passed(struct __sk_buff *skb, struct scratch *work,
					__u32 direction, __u32 reason)
{
	const struct judgement *judged = &work->judged[direction];
	struct policy_stats *stats = policy_stats_of(judged->policy);

	if (!reason && judged->flags & OUTCOME_AUDIT)
		reason = direction == DIRECTION_EGRESS ? REASON(drop_egress) : REASON(drop_ingress);
	if (!reason) {
		if (stats && work->fresh)
			stats->allowed[direction]++;
		return false;
	}
	if (stats)
		stats->audited[direction]++;
	report(skb, WHY(EVENT_AUDIT, direction, reason) | TRANSLATED, judged->policy);
	return true;
}

/* Reports the verdict on a new flow, if someone asked for it. */
static __always_inline void report_verdict(struct __sk_buff *skb, struct scratch *work,
					   const struct settings *set)
{
	__u32 direction = work->pkt.direction;

	if (!((work->src.ep.flags | work->dst.ep.flags) & ENDPOINT_WATCHED) &&
	    (!set->sample || bpf_get_prandom_u32() % set->sample))
		return;
	if (work->judged[DIRECTION_EGRESS].policy)
		direction = DIRECTION_EGRESS;
	else if (work->judged[DIRECTION_INGRESS].policy)
		direction = DIRECTION_INGRESS;
	report(skb, WHY(EVENT_VERDICT, direction, 0) | TRANSLATED,
	       work->judged[direction & 1].policy);
}

/*
 * Whether the node's own stack made the packet: it came in by no interface, and has a socket. The
 * fragments into which the kernel cuts a forwarded IPv6 datagram lose the interface, too
 * (ip6_copy_metadata, net/ipv6/ip6_output.c), but are no socket's.
 */
static __always_inline bool made_here(struct __sk_buff *skb, const struct packet *pkt)
{
	return pkt->direction == DIRECTION_INGRESS && !skb->ingress_ifindex && skb->sk;
}

/*
 * The generation of the verdicts. It is to be read before all that is judged by, and again after that.
 * x86 loads in the order of the program. BPF of Linux 5.10 has nothing that would make arm64 do so (atomic
 * operations that fetch came with 5.12, load-acquire with 6.15). There it is the calls and some hundred
 * instructions in between that keep the loads apart. Should they not, it is for a packet in flight alone:
 * the epochs that rise after the last step have the flow decided anew.
 */
static __always_inline __u32 generation_of(const struct settings *set)
{
	return *(const volatile __u32 *)&set->generation;
}

/*
 * Judges the flow in the scratch: work->pkt becomes work->fwd and goes from work->src to work->dst.
 * Returns 0, or TC_ACT_SHOT after it has counted and reported the denial.
 *
 * The two sides are two reads. Between them changes may turn both over, so that they never said so
 * together. The loader makes changes in steps, none of which can be mistaken when it is half done, and
 * raises the generation before each: whoever finds that as it was has seen one step only.
 *
 * An answer (work->answer) is judged as the flow that it answers, whose ends and port are the other way
 * round, and as they are known behind the VIP.
 */
__noinline int judge(struct __sk_buff *skb)
{
	__u32 egress = 0, ingress = 0, network = 0, generation, reason, direction, i;
	const struct settings *set = settings_here();
	struct scratch *work = scratch_here();
	const struct endpoint *from, *to;
	struct policy_stats *stats;
	bool audited;

	if (!work || !set)
		return TC_ACT_SHOT;
	work->judged[0].policy = work->judged[0].flags = 0;
	work->judged[1].policy = work->judged[1].flags = 0;
	from = to = &work->src.ep;
	if (work->answer)
		from = &work->dst.ep;
	else
		to = &work->dst.ep;
	/* To itself, or begun by the node: always. */
	if ((from->ifindex && from->id == to->id) ||
	    (work->answer && work->fwd.flags & FLOW_NODE) || made_here(skb, &work->pkt))
		goto pass;
	for (i = 0; i < READ_TRIES; i++) {
		generation = generation_of(set);
		ingress = 0;
		if (from->ifindex)
			egress = judge_side(DIRECTION_EGRESS);
		if (to->ifindex && (!egress || set->audit))
			ingress = judge_side(DIRECTION_INGRESS);
		if (generation_of(set) == generation)
			goto judged;
	}
	if (from->ifindex)
		egress = REASON(drop_closed);
	else
		ingress = REASON(drop_closed);
judged:
	if (!egress && !ingress && from->network && to->network && from->network != to->network &&
	    !((work->judged[0].flags | work->judged[1].flags) & OUTCOME_JOIN))
		network = REASON(drop_network);
	reason = egress ? egress : ingress ? ingress : network;
	if (!reason || set->audit)
		goto pass;
	count_reason(reason);
	if (network) {
		report(skb, WHY(EVENT_DROP, work->pkt.direction, network) | TRANSLATED, 0);
		return TC_ACT_SHOT;
	}
	direction = egress ? DIRECTION_EGRESS : DIRECTION_INGRESS;
	stats = policy_stats_of(work->judged[direction].policy);
	if (stats)
		stats->denied[direction]++;
	report(skb, WHY(EVENT_DROP, direction, reason) | TRANSLATED,
	       work->judged[direction].policy);
	return TC_ACT_SHOT;
pass:
	audited = side_passed(skb, work, DIRECTION_EGRESS, egress);
	audited |= side_passed(skb, work, DIRECTION_INGRESS, ingress);
	if (network) {
		report(skb, WHY(EVENT_AUDIT, work->pkt.direction, network) | TRANSLATED, 0);
		audited = true;
	}
	if (audited)
		COUNT(audited);
	else if (work->fresh && !work->pkt.single)
		report_verdict(skb, work, set);
	return 0;
}

/* Reads who has the address. */
static __always_inline void end_read(struct end *end, const struct addr *addr)
{
	const struct endpoint *ep = bpf_map_lookup_elem(&endpoints, addr);

	end->addr = *addr;
	if (ep)
		end->ep = *ep;
	else
		__builtin_memset(&end->ep, 0, sizeof(end->ep));
}

/* Reads it again. Returns whether it is the same. */
static __always_inline bool end_same(struct end *end)
{
	const struct endpoint *ep = bpf_map_lookup_elem(&endpoints, &end->addr);
	const __u32 *old = (const __u32 *)&end->ep, *now = (const __u32 *)ep;

	if (!now && !end->ep.ifindex)
		return true;
	if (now && !((now[0] ^ old[0]) | (now[1] ^ old[1]) | (now[2] ^ old[2]) | (now[3] ^ old[3]) |
		     (now[4] ^ old[4]) | (now[5] ^ old[5])))
		return true;
	if (ep)
		end->ep = *ep;
	else
		__builtin_memset(&end->ep, 0, sizeof(end->ep));
	return false;
}

/*
 * Reads the epochs of what the flow in the scratch is to be decided from, and makes sure that its ends
 * were read right and no earlier than their epochs: a policy or a container that changes from here on
 * leaves an entry that is stale. Returns 0, or -1 when the ends would not stay the same.
 */
__noinline int settle(void)
{
	struct scratch *work = scratch_here();
	bool src, dst;
	int i;

	if (!work)
		return -1;
	for (i = 0; i < READ_TRIES; i++) {
		work->fwd.src_endpoint = work->src.ep.id;
		work->fwd.dst_endpoint = work->dst.ep.id;
		work->fwd.epoch = epoch_of(&work->fwd);
		src = end_same(&work->src);
		dst = end_same(&work->dst);
		if (src && dst)
			return 0;
	}
	return -1;
}

/* At to_pod an address counts for the container that has it only if the packet came in by its veth. */
static __always_inline void forget_foreign(struct __sk_buff *skb, struct scratch *work)
{
	if (work->pkt.direction == DIRECTION_INGRESS &&
	    skb->ingress_ifindex != work->src.ep.ifindex)
		__builtin_memset(&work->src.ep, 0, sizeof(work->src.ep));
}

#endif
