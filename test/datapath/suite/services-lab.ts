import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { host } from '../../lab/namespace.ts';
import { type Outcome, Place } from '../../lab/place.ts';
import { type DatapathName, Driver } from './driver.ts';
import type { Spec } from './spec.ts';

export const HOSTS = [11, 12, 13] as const;
export const v4 = (host: number): string => `10.77.0.${host}`;
export const v6 = (host: number): string => `fd77::${host}`;
export const targets4 = HOSTS.map((host) => `${v4(host)} 8080`);
export const targets6 = HOSTS.map((host) => `${v6(host)} 8080`);
export const VIP = { v4: '10.96.0.1', v6: 'fd00:96::1' } as const;

export const SERVICES: Exclude<Spec['services'], 'off' | undefined> = {
  '10.96.0.1 6 80': { targets: targets4 },
  'fd00:96::1 6 80': { targets: targets6 },
  '10.96.0.1 17 53': { targets: targets4 },
  'fd00:96::1 17 53': { targets: targets6 },
  '10.96.0.2 6 80': { targets: [] },
  '10.96.0.2 17 53': { targets: [] },
  'fd00:96::2 6 80': { targets: [] },
};

export const M = { v4: '10.77.0.1', v6: 'fd77::1' } as const;
export const R = { v4: '10.77.0.2', v6: 'fd77::2' } as const;

const COUNT = `table inet seen {
  counter four { }
  counter six { }
  counter associations { }
  chain enter {
    type filter hook input priority 0;
    meta l4proto 132 th dport 8080 counter name associations
    ct state new meta l4proto { 6, 17 } meta nfproto ipv4 counter name four
    ct state new meta l4proto { 6, 17 } meta nfproto ipv6 counter name six
  }
}`;

/** A machine, by wish with a container behind it, and three backends on one wire. */
export class ServicesLab {
  readonly machine: Place;
  readonly router: Place;
  readonly container: Place | undefined;
  readonly backends: ReadonlyMap<number, Place>;

  private constructor(options: { readonly container: boolean }) {
    this.router = new Place('services-r');
    const router = this.router.namespace;
    router.run('ip', 'link', 'add', 'br0', 'type', 'bridge');
    router.run('ip', 'link', 'set', 'br0', 'up');
    router.run('ip', 'address', 'add', `${R.v4}/24`, 'dev', 'br0');
    router.run('ip', 'address', 'add', `${R.v6}/64`, 'dev', 'br0', 'nodad');
    this.machine = this.#attach('m', 1);
    this.backends = new Map(HOSTS.map((host) => [host, this.#attach(`b${host}`, host)]));
    this.machine.namespace.run('ip', 'route', 'add', '10.96.0.0/16', 'via', R.v4);
    this.machine.namespace.run('ip', '-6', 'route', 'add', 'fd00:96::/64', 'via', R.v6);
    for (const { namespace } of this.backends.values()) {
      namespace.feed(COUNT, 'nft', '-f', '-');
      namespace.run('ip', 'route', 'add', '172.17.0.0/16', 'via', M.v4);
    }
    this.container = options.container ? this.#addContainer() : undefined;
  }

  static async start(options: { readonly container: boolean }): Promise<ServicesLab> {
    const lab = new ServicesLab(options);
    await Promise.all([...lab.backends.values()].map((place) => place.listen({ tcp: [8080], udp: [8080] })));
    return lab;
  }

  /** A data path on the machine. */
  drive(name: DatapathName, env: NodeJS.ProcessEnv = {}): Promise<Driver> {
    return Driver.start(name, this.machine.namespace, {
      env: { MESH_TEST_BPF: this.machine.namespace.bpf.path, ...env },
    });
  }

  /** The machine, and its container if it has one. */
  get clients(): Place[] {
    return this.container === undefined ? [this.machine] : [this.machine, this.container];
  }

  #addContainer(): Place {
    const container = new Place('services-c');
    this.machine.namespace.connect(container.namespace, {
      device: 'bridge0',
      peerDevice: 'eth0',
      addresses: ['172.17.0.1/16'],
      peerAddresses: ['172.17.0.2/16'],
    });
    container.namespace.run('ip', 'route', 'add', 'default', 'via', '172.17.0.1');
    this.machine.namespace.run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1');
    return container;
  }

  /** A place on the bridge of the router. */
  #attach(label: string, host: number): Place {
    const place = new Place(`services-${label}`);
    place.namespace.connect(this.router.namespace, {
      device: 'eth0',
      peerDevice: `port${host}`,
      addresses: [`${v4(host)}/24`, `${v6(host)}/64`],
    });
    this.router.namespace.run('ip', 'link', 'set', `port${host}`, 'master', 'br0');
    return place;
  }

  /** Counts begin anew; a flow that goes on, or has the port of an earlier one, is a new connection again. */
  forget(): void {
    for (const { namespace } of this.backends.values()) {
      // It fails where there is none.
      namespace.try('conntrack', '-D', '-p', 'udp');
      namespace.run('nft', 'reset', 'counters', 'table', 'inet', 'seen');
    }
  }

  /** New connections that came to each backend since `forget`. */
  counts(): Record<string, number> {
    const found: Record<string, number> = {};
    for (const [host, { namespace }] of this.backends) {
      const text = namespace.run('nft', 'list', 'counters', 'table', 'inet', 'seen');
      for (const [, name, count] of text.matchAll(/counter (four|six) \{\s*packets (\d+)/g))
        if (count !== '0') found[name === 'four' ? v4(host) : v6(host)] = Number(count);
    }
    return found;
  }

  async connect(
    count: number,
    to: string,
    where: { from?: Place; protocol?: 'tcp' | 'udp'; port?: number } = {},
  ): Promise<Outcome[]> {
    const { from = this.machine, protocol = 'tcp', port = protocol === 'tcp' ? 80 : 53 } = where;
    const outcomes: Outcome[] = [];
    for (let left = count; left > 0; left -= 50)
      outcomes.push(
        ...(await Promise.all(
          Array.from({ length: Math.min(50, left) }, () => from.probe({ protocol, to, port, timeoutMs: 4000 })),
        )),
      );
    return outcomes;
  }

  /** Connections from the machine all the time, until `stop`: what became of them. */
  load(): { stop(): Promise<Outcome[]> } {
    let done = false;
    const runs = Array.from({ length: 4 }, async () => {
      const outcomes: Outcome[] = [];
      while (!done || outcomes.length < 20)
        outcomes.push(await this.machine.probe({ protocol: 'tcp', to: VIP.v4, port: 80, timeoutMs: 5000 }));
      return outcomes;
    });
    return {
      async stop() {
        done = true;
        return (await Promise.all(runs)).flat();
      },
    };
  }

  /** Where everything of ours is pinned. */
  get pinFolder(): string {
    return join(this.machine.namespace.bpf.path, 'mesh-agent');
  }

  pins(): string[] {
    if (!existsSync(this.pinFolder)) return [];
    return readdirSync(this.pinFolder, { recursive: true, withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name));
  }

  async close(): Promise<void> {
    await Promise.all(
      [this.container, this.machine, this.router, ...this.backends.values()].map((place) => place?.close()),
    );
  }
}

/** Makes `socket-program.c`. @returns its path */
export function buildSocketProgram(folder: string): string {
  const program = join(folder, 'socket-program');
  const source = join(import.meta.dirname, '../socket-program.c');
  host('cc', '-O1', '-Wall', '-Wextra', '-Werror', '-o', program, source);
  return program;
}

export const all = (outcomes: readonly Outcome[]): string => [...new Set(outcomes)].join();
