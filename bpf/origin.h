/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The VIP that a socket's application knows a peer by. Written by the socket hooks, read by them and by
 * tc.
 *
 * The first such peer of a socket has a place in an array, which the socket's cookie leads to: cookies
 * are handed out in turn, so a new socket's place is mostly free and beside the last one's in memory.
 * A socket keeps its place until it is closed. Whatever finds no place is an entry of an LRU hash:
 * further peers of the socket, sockets whose place another has had since so many cookies ago, and those
 * that would not give it back, or of which the kernel does not tell whether they would (see config).
 * There a new entry costs several times as much: its bucket and the element that it evicts are cold.
 */
#ifndef SLUICE_ORIGIN_H
#define SLUICE_ORIGIN_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "maps.h"
#include "parse.h"
#include "types.h"

static __always_inline struct sock_peer *place_of(__u64 cookie)
{
	__u32 i = cookie & (cfg.sock_peers - 1);

	if (!cfg.kernel_ctx)
		return NULL;
	return bpf_map_lookup_elem(&sock_peers, &i);
}

static __always_inline bool place_is_own(const struct sock_peer *place, __u64 cookie)
{
	return *(const volatile __u64 *)&place->owner == cookie;
}

/* The socket, whose the place is, has no peer there. */
static __always_inline void place_empty(struct sock_peer *place)
{
	*(volatile __u16 *)&place->port = 0;
}

/*
 * Makes the place the socket's. Whoever finds nothing but its own cookie in claims after adding it is
 * alone: of two at once one or none is. (Linux before 5.12 has no atomic operation that returns
 * something, and refuses a program that has one even where it is dead.) What is in the place has no
 * meaning to another than its owner, who alone writes it: a place is given back as it is.
 */
static __always_inline bool place_claim(struct sock_peer *place, __u64 cookie)
{
	const volatile __u64 *claims = &place->claims;

	if (!place_is_own(place, 0) || *claims)
		return place_is_own(place, cookie);
	__sync_fetch_and_add(&place->claims, cookie);
	if (*claims == cookie) {
		place_empty(place);
		*(volatile __u64 *)&place->owner = cookie;
		return true;
	}
	__sync_fetch_and_add(&place->claims, -cookie);
	return false;
}

/* Whether the place, which is the socket's, has this peer. Never when it is not filled: that is port 0. */
static __always_inline bool place_has(const struct sock_peer *place, const struct sock_key *key)
{
	return *(const volatile __u16 *)&place->port == key->port &&
	       addr_equal(&place->addr, &key->addr);
}

static __always_inline bool origin_equal(const struct sock_origin *a, const struct sock_origin *b)
{
	return a->service == b->service && a->port == b->port && addr_equal(&a->addr, &b->addr);
}

/* Returns by which VIP the socket knows the peer; NULL: by none. */
static __always_inline struct sock_origin *origin_of(const struct sock_key *key)
{
	struct sock_peer *place = place_of(key->cookie);

	if (place && place_is_own(place, key->cookie) && place_has(place, key))
		return &place->origin;
	return bpf_map_lookup_elem(&sock_origin, key);
}

/* Enters into the socket's place that it knows the peer by this VIP. Returns false when it has none. */
static __always_inline bool place_put(const struct sock_key *key, const struct sock_origin *origin)
{
	struct sock_peer *place = place_of(key->cookie);

	if (!place || !place_claim(place, key->cookie))
		return false;
	if (place_has(place, key)) {
		/* Mostly a socket that is connected again is so to the same. */
		if (!origin_equal(&place->origin, origin))
			place->origin = *origin;
		return true;
	}
	if (place->port)
		return false; /* its first peer stays */
	place->addr = key->addr;
	place->proto = key->proto;
	place->origin = *origin;
	*(volatile __u16 *)&place->port = key->port;
	return true;
}

/* Remembers that the socket knows the peer by this VIP. ends: origin_release will be called for it. */
static __always_inline void origin_put(const struct sock_key *key, const struct sock_origin *origin,
				       bool ends)
{
	struct sock_origin *known;

	if (ends && place_put(key, origin))
		return;
	known = bpf_map_lookup_elem(&sock_origin, key);
	if (known && origin_equal(known, origin))
		return;
	bpf_map_update_elem(&sock_origin, key, origin, BPF_ANY);
	/*
	 * A new LRU entry that nobody has looked up is the first to go when room is short
	 * (kernel/bpf/bpf_lru_list.c: the reference bit is set by lookups only).
	 */
	bpf_map_lookup_elem(&sock_origin, key);
}

/* The socket calls the peer by its own name now, whatever VIP it knew it by before. */
static __always_inline void origin_forget(const struct sock_key *key)
{
	struct sock_peer *place = place_of(key->cookie);

	if (place && place_is_own(place, key->cookie) && place_has(place, key))
		place_empty(place);
	/* Mostly there is none: a look-up takes no lock, a deletion does. */
	if (bpf_map_lookup_elem(&sock_origin, key))
		bpf_map_delete_elem(&sock_origin, key);
}

/* The socket is closed: its place is free. What the LRU hash has of it will be evicted. */
static __always_inline void origin_release(__u64 cookie)
{
	struct sock_peer *place = place_of(cookie);

	if (!place || !place_is_own(place, cookie))
		return;
	*(volatile __u64 *)&place->owner = 0;
	__sync_fetch_and_add(&place->claims, -cookie);
}

#endif
