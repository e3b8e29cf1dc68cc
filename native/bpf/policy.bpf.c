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
#include "parse.h"

#define NEXT (-1)
#define DROP 2

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define ETHERNET 14
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

/* What is the same for all that one packet needs. */
struct judgement {
  const struct config *config;
  __u64 revision;
  __u32 now;
  __u32 bytes;
};

static __always_inline __u32 as_of(const struct versioned *entry, __u64 revision) {
  return revision >= entry->since ? entry->after : entry->before;
}

/* ---- counting and telling ---- */

static __always_inline void count(__u32 which, __u32 bytes) {
  struct counter *counter = bpf_map_lookup_elem(&counters, &which);
  if (!counter) return;
  __sync_fetch_and_add(&counter->packets, 1);
  __sync_fetch_and_add(&counter->bytes, bytes);
}

static __always_inline bool within_rate(__u32 which, __u32 rate, __u32 now) {
  struct window *window = bpf_map_lookup_elem(&windows, &which);
  if (!window) return false;
  if (window->tick != now) {
    window->tick = now;
    window->told = 0;
  }
  if (window->told >= rate) return false;
  __sync_fetch_and_add(&window->told, 1);
  return true;
}

/* Where the network header lies in the data: behind that of Ethernet, or at its start. */
static __always_inline __u32 network_at(struct __sk_buff *skb) {
  __u64 here = 0, there = 1;
  if (bpf_skb_load_bytes_relative(skb, 0, &here, sizeof here, BPF_HDR_START_NET)) return 0;
  if (bpf_skb_load_bytes(skb, ETHERNET, &there, sizeof there)) return 0;
  return here == there ? ETHERNET : 0;
}

/* `room` is a constant: what the ring sets aside. */
static __always_inline bool tell(struct __sk_buff *skb, const struct event *head, const __u32 room) {
  __u32 at = network_at(skb);
  /* As wide as a register: the verifier loses what it knows of a narrower one. */
  __u64 length = skb->len;
  if (length <= at) return false;
  length -= at;
  if (length > room) length = room;
  struct event *event = bpf_ringbuf_reserve(&events, sizeof *event + room, 0);
  if (!event) return false;
  *event = *head;
  event->device = skb->ifindex;
  event->length = length;
  /* The compiler knows that it is within bounds; the verifier has to be told, one bound after the other. */
  barrier_var(length);
  if (length > 0) {
    barrier_var(length);
    if (length <= room && bpf_skb_load_bytes(skb, at, event + 1, length) == 0) {
      bpf_ringbuf_submit(event, 0);
      return true;
    }
  }
  bpf_ringbuf_discard(event, 0);
  return false;
}

static __always_inline void tell_verdict(struct __sk_buff *skb, const struct judgement *with, enum kind kind,
                                         enum direction direction) {
  __u32 point = POINT(kind, direction);
  count(point, with->bytes);
  if (with->config->rate == 0 || !within_rate(point, with->config->rate, with->now)) return;
  struct event event = {.kind = EVENT_VERDICT, .verdict = kind, .direction = direction};
  if (tell(skb, &event, VERDICT_BYTES)) count(TOLD + direction, with->bytes);
}

static __always_inline void tell_name(struct __sk_buff *skb, const struct judgement *with, enum direction direction) {
  if (!within_rate(KINDS * 2, NAME_RATE, with->now)) return;
  struct event event = {.kind = direction == OUT ? EVENT_QUERY : EVENT_ANSWER, .direction = direction};
  tell(skb, &event, NAME_BYTES);
}

static __always_inline int drop(struct __sk_buff *skb, const struct judgement *with, enum kind kind,
                                enum direction direction) {
  tell_verdict(skb, with, kind, direction);
  return DROP;
}

/* ---- the policy ---- */

static __always_inline bool is_passed(const struct judgement *with, const struct pass_key *key) {
  const struct versioned *entry = bpf_map_lookup_elem(&passes, key);
  return entry && as_of(entry, with->revision);
}

static __always_inline bool is_node(const struct judgement *with, const struct address6 *address, int family) {
  struct pass_key key = {.address = *address, .protocol = family, .kind = NODE};
  return is_passed(with, &key);
}

static __always_inline __u32 identity_of(const struct judgement *with, int family, const struct address6 *address) {
  const struct versioned *entry;
  __u32 identity = 0;
  if (family == 4)
    entry = bpf_map_lookup_elem(&hosts4, &address->word[0]);
  else
    entry = bpf_map_lookup_elem(&hosts6, address);
  if (entry) identity = as_of(entry, with->revision);
  if (identity == 0 && with->config->flags & HAS_PREFIXES) {
    if (family == 4) {
      struct prefix4 key = {.bits = 32, .address = address->word[0]};
      entry = bpf_map_lookup_elem(&prefixes4, &key);
    } else {
      struct prefix6 key = {.bits = 128, .address = *address};
      entry = bpf_map_lookup_elem(&prefixes6, &key);
    }
    if (entry) identity = as_of(entry, with->revision);
  }
  return identity ? identity : with->config->world[family == 6];
}

static __always_inline __u32 row_code(const struct judgement *with, struct row *row) {
  if (!row) return NONE;
  __u32 code = as_of(&row->code, with->revision);
  if (code == NONE) return NONE;
  __sync_fetch_and_add(&row->packets, 1);
  __sync_fetch_and_add(&row->bytes, with->bytes);
  return code;
}

static __always_inline __u32 class_of(const struct judgement *with, const struct question *question) {
  struct member key = {.identity = question->identity, .direction = question->direction};
  const struct versioned *entry = bpf_map_lookup_elem(&classes, &key);
  __u32 class = entry ? as_of(entry, with->revision) : 0;
  return class ? class : with->config->others[question->direction & 1];
}

static __always_inline __u32 policy_code(const struct judgement *with, const struct question *question) {
  __u8 protocol = question->protocol;
  __u32 class = class_of(with, question), code = NONE;
  struct row_key key = {.class = class, .port = question->port, .protocol = protocol, .kind = question->direction};
  bool has_ports = protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
  if (!question->portless && (has_ports || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMP6))
    code = row_code(with, bpf_map_lookup_elem(&rows, &key));
  if (code == NONE && has_ports && !question->portless && with->config->flags & (HAS_RANGES << (question->direction & 1))) {
    struct range_key range = {
        .bits = RANGE_BITS,
        .class = bpf_htonl(class),
        .direction = question->direction,
        .protocol = protocol,
        .port = bpf_htons(question->port),
    };
    code = row_code(with, bpf_map_lookup_elem(&ranges, &range));
  }
  if (code == NONE) {
    key.port = 0;
    key.kind = question->direction | PROTOCOL << 1;
    code = row_code(with, bpf_map_lookup_elem(&rows, &key));
  }
  if (code == NONE) {
    key.protocol = 0;
    key.kind = question->direction | ALL << 1;
    code = row_code(with, bpf_map_lookup_elem(&rows, &key));
  }
  return code;
}

/* What passes whatever the policy says. */
static __always_inline bool is_exempt(const struct judgement *with, int family, const struct flow *flow,
                                      const struct question *question, bool opens) {
  __u32 flags = with->config->flags;
  __u8 protocol = question->protocol;
  enum direction judged = question->direction & 1;
  if (question->portless) return false;
  if (flags & (HAS_FAILSAFE << judged)) {
    struct pass_key key = {.port = bpf_htons(question->port), .protocol = protocol, .kind = FAILSAFE_IN + judged};
    if (is_passed(with, &key)) return true;
  }
  /* A connection to a store that is older than us may look as if it had come in: only its first packet cannot. */
  if (flags & HAS_STORES && protocol == IPPROTO_TCP && (judged == OUT || !opens)) {
    struct pass_key key = {.address = flow->remote, .port = flow->remote_port, .protocol = family, .kind = STORE};
    if (is_passed(with, &key)) return true;
  }
  if (protocol == IPPROTO_UDP) {
    __u16 remote = bpf_ntohs(flow->remote_port), local = bpf_ntohs(flow->local_port);
    if (family == 4 ? local == 68 && remote == 67 : local == 546 && remote == 547) return true;
  }
  return false;
}

/* K_ALLOWED, or what it is dropped for; an audited denial is allowed. */
static __always_inline enum kind judge(struct __sk_buff *skb, const struct judgement *with, const struct question *question,
                                       enum direction direction) {
  __u32 code = policy_code(with, question);
  if (code == ALLOW) return K_ALLOWED;
  if (code == AUDITED || (code != DENY_RULE && with->config->flags & AUDIT)) {
    tell_verdict(skb, with, K_AUDITED, direction);
    return K_ALLOWED;
  }
  return code == DENY_RULE ? K_DENY_RULE : K_NO_RULE;
}

/* ---- connections ---- */

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

/* ---- packets ---- */

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
