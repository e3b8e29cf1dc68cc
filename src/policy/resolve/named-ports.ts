import type { Protocol } from '../result.ts';
import type { NamedPort, PortMatch, PortRange } from '../rule.ts';

/** A port name that an endpoint offers. */
export interface NamedPortValue {
  readonly name: string;
  readonly protocol: 6 | 17 | 132;
  readonly port: number;
}

/** The ports that one endpoint or identity offers by name (specification 8.2). */
export class NamedPorts {
  readonly #ports = new Map<string, number | 'ambiguous'>();

  constructor(values: readonly NamedPortValue[]) {
    for (const { name, protocol, port } of values) {
      const key = `${protocol}/${name.toLowerCase()}`;
      const known = this.#ports.get(key);
      this.#ports.set(key, known === undefined || known === port ? port : 'ambiguous');
    }
  }

  get size(): number {
    return this.#ports.size;
  }

  /** The number; undefined when the name is unknown or stands for several. */
  resolve({ protocol, name }: NamedPort): number | undefined {
    const port = this.#ports.get(`${protocol}/${name}`);
    return typeof port === 'number' ? port : undefined;
  }

  equals(other: NamedPorts | undefined): boolean {
    if (other === undefined || other.size !== this.size) return false;
    for (const [key, port] of this.#ports) if (other.#ports.get(key) !== port) return false;
    return true;
  }
}

export function isNamed(match: PortMatch): match is NamedPort {
  return 'name' in match;
}

export function toRange(port: number, protocol: Protocol): PortRange {
  return { protocol, first: port, last: port };
}
