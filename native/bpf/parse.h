/* Reads the headers of a packet. Every length is checked; what does not add up is malformed. */
#ifndef MESH_PARSE_H
#define MESH_PARSE_H

#include "policy.h"

/* Of linux/in6.h, which does not go with linux/in.h. */
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_ICMP6 58
#define IPPROTO_DSTOPTS 60
/* Headers between IPv6 and the transport; more are taken for an attempt to hide it. */
#define MAX_EXTENSIONS 6

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

struct ipv4 {
  __u8 version, tos;
  __be16 length, id, fragment;
  __u8 ttl, protocol;
  __be16 checksum;
  __be32 source, destination;
};

struct ipv6 {
  __be32 version;
  __be16 length;
  __u8 next, hops;
  struct address6 source, destination;
};

/* The beginning of TCP, UDP, SCTP and ICMP (type and code in place of the source port). */
struct transport {
  __be16 source, destination;
  union {
    __be32 word;
    struct {
      __be16 id, sequence;
    };
  };
  __u32 more;
  __u8 chunk, flags;
};
/* Of each as much as is looked at. */
#define UDP_BYTES 8
#define SCTP_BYTES 13
#define TCP_BYTES 14

static __always_inline bool load(struct __sk_buff *skb, __u32 at, void *to, __u32 bytes) {
  return bpf_skb_load_bytes_relative(skb, at, to, bytes, BPF_HDR_START_NET) == 0;
}

static __always_inline void set_ends(struct flow *flow, enum direction direction, const struct address6 *source,
                                     const struct address6 *destination) {
  flow->remote = direction == IN ? *source : *destination;
  flow->local = direction == IN ? *destination : *source;
}

static __always_inline void set_ports(struct flow *flow, enum direction direction, __be16 source, __be16 destination) {
  flow->remote_port = direction == IN ? source : destination;
  flow->local_port = direction == IN ? destination : source;
  flow->source_port = bpf_ntohs(source);
  flow->port = bpf_ntohs(destination);
}

static __always_inline bool read_ipv4(struct __sk_buff *skb, __u32 at, enum direction direction, struct flow *flow) {
  struct ipv4 ip;
  if (!load(skb, at, &ip, sizeof ip) || ip.version >> 4 != 4) return false;
  __u32 header = (ip.version & 15) * 4;
  if (header < sizeof ip || bpf_ntohs(ip.length) < header) return false;
  struct address6 source = {.word = {ip.source}}, destination = {.word = {ip.destination}};
  set_ends(flow, direction, &source, &destination);
  flow->protocol = ip.protocol;
  flow->id = ip.id;
  flow->part = ip.fragment & bpf_htons(0x1fff) ? LATER : ip.fragment & bpf_htons(0x2000) ? FIRST : WHOLE;
  flow->transport = at + header;
  return true;
}

static __always_inline bool read_ipv6(struct __sk_buff *skb, __u32 at, enum direction direction, struct flow *flow) {
  struct ipv6 ip;
  struct {
    __u8 next, length;
    __be16 fragment;
    __be32 id;
  } extension;
  if (!load(skb, at, &ip, sizeof ip) || (ip.version & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000)) return false;
  set_ends(flow, direction, &ip.source, &ip.destination);
  at += sizeof ip;
  __u8 next = ip.next;
  flow->part = WHOLE;
#pragma clang loop unroll(disable)
  for (int i = 0; i <= MAX_EXTENSIONS; i++) {
    bool plain = next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS;
    if (!plain && next != IPPROTO_AH && next != IPPROTO_FRAGMENT) break;
    if (i == MAX_EXTENSIONS || !load(skb, at, &extension, sizeof extension)) return false;
    if (next == IPPROTO_FRAGMENT) {
      at += 8;
      flow->id = extension.id;
      if (extension.fragment & bpf_htons(0xfff8)) {
        flow->part = LATER;
        next = extension.next;
        break;
      }
      if (extension.fragment & bpf_htons(1)) flow->part = FIRST;
    } else {
      at += plain ? (extension.length + 1) * 8 : (extension.length + 2) * 4;
    }
    next = extension.next;
  }
  flow->protocol = next;
  flow->transport = at;
  return true;
}

/* A request and its answer share an entry: whose the identifier is tells who asked. */
static __always_inline void set_echo(struct flow *flow, enum direction asker, __u8 request, __be16 id) {
  flow->remote_port = asker == IN ? id : bpf_htons(request << 8 | 1);
  flow->local_port = asker == IN ? bpf_htons(request << 8 | 1) : id;
}

static __always_inline void read_icmp(struct flow *flow, int family, enum direction direction, __u8 type, __be16 id) {
  enum direction other = direction == IN ? OUT : IN;
  flow->port = type;
  flow->role = ALONE;
  if (family == 4) {
    if (type == 3 || type == 4 || type == 5 || type == 11 || type == 12) flow->role = ERROR;
    if (type == 8 || type == 13 || type == 15 || type == 17) {
      flow->role = OPENS;
      set_echo(flow, direction, type, id);
    }
    if (type == 0 || type == 14 || type == 16 || type == 18) {
      flow->role = RUNS;
      set_echo(flow, other, type == 0 ? 8 : type - 1, id);
    }
  } else {
    if (type < 128) flow->role = ERROR;
    if (type == 128 || type == 139) {
      flow->role = OPENS;
      set_echo(flow, direction, type, id);
    }
    if (type == 129 || type == 140) {
      flow->role = RUNS;
      set_echo(flow, other, type - 1, id);
    }
  }
}

/* `quoted`: the packet is part of an ICMP error, which need not hold more of the transport than eight bytes. */
static __always_inline bool read_transport(struct __sk_buff *skb, int family, enum direction direction, bool quoted,
                                           struct flow *flow) {
  struct transport transport;
  __u8 protocol = flow->protocol;
  if (flow->part == LATER) return true;
  if (protocol == IPPROTO_TCP && !quoted) {
    if (!load(skb, flow->transport, &transport, TCP_BYTES)) return false;
    set_ports(flow, direction, transport.source, transport.destination);
    flow->flags = transport.flags;
    flow->role = (transport.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN ? OPENS : RUNS;
  } else if (protocol == IPPROTO_SCTP && !quoted) {
    if (!load(skb, flow->transport, &transport, SCTP_BYTES)) return false;
    set_ports(flow, direction, transport.source, transport.destination);
    flow->role = transport.chunk == 1 ? OPENS : RUNS;
  } else if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP) {
    if (!load(skb, flow->transport, &transport, UDP_BYTES)) return false;
    set_ports(flow, direction, transport.source, transport.destination);
  } else if (protocol == (family == 4 ? IPPROTO_ICMP : IPPROTO_ICMP6)) {
    if (!load(skb, flow->transport, &transport, UDP_BYTES)) return false;
    flow->icmp_code = bpf_ntohs(transport.source) & 255;
    read_icmp(flow, family, direction, bpf_ntohs(transport.source) >> 8, transport.id);
  }
  return true;
}

static __always_inline bool read_flow(struct __sk_buff *skb, int family, __u32 at, enum direction direction, bool quoted,
                                      struct flow *flow) {
  __builtin_memset(flow, 0, sizeof *flow);
  bool is_ip = family == 4 ? read_ipv4(skb, at, direction, flow) : read_ipv6(skb, at, direction, flow);
  return is_ip && read_transport(skb, family, direction, quoted, flow);
}

/* Headers may lie outside of what can be read at once: they are brought together, and it is tried once more. */
static __always_inline bool read_packet(struct __sk_buff *skb, int family, enum direction direction, struct flow *flow) {
#define HEADERS 256
#pragma clang loop unroll(disable)
  for (int attempt = 0; attempt < 2; attempt++) {
    if (read_flow(skb, family, 0, direction, false, flow)) return true;
    if (bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS)) return false;
  }
  return false;
}

#endif
