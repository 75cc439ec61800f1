/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where the asking half of a translated flow is, for answers that lost theirs. */
#ifndef SLUICE_ASKED_H
#define SLUICE_ASKED_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "lb.h"
#include "scratch.h"
#include "types.h"

/* The asking key of a translated flow. */
struct asked {
	struct flow_key key;
	__u32 hash;  /* of the answering key */
	__u32 noted; /* when, seconds */
};

#define ASKED_WAYS 4

struct asked_bucket {
	struct asked ways[ASKED_WAYS];
};

/*
 * By the hash of a flow's answering key, where its asking half is. The kernel's LRU may take an entry
 * that is in use: when it finds LOCAL_NR_SCANS in a row that all were used since it last looked, it takes
 * the next one whatever it is (__bpf_lru_list_shrink in kernel/bpf/bpf_lru_list.c). An answer that lost
 * its half so finds the other, which knows the rest. What stands here is believed only if that says the
 * same. Not pinned: flows that go on get here anew once a second.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries,
	       65536); /* the loader makes room for as many flows as there are in flows */
	__type(key, __u32);
	__type(value, struct asked_bucket);
} asked SEC(".maps");

static __always_inline struct asked_bucket *asked_bucket_of(__u32 hash)
{
	__u32 slot = hash % cfg.asked;

	return bpf_map_lookup_elem(&asked, &slot);
}

/*
 * Notes that the asking half of the flow whose answers have the key work->rkey is at work->pkt's, in place
 * of the flow that was silent for longest.
 */
__noinline int asked_note(__u32 second)
{
	struct scratch *work = scratch_here();
	__u32 hash, oldest = 0, way = 0, i;
	struct asked_bucket *bucket;

	if (!work)
		return 0;
	hash = tuple_hash(&work->rkey);
	bucket = asked_bucket_of(hash);
	if (!bucket)
		return 0;
	for (i = 0; i < ASKED_WAYS; i++) {
		if (bucket->ways[i].hash == hash) {
			way = i;
			break;
		}
		if (second - bucket->ways[i].noted > oldest) {
			oldest = second - bucket->ways[i].noted;
			way = i;
		}
	}
	way &= ASKED_WAYS - 1;
	bucket->ways[way].key = work->pkt.tuple;
	bucket->ways[way].hash = hash;
	bucket->ways[way].noted = second;
	return 0;
}

#endif
