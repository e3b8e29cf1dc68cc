import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Namespace, until } from '../lab/namespace.ts';
import { OverlayDriver } from './overlay-driver.ts';
import type { HeardPacket } from './overlay-listener.ts';
import type { OverlayScene } from './overlay-state.ts';

/** Two machines on one wire, `192.0.2.1` and `.2`, `2001:db8::1` and `::2`. */
export class OverlayLab {
  readonly a = new Namespace('ova');
  readonly b = new Namespace('ovb');

  constructor() {
    this.a.connect(this.b, {
      device: 'eth0',
      peerDevice: 'eth0',
      addresses: ['192.0.2.1/24', '2001:db8::1/64'],
      peerAddresses: ['192.0.2.2/24', '2001:db8::2/64'],
    });
    // No addresses that the kernel makes up a moment later: tests compare what there was with what there is.
    for (const space of [this.a, this.b]) {
      space.run('ip', 'link', 'set', 'eth0', 'addrgenmode', 'none');
      for (const address of space
        .run('ip', '-o', '-6', 'address', 'show', 'dev', 'eth0', 'scope', 'link')
        .split('\n')) {
        const found = /inet6 (fe80\S+)/.exec(address)?.[1];
        if (found !== undefined) space.try('ip', 'address', 'delete', found, 'dev', 'eth0');
      }
    }
  }

  /** What machine `a` wants by default. */
  scene(more: Partial<OverlayScene> = {}): OverlayScene {
    return {
      overlay: { source4: '192.0.2.1', source6: '2001:db8::1' },
      nodes: ['192.0.2.2', '2001:db8::2'],
      ...more,
    };
  }

  driver(where: Namespace = this.a): Promise<OverlayDriver> {
    return OverlayDriver.start(where);
  }

  /** VXLAN packets that arrive at `b`. */
  async listen(): Promise<HeardPacket[]> {
    const child = this.b.start(process.execPath, [join(import.meta.dirname, 'overlay-listener.ts')]);
    const heard: HeardPacket[] = [];
    let ready = false;
    if (child.stdout === null) throw new Error('no pipe');
    createInterface({ input: child.stdout }).on('line', (line) => {
      const record = JSON.parse(line);
      if (record === 'ready') ready = true;
      else heard.push(record);
    });
    await until('the listener listens', () => {
      if (child.exitCode !== null) throw new Error('the listener ended');
      return ready;
    });
    return heard;
  }

  /** Everything that `ip monitor` tells in `a` while `work` runs. */
  async changesDuring(work: () => Promise<unknown>): Promise<string[]> {
    const child = this.a.start('ip', ['-o', 'monitor', 'link', 'address', 'route']);
    let text = '';
    child.stdout?.setEncoding('utf8').on('data', (data: string) => (text += data));
    const mark = async (address: string): Promise<void> => {
      // Removed and added until the monitor tells it: then it has told everything before, too.
      await until(`the monitor tells ${address}`, () => {
        this.a.run('ip', 'address', 'replace', `${address}/32`, 'dev', 'lo');
        this.a.run('ip', 'address', 'delete', `${address}/32`, 'dev', 'lo');
        return text.includes(address);
      });
    };
    await mark('127.7.7.1');
    const start = text.length;
    await work();
    await mark('127.7.7.2');
    child.kill();
    return text
      .slice(start)
      .split('\n')
      .filter((line) => line !== '' && !line.includes('127.7.7.'));
  }

  /** Our routes in `a`, one line each, both families. */
  routes(): string[] {
    const list = (family: string): string[] =>
      this.a.run('ip', family, 'route', 'show', 'proto', '77').trim().split('\n');
    return [...list('-4'), ...list('-6')].map((line) => line.trim()).filter((line) => line !== '');
  }

  async close(): Promise<void> {
    await this.a.close();
    await this.b.close();
  }
}
