import { messageOf } from '../../core/errors.ts';
import { OneByOne } from '../../core/one-by-one.ts';
import { forwardsPackets } from '../../host/forwarding.ts';
import type { FrontendKey } from '../../service/result.ts';
import { DatapathAround } from '../around.ts';
import type { ApplyReport, Datapath, DatapathStatus, KernelFrontend } from '../datapath.ts';
import type { DesiredChanges, DesiredState } from '../desired.ts';
import { frontendsOf } from '../lb/dump.ts';
import { Remainder } from './remainder.ts';
import { SocketServices } from './services.ts';

export interface SocketDatapathOptions {
  /** Judges packets, and leads those of services that the sockets leave to it. */
  readonly policy: Datapath;
  /** False: services are left to the packets, and what an earlier run attached to the sockets goes. */
  readonly enabled: boolean;
  /** Where the BPF file system is mounted. */
  readonly fileSystem?: string;
  readonly log?: { info(facts: object, message: string): void; warn(facts: object, message: string): void };
  /** How often programs and forwarding are looked after, milliseconds; 2 s by default. */
  readonly checkMs?: number;
}

const CHECK_MS = 2_000;
/** After the kernel has refused. */
const RETRY_MS = 60_000;

/** Where to look. */
type Step = 'everything' | 'nothing' | readonly FrontendKey[];

/** What the packets have to do. */
interface Share {
  readonly services: DesiredState['services'];
  readonly changed: Iterable<FrontendKey> | undefined;
}

/**
 * A data path whose services are led at the socket: what the machine itself connects to costs no translation of packets, nor
 * does any other connection pay for its possibility. Beside that the packets of others are led as they pass (when this machine
 * forwards any: containers, virtual machines), and what sockets cannot do (`Remainder`).
 *
 * In what order: sockets lead before the packet filter ceases to, and it leads or refuses before they cease to. When the kernel
 * refuses the programs, the packet filter leads everything; policies never wait for it.
 */
export class SocketDatapath extends DatapathAround {
  readonly #options: SocketDatapathOptions;
  #sockets: SocketServices | undefined;
  #remainder: Remainder | undefined;
  /** What the packets were given last: all services, or the remainder. */
  #given: 'all' | 'remainder' | undefined;
  #desired: DesiredState | undefined;
  /** The last change set was not carried through. */
  #behind = false;
  /** Why connections are not led at the socket. */
  #reason: string | undefined;
  #retryAt = 0;
  #healed = 0;
  #forwards = false;
  #timer: NodeJS.Timeout | undefined;
  #listener: (what: string) => void = () => undefined;
  /** One after the other: the caller's changes and our own. */
  readonly #turns = new OneByOne();

  constructor(options: SocketDatapathOptions) {
    super(options.policy);
    this.#options = options;
  }

  override async open(): Promise<void> {
    await this.inner.open();
    this.inner.onDrift((what) => this.#listener(what));
    this.#openSockets('silently');
    this.#timer = setInterval(() => void this.#check(), this.#options.checkMs ?? CHECK_MS).unref();
  }

  #openSockets(how?: 'silently'): void {
    const { fileSystem, log } = this.#options;
    const onError = (error: string): void =>
      log?.warn({ error }, 'datagram sockets of services could not be looked at');
    try {
      this.#sockets = SocketServices.open({ ...(fileSystem !== undefined && { fileSystem }), onError });
    } catch (error) {
      // Who has no services need not know.
      if (how === undefined) this.#failed(error);
    }
  }

  override apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    return this.#turns.run(() => this.#apply(desired, changes));
  }

  async #apply(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const start = performance.now();
    this.#desired = desired;
    const steps = this.#stepsOf(desired, changes);
    this.#behind = true;
    const first = await this.#leadSockets(desired, steps.first);
    const report = await this.#leadPackets(desired, changes);
    const last = await this.#leadSockets(desired, steps.last);
    if (!this.#isLed && this.#given === 'remainder') await this.#leadPackets(desired, {});
    // Only now, when the packets are led.
    if (desired.services !== undefined && !this.#isLed) this.#release();
    this.#behind = false;
    return {
      added: report.added + first.added + last.added,
      removed: report.removed + first.removed + last.removed,
      cut: report.cut,
      tookMs: performance.now() - start,
    };
  }

  /** Services are led by programs that are as they should be. */
  get #isLed(): boolean {
    return this.#sockets?.leads === true && this.#reason === undefined && this.#remainder !== undefined;
  }

  /** Frontends to be led at the socket before the packets are seen to, and those that the packets must refuse before. */
  #stepsOf({ services }: DesiredState, changes: DesiredChanges): { first: Step; last: Step } {
    const wanted = services === undefined || services === 'off' ? undefined : services;
    if (changes.everything === true || !this.#isLed || this.#behind || wanted === undefined)
      return { first: 'everything', last: 'nothing' };
    const [first, last]: [FrontendKey[], FrontendKey[]] = [[], []];
    for (const key of changes.services ?? []) (wanted.get(key)?.targets.length === 0 ? last : first).push(key);
    const step = (keys: FrontendKey[]): Step => (keys.length === 0 ? 'nothing' : keys);
    return { first: step(first), last: step(last) };
  }

  /** Never rejects: where the sockets cannot lead, `#reason` says why, and the packets do it. */
  async #leadSockets({ services }: DesiredState, step: Step): Promise<{ added: number; removed: number }> {
    const nothing = { added: 0, removed: 0 };
    if (services === undefined || step === 'nothing') return nothing;
    if (services === 'off' || !this.#options.enabled) {
      this.#remainder = undefined;
      this.#reason = services === 'off' ? undefined : 'the configuration wants no eBPF';
      return nothing;
    }
    if (this.#reason !== undefined && Date.now() < this.#retryAt) return nothing;
    if (this.#sockets === undefined) this.#openSockets();
    // A hook that leads nowhere would cost every connection.
    if (this.#sockets === undefined || (services.size === 0 && !this.#sockets.present)) return nothing;
    try {
      const wasLed = this.#isLed;
      const report = await this.#sockets.apply(services, step === 'everything' ? undefined : step);
      if (step === 'everything' || this.#remainder === undefined) this.#remainder = new Remainder(services);
      if (!wasLed) this.#options.log?.info({}, 'services are led at the socket');
      this.#reason = undefined;
      return report;
    } catch (error) {
      this.#failed(error);
      return nothing;
    }
  }

  /** The policy, and of the services what the sockets leave. */
  async #leadPackets(desired: DesiredState, changes: DesiredChanges): Promise<ApplyReport> {
    const { services, changed } = this.#shareOf(desired, changes);
    const { services: _, ...others } = changes;
    const report = await this.inner.apply(
      withServices(desired, services),
      changed === undefined ? others : { ...others, services: changed },
    );
    if (services !== undefined) this.#given = services === this.#remainder ? 'remainder' : 'all';
    return report;
  }

  #failed(error: unknown): void {
    const reason = messageOf(error);
    if (reason !== this.#reason)
      this.#options.log?.warn({ reason }, 'services cannot be led at the socket: packets are translated instead');
    this.#reason = reason;
    this.#retryAt = Date.now() + RETRY_MS;
  }

  #shareOf({ services }: DesiredState, changes: DesiredChanges): Share {
    if (services === undefined || services === 'off') return { services, changed: changes.services };
    this.#forwards = forwardsPackets();
    this.#remainder?.update(services, changes.services ?? []);
    const all = !this.#isLed || this.#forwards;
    const share = all ? services : (this.#remainder ?? services);
    const same = this.#given === (all ? 'all' : 'remainder');
    return {
      services: share,
      changed: same ? changes.services : new Set([...services.keys(), ...(changes.services ?? [])]),
    };
  }

  #release(): void {
    try {
      // Programs that nobody keeps up any more would lead to where services once were.
      if (this.#sockets === undefined) SocketServices.discard(this.#options.fileSystem);
      else if (this.#sockets.present) this.#sockets.remove();
    } catch (error) {
      this.#options.log?.warn({ error: messageOf(error) }, 'what leads services at the socket could not be taken away');
    }
  }

  /** Programs that are gone are attached again; packets of others are led as soon as this machine forwards them. */
  async #check(): Promise<void> {
    await this.#turns
      .run(async () => {
        const desired = this.#desired;
        const services = desired?.services;
        if (this.#timer === undefined || desired === undefined || services === undefined || services === 'off') return;
        const what = this.#broken() ?? this.#patrol();
        const again = this.#reason !== undefined && this.#options.enabled && Date.now() >= this.#retryAt;
        if (what === undefined && !again && this.#forwards === forwardsPackets()) return;
        try {
          await this.#apply(desired, { services: [...services.keys()] });
          if (what !== undefined) {
            this.#healed++;
            this.#options.log?.info({ what }, 'a foreign change was healed');
          }
        } catch (error) {
          this.#listener(`services could not be led: ${messageOf(error)}`);
        }
      })
      .catch(() => undefined);
  }

  /** @returns why everything must be written again */
  #patrol(): string | undefined {
    try {
      const wrong = this.#isLed ? (this.#sockets?.patrol() ?? 0) : 0;
      if (wrong === 0) return undefined;
      this.#healed++;
      this.#options.log?.info({ what: `elements of services: ${wrong}` }, 'a foreign change was healed');
      return undefined;
    } catch (error) {
      return messageOf(error);
    }
  }

  #broken(): string | undefined {
    try {
      return this.#isLed ? this.#sockets?.broken : undefined;
    } catch (error) {
      return messageOf(error);
    }
  }

  /** Frontends that both lead are told once, with all of their connections. */
  override async dumpServices(): Promise<KernelFrontend[]> {
    const packets = await this.inner.dumpServices();
    const found = new Map<string, KernelFrontend>(packets.map((frontend) => [nameOf(frontend), frontend]));
    for (const frontend of this.#sockets === undefined ? [] : frontendsOf(this.#sockets.dump(), 'socket')) {
      const other = found.get(nameOf(frontend));
      // Only the packet filter refuses.
      if (frontend.targets.length === 0) continue;
      const connections = frontend.connections + (other?.connections ?? 0);
      found.set(nameOf(frontend), { ...frontend, connections, at: other === undefined ? 'socket' : 'both' });
    }
    return [...found.values()];
  }

  override get status(): DatapathStatus {
    const { entries, healed, balances, ...status } = this.inner.status;
    const led = this.#isLed ? this.#sockets?.held : undefined;
    const at = this.#at;
    return {
      ...status,
      entries: led === undefined ? entries : { ...entries, frontends: led.size, slots: led.slotCount },
      healed: healed + this.#healed,
      balances: led !== undefined || balances !== false,
      ...(at !== undefined && { services: at }),
    };
  }

  get #at(): DatapathStatus['services'] {
    const services = this.#desired?.services;
    if (services === undefined || services === 'off' || services.size === 0) return undefined;
    if (!this.#isLed) return { at: 'packet', ...(this.#reason !== undefined && { reason: this.#reason }) };
    return this.#given === 'all' ? { at: 'both', reason: 'this machine forwards packets of others' } : { at: 'socket' };
  }

  override onDrift(listener: (what: string) => void): void {
    this.#listener = listener;
  }

  override remove(): Promise<void> {
    return this.#turns.run(async () => {
      this.#desired = undefined;
      this.#remainder = undefined;
      this.#given = undefined;
      await this.inner.remove();
      this.#sockets?.remove();
    });
  }

  override async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    await this.#turns.idle();
    await this.#sockets?.close();
    this.#sockets = undefined;
    await this.inner.close();
  }
}

const nameOf = ({ address, protocol, port }: KernelFrontend): string => `${address} ${protocol} ${port}`;

/** The same state, present as ever, but for its services. */
function withServices(desired: DesiredState, services: DesiredState['services']): DesiredState {
  return {
    get addresses() {
      return desired.addresses;
    },
    get ingress() {
      return desired.ingress;
    },
    get egress() {
      return desired.egress;
    },
    get border() {
      return desired.border;
    },
    get overlay() {
      return desired.overlay;
    },
    services,
  };
}
