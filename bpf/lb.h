/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a VIP to one of its backends. Used by the socket hooks and by tc alike. */
#ifndef SLUICE_LB_H
#define SLUICE_LB_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "types.h"

/* Adds to a field of the per-CPU counters. Programs may be preempted, hence the atomic add. */
#define COUNT(field)                                         \
	do {                                                 \
		struct counters *_c = counters_here();       \
		if (_c)                                      \
			__sync_fetch_and_add(&_c->field, 1); \
	} while (0)

static __always_inline struct counters *counters_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline struct service_stats *stats_of(__u32 service)
{
	return bpf_map_lookup_elem(&service_stats, &service);
}

/* What a service's entry says, read as of one moment. */
struct found {
	__u64 run; /* first slot in the low half, count in the high one */
	__u32 id;  /* 0: the entry that says "this address is a VIP" */
};

/*
 * Looks a service up. Returns whether there is one.
 *
 * A hash map hands the element that an update has replaced to its next update at once, without a
 * grace period (kernel/bpf/hashtab.c, extra_elems and the freelist). A reader that is held up between
 * finding an element and reading it may so read another service's. Whoever finds the same again has
 * read his own.
 */
static __always_inline bool service_find(const struct addr *addr, __u16 port, __u8 proto,
					 struct found *svc)
{
	struct service_key key = { .addr = *addr, .port = port, .proto = proto };
	const struct service *entry;
	int i;

#pragma unroll
	for (i = 0; i < 3; i++) {
		entry = bpf_map_lookup_elem(&services, &key);
		if (!entry)
			return false;
		/* first and count in one load: never half of an old run and half of a new one. */
		svc->run = *(const volatile __u64 *)entry;
		svc->id = *(const volatile __u32 *)&entry->id;
		entry = bpf_map_lookup_elem(&services, &key);
		if (entry && *(const volatile __u64 *)entry == svc->run &&
		    *(const volatile __u32 *)&entry->id == svc->id)
			return true;
	}
	return false;
}

/* Whether some service owns the address, on whatever port. */
static __always_inline bool is_vip(const struct addr *addr)
{
	struct service_key key = { .addr = *addr };

	return bpf_map_lookup_elem(&services, &key) != NULL;
}

/*
 * A flow's own number, spread evenly. A flow whose entry was evicted, or whose first packets came on two
 * CPUs at once, is so given the same backend as before while the service's run is the same.
 */
static __always_inline __u32 tuple_hash(const struct flow_key *key)
{
	const __u32 *w = (const __u32 *)key;
	__u64 h = 0x9e3779b97f4a7c15;
	int i;

#pragma unroll
	for (i = 0; i < (int)sizeof(*key) / 4; i++) {
		h = (h ^ w[i]) * 0xff51afd7ed558ccd; /* the multiplier of MurmurHash3's finalizer */
		h ^= h >> 32;
	}
	return h;
}

/*
 * Chooses a backend of the service: the slot that hash, evenly spread over 32 bits, falls on. Returns
 * the backend and its id, or NULL when the service has none.
 *
 * The loader frees a backend only after no service's entry leads to it, but the run may have been
 * read just before. It then leads to a backend that is no longer this service's, and another slot is
 * tried: of a run that lost one backend, most still hold.
 */
static __always_inline const struct backend *backend_choose(const struct found *svc, __u32 hash,
							    __u32 *id)
{
	__u32 first = svc->run, count = svc->run >> 32, slot, *chosen;
	const struct backend *be;
	int i;

#pragma unroll
	for (i = 0; i < 3; i++) {
		if (!count)
			return NULL;
		slot = first + (((__u64)hash * count) >> 32);
		chosen = bpf_map_lookup_elem(&slots, &slot);
		if (!chosen)
			return NULL;
		*id = *chosen;
		be = bpf_map_lookup_elem(&backends, id);
		if (be && be->state == BACKEND_ACTIVE && be->service == svc->id)
			return be;
		hash = bpf_get_prandom_u32();
	}
	return NULL;
}

#endif
