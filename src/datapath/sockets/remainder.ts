import type { FrontendKey, ServiceFrontend, ServiceMap } from '../../service/result.ts';

const SCTP = 132;

/**
 * What is left to the packet filter of services that are led at the socket: frontends without targets, which it refuses, and
 * SCTP, whose connections are made without a hook.
 */
export class Remainder implements ServiceMap {
  #services: ServiceMap;
  readonly #left = new Set<FrontendKey>();

  constructor(services: ServiceMap) {
    this.#services = services;
    this.update(services, services.keys());
  }

  /** These frontends may be others now. */
  update(services: ServiceMap, keys: Iterable<FrontendKey>): void {
    this.#services = services;
    for (const key of keys) {
      const frontend = services.get(key);
      if (frontend !== undefined && isLeft(frontend)) this.#left.add(key);
      else this.#left.delete(key);
    }
  }

  get size(): number {
    return this.#left.size;
  }

  get(key: FrontendKey): ServiceFrontend | undefined {
    return this.#left.has(key) ? this.#services.get(key) : undefined;
  }

  keys(): Iterable<FrontendKey> {
    return this.#left;
  }
}

function isLeft({ protocol, targets }: ServiceFrontend): boolean {
  return protocol === SCTP || targets.length === 0;
}
