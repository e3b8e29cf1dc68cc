/*
 * The maps of the policy, and what their keys and values look like: the same as in src/datapath/bpf/layout.ts.
 *
 * A change set is visible whole or not at all. The agent writes into an entry what it says before and after a revision, and
 * raises the revision last, by one word (`current`): a packet reads that word once and sees every map as of then.
 */
#ifndef MESH_POLICY_H
#define MESH_POLICY_H

#include "maps.h"

#include <stdbool.h>
#include <stddef.h>

enum direction { IN, OUT };

struct versioned {
  /* 0 for nothing. */
  __u32 before;
  __u32 after;
  /* The first revision of `after`. */
  __u64 since;
};

/* Flags of the configuration. */
enum {
  AUDIT = 1 << 0,
  WATCH_ALLOWED = 1 << 1,
  TELL_NAMES = 1 << 2,
  OVERLAY_OPEN = 1 << 3,
  /* Of these there are some: without, there is no need to look; each for IN, and one bit higher for OUT. */
  HAS_FAILSAFE = 1 << 4,
  HAS_RANGES = 1 << 6,
  HAS_STORES = 1 << 8,
  HAS_PREFIXES = 1 << 9,
};

/* One of several that take turns, so that the one in use is never written to. */
struct config {
  __u32 flags;
  /* Verdicts that are told of, a tick and for each kind. */
  __u32 rate;
  /* Identity of unknown addresses: IPv4, IPv6. */
  __u32 world[2];
  /* Class of the identities that have none, by direction. */
  __u32 others[2];
  __be16 tunnel_port;
  /* What our mark on outer packets of known nodes is. */
  __u16 arrived;
  __u32 unused;
};
#define CONFIGS 8

struct address6 {
  __be32 word[4];
};

struct prefix4 {
  __u32 bits;
  __be32 address;
};

struct prefix6 {
  __u32 bits;
  struct address6 address;
};

struct member {
  __u32 identity;
  __u32 direction;
};

/* A row of a class, without ranges. */
enum row_kind { PORT, PROTOCOL, ALL };
struct row_key {
  __u32 class;
  /* Destination port or ICMP type; 0 for other kinds. */
  __u16 port;
  __u8 protocol;
  /* direction | row_kind << 1 */
  __u8 kind;
};

/* A part of a range of ports. Bits: those of the whole fields, then of the port. */
struct range_key {
  __u32 bits;
  __be32 class;
  __u8 direction;
  __u8 protocol;
  __be16 port;
};
#define RANGE_BITS 64

/* Codes of a row. */
enum code { NONE, ALLOW, DENY_RULE, NO_RULE, AUDITED };
struct row {
  struct versioned code;
  __u64 packets;
  __u64 bytes;
  /* Of a range: first and last port. */
  __u16 first;
  __u16 last;
  __u32 unused;
};

/* What passes whatever the policy says, and the nodes of the overlay. */
enum pass_kind { FAILSAFE_IN, FAILSAFE_OUT, STORE, NODE };
struct pass_key {
  struct address6 address;
  __be16 port;
  __u8 protocol;
  __u8 kind;
};

/* A connection on the wire: both directions share one entry, since `remote` is the far end for each. */
struct tuple4 {
  __be32 remote;
  __be32 local;
  __be16 remote_port;
  __be16 local_port;
  __u8 protocol;
  __u8 unused[3];
};

struct tuple6 {
  struct address6 remote;
  struct address6 local;
  __be16 remote_port;
  __be16 local_port;
  __u8 protocol;
  __u8 unused[3];
};

/* Time is counted in 2^30 ns, a little more than a second: a division would cost every packet. */
#define TICK_BITS 30

/* State of a connection. */
enum {
  REPLIED = 1 << 0,
  /* Allowed once, and now no longer. */
  DENIED = 1 << 1,
  /* FIN by direction: IN, and one bit higher OUT. */
  FINISHED = 1 << 2,
  RESET = 1 << 4,
};
struct connection {
  /* What it was judged by. */
  __u64 revision;
  /* In ticks since boot. */
  __u32 seen;
  /* That the overlay brought with it; 0: the address counts. */
  __u32 identity;
  /* Destination port or ICMP type that the policy is asked for. */
  __u16 port;
  __u8 origin;
  __u8 state;
  __u32 unused;
};

/* An allowed datagram of which the first fragment has left. */
struct fragment_key {
  struct address6 remote;
  struct address6 local;
  __u32 id;
  __u32 protocol;
};

struct counter {
  __u64 packets;
  __u64 bytes;
};

/* What becomes of packets: the order of VERDICT_KINDS in src/datapath/verdict-log.ts, twice, for each direction. */
enum kind { K_NO_RULE, K_DENY_RULE, K_WITHDRAWN, K_STRANGER, K_SPOOFED, K_NO_BACKEND, K_AUDITED, K_ALLOWED, K_MALFORMED, KINDS };
#define POINT(kind, direction) ((kind)*2 + (direction))
/* Behind the counters of the kinds: what was told of, by direction. */
#define TOLD POINT(KINDS, IN)
#define COUNTERS (KINDS * 2 + 2)

/* How many were told of in this tick. */
struct window {
  __u32 tick;
  __u32 told;
};

enum part { WHOLE, FIRST, LATER };

enum role {
  /* May be the first of a connection: SYN, INIT, a request, anything without such a notion. */
  OPENS,
  /* Belongs to a connection that is older than this packet. */
  RUNS,
  /* An error about another packet. */
  ERROR,
  /* Stands alone: other kinds of ICMP. */
  ALONE,
};

struct flow {
  struct address6 remote;
  struct address6 local;
  __be16 remote_port;
  __be16 local_port;
  __u8 protocol;
  __u8 part;
  __u8 role;
  /* Of TCP. */
  __u8 flags;
  /* Destination port or ICMP type; and source port. */
  __u16 port;
  __u16 source_port;
  __u8 icmp_code;
  __u8 unused[3];
  /* Of a fragment. */
  __u32 id;
  /* Where the transport header begins, from the network header. */
  __u32 transport;
};

struct question {
  __u32 identity;
  __u16 port;
  /* By which policy it is judged: not by that of the packet's direction, when it is an answer. */
  __u8 direction;
  __u8 protocol;
  /* A later fragment: only rows without ports can say anything. */
  bool portless;
};

union tuple {
  struct tuple4 v4;
  struct tuple6 v6;
};

struct flows {
  struct flow packet;
  /* That an ICMP error is about. */
  struct flow quoted;
  struct question question;
  union tuple tuple;
  /* The packet is an error about a connection that is known. */
  bool related;
  /* Where the connection was found; and whether an entry that is over lies in its place among the lasting ones. */
  bool opening;
  bool replaces;
};

enum event_kind { EVENT_VERDICT, EVENT_QUERY, EVENT_ANSWER };
struct event {
  __u8 kind;
  /* Of a verdict: `enum kind`. */
  __u8 verdict;
  __u8 direction;
  __u8 unused;
  __u32 device;
  /* Bytes of the packet that follow. */
  __u32 length;
};
#define VERDICT_BYTES 128
#define NAME_BYTES 1536
#define NAME_RATE 2000

MAP(current, BPF_MAP_TYPE_ARRAY, __u32, __u64, 1, 0);
MAP(configs, BPF_MAP_TYPE_ARRAY, __u32, struct config, CONFIGS, 0);
/* Where no number is given the agent makes the map as large as it needs it. */
MAP(hosts4, BPF_MAP_TYPE_HASH, __be32, struct versioned, 0, BPF_F_NO_PREALLOC);
MAP(hosts6, BPF_MAP_TYPE_HASH, struct address6, struct versioned, 0, BPF_F_NO_PREALLOC);
MAP(prefixes4, BPF_MAP_TYPE_LPM_TRIE, struct prefix4, struct versioned, 0, BPF_F_NO_PREALLOC);
MAP(prefixes6, BPF_MAP_TYPE_LPM_TRIE, struct prefix6, struct versioned, 0, BPF_F_NO_PREALLOC);
MAP(classes, BPF_MAP_TYPE_HASH, struct member, struct versioned, 0, BPF_F_NO_PREALLOC);
MAP(rows, BPF_MAP_TYPE_HASH, struct row_key, struct row, 0, BPF_F_NO_PREALLOC);
MAP(ranges, BPF_MAP_TYPE_LPM_TRIE, struct range_key, struct row, 0, BPF_F_NO_PREALLOC);
MAP(passes, BPF_MAP_TYPE_HASH, struct pass_key, struct versioned, 0, BPF_F_NO_PREALLOC);
MAP(connections4, BPF_MAP_TYPE_LRU_HASH, struct tuple4, struct connection, 0, 0);
MAP(connections6, BPF_MAP_TYPE_LRU_HASH, struct tuple6, struct connection, 0, 0);
/* Connections that nobody has answered yet. Apart: a flood of them must not push out those that live. */
MAP(opening4, BPF_MAP_TYPE_LRU_HASH, struct tuple4, struct connection, 0, 0);
MAP(opening6, BPF_MAP_TYPE_LRU_HASH, struct tuple6, struct connection, 0, 0);
MAP(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, __u32, 4096, 0);
MAP(counters, BPF_MAP_TYPE_ARRAY, __u32, struct counter, COUNTERS, 0);
/* By kind and direction; behind them one for names. */
MAP(windows, BPF_MAP_TYPE_ARRAY, __u32, struct window, KINDS * 2 + 1, 0);
/* What is known of the packet at hand. Not on the stack: the verifier would follow every combination of its fields. */
MAP(scratch, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct flows, 1, 0);
struct map_definition events SEC("maps") = {.type = BPF_MAP_TYPE_RINGBUF, .entries = 1 << 19};

#endif
