/**
 * The native module (`native/mesh.c`): the few things that Node cannot do. Everything is synchronous and never blocks;
 * results below zero are `-errno`. Buffers that are handed over are only used during the call.
 */
export interface Native {
  /**
   * bpf(2). `pointers` are pairs of an offset into `attr` and the buffer whose address goes there.
   * @returns a file descriptor or other result, or -errno
   */
  bpf(command: number, attr: Buffer, ...pointers: (number | Buffer)[]): number;
  /** One datagram to a Unix socket; a path that starts with `@` is abstract. @returns 0 or -errno */
  datagramSend(path: string, data: Buffer): number;
  /**
   * A netlink socket of this family (NETLINK_ROUTE 0, NETLINK_NETFILTER 12), watched by the event loop. `onData` gets one
   * datagram a call, or -errno (ENOBUFS: events were lost). It is called for replies and for multicast events alike.
   * @returns a handle above zero, or -errno
   */
  netlinkOpen(family: number, onData: (data: Buffer | number) => void): number;
  /** Sends one datagram (a whole batch). @returns bytes sent or -errno */
  netlinkSend(handle: number, data: Buffer): number;
  /** Joins a multicast group by number. @returns 0 or -errno */
  netlinkJoin(handle: number, group: number): number;
  /** SO_SNDBUFFORCE and SO_RCVBUFFORCE, in bytes; of an echo socket as well. @returns 0 or -errno */
  netlinkBuffers(handle: number, send: number, receive: number): number;
  /** The port id that the kernel gave the socket: the sender id in events that this socket caused. */
  netlinkPortId(handle: number): number;
  /** Whether the socket keeps the process alive; it does not by default. */
  netlinkRef(handle: number, keep: boolean): number;
  netlinkClose(handle: number): number;
  /**
   * A raw ICMP socket (`version` 4 or 6) on the event loop that hears echo replies with this identifier alone. `onData`
   * gets the sender's address (4 or 16 bytes) and the ICMP message behind it, cut to 256 bytes, or -errno: the socket is
   * of no use then. Does not keep the process alive. @returns a handle above zero, or -errno
   */
  echoOpen(version: 4 | 6, identifier: number, onData: (data: Buffer | number) => void): number;
  /** Sends an ICMP message, with its checksum for IPv4, to an address of 4 or 16 bytes. @returns bytes sent or -errno */
  echoSend(handle: number, address: Buffer, data: Buffer): number;
  echoClose(handle: number): number;
  /**
   * The ring buffer of an eBPF program (a map of `bytes`, a power of two) on the event loop. `onData` gets what has come: of
   * each record its length (4 bytes), itself, and what fills it up to a multiple of four. Does not keep the process alive.
   * The descriptor must stay open until it is closed. @returns a handle above zero, or -errno
   */
  ringOpen(fd: number, bytes: number, onData: (data: Buffer) => void): number;
  ringClose(handle: number): number;
  /**
   * Lets go of the pages of the program's own code and constants; what is needed again is mapped again, from the page cache
   * as a rule. @returns 0 or -errno
   */
  releaseProgram(): number;
  /** What the kernel calls the network namespace of this process until the next boot (Linux 5.14). @returns it, or -errno */
  namespaceCookie(): bigint | number;
  closeFd(fd: number): number;
}
