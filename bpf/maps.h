/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map. All are pinned by name in the agent's bpffs directory. The sizes here are the
 * defaults; the loader scales them.
 *
 * BPF_F_RDONLY_PROG keeps programs from writing what is the loader's. Maps that the loader writes as
 * memory go without: the kernel refuses a writable mapping of such a map (EACCES).
 */
#ifndef SLUICE_MAPS_H
#define SLUICE_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

/* Written by the loader, read for each new flow and each connect. Lives as long as the service. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

/*
 * Backend ids. A service owns a contiguous run; a change writes a fresh run and then switches the
 * service's entry to it. Written by the loader as memory, read for each new flow.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} slots SEC(".maps");

/*
 * By backend id. Written by the loader as memory, read for each new flow; its epoch is read for
 * each packet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* By container address. Written by the loader, read for each new flow. Lives as long as the wire. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct addr);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/*
 * By endpoint id: raised when what was decided about that container no longer holds. Written by
 * the loader as memory, read for each packet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} epochs SEC(".maps");

/* Written and read by tc programs. The least recently used entries make room for new ones. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 524288);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/*
 * Written by connect and sendmsg; read by recvmsg, getpeername, tc for a flow's first packet, and the
 * loader as memory. Lives as long as the socket; see origin.h.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct sock_peer);
} sock_peers SEC(".maps");

/* The same for what finds no place in sock_peers. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct sock_key);
	__type(value, struct sock_origin);
} sock_origin SEC(".maps");

/* Written and read by connect, and by tc for a new flow, where a service wants affinity. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinity SEC(".maps");

/* By cookie. Written by the loader, read by connect and sendmsg. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u64);
	__type(value, struct namespace);
} namespaces SEC(".maps");

/* Written and read by sendmsg: keeps an unconnected socket's datagrams to one VIP on one backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct sock_key);
	__type(value, struct sock_choice);
} sock_choices SEC(".maps");

/* Written for a first fragment, read for later ones. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct frag_key);
	__type(value, struct frag);
} frags SEC(".maps");

/* By service id. Written by all programs, read by the loader for metrics. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct service_stats);
} service_stats SEC(".maps");

/* One entry. Written by all programs, read by the loader for metrics. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/*
 * The identity of addresses outside of this node's containers: blocks that policies name, the node's own
 * addresses, containers of other nodes. Written by the loader, read for new flows of subjects that have
 * policies.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct prefix_key);
	__type(value, struct prefix);
} prefixes SEC(".maps");

/* By identity. Written by the loader as memory, read for each new flow. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct subject);
} subjects SEC(".maps");

/* Written by the loader, read for each new flow of a subject that has policies. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct policy_key);
	__type(value, struct policy);
} policy SEC(".maps");

/* By index; equal ones are there once. Written by the loader as memory, read where policy leads. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct ruleset);
} rulesets SEC(".maps");

/* As rulesets. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct port_node);
} port_nodes SEC(".maps");

/* As rulesets. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct outcome);
} outcomes SEC(".maps");

/* By policy. Written by tc programs, read by the loader for metrics. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 16384);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct policy_stats);
} policy_stats SEC(".maps");

/*
 * The numbers of identities, networks and policies, so that they survive the agent. Written and read by
 * the loader.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct number_key);
	__type(value, struct number);
} numbers SEC(".maps");

/* One entry. Written by the loader as memory, read by tc programs off the hot path. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* Written by tc programs, read by the agent. Linux 5.8. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1048576); /* bytes */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events SEC(".maps");

/* One entry. Written and read by tc programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct event_limit);
} event_limits SEC(".maps");

#endif
