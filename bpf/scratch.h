/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A CPU's place for what a packet on the slow path is about. */
#ifndef SLUICE_SCRATCH_H
#define SLUICE_SCRATCH_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"
#include "types.h"

/* One end of a flow. */
struct end {
	struct endpoint ep; /* zero: no container of this node */
	struct addr addr;
};

/* What the policies of one side say. */
struct judgement {
	__u32 policy; /* index into policy_stats; 0: none was asked, or none in particular */
	__u32 flags;  /* enum outcome_flags */
};

/*
 * Where a new flow is put together: these would not fit on a stack of 512 bytes together with what
 * the callers keep there. Programs at tc run with bottom halves off, so a CPU's copy is theirs.
 *
 * Functions that work on nothing else are global (not static): the verifier looks at such a function
 * once, not once for each path that leads to it. Before Linux 5.12 they can be given numbers and the
 * context only.
 */
struct scratch {
	struct flow fwd;
	struct flow reply;
	struct flow_key rkey;
	struct flow_key half; /* of alive: the key of an entry's other half, */
	__u64 last;	      /* and when its flow was last seen */
	__u64 eldest;	   /* of flow_create: the same of the flow that was silent for longest, */
	__u16 eldest_port; /* and the port that it has; host order; 0: there is none */
	__u8 rests;	   /* of alive: 1: a connection that both ends have closed */
	__u8 pad_port[5];
	struct packet pkt; /* what all this is about */
	/* policy.h */
	struct end src; /* who sends and who receives, as the packet goes; after translation */
	struct end dst;
	__u16 dport; /* the flow's, host order */
	__u8 proto;  /* IPPROTO_* */
	__u8 answer; /* 1: the packet answers the flow */
	__u8 fresh;  /* 1: nothing was known about the flow */
	__u8 stale;  /* 1: flows has an entry for it, which no longer decides */
	__u8 pad[2];
	struct judgement judged[2]; /* by enum direction */
	/* icmp.h: what an ICMP error quotes, its new source, what changed in its checksum. */
	struct packet inner; /* tuple, l4 and l4_len, which is what the quoted IP header says */
	struct addr reporter;
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

#endif
