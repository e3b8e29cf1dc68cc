/* What the policy says: address, identity, class, row; and what passes whatever it says. */
#ifndef MESH_JUDGE_H
#define MESH_JUDGE_H

#include "telling.h"

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

#endif
