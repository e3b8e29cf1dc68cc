/*
 * The policy at the borders of the machine: what enters or leaves on an external device, and on the device of the overlay.
 *
 *   headers ─▶ outer packet of the overlay? ─▶ connection known, judged at this revision? ─▶ pass
 *                                                   │ no
 *                    exempt? ─▶ address ─▶ identity ─▶ class ─▶ row ─▶ verdict, kept with the connection
 *
 * A connection that was judged at another revision is judged again in the direction in which it was opened: that is what
 * cuts one whose policy is withdrawn, and lets it live again. An entry that is missing (never seen, over, or pushed out) costs
 * another judgement; a packet from the midst of a connection is then judged as its beginning and, failing that, as an answer.
 *
 * Packets of others stay others' business: what passes goes on to the programs behind (NEXT).
 */
#include "connection.h"
#include "judge.h"

#define NEXT (-1)

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define VLAN_ID 0x0fff
#define PACKET_HOST 0
#define PACKET_OTHERHOST 3

/* Identities below are reserved: nobody can bring one. */
#define FIRST_BELIEVED 256
#define LAST_BELIEVED 0xffffff
#define FRAGMENT_TICKS 30
#define DNS 53
/* Of those that the kernel gives to connections that programs open. */
#define FIRST_OWN_PORT 32768

enum border { EXTERNAL, OVERLAY };

/* The rest of a datagram whose first fragment has left. */
static __always_inline void remember_fragment(const struct judgement *with, const struct flow *flow) {
  struct fragment_key key = {.remote = flow->remote, .local = flow->local, .id = flow->id, .protocol = flow->protocol};
  bpf_map_update_elem(&fragments, &key, &with->now, BPF_ANY);
}

static __always_inline bool knows_fragment(const struct judgement *with, const struct flow *flow) {
  struct fragment_key key = {.remote = flow->remote, .local = flow->local, .id = flow->id, .protocol = flow->protocol};
  const __u32 *seen = bpf_map_lookup_elem(&fragments, &key);
  return seen && with->now - *seen <= FRAGMENT_TICKS;
}

static __always_inline bool always_passes(int family, const struct flow *flow) {
  __u16 type = flow->port;
  if (flow->part == LATER) return false;
  if (family == 4) return flow->protocol == IPPROTO_ICMP && type == 3 && flow->icmp_code == 4;
  /* Multicast listeners, neighbours; packet too big. */
  return flow->protocol == IPPROTO_ICMP6 && ((type >= 130 && type <= 136) || type == 143 || type == 2);
}

static __always_inline bool is_tunnel(const struct judgement *with, const struct flow *flow) {
  return with->config->flags & OVERLAY_OPEN && flow->protocol == IPPROTO_UDP && flow->part != LATER &&
         bpf_htons(flow->port) == with->config->tunnel_port;
}

/* More is to be said about the packet. */
#define UNDECIDED 1

/* Outer packets of the overlay, if this is one. */
static __always_inline int judge_outer(struct __sk_buff *skb, const struct judgement *with, const struct flow *flow,
                                       int family, enum direction direction) {
  if (!is_tunnel(with, flow)) return UNDECIDED;
  bool node = is_node(with, &flow->remote, family);
  if (direction == IN) {
    if (!node) return drop(skb, with, K_STRANGER, direction);
    skb->tc_index = with->config->arrived;
    skb->tc_classid = with->config->arrived;
    return NEXT;
  }
  if (!node) return UNDECIDED;
  /* What the overlay wrapped has lost the device that it came from; so has what a program of the machine sends. */
  return skb->ingress_ifindex == 0 ? NEXT : drop(skb, with, K_SPOOFED, direction);
}

/* The connection that the packet belongs to, or that it is an error about; NULL for none, or one that is over. */
static __always_inline struct connection *find_connection(struct __sk_buff *skb, const struct judgement *with,
                                                          struct flows *flows, int family, enum direction direction) {
  struct flow *flow = &flows->packet, *about = &flows->quoted;
  bool related = flow->role == ERROR && flow->part == WHOLE;
  flows->opening = flows->replaces = false;
  if (related) {
    related = read_flow(skb, family, flow->transport + 8, direction == IN ? OUT : IN, true, about) &&
              about->role != ERROR && about->part != LATER;
    set_tuple(&flows->tuple, family, about);
  }
  if (!related) set_tuple(&flows->tuple, family, flow);
  flows->related = related;
  if (!related && (flow->part == LATER || flow->role == ERROR || flow->role == ALONE)) return NULL;
  struct connection *connection = find(&flows->tuple, family);
  if (!connection) {
    connection = find_opening(&flows->tuple, family);
    flows->opening = true;
  }
  if (!connection) return NULL;
  bool over = with->now - connection->seen > lifetime(connection, related ? about->protocol : flow->protocol);
  if (!over && (related || !begins_anew(connection, flow, direction))) return connection;
  flows->replaces = !flows->opening;
  return NULL;
}

/* Puts the question that the policy is asked. */
static __always_inline void set_question(struct flows *flows, const struct connection *connection,
                                         enum direction direction, __u32 brought) {
  const struct flow *flow = &flows->packet;
  struct question *question = &flows->question;
  question->identity = brought;
  question->port = flow->port;
  question->direction = direction;
  question->protocol = flow->protocol;
  question->portless = flow->part == LATER;
  if (!connection) return;
  question->direction = connection->origin;
  question->port = connection->port;
  /* A policy row speaks of the connection, not of the error about it. */
  if (flows->related) question->protocol = flows->quoted.protocol;
  if (!brought || connection->origin == OUT) question->identity = connection->identity;
}

static __always_inline enum kind ask(struct __sk_buff *skb, const struct judgement *with, struct flows *flows, int family,
                                     enum direction direction, bool known) {
  const struct flow *flow = &flows->packet, *ends = known && flows->related ? &flows->quoted : flow;
  struct question *question = &flows->question;
  bool opens = !known && flow->role == OPENS;
  enum kind kind = K_NO_RULE;
  if (!question->identity) question->identity = identity_of(with, family, &ends->remote);
#pragma clang loop unroll(disable)
  for (int attempt = 0; attempt < 2; attempt++) {
    kind = is_exempt(with, family, ends, question, opens) ? K_ALLOWED : judge(skb, with, question, direction);
    /* From the midst of a connection of which we know nothing: perhaps the answer to one that may be opened from here. */
    if (kind == K_ALLOWED || known || flow->role != RUNS || flow->part == LATER || attempt) break;
    if (flow->protocol != IPPROTO_TCP && flow->protocol != IPPROTO_SCTP) break;
    /* Nobody opens a connection from the port of a service: it was opened from there, before our time. */
    if (direction == IN && flow->port < FIRST_OWN_PORT) break;
    question->direction = direction == IN ? OUT : IN;
    question->port = flow->source_port;
    question->identity = identity_of(with, family, &flow->remote);
  }
  return kind;
}

/* Remembers what was decided of a connection. */
static __always_inline enum kind mark(struct connection *connection, const struct judgement *with, enum kind kind) {
  connection->revision = with->revision;
  if (kind == K_ALLOWED) {
    connection->state &= ~DENIED;
    return kind;
  }
  connection->state |= DENIED;
  return K_WITHDRAWN;
}

/* Whether an entry is worth its place: not for the answer to an echo or a reset of which nothing is known. */
static __always_inline bool is_first(const struct flow *flow, int family) {
  if (flow->protocol == IPPROTO_TCP) return !(flow->flags & TCP_RST);
  return flow->role == OPENS || flow->protocol != (family == 4 ? IPPROTO_ICMP : IPPROTO_ICMP6);
}

/* The packet passes. */
static __always_inline int pass(struct __sk_buff *skb, const struct judgement *with, struct flows *flows, int family,
                                struct connection *connection, enum direction direction, __u32 brought) {
  const struct flow *flow = &flows->packet;
  const struct question *question = &flows->question;
  __u8 origin = question->direction;
  if (flow->part == FIRST && direction == OUT) remember_fragment(with, flow);
  if (flow->role == ERROR || flow->role == ALONE || flow->part == LATER) return NEXT;
  if (connection) {
    follow(connection, with, &flows->tuple, family, flow, direction, flows->opening);
  } else if (is_first(flow, family)) {
    struct connection made = {
        .revision = with->revision,
        .seen = with->now,
        .identity = origin == IN ? brought : 0,
        .port = question->port,
        .origin = origin,
    };
    put_opening(&flows->tuple, family, &made);
    if (flows->replaces) forget(&flows->tuple, family);
    if (with->config->flags & WATCH_ALLOWED) tell_verdict(skb, with, K_ALLOWED, direction);
  }
  if (with->config->flags & TELL_NAMES && flow->protocol == IPPROTO_UDP && origin == OUT &&
      flow->remote_port == bpf_htons(DNS))
    tell_name(skb, with, direction);
  return NEXT;
}

static __always_inline int decide(struct __sk_buff *skb, const struct judgement *with, int family,
                                  enum direction direction, enum border border, __u32 brought) {
  __u32 zero = 0;
  struct flows *flows = bpf_map_lookup_elem(&scratch, &zero);
  if (!flows) return DROP;
  const struct flow *flow = &flows->packet;
  if (!read_packet(skb, family, direction, &flows->packet)) return drop(skb, with, K_MALFORMED, direction);
  if (border == EXTERNAL) {
    int outer = judge_outer(skb, with, flow, family, direction);
    if (outer != UNDECIDED) return outer;
  }
  /*
   * Later fragments have no ports. Those that enter are worth nothing without the first, which is judged: the kernel puts
   * them together in whatever order they come. Those that leave could carry something by themselves.
   */
  if (flow->part == LATER && (direction == IN || knows_fragment(with, flow))) return NEXT;

  struct connection *connection = find_connection(skb, with, flows, family, direction);
  /* By itself: the compiler would mix the pointer with numbers, which the verifier refuses. */
  bool known = connection != NULL;
  barrier_var(known);
  if (!known && always_passes(family, flow)) return NEXT;

  set_question(flows, connection, direction, brought);
  enum kind kind = K_ALLOWED;
  if (!connection) {
    kind = ask(skb, with, flows, family, direction, false);
  } else if (connection->revision != with->revision) {
    kind = mark(connection, with, ask(skb, with, flows, family, direction, true));
  } else if (connection->state & DENIED) {
    kind = K_WITHDRAWN;
  }
  if (kind == K_ALLOWED) return pass(skb, with, flows, family, connection, direction, brought);
  if (connection && connection->seen != with->now) connection->seen = with->now;
  return drop(skb, with, kind, direction);
}

/*
 * Most packets are of connections that live: their headers are plain, what they say changes nothing, and the entry is of this
 * revision. They pass with one look at each; all others take the long way.
 */
static __always_inline bool passes_at_once(struct __sk_buff *skb, const struct judgement *with, int family,
                                           enum direction direction) {
  struct {
    union {
      struct ipv4 v4;
      struct ipv6 v6;
    };
    struct transport transport;
  } packet = {};
  union tuple tuple = {};
  const __u32 ip = family == 4 ? sizeof packet.v4 : sizeof packet.v6;
  void *to = family == 4 ? (void *)&packet + sizeof packet.v6 - sizeof packet.v4 : &packet;
  struct ipv4 *v4 = to;
  struct ipv6 *v6 = to;
  /* A short datagram has no more than ports. */
  if (!load(skb, 0, to, ip + TCP_BYTES) && !load(skb, 0, to, ip + UDP_BYTES)) return false;
  __u8 protocol = family == 4 ? v4->protocol : v6->next;
  __be16 source = packet.transport.source, destination = packet.transport.destination;
  if (protocol == IPPROTO_TCP) {
    if ((packet.transport.flags & (TCP_ACK | TCP_SYN | TCP_FIN | TCP_RST)) != TCP_ACK) return false;
  } else if (protocol != IPPROTO_UDP || with->config->flags & TELL_NAMES ||
             (with->config->flags & OVERLAY_OPEN && destination == with->config->tunnel_port)) {
    return false;
  }
  if (family == 4) {
    if (v4->version != 0x45 || v4->fragment & bpf_htons(0x3fff)) return false;
    tuple.v4.remote = direction == IN ? v4->source : v4->destination;
    tuple.v4.local = direction == IN ? v4->destination : v4->source;
    tuple.v4.remote_port = direction == IN ? source : destination;
    tuple.v4.local_port = direction == IN ? destination : source;
    tuple.v4.protocol = protocol;
  } else {
    if ((v6->version & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000)) return false;
    tuple.v6.remote = direction == IN ? v6->source : v6->destination;
    tuple.v6.local = direction == IN ? v6->destination : v6->source;
    tuple.v6.remote_port = direction == IN ? source : destination;
    tuple.v6.local_port = direction == IN ? destination : source;
    tuple.v6.protocol = protocol;
  }
  const struct connection *connection = find(&tuple, family);
  if (!connection) connection = find_opening(&tuple, family);
  return connection && connection->revision == with->revision && connection->state == REPLIED &&
         connection->seen == with->now;
}

/* The identity that the overlay brings with a packet: 0 to judge it by its address; false for one that must not pass. */
static __always_inline bool read_tunnel(struct __sk_buff *skb, const struct judgement *with, __u32 *brought) {
  struct bpf_tunnel_key key = {};
  struct address6 node = {};
  const __u32 bytes = offsetof(struct bpf_tunnel_key, local_ipv4);
  int family = 4;
  /* Whoever sent it, it came over an external device and from a known node: all others could speak for anybody. */
  if (skb->tc_index != with->config->arrived) return false;
  if (bpf_skb_get_tunnel_key(skb, &key, bytes, 0) == 0) {
    node.word[0] = bpf_htonl(key.remote_ipv4);
  } else {
    if (bpf_skb_get_tunnel_key(skb, &key, bytes, BPF_F_TUNINFO_IPV6)) return false;
    family = 6;
    __builtin_memcpy(&node, key.remote_ipv6, sizeof node);
  }
  if (!is_node(with, &node, family)) return false;
  if (key.tunnel_id >= FIRST_BELIEVED && key.tunnel_id <= LAST_BELIEVED) *brought = key.tunnel_id;
  return true;
}

static __always_inline int enter_or_leave(struct __sk_buff *skb, enum direction direction, enum border border) {
  __u32 zero = 0, brought = 0;
  /* A tagged frame belongs to the device of its VLAN, which is external itself or is not. */
  if (skb->vlan_present && skb->vlan_tci & VLAN_ID) return NEXT;
  bool is_ipv4 = skb->protocol == bpf_htons(ETH_P_IP);
  if (!is_ipv4 && skb->protocol != bpf_htons(ETH_P_IPV6)) return NEXT;
  /* For another machine: seen only because somebody listens to the whole wire. */
  if (border == EXTERNAL && direction == IN && skb->pkt_type == PACKET_OTHERHOST) return NEXT;

  const __u64 *revision = bpf_map_lookup_elem(&current, &zero);
  if (!revision) return DROP;
  struct judgement with = {.revision = *revision, .bytes = skb->len};
  __u32 slot = with.revision % CONFIGS;
  with.config = bpf_map_lookup_elem(&configs, &slot);
  if (!with.config) return DROP;
  with.now = bpf_ktime_get_coarse_ns() >> TICK_BITS;

  if (border == OVERLAY && direction == IN) {
    if (!read_tunnel(skb, &with, &brought)) return drop(skb, &with, K_STRANGER, direction);
    /* Its destination is no address of this device: without this it would be dropped as another machine's. */
    bpf_skb_change_type(skb, PACKET_HOST);
  }
  if (is_ipv4 ? passes_at_once(skb, &with, 4, direction) : passes_at_once(skb, &with, 6, direction)) return NEXT;
  return is_ipv4 ? decide(skb, &with, 4, direction, border, brought) : decide(skb, &with, 6, direction, border, brought);
}

#define PROGRAM(name, section, direction, border)                                                                      \
  SEC(section) int name(struct __sk_buff *skb) { return enter_or_leave(skb, direction, border); }

PROGRAM(enter, "tc/enter", IN, EXTERNAL)
PROGRAM(leave, "tc/leave", OUT, EXTERNAL)
PROGRAM(enter_overlay, "tc/enter_overlay", IN, OVERLAY)
PROGRAM(leave_overlay, "tc/leave_overlay", OUT, OVERLAY)
