/* Connections that are remembered: those that are new, and those that last. */
#ifndef MESH_CONNECTION_H
#define MESH_CONNECTION_H

#include "telling.h"

static __always_inline void set_tuple(union tuple *tuple, int family, const struct flow *flow) {
  __builtin_memset(tuple, 0, sizeof *tuple);
  if (family == 4) {
    tuple->v4.remote = flow->remote.word[0];
    tuple->v4.local = flow->local.word[0];
    tuple->v4.remote_port = flow->remote_port;
    tuple->v4.local_port = flow->local_port;
    tuple->v4.protocol = flow->protocol;
  } else {
    tuple->v6.remote = flow->remote;
    tuple->v6.local = flow->local;
    tuple->v6.remote_port = flow->remote_port;
    tuple->v6.local_port = flow->local_port;
    tuple->v6.protocol = flow->protocol;
  }
}

static __always_inline struct connection *find(const union tuple *tuple, int family) {
  return family == 4 ? bpf_map_lookup_elem(&connections4, &tuple->v4) : bpf_map_lookup_elem(&connections6, &tuple->v6);
}

static __always_inline struct connection *find_opening(const union tuple *tuple, int family) {
  return family == 4 ? bpf_map_lookup_elem(&opening4, &tuple->v4) : bpf_map_lookup_elem(&opening6, &tuple->v6);
}

static __always_inline void put_opening(const union tuple *tuple, int family, const struct connection *connection) {
  if (family == 4)
    bpf_map_update_elem(&opening4, &tuple->v4, connection, BPF_ANY);
  else
    bpf_map_update_elem(&opening6, &tuple->v6, connection, BPF_ANY);
}

static __always_inline void forget_opening(const union tuple *tuple, int family) {
  if (family == 4)
    bpf_map_delete_elem(&opening4, &tuple->v4);
  else
    bpf_map_delete_elem(&opening6, &tuple->v6);
}

static __always_inline void forget(const union tuple *tuple, int family) {
  if (family == 4)
    bpf_map_delete_elem(&connections4, &tuple->v4);
  else
    bpf_map_delete_elem(&connections6, &tuple->v6);
}

static __always_inline void promote(const union tuple *tuple, int family, const struct connection *connection) {
  if (family == 4)
    bpf_map_update_elem(&connections4, &tuple->v4, connection, BPF_ANY);
  else
    bpf_map_update_elem(&connections6, &tuple->v6, connection, BPF_ANY);
  forget_opening(tuple, family);
}

static __always_inline bool is_closing(const struct connection *connection) {
  __u8 both = FINISHED | FINISHED << 1;
  return connection->state & RESET || (connection->state & both) == both;
}

/* How many ticks an entry lives without a packet, after conntrack. */
static __always_inline __u32 lifetime(const struct connection *connection, __u8 protocol) {
  bool replied = connection->state & REPLIED;
  if (protocol == IPPROTO_TCP) return replied && !is_closing(connection) ? 432000 : 120;
  if (protocol == IPPROTO_UDP) return replied ? 180 : 30;
  if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMP6) return 30;
  return 600;
}

/*
 * Whether a packet begins another connection between the same ends. One that the other side begins is always judged: the
 * entry may be of a packet from the midst of a connection of which nothing was known.
 */
static __always_inline bool begins_anew(const struct connection *connection, const struct flow *flow,
                                        enum direction direction) {
  if (flow->role != OPENS || (flow->protocol != IPPROTO_TCP && flow->protocol != IPPROTO_SCTP)) return false;
  return is_closing(connection) || connection->origin != direction;
}

/* What the state of an allowed connection is behind this packet. */
static __always_inline __u8 next_state(const struct connection *connection, const struct flow *flow,
                                       enum direction direction) {
  __u8 state = connection->state;
  if (direction != connection->origin) state |= REPLIED;
  if (flow->protocol != IPPROTO_TCP) return state;
  if (flow->flags & TCP_FIN) state |= FINISHED << direction;
  if (flow->flags & TCP_RST) state |= RESET;
  return state;
}

/* The last packet of a connection, or as good as: what may still come is judged by itself. */
static __always_inline bool is_last(const struct flow *flow, __u8 state) {
  __u8 both = FINISHED | FINISHED << 1;
  return state & RESET || ((state & both) == both && !(flow->flags & TCP_FIN));
}

/*
 * Goes on with an allowed connection. One that was answered and is older than a moment moves to where no flood of new ones
 * can push it out; most are over before that, and cost no more than they must.
 */
static __always_inline void follow(struct connection *connection, const struct judgement *with, const union tuple *tuple,
                                   int family, const struct flow *flow, enum direction direction, bool opening) {
  __u8 state = next_state(connection, flow, direction);
  bool aged = connection->seen != with->now;
  if (flow->protocol == IPPROTO_TCP && is_last(flow, state)) {
    if (opening)
      forget_opening(tuple, family);
    else
      forget(tuple, family);
    return;
  }
  if (state != connection->state) connection->state = state;
  if (!aged) return;
  connection->seen = with->now;
  if (!opening || !(state & REPLIED)) return;
  struct connection lasting = *connection;
  promote(tuple, family, &lasting);
}

#endif
