import { messageOf } from '../../core/errors.ts';
import type { NumericIdentity } from '../../core/identity.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from '../../host/netlink.ts';
import type { Border, DesiredState } from '../desired.ts';
import { judge } from '../judge.ts';
import { type FlatPrefixes, worldOf } from './keys.ts';
import { findRange } from './ranges.ts';
import { cutWithdrawn, type JudgedFlow } from './withdrawn.ts';

/** Least time between two looks at all connections. */
const INTERVAL_MS = 1000;
/** A machine with very many connections spends at most one part in so many on them. */
const REST = 5;

export interface Judged {
  readonly desired: DesiredState;
  readonly prefixes: FlatPrefixes;
}

/**
 * Judges the connections of the machine again when something changed. Each change is followed by two looks: one at once (or
 * when the interval is over), and one an interval later for connections that were being made meanwhile and had no
 * entry yet.
 */
export class ConnectionCutter {
  readonly #socket = new NetlinkSocket({ family: NETLINK_NETFILTER });
  readonly #onError: (message: string) => void;
  #judged: Judged | undefined;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<number> | undefined;
  #nextAt = 0;
  #looks = 0;
  #idle = false;
  #closed = false;

  constructor(onError: (message: string) => void) {
    this.#onError = onError;
  }

  /** @returns connections cut, if there was time to look at once; else 0, and they are cut in a moment */
  async changed(judged: Judged): Promise<number> {
    this.#judged = judged;
    const idle = nothingDenied(judged.desired);
    // Where nothing is denied, and was not before, there is nothing to cut and nothing to let live again.
    if (idle && this.#idle) return 0;
    this.#idle = false;
    this.#looks = 2;
    if (this.#running !== undefined || Date.now() < this.#nextAt) {
      this.#later();
      return 0;
    }
    return this.#look();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket.close();
    await this.#running?.catch(() => undefined);
  }

  #later(): void {
    if (this.#timer !== undefined || this.#running !== undefined || this.#closed) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        void this.#look().catch((error: unknown) => {
          if (!this.#closed) this.#onError(messageOf(error));
        });
      },
      Math.max(10, this.#nextAt - Date.now()),
    ).unref();
  }

  async #look(): Promise<number> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const start = Date.now();
    const judged = this.#judged;
    if (judged === undefined) return 0;
    this.#looks--;
    this.#running = cutWithdrawn(this.#socket, (flow) => denies(judged, flow));
    try {
      const cut = await this.#running;
      if (this.#looks === 0 && nothingDenied(judged.desired)) this.#idle = true;
      return cut;
    } catch (error) {
      this.#looks = Math.max(1, this.#looks);
      throw error;
    } finally {
      this.#running = undefined;
      this.#nextAt = Math.max(start + INTERVAL_MS, Date.now() + REST * (Date.now() - start));
      if (this.#looks > 0) this.#later();
    }
  }
}

function nothingDenied({ border, ingress, egress }: DesiredState): boolean {
  return border.audit || (!ingress.enforcing && !egress.enforcing);
}

function denies(judged: Judged, flow: JudgedFlow): boolean {
  const { desired } = judged;
  if (desired.border.audit || isExempt(desired.border, flow)) return false;
  const known = identityOf(judged, flow);
  // The identity that the overlay brought is gone with its packet: where the address says nothing, the flow stays.
  if (known === undefined && flow.overlay) return false;
  const identity = known ?? (worldOf(flow.family, desired.border.dualStack) as NumericIdentity);
  return judge(desired[flow.direction], { identity, protocol: flow.protocol, port: flow.port }) === 'deny';
}

/** The flows that the rules let pass whatever the policy says. */
function isExempt(border: Border, flow: JudgedFlow): boolean {
  const { direction, protocol, port, sourcePort } = flow;
  if (border.failsafe[direction].some((each) => each.protocol === protocol && each.port === port)) return true;
  if (protocol === 17) {
    const [from, to] = direction === 'ingress' ? [port, sourcePort] : [sourcePort, port];
    if (from === 68 && to === 67 && flow.family === 4) return true;
    if (from === 546 && to === 547 && flow.family === 6) return true;
  }
  if (protocol !== 6) return false;
  const peer = wordsOf(flow.peer);
  // A connection to a store that is older than the rules, and was first seen when the store spoke, looks as if it came in.
  const storePort = direction === 'egress' ? port : sourcePort;
  return border.stores.some(
    ({ address, port: of }) =>
      of === storePort && address.family === flow.family && address.words.every((word, i) => word === peer[i]),
  );
}

function identityOf({ desired, prefixes }: Judged, flow: JudgedFlow): NumericIdentity | undefined {
  const words = wordsOf(flow.peer);
  const { hosts4, hosts6 } = desired.addresses;
  const host = (flow.family === 4 ? hosts4 : hosts6).lookup(words, 0);
  if (host !== undefined) return host as NumericIdentity;
  const at = words.reduce((all, word) => (all << 32n) | BigInt(word), 0n);
  return findRange(flow.family === 4 ? prefixes.v4 : prefixes.v6, at)?.value as NumericIdentity | undefined;
}

function wordsOf(address: Buffer): number[] {
  return Array.from({ length: address.length / 4 }, (_, i) => address.readUInt32BE(i * 4));
}
