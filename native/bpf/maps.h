/*
 * What every eBPF program of ours shares. A program is one function in a section of its own, named for what it attaches to;
 * nothing is called but helpers, and there is no data beside the maps: scripts/bpf-object.mjs refuses anything else.
 */
#ifndef MESH_MAPS_H
#define MESH_MAPS_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

/* Read at build time: the maps are made by the agent. */
struct map_definition {
  __u32 type;
  __u32 key_bytes;
  __u32 value_bytes;
  __u32 entries;
  __u32 flags;
};

#define MAP(name, kind, key, value, count, options)                                                                    \
  struct map_definition name SEC("maps") = {                                                                           \
      .type = kind, .key_bytes = sizeof(key), .value_bytes = sizeof(value), .entries = count, .flags = options}

#endif
