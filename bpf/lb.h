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
	__u64 run;		/* first slot in the low half, count in the high one */
	__u32 id;		/* 0: the entry that says "this address is a VIP" */
	__u32 affinity_timeout; /* seconds; 0: no affinity */
	__u8 algorithm;		/* enum algorithm */
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
	const volatile __u64 *entry; /* first and count; id and affinity_timeout; algorithm */
	__u64 run, id, how;
	int i;

	_Static_assert(__builtin_offsetof(struct service, id) == 8 &&
			       __builtin_offsetof(struct service, affinity_timeout) == 12 &&
			       __builtin_offsetof(struct service, algorithm) == 16,
		       "service_find reads struct service by words");
#pragma unroll
	for (i = 0; i < 3; i++) {
		entry = bpf_map_lookup_elem(&services, &key);
		if (!entry)
			return false;
		/* first and count in one load: never half of an old run and half of a new one. */
		run = entry[0];
		id = entry[1];
		how = entry[2];
		entry = bpf_map_lookup_elem(&services, &key);
		if (entry && entry[0] == run && entry[1] == id && entry[2] == how) {
			svc->run = run;
			svc->id = id;
			svc->affinity_timeout = id >> 32;
			svc->algorithm = how;
			return true;
		}
	}
	return false;
}

/* Whether some service owns the address, on whatever port. */
static __always_inline bool is_vip(const struct addr *addr)
{
	struct service_key key = { .addr = *addr };

	return bpf_map_lookup_elem(&services, &key) != NULL;
}

/* A number of its own for each key of so many words, spread evenly. */
static __always_inline __u32 hash_words(const void *key, const int words, __u64 seed)
{
	__u64 h = 0x9e3779b97f4a7c15 ^ seed;
	const __u32 *w = key;
	int i;

#pragma unroll
	for (i = 0; i < words; i++) {
		h = (h ^ w[i]) * 0xff51afd7ed558ccd; /* the multiplier of MurmurHash3's finalizer */
		h ^= h >> 32;
	}
	return h;
}

/*
 * A flow's own number. A flow whose entry was evicted, or whose first packets came on two CPUs at once,
 * is so given the same backend as before while the service's run is the same.
 */
static __always_inline __u32 tuple_hash(const struct flow_key *key)
{
	return hash_words(key, sizeof(*key) / 4, 0);
}

/* Where to look when the slot that hash fell on leads nowhere. New algorithms slot in here. */
static __always_inline __u32 hash_next(const struct found *svc, __u32 hash)
{
	switch (svc->algorithm) {
	case ALGORITHM_MAGLEV:
		/* The same on every CPU and node, or what one of them chose would be chance. */
		return hash_words(&hash, 1, 1);
	default:
		return bpf_get_prandom_u32();
	}
}

/* Whether a backend serves those that it has, if no new ones. */
static __always_inline bool backend_keeps(const struct backend *be)
{
	return be->state == BACKEND_ACTIVE || be->state == BACKEND_DRAINING;
}

static __always_inline bool has_backends(const struct found *svc)
{
	return svc->run >> 32 != 0;
}

/*
 * Says that sockets may be connected to the backend: when it goes, the loader looks for them. The
 * loader reads this after it has made the entry free and waited for every program that may have seen
 * it in service. Written once: what many CPUs read is not to be written by each of them.
 */
static __always_inline void mark_used(const struct backend *be)
{
	if (!be->used)
		*(volatile __u32 *)&be->used = 1;
}

/*
 * Chooses a backend of the service: the slot that hash, evenly spread over 32 bits, falls on. Returns
 * the backend and its id, or NULL when the service has none.
 *
 * The loader frees a backend only after no service's entry leads to it, but the run may have been
 * read just before. It then leads to a backend that is no longer this service's, or takes no new flows,
 * and another slot is tried: of a run that lost one backend, most still hold.
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
		hash = hash_next(svc, hash);
	}
	return NULL;
}

/*
 * Gives a new flow or socket of the client a backend: where the service has affinity the one that the
 * client had before, else the one that hash falls on. Returns the backend and its id, or NULL when the
 * service has none. who->client and who->kind say who asks; the rest must be 0.
 *
 * A client that has none yet is given one by its own hash, not by its flow's: two of its flows that begin
 * on two CPUs at once choose the same, and so does one whose entry was evicted. The time of its last
 * entry goes into that hash, so that after the timeout chance decides again.
 */
static __always_inline const struct backend *
backend_for(const struct found *svc, struct affinity_key *who, __u32 hash, __u32 *id)
{
	struct affinity *known, fresh = {};
	const struct backend *be;
	__u64 seen = 0;

	if (!svc->affinity_timeout)
		return backend_choose(svc, hash, id);
	fresh.seen = bpf_ktime_get_ns();
	who->service = svc->id;
	known = bpf_map_lookup_elem(&affinity, who);
	if (known) {
		seen = known->seen;
		*id = known->backend;
		be = bpf_map_lookup_elem(&backends, id);
		if (fresh.seen < seen + svc->affinity_timeout * 1000000000ULL && be &&
		    be->state == BACKEND_ACTIVE && be->service == svc->id &&
		    be->epoch == known->epoch) {
			known->seen = fresh.seen;
			return be;
		}
	}
	be = backend_choose(svc, hash_words(who, sizeof(*who) / 4, seen), id);
	if (!be)
		return NULL;
	fresh.backend = *id;
	fresh.epoch = be->epoch;
	bpf_map_update_elem(&affinity, who, &fresh, BPF_ANY);
	return be;
}

#endif
