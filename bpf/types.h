/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every struct that the programs share with Go. bpf2go turns them into Go types from BTF; a test
 * compares both layouts.
 *
 * Addresses have one form, 16 bytes in network order; IPv4 is ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
 * Ports are in HOST byte order everywhere in maps, so that a dump reads "port": 80. Ids count from
 * 1; 0 means "none".
 */
#ifndef SLUICE_TYPES_H
#define SLUICE_TYPES_H

#include <linux/types.h>

/* Aligned, so that a copy is two or four loads and not sixteen. */
struct addr {
	__u8 bytes[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
} __attribute__((aligned(4)));

/* services: what a client dials. */
struct service_key {
	struct addr addr; /* the VIP */
	__u16 port; /* host order; 0 with proto 0: the entry that says "this address is a VIP" */
	__u8 proto; /* IPPROTO_TCP, _UDP or _SCTP; 0: see port */
	__u8 scope; /* 0: for every client of this node */
};

/* How a slot is chosen from a service's run. */
enum algorithm {
	ALGORITHM_RANDOM = 0, /* evenly: at random per socket, by its tuple's hash per flow */
};

struct service {
	__u32 first; /* first slot of the service's run; 8-byte aligned with count, so   */
	__u32 count; /* that one 64-bit load sees an old or a new run, never half of each */
	__u32 id;    /* index into service_stats; 0: the "is a VIP" entry */
	__u32 affinity_timeout; /* seconds a client stays on its backend; 0: no affinity */
	__u8 algorithm;		/* enum algorithm */
	__u8 flags;		/* none yet: 0 */
	__u8 pad[6];
};

enum backend_state {
	BACKEND_FREE = 0,   /* unused, or gone and resting before its id is used again */
	BACKEND_ACTIVE = 1, /* may be chosen */
};

/*
 * backends: where a service's traffic goes. An id belongs to one frontend: an address that serves
 * two frontends has two, so that leaving one service says nothing about the other.
 */
struct backend {
	struct addr addr;
	__u16 port;    /* host order */
	__u8 proto;    /* IPPROTO_* */
	__u8 state;    /* enum backend_state */
	__u32 epoch;   /* raised when what was decided from this entry no longer holds */
	__u32 zone;    /* topology zone number; 0: unknown */
	__u32 service; /* id of the service (port) that the backend serves */
};

/* endpoints: a container wired on this node, by each of its addresses. */
struct endpoint {
	__u32 ifindex; /* the veth's host side */
	__u32 id;      /* index into epochs; the same for all addresses of the container */
	__u8 mac[6];   /* the container's side */
	__u8 pad[2];
};

/* A packet's tuple as it arrives at a hook. */
struct flow_key {
	struct addr saddr;
	struct addr daddr;
	__u16 sport; /* host order */
	__u16 dport; /* host order */
	__u8 proto;  /* IPPROTO_* */
	__u8 pad[3];
};

enum flow_flags {
	FLOW_NAT_SRC = 1 << 0, /* saddr or sport differ from the key's */
	FLOW_NAT_DST = 1 << 1, /* daddr or dport differ from the key's */
	FLOW_REPLY = 1 << 2,   /* this entry is for the answering direction */
	FLOW_FIN = 1 << 3,     /* a FIN went this way */
	FLOW_RST = 1 << 4,     /* a RST went this way */
};

/*
 * flows: the whole decision of a flow's first packet, one entry a direction. An established packet
 * looks up nothing else.
 */
struct flow {
	struct addr saddr; /* what leaves the hook: */
	struct addr daddr;
	__u16 sport;	   /* host order */
	__u16 dport;	   /* host order */
	__u32 in_ifindex;  /* the veth this direction comes in by; 0: from the node's own stack */
	__u32 out_ifindex; /* the local container's veth to deliver to; 0: the node's stack */
	__u8 in_mac[6];	   /* source MAC that in_ifindex's container must use */
	__u8 out_mac[6];   /* destination MAC for out_ifindex */
	__u8 flags;	   /* enum flow_flags */
	__u8 pad[3];
	__u32 service;	    /* services' id; 0: the flow goes through no VIP */
	__u32 backend;	    /* index into backends; 0: none */
	__u32 src_endpoint; /* ids of the containers at both ends; 0: not on this node */
	__u32 dst_endpoint;
	/*
	 * Sum of the epochs of backend, src_endpoint and dst_endpoint when this was decided. Each
	 * only ever rises, so the sums are equal exactly when none has.
	 */
	__u32 epoch;
	__u64 seen; /* bpf_ktime_get(_coarse)_ns of a recent packet, at most a second stale */
};

/* sock_origin, sock_choices: one peer of one socket. */
struct sock_key {
	__u64 cookie;	  /* bpf_get_socket_cookie */
	struct addr addr; /* the peer */
	__u16 port;	  /* host order */
	__u8 proto;	  /* IPPROTO_* */
	__u8 pad[5];
};

/* sock_origin: the VIP that a socket's application knows its peer by. */
struct sock_origin {
	struct addr addr; /* the VIP */
	__u16 port;	  /* host order */
	__u8 pad[2];
	__u32 service; /* services' id */
};

/* sock_choices: the backend that a socket's datagrams to one VIP go to. */
struct sock_choice {
	__u32 backend; /* index into backends */
	__u32 epoch;   /* that backend's epoch when it was chosen */
};

/* frags: ports of a fragmented datagram, which only its first fragment carries. */
struct frag_key {
	struct addr saddr;
	struct addr daddr;
	__u32 id;      /* IPv4: 16 bits of identification, IPv6: 32; as on the wire */
	__u32 ifindex; /* where it was seen: no container may speak for another's datagrams */
	__u8 proto;    /* IPPROTO_* */
	__u8 pad[3];
};

struct frag {
	__u16 sport; /* host order */
	__u16 dport; /* host order */
};

/* service_stats: per CPU, by service id. */
struct service_stats {
	__u64 connections; /* flows and sockets that were given a backend */
	__u64 refused;	   /* the same, but there was no backend */
	__u64 packets;	   /* both directions, as seen by tc */
	__u64 bytes;	   /* the same packets' length, link header included */
};

/* counters: per CPU, one entry. Counts packets unless a comment says otherwise. */
struct counters {
	/* Decisions */
	__u64 flows_created;   /* flows */
	__u64 flows_renewed;   /* flows decided anew because an epoch was raised */
	__u64 ports_rewritten; /* flows that got another source port, to stay apart from another */
	__u64 sock_translated; /* connects and unconnected sends given a backend by a socket hook */
	__u64 sock_refused;    /* the same, refused: the VIP had no backend */
	__u64 arp_replies; /* ARP requests and neighbour solicitations answered for the gateway */
	__u64 refused;	   /* packets answered with TCP RST or ICMP unreachable */
	__u64 icmp_translated; /* ICMP errors about a translated packet, translated back */
	/* Drops, by reason */
	__u64 drop_malformed;	/* truncated, or a header that lies about its length */
	__u64 drop_spoofed;	/* not the container's own address or MAC */
	__u64 drop_link_local;	/* link-local and multicast chatter that has no one to hear it */
	__u64 drop_fragment;	/* a later fragment whose first was not seen */
	__u64 drop_ports_spent; /* no free source port was found for a colliding flow */
	__u64 drop_flows_full;	/* flows took no new entry */
	__u64 drop_extensions;	/* more IPv6 extension headers than are followed */
	__u64 drop_rewrite;	/* the kernel refused to change or answer the packet: no memory */
	__u64 drop_refused; /* refused, and of a kind that gets no answer: reset, error, fragment */
};

#endif
