/*
 * The native module of mesh-agent: the few things that Node cannot do. The contract of every function is in
 * src/host/native.ts. A wrong type of argument throws a TypeError; everything that the kernel refuses comes back as
 * -errno. Nothing here blocks, and nothing is closed by the garbage collector: what was opened is closed by its owner.
 *
 * For the main thread only: handles are not released when a worker thread ends.
 */
#define _GNU_SOURCE
#define NAPI_VERSION 8

#include <node_api.h>
#include <uv.h>

#include <errno.h>
#include <link.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define BPF_MAX_POINTERS 8
/* Attributes of the largest bpf command are far below this; the kernel checks the rest. */
#define BPF_MAX_ATTR 4096
/* A wake-up hands out at most so many datagrams for so long; the rest waits for the next turn of the event loop. */
#define DATAGRAMS_PER_WAKE 256
#define WAKE_NANOSECONDS (10ull * 1000 * 1000)
/* The kernel sends dumps in pieces of at most 32 KiB and events below that; more is for requests that are echoed. */
#define DATAGRAM_MAX (1 << 20)
#define ADDRESS_MAX 16
#define IPV4_HEADER_MIN 20
/* What is read of an echo reply, IP header included: ours are smaller. */
#define ECHO_MAX 256

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- arguments and results ---- */

static napi_value number(napi_env env, int64_t value) {
  napi_value result = NULL;
  napi_create_int64(env, value, &result);
  return result;
}

static napi_value type_error(napi_env env, const char *message) {
  napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", message);
  return NULL;
}

/* Reads the arguments; false, with an exception pending, when fewer than `required` were given. */
static bool arguments(napi_env env, napi_callback_info info, size_t *count, napi_value *values, size_t required) {
  if (napi_get_cb_info(env, info, count, values, NULL, NULL) != napi_ok || *count < required) {
    type_error(env, "too few arguments");
    return false;
  }
  return true;
}

static bool get_int(napi_env env, napi_value value, int32_t *result) {
  if (napi_get_value_int32(env, value, result) == napi_ok) return true;
  type_error(env, "a number is expected");
  return false;
}

static bool get_buffer(napi_env env, napi_value value, uint8_t **data, size_t *length) {
  bool is_buffer = false;
  if (napi_is_buffer(env, value, &is_buffer) == napi_ok && is_buffer &&
      napi_get_buffer_info(env, value, (void **)data, length) == napi_ok) {
    return true;
  }
  type_error(env, "a Buffer is expected");
  return false;
}

/* ---- bpf(2) ---- */

static napi_value bpf(napi_env env, napi_callback_info info) {
  napi_value values[2 + 2 * BPF_MAX_POINTERS + 1];
  size_t count = COUNT(values);
  int32_t command;
  uint8_t *attr;
  size_t attr_length;
  if (!arguments(env, info, &count, values, 2)) return NULL;
  if (count >= COUNT(values) || count % 2 != 0) return type_error(env, "pointers are pairs of an offset and a Buffer");
  if (!get_int(env, values[0], &command) || !get_buffer(env, values[1], &attr, &attr_length)) return NULL;
  if (attr_length > BPF_MAX_ATTR) return number(env, -E2BIG);

  for (size_t i = 2; i < count; i += 2) {
    int32_t offset;
    uint8_t *target;
    size_t target_length;
    if (!get_int(env, values[i], &offset) || !get_buffer(env, values[i + 1], &target, &target_length)) return NULL;
    if (offset < 0 || (size_t)offset + sizeof(uint64_t) > attr_length) return number(env, -EINVAL);
    uint64_t address = (uintptr_t)target;
    memcpy(attr + offset, &address, sizeof address);
  }
  long result = syscall(__NR_bpf, command, attr, (unsigned)attr_length);
  return number(env, result < 0 ? -errno : result);
}

/* ---- one datagram to a Unix socket ---- */

static napi_value datagram_send(napi_env env, napi_callback_info info) {
  napi_value values[2];
  size_t count = COUNT(values);
  size_t path_length;
  uint8_t *data;
  size_t length;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (!arguments(env, info, &count, values, 2)) return NULL;
  if (napi_get_value_string_utf8(env, values[0], NULL, 0, &path_length) != napi_ok) {
    return type_error(env, "a path is expected");
  }
  if (!get_buffer(env, values[1], &data, &length)) return NULL;
  if (path_length == 0) return number(env, -EINVAL);
  if (path_length >= sizeof address.sun_path) return number(env, -ENAMETOOLONG);
  napi_get_value_string_utf8(env, values[0], address.sun_path, sizeof address.sun_path, &path_length);

  socklen_t address_length = offsetof(struct sockaddr_un, sun_path) + path_length;
  if (address.sun_path[0] == '@') {
    address.sun_path[0] = '\0'; /* an abstract name has no end mark: its length counts */
  } else {
    address_length++;
  }
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return number(env, -errno);
  ssize_t sent = sendto(fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&address, address_length);
  int error = errno;
  close(fd);
  return number(env, sent < 0 ? -error : 0);
}

/* ---- sockets on the event loop: netlink, and ICMP echo ---- */

struct watched {
  struct watched *next;
  napi_env env;
  napi_ref on_data;
  uv_poll_t poll;
  int32_t handle;
  uint32_t port_id;
  /* AF_NETLINK, or that of an echo socket. */
  int family;
  int fd;
  bool closing;
};

static struct watched *watched_sockets;
static int32_t watched_last_handle;
/* The address of a sender goes before what it sent. */
static uint8_t room[ADDRESS_MAX + DATAGRAM_MAX];
static uint8_t *const datagram = room + ADDRESS_MAX;

static struct watched *find_watched(int32_t handle) {
  struct watched *entry = watched_sockets;
  while (entry != NULL && entry->handle != handle) entry = entry->next;
  return entry;
}

/* Calls back with bytes, or with -errno when `data` is NULL. */
static void call_back(napi_env env, napi_ref on_data, const uint8_t *data, int64_t length_or_error) {
  napi_handle_scope scope;
  napi_value argument, receiver, callback;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_status status = data == NULL
                           ? napi_create_int64(env, length_or_error, &argument)
                           : napi_create_buffer_copy(env, (size_t)length_or_error, data, NULL, &argument);
  if (status == napi_ok) status = napi_get_global(env, &receiver);
  if (status == napi_ok) status = napi_get_reference_value(env, on_data, &callback);
  if (status == napi_ok) status = napi_make_callback(env, NULL, receiver, callback, 1, &argument, NULL);
  if (status == napi_pending_exception) {
    napi_value exception;
    /* There is no caller in JavaScript who could catch it: it becomes an uncaughtException. */
    if (napi_get_and_clear_last_exception(env, &exception) == napi_ok) napi_fatal_exception(env, exception);
  }
  napi_close_handle_scope(env, scope);
}

static void deliver(struct watched *watched, const uint8_t *data, int64_t length_or_error) {
  call_back(watched->env, watched->on_data, data, length_or_error);
}

union sender {
  struct sockaddr_nl netlink;
  struct sockaddr_in ipv4;
  struct sockaddr_in6 ipv6;
};

/* Hands over the sender's address and the ICMP message behind it; IPv4 comes with its header, IPv6 without. */
static void deliver_echo(struct watched *watched, const union sender *sender, ssize_t length) {
  if (watched->family == AF_INET6) {
    memcpy(room, &sender->ipv6.sin6_addr, ADDRESS_MAX);
    deliver(watched, room, ADDRESS_MAX + length);
    return;
  }
  ssize_t header = length < IPV4_HEADER_MIN ? 0 : (datagram[0] & 15) * 4;
  if (header < IPV4_HEADER_MIN || header > length) return;
  uint8_t *start = datagram + header - sizeof sender->ipv4.sin_addr;
  memcpy(start, &sender->ipv4.sin_addr, sizeof sender->ipv4.sin_addr);
  deliver(watched, start, length - header + (ssize_t)sizeof sender->ipv4.sin_addr);
}

static void on_readable(uv_poll_t *poll, int status, int events);

static void watch(struct watched *watched) {
  uv_poll_start(&watched->poll, UV_READABLE, on_readable);
}

static void on_readable(uv_poll_t *poll, int status, int events) {
  struct watched *watched = poll->data;
  (void)events;
  /* A full receive buffer raises POLLERR, upon which libuv stops the watch and reports EBADF: the socket is fine. */
  if (status < 0) watch(watched);
  uint64_t deadline = uv_hrtime() + WAKE_NANOSECONDS;
  for (int i = 0; i < DATAGRAMS_PER_WAKE && !watched->closing && uv_hrtime() < deadline; i++) {
    union sender sender = {0};
    struct iovec part = {.iov_base = datagram, .iov_len = DATAGRAM_MAX};
    struct msghdr message = {.msg_name = &sender, .msg_namelen = sizeof sender, .msg_iov = &part, .msg_iovlen = 1};
    ssize_t length = recvmsg(watched->fd, &message, MSG_DONTWAIT);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (length < 0) {
      int error = errno;
      /* Lost events leave the socket usable; after anything else a watch would only spin. */
      if (error != ENOBUFS) uv_poll_stop(&watched->poll);
      deliver(watched, NULL, -error);
      if (error != ENOBUFS) return;
      continue;
    }
    if (watched->family != AF_NETLINK) {
      deliver_echo(watched, &sender, length);
      continue;
    }
    /* Only the kernel may speak to us. */
    if (sender.netlink.nl_pid != 0) continue;
    if (message.msg_flags & MSG_TRUNC) {
      deliver(watched, NULL, -EMSGSIZE);
    } else {
      deliver(watched, datagram, length);
    }
  }
}

/* An open and bound socket, or -errno. */
static int open_socket(int family, uint32_t *port_id) {
  struct sockaddr_nl address = {.nl_family = AF_NETLINK};
  socklen_t address_length = sizeof address;
  int on = 1;
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, family);
  if (fd < 0) return -errno;
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
      getsockname(fd, (struct sockaddr *)&address, &address_length) < 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  /* Acknowledgements without an echo of the request, but with the kernel's words: both are only a comfort. */
  setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
  setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  *port_id = address.nl_pid;
  return fd;
}

/* Watches an open socket, or closes it; a handle or -errno. */
static napi_value start_watch(napi_env env, struct watched from, napi_value on_data) {
  uv_loop_t *loop;
  struct watched *watched = calloc(1, sizeof *watched);
  if (watched == NULL) {
    close(from.fd);
    return number(env, -ENOMEM);
  }
  *watched = from;
  watched->env = env;
  watched->poll.data = watched;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok || uv_poll_init(loop, &watched->poll, watched->fd) != 0) {
    close(watched->fd);
    free(watched);
    return number(env, -EIO);
  }
  napi_create_reference(env, on_data, 1, &watched->on_data);
  watch(watched);
  uv_unref((uv_handle_t *)&watched->poll);
  watched->handle = ++watched_last_handle;
  watched->next = watched_sockets;
  watched_sockets = watched;
  return number(env, watched->handle);
}

static bool is_function(napi_env env, napi_value value) {
  napi_valuetype type;
  if (napi_typeof(env, value, &type) == napi_ok && type == napi_function) return true;
  type_error(env, "a function is expected");
  return false;
}

static napi_value netlink_open(napi_env env, napi_callback_info info) {
  napi_value values[2];
  size_t count = COUNT(values);
  int32_t protocol;
  struct watched from = {.family = AF_NETLINK};
  if (!arguments(env, info, &count, values, 2) || !get_int(env, values[0], &protocol)) return NULL;
  if (!is_function(env, values[1])) return NULL;
  from.fd = open_socket(protocol, &from.port_id);
  return from.fd < 0 ? number(env, from.fd) : start_watch(env, from, values[1]);
}

/* A raw socket that hears replies to echo requests with this identifier alone, and no more of each than it needs. */
static int open_echo_socket(int family, uint16_t identifier) {
  bool ipv4 = family == AF_INET;
  /* What the kernel hands over begins with the IP header for IPv4, with the ICMP header for IPv6. */
  struct sock_filter code[] = {
      ipv4 ? (struct sock_filter)BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0)
           : (struct sock_filter)BPF_STMT(BPF_LDX | BPF_IMM, 0),
      BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ipv4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY, 0, 3),
      BPF_STMT(BPF_LD | BPF_H | BPF_IND, 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, identifier, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, ECHO_MAX),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  struct sock_fprog filter = {.len = COUNT(code), .filter = code};
  int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
  if (fd < 0) return -errno;
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) < 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

static napi_value echo_open(napi_env env, napi_callback_info info) {
  napi_value values[3];
  size_t count = COUNT(values);
  int32_t version, identifier;
  if (!arguments(env, info, &count, values, 3) || !get_int(env, values[0], &version)) return NULL;
  if (!get_int(env, values[1], &identifier) || !is_function(env, values[2])) return NULL;
  struct watched from = {.family = version == 4 ? AF_INET : AF_INET6};
  from.fd = open_echo_socket(from.family, (uint16_t)identifier);
  return from.fd < 0 ? number(env, from.fd) : start_watch(env, from, values[2]);
}

/* The socket named by the first argument. NULL with *result set when there is none (-EBADF), or an exception pends. */
static struct watched *watched_argument(napi_env env, napi_value value, napi_value *result) {
  int32_t handle;
  *result = NULL;
  if (!get_int(env, value, &handle)) return NULL;
  struct watched *watched = find_watched(handle);
  if (watched == NULL) *result = number(env, -EBADF);
  return watched;
}

static napi_value netlink_send(napi_env env, napi_callback_info info) {
  napi_value values[2], result;
  size_t count = COUNT(values);
  uint8_t *data;
  size_t length;
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  if (!arguments(env, info, &count, values, 2)) return NULL;
  struct watched *watched = watched_argument(env, values[0], &result);
  if (watched == NULL) return result;
  if (!get_buffer(env, values[1], &data, &length)) return NULL;
  ssize_t sent = sendto(watched->fd, data, length, MSG_DONTWAIT, (struct sockaddr *)&kernel, sizeof kernel);
  return number(env, sent < 0 ? -errno : sent);
}

static napi_value echo_send(napi_env env, napi_callback_info info) {
  napi_value values[3], result;
  size_t count = COUNT(values);
  uint8_t *address, *data;
  size_t address_length, length;
  if (!arguments(env, info, &count, values, 3)) return NULL;
  struct watched *watched = watched_argument(env, values[0], &result);
  if (watched == NULL) return result;
  if (!get_buffer(env, values[1], &address, &address_length)) return NULL;
  if (!get_buffer(env, values[2], &data, &length)) return NULL;
  struct sockaddr_in ipv4 = {.sin_family = AF_INET};
  struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6};
  bool is_ipv4 = watched->family == AF_INET;
  void *into = is_ipv4 ? (void *)&ipv4.sin_addr : (void *)&ipv6.sin6_addr;
  if (address_length != (is_ipv4 ? sizeof ipv4.sin_addr : sizeof ipv6.sin6_addr)) return number(env, -EINVAL);
  memcpy(into, address, address_length);
  const struct sockaddr *to = is_ipv4 ? (struct sockaddr *)&ipv4 : (struct sockaddr *)&ipv6;
  ssize_t sent = sendto(watched->fd, data, length, MSG_DONTWAIT, to, is_ipv4 ? sizeof ipv4 : sizeof ipv6);
  return number(env, sent < 0 ? -errno : sent);
}

static napi_value netlink_join(napi_env env, napi_callback_info info) {
  napi_value values[2], result;
  size_t count = COUNT(values);
  int32_t group;
  if (!arguments(env, info, &count, values, 2)) return NULL;
  struct watched *watched = watched_argument(env, values[0], &result);
  if (watched == NULL) return result;
  if (!get_int(env, values[1], &group)) return NULL;
  int status = setsockopt(watched->fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group);
  return number(env, status < 0 ? -errno : 0);
}

/* Beyond the system's limit if we may, up to it otherwise. */
static int set_buffer(int fd, int force_option, int option, int32_t bytes) {
  if (bytes <= 0) return 0;
  if (setsockopt(fd, SOL_SOCKET, force_option, &bytes, sizeof bytes) == 0) return 0;
  if (errno == EPERM && setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof bytes) == 0) return 0;
  return -errno;
}

static napi_value netlink_buffers(napi_env env, napi_callback_info info) {
  napi_value values[3], result;
  size_t count = COUNT(values);
  int32_t send_bytes, receive_bytes;
  if (!arguments(env, info, &count, values, 3)) return NULL;
  struct watched *watched = watched_argument(env, values[0], &result);
  if (watched == NULL) return result;
  if (!get_int(env, values[1], &send_bytes) || !get_int(env, values[2], &receive_bytes)) return NULL;
  int status = set_buffer(watched->fd, SO_SNDBUFFORCE, SO_SNDBUF, send_bytes);
  if (status == 0) status = set_buffer(watched->fd, SO_RCVBUFFORCE, SO_RCVBUF, receive_bytes);
  return number(env, status);
}

static napi_value netlink_port_id(napi_env env, napi_callback_info info) {
  napi_value values[1], result;
  size_t count = COUNT(values);
  if (!arguments(env, info, &count, values, 1)) return NULL;
  struct watched *watched = watched_argument(env, values[0], &result);
  return watched == NULL ? result : number(env, watched->port_id);
}

static napi_value netlink_ref(napi_env env, napi_callback_info info) {
  napi_value values[2], result;
  size_t count = COUNT(values);
  bool keep;
  if (!arguments(env, info, &count, values, 2)) return NULL;
  struct watched *watched = watched_argument(env, values[0], &result);
  if (watched == NULL) return result;
  if (napi_get_value_bool(env, values[1], &keep) != napi_ok) return type_error(env, "a boolean is expected");
  if (keep) {
    uv_ref((uv_handle_t *)&watched->poll);
  } else {
    uv_unref((uv_handle_t *)&watched->poll);
  }
  return number(env, 0);
}

static void on_closed(uv_handle_t *handle) {
  struct watched *watched = handle->data;
  napi_delete_reference(watched->env, watched->on_data);
  free(watched);
}

static napi_value socket_close(napi_env env, napi_callback_info info) {
  napi_value values[1], result;
  size_t count = COUNT(values);
  if (!arguments(env, info, &count, values, 1)) return NULL;
  struct watched *watched = watched_argument(env, values[0], &result);
  if (watched == NULL) return result;
  struct watched **link = &watched_sockets;
  while (*link != watched) link = &(*link)->next;
  *link = watched->next;
  /* The memory lives until libuv has let go of it: this may run inside the callback of this very socket. */
  watched->closing = true;
  uv_poll_stop(&watched->poll);
  close(watched->fd);
  uv_close((uv_handle_t *)&watched->poll, on_closed);
  return number(env, 0);
}

/* ---- the ring buffer of an eBPF program, on the event loop ---- */

/* What is handed over at a time; the rest waits for the next turn of the event loop. */
#define RING_BYTES_PER_WAKE (256 << 10)
#define RING_HEADER 8
#define RING_BUSY (1u << 31)
#define RING_DISCARDED (1u << 30)

struct ring {
  struct ring *next;
  napi_env env;
  napi_ref on_data;
  uv_poll_t poll;
  int32_t handle;
  size_t size;
  /* Positions only grow; they are taken modulo the size. */
  unsigned long *consumed;
  unsigned long *produced;
  /* Mapped twice in a row, so that a record never ends at the edge. */
  uint8_t *data;
};

static struct ring *rings;
static int32_t ring_last_handle;
static uint8_t ring_room[RING_BYTES_PER_WAKE];

/* Takes what is there: of each record its length, itself, and what fills it up to four bytes. */
static size_t take_records(struct ring *ring) {
  size_t length = 0;
  unsigned long at = __atomic_load_n(ring->consumed, __ATOMIC_RELAXED);
  while (at < __atomic_load_n(ring->produced, __ATOMIC_ACQUIRE)) {
    uint32_t *header = (uint32_t *)(ring->data + (at & (ring->size - 1)));
    uint32_t state = __atomic_load_n(header, __ATOMIC_ACQUIRE);
    uint32_t bytes = state & ~(RING_BUSY | RING_DISCARDED);
    size_t padded = sizeof bytes + ((bytes + 3) & ~3u);
    if (state & RING_BUSY || bytes > ring->size) break;
    if (!(state & RING_DISCARDED) && padded <= sizeof ring_room) {
      if (length + padded > sizeof ring_room) break;
      memcpy(ring_room + length, &bytes, sizeof bytes);
      memcpy(ring_room + length + sizeof bytes, (uint8_t *)header + RING_HEADER, bytes);
      length += padded;
    }
    at += (RING_HEADER + bytes + 7) & ~7ul;
    __atomic_store_n(ring->consumed, at, __ATOMIC_RELEASE);
  }
  return length;
}

static void on_ring(uv_poll_t *poll, int status, int events) {
  struct ring *ring = poll->data;
  (void)events;
  if (status < 0) return;
  size_t length = take_records(ring);
  if (length > 0) call_back(ring->env, ring->on_data, ring_room, (int64_t)length);
}

static void unmap_ring(struct ring *ring) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  if (ring->consumed != NULL) munmap(ring->consumed, page);
  if (ring->produced != NULL) munmap(ring->produced, page + 2 * ring->size);
}

static bool map_ring(struct ring *ring, int fd) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  void *consumed = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (consumed != MAP_FAILED) ring->consumed = consumed;
  void *produced = mmap(NULL, page + 2 * ring->size, PROT_READ, MAP_SHARED, fd, (off_t)page);
  if (produced != MAP_FAILED) ring->produced = produced;
  if (ring->consumed == NULL || ring->produced == NULL) return false;
  ring->data = (uint8_t *)produced + page;
  return true;
}

static napi_value ring_open(napi_env env, napi_callback_info info) {
  napi_value values[3];
  size_t count = COUNT(values);
  int32_t fd, size;
  uv_loop_t *loop;
  if (!arguments(env, info, &count, values, 3)) return NULL;
  if (!get_int(env, values[0], &fd) || !get_int(env, values[1], &size) || !is_function(env, values[2])) return NULL;
  if (size <= 0 || (size & (size - 1)) != 0) return number(env, -EINVAL);
  struct ring *ring = calloc(1, sizeof *ring);
  if (ring == NULL) return number(env, -ENOMEM);
  ring->env = env;
  ring->size = (size_t)size;
  ring->poll.data = ring;
  int error = map_ring(ring, fd) ? 0 : errno;
  if (error == 0 && (napi_get_uv_event_loop(env, &loop) != napi_ok || uv_poll_init(loop, &ring->poll, fd) != 0)) error = EIO;
  if (error != 0) {
    unmap_ring(ring);
    free(ring);
    return number(env, -error);
  }
  napi_create_reference(env, values[2], 1, &ring->on_data);
  uv_poll_start(&ring->poll, UV_READABLE, on_ring);
  uv_unref((uv_handle_t *)&ring->poll);
  ring->handle = ++ring_last_handle;
  ring->next = rings;
  rings = ring;
  return number(env, ring->handle);
}

static void on_ring_closed(uv_handle_t *handle) {
  struct ring *ring = handle->data;
  unmap_ring(ring);
  napi_delete_reference(ring->env, ring->on_data);
  free(ring);
}

static napi_value ring_close(napi_env env, napi_callback_info info) {
  napi_value values[1];
  size_t count = COUNT(values);
  int32_t handle;
  if (!arguments(env, info, &count, values, 1) || !get_int(env, values[0], &handle)) return NULL;
  struct ring **link = &rings;
  while (*link != NULL && (*link)->handle != handle) link = &(*link)->next;
  struct ring *ring = *link;
  if (ring == NULL) return number(env, -EBADF);
  *link = ring->next;
  uv_poll_stop(&ring->poll);
  uv_close((uv_handle_t *)&ring->poll, on_ring_closed);
  return number(env, 0);
}

/* ---- memory of the program itself ---- */

/* Segments that are never written: code and constants. Their pages are those of the file, whoever has touched them. */
static int release_segments(struct dl_phdr_info *info, size_t size, void *data) {
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  int *error = data;
  (void)size;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *header = &info->dlpi_phdr[i];
    if (header->p_type != PT_LOAD || (header->p_flags & PF_W)) continue;
    uintptr_t start = (info->dlpi_addr + header->p_vaddr + page - 1) & ~(page - 1);
    uintptr_t end = (info->dlpi_addr + header->p_vaddr + header->p_memsz) & ~(page - 1);
    if (end > start && madvise((void *)start, end - start, MADV_DONTNEED) < 0) *error = errno;
  }
  /* The program comes first; its libraries are small. */
  return 1;
}

static napi_value release_program(napi_env env, napi_callback_info info) {
  int error = 0;
  (void)info;
  dl_iterate_phdr(release_segments, &error);
  return number(env, -error);
}

/* ---- the network namespace ---- */

/* Linux 5.14; older headers do not have it. */
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static napi_value namespace_cookie(napi_env env, napi_callback_info info) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  napi_value result = NULL;
  (void)info;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return number(env, -errno);
  int status = getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length);
  int error = errno;
  close(fd);
  if (status < 0) return number(env, -error);
  napi_create_bigint_uint64(env, cookie, &result);
  return result;
}

static napi_value close_fd(napi_env env, napi_callback_info info) {
  napi_value values[1];
  size_t count = COUNT(values);
  int32_t fd;
  if (!arguments(env, info, &count, values, 1) || !get_int(env, values[0], &fd)) return NULL;
  return number(env, close(fd) < 0 ? -errno : 0);
}

NAPI_MODULE_INIT() {
#define FUNCTION(name, call) {name, NULL, call, NULL, NULL, NULL, napi_enumerable, NULL}
  napi_property_descriptor functions[] = {
      FUNCTION("bpf", bpf),
      FUNCTION("datagramSend", datagram_send),
      FUNCTION("netlinkOpen", netlink_open),
      FUNCTION("netlinkSend", netlink_send),
      FUNCTION("netlinkJoin", netlink_join),
      FUNCTION("netlinkBuffers", netlink_buffers),
      FUNCTION("netlinkPortId", netlink_port_id),
      FUNCTION("netlinkRef", netlink_ref),
      FUNCTION("netlinkClose", socket_close),
      FUNCTION("echoOpen", echo_open),
      FUNCTION("echoSend", echo_send),
      FUNCTION("echoClose", socket_close),
      FUNCTION("ringOpen", ring_open),
      FUNCTION("ringClose", ring_close),

      FUNCTION("releaseProgram", release_program),
      FUNCTION("namespaceCookie", namespace_cookie),
      FUNCTION("closeFd", close_fd),
  };
  if (napi_define_properties(env, exports, COUNT(functions), functions) != napi_ok) return NULL;
  return exports;
}
