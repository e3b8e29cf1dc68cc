/*
 * A program that does with one socket what it is told, word by word, and prints a line for each step: what it was told, and what
 * came of it. Whatever only C can ask of a socket is done here.
 *
 *   tcp4 tcp6 udp4 udp6 udplite4 mptcp4   makes the socket
 *   connect ADDRESS PORT                  asynchronous for no kind
 *   fast ADDRESS PORT                     sends with MSG_FASTOPEN
 *   dissolve                              connects to AF_UNSPEC
 *   send | to ADDRESS PORT                a datagram, to the peer or to an address
 *   many ADDRESS PORT                     two datagrams by sendmmsg
 *   from | fromMany                       who sent the next datagram; by recvmmsg, of two
 *   peer                                  whom the socket says that it talks to
 *   only6                                 no mapped addresses
 *   storm ADDRESS PORT                    40,000 sockets, one after the other: connected and closed
 *   hold                                  sends until that fails, and reads nothing
 *   netns PATH                            the process goes to another network namespace
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

struct end {
  struct sockaddr_storage address;
  socklen_t length;
};

static int fd = -1;

static struct end end_of(const char *address, const char *port) {
  struct end end = {0};
  struct sockaddr_in *four = (void *)&end.address;
  struct sockaddr_in6 *six = (void *)&end.address;
  if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(atoi(port));
    end.length = sizeof *four;
  } else if (inet_pton(AF_INET6, address, &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(atoi(port));
    end.length = sizeof *six;
  }
  return end;
}

static void say(const char *step, long result) {
  printf("%s %s\n", step, result < 0 ? strerrorname_np(errno) : "done");
}

static void say_end(const char *step, long result, const struct end *end) {
  char text[INET6_ADDRSTRLEN] = "";
  const struct sockaddr_in *four = (const void *)&end->address;
  const struct sockaddr_in6 *six = (const void *)&end->address;
  if (result < 0) return say(step, result);
  bool is_six = end->address.ss_family == AF_INET6;
  inet_ntop(end->address.ss_family, is_six ? (void *)&six->sin6_addr : (void *)&four->sin_addr, text, sizeof text);
  printf("%s %s %d\n", step, text, ntohs(four->sin_port));
}

static void open_socket(const char *kind) {
  size_t last = strlen(kind) - 1;
  int protocol = strncmp(kind, "udplite", 7) == 0 ? IPPROTO_UDPLITE : strncmp(kind, "mptcp", 5) == 0 ? IPPROTO_MPTCP : 0;
  fd = socket(kind[last] == '6' ? AF_INET6 : AF_INET, kind[0] == 'u' ? SOCK_DGRAM : SOCK_STREAM, protocol);
  struct timeval limit = {.tv_sec = 2};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  say(kind, fd);
}

static void many(const char *step, struct end *end, int (*call)(int, struct mmsghdr *, unsigned, int)) {
  char words[2][8] = {"word", "word"};
  struct end ends[2] = {*end, *end};
  struct iovec parts[2] = {{words[0], 4}, {words[1], 4}};
  struct mmsghdr messages[2] = {0};
  for (int at = 0; at < 2; at++) {
    messages[at].msg_hdr.msg_iov = &parts[at];
    messages[at].msg_hdr.msg_iovlen = 1;
    messages[at].msg_hdr.msg_name = &ends[at].address;
    messages[at].msg_hdr.msg_namelen = sizeof ends[at].address;
    if (end->length > 0) messages[at].msg_hdr.msg_namelen = end->length;
  }
  int done = call(fd, messages, 2, 0);
  if (done != 2) return say(step, -1);
  for (int at = 0; at < 2; at++) say_end(step, 0, &ends[at]);
}

static int receive_many(int socket, struct mmsghdr *messages, unsigned count, int flags) {
  return recvmmsg(socket, messages, count, flags, NULL);
}

static void storm(const char *step, const struct end *end) {
  int failed = 0;
  for (int at = 0; at < 40000; at++) {
    int one = socket(end->address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (connect(one, (const void *)&end->address, end->length) < 0) failed++;
    close(one);
  }
  printf("%s %d failed\n", step, failed);
}

static void hold(const char *step) {
  while (send(fd, "word", 4, 0) == 4) usleep(50000);
  say(step, -1);
}

int main(int count, char **words) {
  for (int at = 1; at < count; at++) {
    const char *step = words[at];
    struct end end = {.length = sizeof end.address};
    char word[64] = "word";
#define IS(name) (strcmp(step, name) == 0)
    if (IS("connect") || IS("fast") || IS("to") || IS("many") || IS("storm")) {
      if (at + 2 >= count) return 2;
      end = end_of(words[at + 1], words[at + 2]);
      at += 2;
    }
    const struct sockaddr *address = (const void *)&end.address;
    if (IS("connect")) say(step, connect(fd, address, end.length));
    else if (IS("fast")) say(step, sendto(fd, word, 4, MSG_FASTOPEN, address, end.length));
    else if (IS("to")) say(step, sendto(fd, word, 4, 0, address, end.length));
    else if (IS("send")) say(step, send(fd, word, 4, 0));
    else if (IS("many")) many(step, &end, sendmmsg);
    else if (IS("storm")) storm(step, &end);
    else if (IS("hold")) hold(step);
    else if (IS("fromMany")) end.length = 0, many(step, &end, receive_many);
    else if (IS("from")) say_end(step, recvfrom(fd, word, sizeof word, 0, (void *)&end.address, &end.length), &end);
    else if (IS("peer")) say_end(step, getpeername(fd, (void *)&end.address, &end.length), &end);
    else if (IS("dissolve")) {
      struct sockaddr none = {.sa_family = AF_UNSPEC};
      say(step, connect(fd, &none, sizeof none));
    } else if (IS("only6")) say(step, setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int)));
    else if (IS("netns")) say(step, setns(open(words[++at], O_RDONLY | O_CLOEXEC), CLONE_NEWNET));
    else if (IS("sleep")) usleep(300000);
    else open_socket(step);
    fflush(stdout);
  }
  return 0;
}
