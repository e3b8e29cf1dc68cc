import { type ChildProcess, spawn } from 'node:child_process';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { endProcess, Namespace } from './namespace.ts';

/** `pass`: the echo came back. `blocked`: nothing came. `refused`: a reset, or an ICMP error of a port. */
export type Outcome = 'pass' | 'blocked' | 'refused' | 'unreachable';

export type ProbeProtocol = 'tcp' | 'udp' | 'icmp';

export interface ProbeRequest {
  readonly protocol: ProbeProtocol;
  readonly to: string;
  /** Without a meaning for ICMP. */
  readonly port: number;
  readonly timeoutMs: number;
}

export interface FlowReport {
  readonly sent: number;
  readonly received: number;
}

type Handle = { readonly handle: number };
type Target = { readonly to: string; readonly port: number; readonly timeoutMs: number };

export interface Orders {
  listen: { request: { readonly tcp: readonly number[]; readonly udp: readonly number[] }; answer: undefined };
  probe: { request: ProbeRequest; answer: Outcome };
  open: { request: Target; answer: Handle & { readonly outcome: Outcome } };
  check: { request: Handle & { readonly timeoutMs: number }; answer: Outcome };
  shut: { request: Handle; answer: undefined };
  flow: {
    request: {
      readonly to: string;
      readonly port: number;
      readonly everyMs: number;
      readonly fresh: boolean;
      /** Of each datagram, at least. */
      readonly bytes: number;
    };
    answer: Handle;
  };
  stop: { request: Handle; answer: FlowReport };
}
export type Order = keyof Orders;

/** Long enough for a packet on a busy machine, short enough to wait for its absence. */
const PROBE_MS = 600;

/** A network namespace with somebody in it: a host, a node or a pod, who serves echo and reaches out to others. */
export class Place {
  readonly label: string;
  readonly namespace: Namespace;
  #resident: Promise<ChildProcess> | undefined;
  readonly #waiting = new Map<number, { resolve(answer: never): void; reject(error: Error): void }>();
  #lastId = 0;

  constructor(label: string) {
    this.label = label;
    this.namespace = new Namespace(label);
  }

  /** Answers with an echo on these ports, in both families. */
  async listen(ports: Partial<Orders['listen']['request']>): Promise<void> {
    await this.#order('listen', { tcp: [], udp: [], ...ports });
  }

  /** One new connection, request or echo request, and what became of it. */
  probe(request: Omit<ProbeRequest, 'timeoutMs'> & { readonly timeoutMs?: number }): Promise<Outcome> {
    return this.#order('probe', { timeoutMs: PROBE_MS, ...request });
  }

  /** A TCP connection that stays. */
  async open(to: string, port: number): Promise<Connection> {
    const { handle, outcome } = await this.#order('open', { to, port, timeoutMs: 3000 });
    if (outcome !== 'pass') throw new Error(`${this.label} does not reach ${to} port ${port}: ${outcome}`);
    return {
      check: (timeoutMs = PROBE_MS) => this.#order('check', { handle, timeoutMs }),
      close: () => this.#order('shut', { handle }),
    };
  }

  /** A steady beat of UDP datagrams and their echoes. `fresh`: each from a port of its own, a new connection. */
  async flow(
    to: string,
    port: number,
    options: { everyMs?: number; fresh?: boolean; bytes?: number } = {},
  ): Promise<Flow> {
    const { handle } = await this.#order('flow', { to, port, everyMs: 5, fresh: false, bytes: 0, ...options });
    return { stop: () => this.#order('stop', { handle }) };
  }

  /** A listening socket inside of the namespace, served by this process. */
  async door(host: string, port: number): Promise<Server> {
    return this.#send('door', { host, port });
  }

  async close(): Promise<void> {
    const resident = await this.#resident?.catch(() => undefined);
    if (resident !== undefined) await endProcess(resident);
    await this.namespace.close();
  }

  #order<Name extends Order>(order: Name, request: Orders[Name]['request']): Promise<Orders[Name]['answer']> {
    return this.#send(order, request);
  }

  async #send<Answer>(order: Order | 'door', request: object): Promise<Answer> {
    this.#resident ??= this.#start();
    const resident = await this.#resident;
    const id = ++this.#lastId;
    return new Promise<Answer>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      resident.send({ id, order, request }, (error) => {
        if (error !== null && this.#waiting.delete(id)) reject(new Error(`${this.label}: the resident is gone`));
      });
    });
  }

  #start(): Promise<ChildProcess> {
    const script = join(import.meta.dirname, 'resident.ts');
    const where = [`--net=/run/netns/${this.namespace.name}`, process.execPath, '--no-warnings', script];
    const child = spawn('nsenter', where, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => this.#gone(`${this.label}: the resident ended (${code})`, reject));
      child.on('message', (message: { id: number; answer?: never; error?: string }, handle) => {
        if (message.id === 0) return resolve(child);
        const waiting = this.#waiting.get(message.id);
        this.#waiting.delete(message.id);
        if (message.error !== undefined) waiting?.reject(new Error(`${this.label}: ${message.error}`));
        else waiting?.resolve((handle ?? message.answer) as never);
      });
    });
  }

  #gone(text: string, reject: (error: Error) => void): void {
    reject(new Error(text));
    for (const waiting of this.#waiting.values()) waiting.reject(new Error(text));
    this.#waiting.clear();
  }
}

export interface Connection {
  /** Whether the connection still carries a word there and back. */
  check(timeoutMs?: number): Promise<Outcome>;
  close(): Promise<unknown>;
}

export interface Flow {
  stop(): Promise<FlowReport>;
}
