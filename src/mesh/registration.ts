import { MeshError, messageOf } from '../core/errors.ts';
import { identity, identityBlock, type NumericIdentity } from '../core/identity.ts';
import { type Address, formatAddress, type Prefix } from '../core/ip.ts';
import { sleep } from '../core/job.ts';
import { CLUSTER_LABEL, type LabelSet, labelSet, makeLabel } from '../core/labels.ts';
import { BadValue } from '../kvstore/codec/json.ts';
import type { Node, NodeAddress } from '../kvstore/codec/node.ts';
import { announcement, decodeRegisterNode, encodeRegisterNode } from '../kvstore/codec/register-node.ts';
import { registerKey } from '../kvstore/paths.ts';
import type { OwnedKey, PrefixWatch, Store } from '../kvstore/store.ts';

/** What the cluster made of us. */
export interface Registered {
  readonly cluster: { readonly name: string; readonly id: number };
  readonly identity: NumericIdentity;
  /** Source `k8s`, sorted. */
  readonly labels: LabelSet;
  readonly ranges4: readonly Prefix[];
  readonly ranges6: readonly Prefix[];
}

export interface RegistrationOptions {
  readonly store: Store;
  /** Node name; the external workload of the cluster has the same. */
  readonly name: string;
  /** Checked against the answer, where configured. */
  readonly expected: { readonly name: string; readonly id: number } | undefined;
  readonly bootId: string;
  /** Our own addresses, given what we were registered as (the router address lies in our range). */
  readonly addresses: (registered: Registered) => readonly NodeAddress[];
  /** What the machine tells of itself besides, in annotations; nothing towards an ordinary cluster. */
  readonly report?: () => ReadonlyMap<string, string>;
  /** The answer is new, or the state changed. */
  readonly onChange: () => void;
  readonly timing?: { readonly answerMs?: number; readonly refreshMs?: number };
}

export type RegistrationState = 'connecting' | 'announced' | 'answered' | 'registered' | 'refused';

/** After that time without an answer we announce again: the workload may exist by now. Cilium waits 90 s. */
const ANSWER_MS = 15_000;
/**
 * Cilium 1.16's apiserver answers registrations but never tells of later changes of a workload's labels: announcing again
 * from time to time brings them. Nothing is withdrawn meanwhile on either side.
 */
const REFRESH_MS = 5 * 60_000;

/**
 * The registration of an external workload (kvstore specification 6.2), on one key that both sides write:
 *
 *   1  we put our name alone                          (announced)
 *   2  the cluster puts labels, ranges, identity      (answered)
 *   3  we put that with our addresses                 (registered)
 *
 * A new answer at any time is adopted the same way. A key that vanished, or a store that lost its data, leads back to 1.
 */
export class Registration {
  readonly key: string;
  readonly #options: RegistrationOptions;
  readonly #watch: PrefixWatch;
  /** What we wrote lately: such values in the key are no answers. */
  readonly #written: string[] = [];
  #owned: OwnedKey | undefined;
  #state: RegistrationState = 'connecting';
  #since = Date.now();
  #registered: Registered | undefined;
  #registrations = 0;
  #refusal: MeshError | undefined;
  /** When an announcement was written last, monotonic milliseconds. */
  #wroteAt = 0;
  #announcedAt: number | undefined;
  #found = false;
  /** Seconds between renewals of the lease; undefined: as many as it needs. */
  #pace: number | undefined;
  #closed = false;

  constructor(options: RegistrationOptions) {
    this.#options = options;
    this.key = registerKey(options.name);
    this.#watch = options.store.watchKey(this.key, {
      listing: () => {
        this.#found = false;
      },
      put: (_, value) => {
        this.#found = true;
        this.#seen(value);
      },
      remove: () => this.#vanished(),
      listed: () => {
        if (this.#owned === undefined || !this.#found) this.#announce();
      },
    });
  }

  get state(): RegistrationState {
    return this.#state;
  }

  get since(): number {
    return this.#since;
  }

  get registrations(): number {
    return this.#registrations;
  }

  /** The last answer that was adopted; stays while the store is away. */
  get registered(): Registered | undefined {
    return this.#registered;
  }

  /** Since when our announcement is not answered; it is renewed from time to time, also after the registration. */
  get unansweredSince(): number | undefined {
    return this.#announcedAt;
  }

  get refusal(): MeshError | undefined {
    return this.#refusal;
  }

  /** For whom or what it waits, in words. */
  get waitingFor(): string | undefined {
    const { store, name } = this.#options;
    if (this.#refusal !== undefined) return this.#refusal.message;
    if (this.#state === 'registered') return undefined;
    if (store.status.state !== 'connected') return store.status.summary;
    const failed = this.#owned?.lastError;
    if (failed !== undefined) return `the store refuses to take ${this.key}: ${failed}`;
    if (this.#state === 'answered') return 'writing our addresses';
    return `waiting for the cluster to answer ${this.key}: it does when an external workload named ${name} exists there`;
  }

  /** The store has another data set: what it knew of us is gone. */
  dataLost(): void {
    if (this.#owned !== undefined) this.#announce();
  }

  /** Our addresses changed. Before an answer was adopted there is nothing to publish them with. */
  addressesChanged(): void {
    const adopted = this.#state === 'answered' || this.#state === 'registered';
    if (this.#registered !== undefined && adopted) this.#publish(this.#registered);
  }

  /** What we report is other than before; told with the next value in any case. */
  reportChanged(): void {
    const adopted = this.#state === 'answered' || this.#state === 'registered';
    if (this.#registered !== undefined && adopted && this.#announcedAt === undefined) this.#publish(this.#registered);
  }

  /** How often the lease is renewed, so that the hub sees that this machine lives. */
  renewEvery(seconds: number | undefined): void {
    this.#pace = seconds;
    this.#owned?.renewEvery(seconds);
  }

  /** Announces again where no answer came, and from time to time where nothing changed. */
  async run(signal: AbortSignal): Promise<void> {
    const { answerMs = ANSWER_MS, refreshMs = REFRESH_MS } = this.#options.timing ?? {};
    let refresh = refreshMs * (0.9 + Math.random() * 0.2);
    while (!signal.aborted) {
      await sleep(Math.min(answerMs, refreshMs, 1000), signal);
      if (signal.aborted || this.#closed) return;
      this.#settle();
      const fresh = this.#state === 'registered' && this.#announcedAt === undefined;
      if (performance.now() - this.#wroteAt < (fresh ? refresh : answerMs)) continue;
      // An answer that was adopted waits for our own write, which is tried again by itself.
      if (this.#owned === undefined || this.#state === 'answered') continue;
      if (this.#options.store.status.state !== 'connected') continue;
      this.#writeAnnouncement();
      refresh = refreshMs * (0.9 + Math.random() * 0.2);
    }
  }

  /** Stops. `leave` takes our key away; otherwise it lives on until its lease ends. */
  async close(options: { readonly leave: boolean }): Promise<void> {
    this.#closed = true;
    this.#watch.close();
    await this.#owned?.release({ keep: !options.leave });
  }

  #announce(): void {
    this.#writeAnnouncement();
    this.#setState('announced');
  }

  #writeAnnouncement(): void {
    this.#wroteAt = performance.now();
    this.#announcedAt ??= Date.now();
    this.#write(announcement(this.#options.name));
  }

  #seen(value: Buffer): void {
    // What lies in the key before our first announcement is an answer to somebody else, maybe to an earlier run of ours.
    if (this.#owned === undefined) return;
    const text = value.toString('latin1');
    if (this.#written.includes(text)) {
      if (text === this.#written.at(-1)) this.#settle(true);
      return;
    }
    try {
      const answer = decodeRegisterNode(this.#options.name, value);
      if (answer.nodeIdentity === 0) return;
      if (isOurs(answer, this.#options.bootId)) return;
      this.#adopt(answer);
    } catch (error) {
      this.#refuse(error);
    }
  }

  #adopt(answer: Node): void {
    const registered = adopt(answer, this.#options.expected, this.key);
    this.#refusal = undefined;
    this.#announcedAt = undefined;
    this.#registered = registered;
    this.#setState('answered');
    this.#publish(registered);
  }

  #refuse(error: unknown): void {
    const refused = (detail: string): MeshError => new MeshError('MSH-REFUSED', detail, { place: this.key });
    this.#announcedAt = undefined;
    this.#refusal = error instanceof MeshError ? error : refused(messageOf(error));
    this.#setState('refused');
  }

  #vanished(): void {
    if (this.#owned !== undefined) this.#announce();
  }

  #publish(registered: Registered): void {
    const report = this.#options.report?.() ?? new Map<string, string>();
    this.#write({
      ...announcement(this.#options.name),
      cluster: registered.cluster.name,
      clusterId: registered.cluster.id,
      addresses: this.#options.addresses(registered),
      ranges4: registered.ranges4,
      ranges6: registered.ranges6,
      labels: new Map(registered.labels.map(({ key, value }) => [key, value])),
      nodeIdentity: registered.identity,
      bootId: this.#options.bootId,
      ...(report.size > 0 && { annotations: report }),
    });
  }

  #write(node: Node): void {
    if (this.#closed) return;
    const value = encodeRegisterNode(node);
    this.#written.push(Buffer.from(value).toString('latin1'));
    if (this.#written.length > 8) this.#written.shift();
    if (this.#owned !== undefined) this.#owned.update(value);
    else {
      this.#owned = this.#options.store.own(this.key, value);
      this.#owned.renewEvery(this.#pace);
    }
  }

  /** Phase three is over when the store holds it. */
  #settle(seen = false): void {
    if (this.#state !== 'answered' || !(seen || this.#owned?.written === true)) return;
    this.#registrations++;
    this.#setState('registered');
  }

  #setState(state: RegistrationState): void {
    if (state !== this.#state) this.#since = Date.now();
    this.#state = state;
    this.#options.onChange();
  }
}

/**
 * An answer has no addresses (specification 6.2, step 4). What has them was written by a machine: by an earlier process of
 * ours, or by another one of the same name, with which we must not take turns for ever.
 */
function isOurs(answer: Node, bootId: string): boolean {
  if (answer.addresses.length === 0) return false;
  if (answer.bootId === bootId) return true;
  const addresses = answer.addresses.map(({ address }) => formatAddress(address)).join(', ');
  throw new BadValue(`another machine registers under the name ${answer.name}: ${addresses}`);
}

/** Takes what we need from an answer. Throws MSH-REFUSED. */
function adopt(answer: Node, expected: RegistrationOptions['expected'], place: string): Registered {
  const refuse = (detail: string): MeshError => new MeshError('MSH-REFUSED', detail, { place });
  const { cluster, clusterId } = answer;
  if (cluster === '') throw refuse('it names no cluster');
  if (expected !== undefined && (expected.name !== cluster || expected.id !== clusterId)) {
    throw refuse(
      `it is from cluster ${cluster} with id ${clusterId}, the configuration says ${expected.name} with id ${expected.id}`,
    );
  }
  if (clusterId === 0) throw refuse(`cluster ${cluster} has no id: without one it cannot be followed`);
  const blocks = [identityBlock(clusterId, 255), identityBlock(clusterId, 511)];
  if (!blocks.some(([first, last]) => answer.nodeIdentity >= first && answer.nodeIdentity <= last)) {
    throw refuse(`identity ${answer.nodeIdentity} is outside of the block of cluster id ${clusterId}`);
  }
  const labels = labelSet([...answer.labels].map(([key, value]) => makeLabel('k8s', key, value)));
  const named = labels.find(({ key }) => key === CLUSTER_LABEL)?.value;
  if (named !== undefined && named !== cluster)
    throw refuse(`its label ${CLUSTER_LABEL}=${named} names another cluster than ${cluster}`);
  return {
    cluster: { name: cluster, id: clusterId },
    identity: identity(answer.nodeIdentity),
    labels,
    ranges4: answer.ranges4,
    ranges6: answer.ranges6,
  };
}

/** The router address: the first of a range behind its network address; a range of one is that one. */
export function routerAddress(range: Prefix): Address {
  const width = range.family === 4 ? 32 : 128;
  if (range.bits === width) return { family: range.family, words: range.words };
  const words = [...range.words];
  words[words.length - 1] = (words.at(-1) ?? 0) + 1;
  return { family: range.family, words };
}
