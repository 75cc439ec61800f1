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

/*
 * How a service's run is filled, and so how a slot is chosen from it: at random per socket, by its
 * tuple's hash per flow. A backend of twice another's weight has twice as many slots.
 */
enum algorithm {
	ALGORITHM_RANDOM = 0, /* the run lists the backends */
	ALGORITHM_MAGLEV = 1, /* the run is a Maglev table (Eisenbud et al., NSDI 2016, 3.4) */
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
	BACKEND_FREE = 0,     /* unused, or gone and resting before its id is used again */
	BACKEND_ACTIVE = 1,   /* may be chosen */
	BACKEND_DRAINING = 2, /* in no run: keeps the flows and sockets that it has */
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
	__u32 service; /* id of the service (port) that the backend serves */
	__u32 used; /* 1: a socket hook chose it since the entry was filled; see the sweep of sockets */
};

/* affinity: whose flows stay with a backend. */
struct affinity_key {
	struct addr
		client; /* address; with NETNS the cookie of the network namespace, its bytes as in
			       memory, and then 0 */
	__u32 service;	/* services' id */
	__u8 kind;	/* enum affinity_kind */
	__u8 pad[3];
};

enum affinity_kind {
	AFFINITY_ADDRESS = 0, /* of packets */
	AFFINITY_NETNS = 1,   /* of sockets, which have no address yet */
};

struct affinity {
	__u64 seen;    /* bpf_ktime_get_ns when the client was last given a backend */
	__u32 backend; /* index into backends */
	__u32 epoch;   /* that backend's epoch when it was chosen */
};

/*
 * namespaces: by the cookie of a network namespace, what all of whose packets pass from_pod. The
 * datagrams of its unconnected sockets, and what its sockets send from ports that they are bound to,
 * are left to from_pod, which tells two VIPs of one backend apart.
 */
struct namespace
{
	__u32 endpoint; /* id of the container; see endpoints */
};

/* endpoints: a container wired on this node, by each of its addresses. */
struct endpoint {
	__u32 ifindex; /* the veth's host side */
	__u32 id;      /* index into epochs; the same for all addresses of the container */
	__u8 mac[6];   /* the container's side */
	__u8 flags;    /* enum endpoint_flags */
	__u8 pad;
	__u32 identity; /* of this address: index into subjects */
	__u32 network;	/* number of the CNI network; different ones are closed to each other */
};

enum endpoint_flags {
	ENDPOINT_WATCHED = 1 << 0, /* report the verdict on each of its new flows */
};

/*
 * Identities that always are. An identity is what policies can tell apart; see subjects. The others'
 * numbers begin after these.
 */
enum identity {
	IDENTITY_NONE = 0,   /* in a policy_key: any peer */
	IDENTITY_WORLD = 1,  /* an address that is in neither endpoints nor prefixes */
	IDENTITY_NODE = 2,   /* the node itself: always allowed, both ways */
	IDENTITY_CLOSED = 3, /* a container that no identity could be given: nothing passes */
	IDENTITY_FIRST = 4,
};

/* prefixes: the identity of addresses that no local container has. Longest match. */
struct prefix_key {
	__u32 length;	  /* bits of addr that count; of IPv4 96 more than one would write */
	struct addr addr; /* the rest is 0 */
};

struct prefix {
	__u32 identity;
};

/*
 * subjects: by identity, what peers may do that have no entry in policy. Each field is an index into
 * rulesets and is read and written by itself. RULESET_OPEN: no policy is about this identity in this
 * direction, and none of its entries in policy counts; RULESET_CLOSED: the same, but nothing passes.
 */
struct subject {
	__u32 ingress;
	__u32 egress;
};

enum ruleset_id {
	RULESET_OPEN = 0,
	RULESET_CLOSED = 1, /* what is asked of the node did not fit into its maps */
	RULESET_FIRST = 2,
};

enum direction {
	DIRECTION_INGRESS = 0,
	DIRECTION_EGRESS = 1,
};

/* policy: what a subject may exchange with one peer. */
struct policy_key {
	__u32 subject;	 /* identity */
	__u32 peer;	 /* identity */
	__u32 direction; /* enum direction, as the subject sees the flow */
};

struct policy {
	__u32 ruleset; /* index into rulesets */
};

/*
 * rulesets: what may pass, by protocol. Never changed while an entry of subjects or policy leads to
 * it. Each field is a reference: with LEAF an index into outcomes, without an index into port_nodes.
 */
struct ruleset {
	__u32 tcp;
	__u32 udp;
	__u32 sctp;
	__u32 other; /* protocols without ports; always a LEAF */
};

#define LEAF 0x80000000u

/*
 * port_nodes: one of two levels of a tree by destination port: 256 references (see ruleset), the first
 * level's by the high byte, the second's by the low byte. The second's are all LEAFs.
 */
struct port_node {
	__u32 refs[256];
};

enum outcome_flags {
	OUTCOME_ALLOW = 1 << 0,
	OUTCOME_AUDIT = 1 << 1, /* with ALLOW: only a policy in audit mode is against it */
	OUTCOME_JOIN = 1 << 2,	/* with ALLOW: also from or to another network */
};

/* outcomes: what becomes of a flow, and by which policy. */
struct outcome {
	__u32 policy; /* index into policy_stats; 0: no policy in particular */
	__u8 flags;   /* enum outcome_flags */
	__u8 pad[3];
};

/* policy_stats: per CPU, by policy. Counts new flows, and single packets of protocols without flows. */
struct policy_stats {
	__u64 allowed[2]; /* by enum direction */
	__u64 denied[2];
	__u64 audited[2]; /* allowed in audit mode only */
};

/* numbers: what the agent must find again after a restart. Programs do not read it. */
struct number_key {
	__u8 digest[16]; /* the first half of the SHA-256 of the kind, a NUL and the name */
};

enum number_kind {
	NUMBER_IDENTITY = 1,
	NUMBER_NETWORK = 2,
	NUMBER_POLICY = 3,
};

struct number {
	__u32 number;
	__u32 kind; /* enum number_kind */
};

/* settings: one entry. Written by the loader at run time. */
struct settings {
	__u32 sample;	  /* report the verdict on one of so many new flows; 0: on none */
	__u32 event_rate; /* events a second and CPU that are reported; the others are counted. 0: none
			     is reported, nor counted */
	__u8 audit;	  /* 1: what policies or closed networks deny passes, and is reported */
	__u8 pad[3];
	__u32 generation; /* of the verdicts: raised before each step of a change of them. Wraps */
};

enum event_type {
	EVENT_DROP = 1,	   /* a packet was dropped; reason says why */
	EVENT_VERDICT = 2, /* a new flow was allowed: a sample, or of a watched container */
	EVENT_AUDIT =
		3, /* allowed, but would have been dropped if not for audit mode; see reason */
};

/* events: what is reported, one entry each. */
struct event {
	__u64 time;	   /* bpf_ktime_get_ns: CLOCK_MONOTONIC, in ns */
	struct addr saddr; /* the packet's, after the translation of a VIP */
	struct addr daddr;
	__u16 sport;	/* host order; of ICMP echo the identifier */
	__u16 dport;	/* host order */
	__u8 proto;	/* IPPROTO_*; 0: no IP packet */
	__u8 type;	/* enum event_type */
	__u8 direction; /* enum direction: whose policy it was; of other reasons EGRESS at from_pod */
	__u8 pad;
	__u32 reason;  /* place of the reason's counter among the 64-bit words of struct counters */
	__u32 policy;  /* index into policy_stats; 0: none */
	__u32 service; /* by whose VIP the flow goes; 0: none */
	__u32 src_identity;
	__u32 dst_identity;
	__u32 src_endpoint; /* 0: not on this node */
	__u32 dst_endpoint;
	__u32 ifindex; /* of the veth where it was seen */
	__u32 lost; /* events on this CPU since the last one that the rate or a full buffer ate */
};

/* event_limits: per CPU, one entry: a token bucket. */
struct event_limit {
	__u64 refilled; /* when, ns */
	__u32 tokens;	/* events that may still be reported */
	__u32 lost;	/* see struct event */
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
	FLOW_FIN = 1 << 3,     /* a FIN, SHUTDOWN ACK or SHUTDOWN COMPLETE went this way */
	FLOW_RST = 1 << 4,     /* a RST or ABORT went this way */
	FLOW_NODE = 1 << 5,    /* the node's own stack began the flow: no policy is asked */
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
	/*
	 * CLOCK_MONOTONIC, in ns, of a recent packet this way, at most a second stale; even. In the
	 * answering half odd: none came yet, and this is a second before the first that asked.
	 */
	__u64 seen;
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

/*
 * sock_peers: the first peer that a socket's application knows by a VIP. It is at the place that the low
 * bits of the socket's cookie say.
 */
struct sock_peer {
	__u64 owner;	  /* the socket's cookie; 0: the rest means nothing, but for claims */
	struct addr addr; /* the peer: the backend */
	__u16 port;	  /* host order; 0: the socket has no such peer */
	__u8 proto;	  /* IPPROTO_* */
	__u8 pad;
	struct sock_origin origin;
	__u8 rest[4]; /* a cache line is one socket's */
	__u64 claims; /* sum of the cookies of those who have the place, or try to; 0: none */
};

/* sock_choices: the backend that a socket's datagrams to one VIP go to. */
struct sock_choice {
	__u32 backend; /* index into backends */
	__u32 epoch;   /* that backend's epoch when it was chosen */
};

/* frags: what of a fragmented datagram only its first fragment tells. */
struct frag_key {
	struct addr saddr;
	struct addr daddr;
	__u32 id;      /* IPv4: 16 bits of identification, IPv6: 32; as on the wire */
	__u32 ifindex; /* where it was seen: no container may speak for another's datagrams */
	/*
	 * IPv4: IPPROTO_*, which is part of a datagram's name (RFC 791, 3.2). IPv6: 0, for only the first
	 * fragment's word counts there (RFC 8200, 4.5), and it may lie behind more extension headers.
	 */
	__u8 proto;
	__u8 pad[3];
};

struct frag {
	__u16 sport; /* host order */
	__u16 dport; /* host order */
	__u8 proto;  /* IPPROTO_* */
	__u8 pad[3];
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
	__u64 drop_ingress; /* denied by policy: what the receiver may receive */
	__u64 drop_egress;  /* denied by policy: what the sender may send */
	__u64 drop_network; /* from one closed network to another */
	__u64 drop_closed;  /* the policies of sender or receiver did not fit into the maps */
	__u64 drop_vlan;    /* a VLAN tag within a VLAN tag, or one that means "no VLAN" */
	__u64 drop_source_route; /* IPv4 source route option, IPv6 routing header with segments left */
	__u64 drop_router;	 /* router advertisement or redirect sent by a container */
	__u64 drop_dhcp;	 /* DHCP server's message sent by a container */
	__u64 drop_arp;		 /* ARP or neighbour message that claims another's address or MAC */
	/* Decisions again: fields are only ever added at the end */
	__u64 audited;	    /* new flows and single packets that passed only for audit mode */
	__u64 events_lost;  /* events that the rate or a full ring buffer ate */
	__u64 echo_replies; /* echo requests to a VIP that were answered */
};

#endif
