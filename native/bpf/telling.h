/* What is the same for all that one packet needs, and how it is counted and told of. */
#ifndef MESH_TELLING_H
#define MESH_TELLING_H

#include "parse.h"

#define DROP 2
#define ETHERNET 14

struct judgement {
  const struct config *config;
  __u64 revision;
  __u32 now;
  __u32 bytes;
};

static __always_inline __u32 as_of(const struct versioned *entry, __u64 revision) {
  return revision >= entry->since ? entry->after : entry->before;
}

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

#endif
