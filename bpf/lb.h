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
#define COUNT(field)                                                    \
	do {                                                            \
		struct counters *_c = counters_here();                  \
		if (_c)                                                 \
			__sync_fetch_and_add(&_c->field, 1);            \
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

static __always_inline const struct service *service_find(const struct addr *addr, __u16 port,
							   __u8 proto)
{
	struct service_key key = { .addr = *addr, .port = port, .proto = proto };

	return bpf_map_lookup_elem(&services, &key);
}

/* Whether some service owns the address, on whatever port. */
static __always_inline bool is_vip(const struct addr *addr)
{
	return service_find(addr, 0, 0) != NULL;
}

/*
 * Chooses a backend of the service by its algorithm. Returns the backend and its id, or NULL when
 * the service has none.
 *
 * The loader frees a backend only after no service's entry leads to it, but a reader may still hold
 * the run it loaded just before. It then meets a backend that is no longer this service's, and
 * looks again.
 */
static __always_inline const struct backend *backend_choose(const struct service *svc, __u32 *id)
{
	const struct backend *be;
	__u32 slot, *chosen;
	__u64 run;
	int i;

#pragma unroll
	for (i = 0; i < 3; i++) {
		/* first and count in one load: never half of an old run and half of a new one. */
		run = *(const volatile __u64 *)svc;
		slot = (__u32)run + (((__u64)bpf_get_prandom_u32() * (run >> 32)) >> 32);
		if (!(run >> 32))
			return NULL;
		chosen = bpf_map_lookup_elem(&slots, &slot);
		if (!chosen)
			return NULL;
		*id = *chosen;
		be = bpf_map_lookup_elem(&backends, id);
		if (be && be->state == BACKEND_ACTIVE && be->service == svc->id)
			return be;
	}
	return NULL;
}

#endif
