/*
 * Services at the socket: a connection to a frontend of a service is made to one of its backends from the start, so that no
 * packet needs translation. Hooks of the root cgroup, for sockets of one network namespace alone:
 *
 *   connect, sendmsg         frontend -> backend; recorded in `peers`
 *   recvmsg, getpeername     backend -> frontend, as the program that asks knows it
 *   sock_release             what was recorded is forgotten
 *
 * Frontends without backends are left as they are: the packet filter refuses them. The keys and values of `services*` and
 * `slots*` are, byte by byte, those of the packet filter's maps (src/datapath/lb/keys.ts).
 */
#include "maps.h"

#include <stdbool.h>
#include <stddef.h>

/* Of a choice (src/datapath/lb/sizes.ts). */
#define SLOTS 0x1ffffu
#define STICKY 0x20000u
#define REFUSE 0x40000u

#define PASS 1
/* TCP_ESTABLISHED, whatever the protocol. */
#define CONNECTED 1

struct config {
  /* Cookie of the network namespace whose sockets are ours. */
  __u64 namespace;
  /* This machine, for services whose clients stay with their backend. */
  __u32 client;
  __u32 unused;
};

struct frontend4 {
  __be32 address;
  __u32 protocol;
  __be16 port;
  __u16 unused;
};

struct frontend6 {
  __be32 address[4];
  __u32 protocol;
  __be16 port;
  __u16 unused;
};

struct choice {
  __u32 how;
  __u32 unused;
  __u64 connections;
};

struct slot4 {
  struct frontend4 frontend;
  __u32 number;
};

struct slot6 {
  struct frontend6 frontend;
  __u32 number;
};

struct target4 {
  __be32 address;
  __be16 port;
  __u16 unused;
};

struct target6 {
  __be32 address[4];
  __be16 port;
  __u16 unused;
};

/* One end as a socket sees it; IPv4 as a mapped address. */
struct peer {
  __u64 socket;
  __be32 address[4];
  __be16 port;
  __u16 unused[3];
};

struct end {
  __be32 address[4];
  __be16 port;
  __u16 unused;
};

MAP(config, BPF_MAP_TYPE_ARRAY, __u32, struct config, 1, 0);
/* The agent makes these as large as it needs them. */
MAP(services4, BPF_MAP_TYPE_HASH, struct frontend4, struct choice, 0, BPF_F_NO_PREALLOC);
MAP(services6, BPF_MAP_TYPE_HASH, struct frontend6, struct choice, 0, BPF_F_NO_PREALLOC);
MAP(slots4, BPF_MAP_TYPE_HASH, struct slot4, struct target4, 0, BPF_F_NO_PREALLOC);
MAP(slots6, BPF_MAP_TYPE_HASH, struct slot6, struct target6, 0, BPF_F_NO_PREALLOC);
/* Backends by socket and the frontend that was asked for: datagrams of one socket stay with one backend. */
MAP(flows, BPF_MAP_TYPE_LRU_HASH, struct peer, struct end, 32768, 0);
/* Frontends by socket and the backend that was chosen. Datagrams apart: many short connections must not push them out. */
MAP(tcp_peers, BPF_MAP_TYPE_LRU_HASH, struct peer, struct end, 32768, 0);
MAP(udp_peers, BPF_MAP_TYPE_LRU_HASH, struct peer, struct end, 32768, 0);

enum asking { CONNECT, SEND };

/* Undefined unless the socket is in our network namespace, and of a kind that services have: UDP-Lite passes here, too. */
static __always_inline const struct config *config_for(struct bpf_sock_addr *ctx) {
  __u32 zero = 0;
  if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP) return NULL;
  const struct config *found = bpf_map_lookup_elem(&config, &zero);
  return found && found->namespace == bpf_get_netns_cookie(ctx) ? found : NULL;
}

static __always_inline bool is_datagram(const struct bpf_sock_addr *ctx) {
  return ctx->protocol == IPPROTO_UDP;
}

static __always_inline bool is_mapped(const __be32 *address) {
  return address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff);
}

static __always_inline struct peer peer_of(struct bpf_sock_addr *ctx, const struct end *end) {
  struct peer peer = {.socket = bpf_get_socket_cookie(ctx), .port = end->port};
  __builtin_memcpy(peer.address, end->address, sizeof peer.address);
  return peer;
}

static __always_inline bool is_same(const struct end *one, const struct end *other) {
  return one->address[0] == other->address[0] && one->address[1] == other->address[1] &&
         one->address[2] == other->address[2] && one->address[3] == other->address[3] && one->port == other->port;
}

static __always_inline struct end mapped(__be32 address, __be16 port) {
  struct end end = {.address = {0, 0, bpf_htonl(0xffff), address}, .port = port};
  return end;
}

static __always_inline struct end seen4(const struct bpf_sock_addr *ctx) {
  return mapped(ctx->user_ip4, (__be16)ctx->user_port);
}

static __always_inline struct end seen6(const struct bpf_sock_addr *ctx) {
  struct end end = {.port = (__be16)ctx->user_port};
  end.address[0] = ctx->user_ip6[0];
  end.address[1] = ctx->user_ip6[1];
  end.address[2] = ctx->user_ip6[2];
  end.address[3] = ctx->user_ip6[3];
  return end;
}

/* A machine is one client: where clients stay, all of its connections go one way. */
static __always_inline __u32 slot_of(const struct config *config, __u32 how) {
  return (how & STICKY ? config->client : bpf_get_prandom_u32()) % (how & SLOTS);
}

static __always_inline bool leads(const struct choice *choice) {
  return choice && !(choice->how & REFUSE) && (choice->how & SLOTS) != 0;
}

static __always_inline bool choose4(const struct config *config, const struct end *from, __u32 protocol,
                                    struct end *to) {
  struct slot4 slot = {.frontend = {.address = from->address[3], .protocol = protocol, .port = from->port}};
  struct choice *choice = bpf_map_lookup_elem(&services4, &slot.frontend);
  if (!leads(choice)) return false;
  slot.number = slot_of(config, choice->how);
  const struct target4 *target = bpf_map_lookup_elem(&slots4, &slot);
  if (!target) {
    /* There were fewer a moment later. */
    slot.number = 0;
    target = bpf_map_lookup_elem(&slots4, &slot);
    if (!target) return false;
  }
  *to = mapped(target->address, target->port);
  __sync_fetch_and_add(&choice->connections, 1);
  return true;
}

static __always_inline bool choose6(const struct config *config, const struct end *from, __u32 protocol,
                                    struct end *to) {
  struct slot6 slot = {.frontend = {.protocol = protocol, .port = from->port}};
  __builtin_memcpy(slot.frontend.address, from->address, sizeof from->address);
  struct choice *choice = bpf_map_lookup_elem(&services6, &slot.frontend);
  if (!leads(choice)) return false;
  slot.number = slot_of(config, choice->how);
  const struct target6 *target = bpf_map_lookup_elem(&slots6, &slot);
  if (!target) {
    /* There were fewer a moment later. */
    slot.number = 0;
    target = bpf_map_lookup_elem(&slots6, &slot);
    if (!target) return false;
  }
  __builtin_memcpy(to->address, target->address, sizeof to->address);
  to->port = target->port;
  to->unused = 0;
  __sync_fetch_and_add(&choice->connections, 1);
  return true;
}

static __always_inline bool choose(const struct config *config, const struct end *from, __u32 protocol,
                                   struct end *to) {
  return is_mapped(from->address) ? choose4(config, from, protocol, to) : choose6(config, from, protocol, to);
}

/*
 * Answers from `target` are answers from `frontend`, from here on: a socket may get to one backend by several frontends, and
 * the last that it asked is the one that it waits for.
 */
static __always_inline void remember(struct bpf_sock_addr *ctx, const struct end *target, const struct end *frontend) {
  struct peer peer = peer_of(ctx, target);
  if (!is_datagram(ctx)) {
    bpf_map_update_elem(&tcp_peers, &peer, frontend, BPF_ANY);
    return;
  }
  const struct end *known = bpf_map_lookup_elem(&udp_peers, &peer);
  if (!known || !is_same(known, frontend)) bpf_map_update_elem(&udp_peers, &peer, frontend, BPF_ANY);
}

/* A socket that talks to what may be a backend of its own accord, now. It mostly never was led there. */
static __always_inline void forget(struct bpf_sock_addr *ctx, const struct end *target) {
  struct peer peer = peer_of(ctx, target);
  if (is_datagram(ctx)) {
    if (bpf_map_lookup_elem(&udp_peers, &peer)) bpf_map_delete_elem(&udp_peers, &peer);
  } else if (bpf_map_lookup_elem(&tcp_peers, &peer)) {
    bpf_map_delete_elem(&tcp_peers, &peer);
  }
}

/* The backend that `from` leads to for this socket; false to leave it as it is. */
static __always_inline bool translate(struct bpf_sock_addr *ctx, enum asking asking, const struct end *from,
                                      struct end *to) {
  const struct config *config = config_for(ctx);
  if (!config) return false;
  struct peer flow = peer_of(ctx, from);
  const struct end *known = asking == SEND ? bpf_map_lookup_elem(&flows, &flow) : NULL;
  if (known) {
    *to = *known;
  } else if (!choose(config, from, ctx->protocol, to)) {
    forget(ctx, from);
    return false;
  } else if (asking == SEND) {
    bpf_map_update_elem(&flows, &flow, to, BPF_ANY);
  }
  remember(ctx, to, from);
  return true;
}

/* The frontend that this socket asked for when it got to `from`. */
static __always_inline const struct end *asked(struct bpf_sock_addr *ctx, const struct end *from) {
  if (!config_for(ctx)) return NULL;
  struct peer peer = peer_of(ctx, from);
  return is_datagram(ctx) ? bpf_map_lookup_elem(&udp_peers, &peer) : bpf_map_lookup_elem(&tcp_peers, &peer);
}

static __always_inline int write4(struct bpf_sock_addr *ctx, const struct end *end) {
  ctx->user_ip4 = end->address[3];
  ctx->user_port = end->port;
  return PASS;
}

/* One kind of address stays that kind: a socket that is bound to a mapped address could not reach any other. */
static __always_inline int write6(struct bpf_sock_addr *ctx, const struct end *end) {
  ctx->user_ip6[0] = end->address[0];
  ctx->user_ip6[1] = end->address[1];
  ctx->user_ip6[2] = end->address[2];
  ctx->user_ip6[3] = end->address[3];
  ctx->user_port = end->port;
  return PASS;
}

/*
 * What a connected socket sends has been seen to when it was connected. Not every kernel keeps it from us: a socket of IPv6 that
 * is connected to a mapped address sends as if it had named that.
 */
static __always_inline bool is_own_peer4(const struct bpf_sock_addr *ctx, const struct end *end) {
  const struct bpf_sock *socket = ctx->sk;
  return socket->state == CONNECTED && socket->dst_port == end->port && socket->dst_ip4 == end->address[3];
}

static __always_inline bool is_own_peer6(const struct bpf_sock_addr *ctx, const struct end *end) {
  const struct bpf_sock *socket = ctx->sk;
  return socket->state == CONNECTED && socket->dst_port == end->port && socket->dst_ip6[0] == end->address[0] &&
         socket->dst_ip6[1] == end->address[1] && socket->dst_ip6[2] == end->address[2] &&
         socket->dst_ip6[3] == end->address[3];
}

static __always_inline int there4(struct bpf_sock_addr *ctx, enum asking asking) {
  struct end from = seen4(ctx), to = {};
  if (asking == SEND && is_own_peer4(ctx, &from)) return PASS;
  return translate(ctx, asking, &from, &to) ? write4(ctx, &to) : PASS;
}

static __always_inline int there6(struct bpf_sock_addr *ctx, enum asking asking) {
  struct end from = seen6(ctx), to = {};
  if (asking == SEND && is_own_peer6(ctx, &from)) return PASS;
  return translate(ctx, asking, &from, &to) ? write6(ctx, &to) : PASS;
}

static __always_inline int back4(struct bpf_sock_addr *ctx) {
  struct end from = seen4(ctx);
  const struct end *to = asked(ctx, &from);
  return to ? write4(ctx, to) : PASS;
}

static __always_inline int back6(struct bpf_sock_addr *ctx) {
  struct end from = seen6(ctx);
  const struct end *to = asked(ctx, &from);
  return to ? write6(ctx, to) : PASS;
}

/*
 * A connected datagram socket is closed: what it was led to need not be known any more. Were that left to age, many short
 * conversations would push out what a long one needs to be ended when its backend leaves.
 */
SEC("cgroup/sock_release") int sock_release(struct bpf_sock *ctx) {
  if (ctx->protocol != IPPROTO_UDP || ctx->state != CONNECTED) return PASS;
  __u32 zero = 0;
  const struct config *found = bpf_map_lookup_elem(&config, &zero);
  if (!found || found->namespace != bpf_get_netns_cookie(ctx)) return PASS;
  __be32 address = ctx->dst_ip4;
  /* Or the compiler reads one field or another by one instruction, which the verifier does not allow. */
  asm volatile("" : "+r"(address));
  struct end end = mapped(address, ctx->dst_port);
  if (ctx->family == AF_INET6) {
    end.address[0] = ctx->dst_ip6[0];
    end.address[1] = ctx->dst_ip6[1];
    end.address[2] = ctx->dst_ip6[2];
    end.address[3] = ctx->dst_ip6[3];
  }
  struct peer peer = {.socket = bpf_get_socket_cookie(ctx), .port = end.port};
  __builtin_memcpy(peer.address, end.address, sizeof peer.address);
  bpf_map_delete_elem(&udp_peers, &peer);
  return PASS;
}

#define PROGRAM(name, call)                                                                                            \
  SEC("cgroup/" #name) int name(struct bpf_sock_addr *ctx) { return call; }

PROGRAM(connect4, there4(ctx, CONNECT))
PROGRAM(connect6, there6(ctx, CONNECT))
PROGRAM(sendmsg4, there4(ctx, SEND))
PROGRAM(sendmsg6, there6(ctx, SEND))
PROGRAM(recvmsg4, back4(ctx))
PROGRAM(recvmsg6, back6(ctx))
PROGRAM(getpeername4, back4(ctx))
PROGRAM(getpeername6, back6(ctx))
