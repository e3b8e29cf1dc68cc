import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { capture } from '../../src/agent/last-good/capture.ts';
import { CHUNK, ChunkWriter } from '../../src/agent/last-good/file.ts';
import { LastGoodKeeper } from '../../src/agent/last-good/keeper.ts';
import { LastGoodPlace } from '../../src/agent/last-good/place.ts';
import { type Restored, restoreState } from '../../src/agent/last-good/restored-state.ts';
import { Health } from '../../src/api/health.ts';
import { MeshError } from '../../src/core/errors.ts';
import { identity } from '../../src/core/identity.ts';
import { type Address, formatAddress, formatPrefix, parseAddress, parsePrefix, type Words } from '../../src/core/ip.ts';
import { WordTable } from '../../src/core/word-table.ts';
import type { DesiredState } from '../../src/datapath/desired.ts';
import type { DirectionPolicy, PolicyRow } from '../../src/policy/result.ts';
import { until } from '../lab/namespace.ts';

const address = (text: string): Address => parseAddress(text) ?? assert.fail(text);
const prefix = (text: string) => parsePrefix(text) ?? assert.fail(text);
const VIAS = ['192.168.0.1', '192.168.0.2', 'fd00::1'].map(address);
const HEAD = { format: 1, version: '1.2.3', name: 'my-vm', cluster: 'vms', machine: '', savedAt: 1_700_000_000_000 };

function direction(rows: readonly PolicyRow[], enforcing: boolean): DirectionPolicy {
  const unknownClass = { id: 1, rows: [] };
  const other = { id: 7, rows };
  const byIdentity = new Map([500, 501, 16_777_217].map((id) => [identity(id), other] as const));
  return {
    enforcing,
    defaultDeny: enforcing,
    unknownClass,
    classOf: (id) => byIdentity.get(id) ?? unknownClass,
    identities: () => byIdentity,
    classes: () => [unknownClass, other],
  };
}

interface State extends DesiredState {
  readonly hosts4: WordTable;
}

function stateOf(words4: readonly number[], words6: readonly Words[]): State {
  const hosts4 = new WordTable({ keyWords: 1, columns: 1 });
  const hosts6 = new WordTable({ keyWords: 4, columns: 1 });
  for (const [index, word] of words4.entries()) hosts4.set(hosts4.insert([word]), 0, 300 + index);
  for (const [index, words] of words6.entries()) hosts6.set(hosts6.insert(words), 0, 900 + index);
  const rows: PolicyRow[] = [
    { protocol: 6, first: 80, last: 90, verdict: 'allow', rules: [] },
    { protocol: 17, first: 53, last: 53, verdict: 'deny', audit: true, rules: [] },
    { protocol: 0, first: 0, last: 65535, verdict: 'deny', rules: [] },
  ];
  const target = { address: address('10.1.0.5'), port: 8080, weight: 3 };
  return {
    hosts4,
    addresses: {
      hosts4,
      hosts6,
      prefixes: () =>
        ['10.0.0.0/8', '::/0', 'fd00:1::/64'].map((text, i) => ({ prefix: prefix(text), identity: identity(40 + i) })),
    },
    ingress: direction(rows, true),
    egress: direction([], false),
    border: {
      devices: ['eth0', 'größe'],
      dualStack: true,
      failsafe: { ingress: [{ protocol: 6, port: 22 }], egress: [] },
      stores: [{ address: address('fd00::5'), port: 2379 }],
      nodes: VIAS,
      tunnelPort: 8472,
      watchNames: true,
      audit: false,
    },
    overlay: {
      device: 'mesh_vxlan',
      port: 8472,
      identity: identity(65_601),
      source4: address('192.168.0.9'),
      source6: undefined,
      underlayMtu: 1500,
      ownAddresses: [prefix('10.192.1.1/32')],
      hostRoute: (_family, key) => ((key.at(-1) as number) % 4 === 3 ? undefined : VIAS[(key.at(-1) as number) % 4]),
      hostRoutes: () => [],
      prefixRoutes: () => [
        { prefix: prefix('10.1.0.0/16'), via: VIAS[0] as Address },
        { prefix: prefix('fd00:1::/64'), via: VIAS[2] as Address },
      ],
    },
    services: new Map([
      ['10.96.0.10 17 53', { address: address('10.96.0.10'), protocol: 17, port: 53, sticky: true, targets: [target] }],
      ['fd00::9 6 80', { address: address('fd00::9'), protocol: 6, port: 80, sticky: false, targets: [] }],
    ]),
  };
}

async function bytesOf(desired: DesiredState): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of capture({ desired, head: HEAD, registered: undefined })) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** Everything that a data path sees, as plain values. */
function seen({ addresses, ingress, egress, border, overlay, services }: DesiredState): object {
  const hosts = (family: 4 | 6): string[] => {
    const table = family === 4 ? addresses.hosts4 : addresses.hosts6;
    const found: string[] = [];
    table.forEach((slot) => {
      const words = Array.from(table.keyAt(slot));
      const via = overlay?.hostRoute(family, words);
      const where = via === undefined ? '' : formatAddress(via);
      found.push(`${formatAddress({ family, words })} ${table.get(slot, 0)} ${where}`);
    });
    return found.sort();
  };
  const policy = ({ enforcing, defaultDeny, unknownClass, identities, classes }: DirectionPolicy): object => {
    const members = [...identities()].map(([id, { id: of }]) => [id, of]);
    return { enforcing, defaultDeny, unknown: unknownClass.id, members, classes: [...classes()] };
  };
  const { hostRoute: _one, hostRoutes: _all, prefixRoutes, ...settings } = overlay ?? assert.fail('no overlay');
  return {
    hosts4: hosts(4),
    hosts6: hosts(6),
    prefixes: [...addresses.prefixes()].map(({ prefix: of, identity: id }) => `${formatPrefix(of)} ${id}`),
    ingress: policy(ingress),
    egress: policy(egress),
    border,
    settings,
    routes: [...prefixRoutes()].map(({ prefix: of, via }) => `${formatPrefix(of)} ${formatAddress(via)}`),
    services: typeof services === 'object' ? [...services.keys()].map((key) => [key, services.get(key)]) : services,
  };
}

const refusal = (error: unknown): boolean => error instanceof MeshError && error.code === 'AGT-LASTGOOD';
const word = fc.integer({ min: 0, max: 0xffff_ffff });
const anyState = fc
  .tuple(
    fc.uniqueArray(word, { maxLength: 60 }),
    fc.uniqueArray(fc.tuple(word, word, word, word), { maxLength: 40, selector: String }),
  )
  .map(([words4, words6]) => stateOf(words4, words6));

test('what is read is what was written, whatever the addresses', async () => {
  await fc.assert(
    fc.asyncProperty(anyState, async (state) => {
      const { head, state: restored } = await restoreState(await bytesOf(state));
      assert.deepEqual(head, HEAD);
      assert.deepEqual(seen(restored), seen(state));
    }),
    { numRuns: 40 },
  );
});

test('one byte that is another one, or a byte too few or too many, is refused', async () => {
  const good = await bytesOf(stateOf([1, 2, 3], []));
  await fc.assert(
    fc.asyncProperty(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const bad = Buffer.from(good);
      bad[at] = (bad[at] as number) ^ change;
      await assert.rejects(restoreState(bad), refusal);
      await assert.rejects(restoreState(good.subarray(0, at)), refusal);
    }),
    { numRuns: 150 },
  );
  await assert.rejects(restoreState(Buffer.concat([good, Buffer.alloc(1)])), refusal);
});

test('content that makes no sense is refused, though its checksum is right', async () => {
  const body = { border: {}, ingress: {}, egress: {}, overlay: null, vias: [], registration: null };
  for (const parts of [
    [],
    [[CHUNK.head, HEAD]],
    [[CHUNK.head, { ...HEAD, format: 2 }]],
    [
      [CHUNK.head, HEAD],
      [CHUNK.body, body],
    ],
    [
      [CHUNK.head, HEAD],
      [CHUNK.body, null],
    ],
    [
      [CHUNK.head, HEAD],
      [CHUNK.body, { ...body, vias: ['nowhere'] }],
    ],
  ] as const) {
    const writer = new ChunkWriter();
    const bytes = [writer.begin(), ...parts.map(([tag, value]) => writer.json(tag, value)), writer.end()];
    await assert.rejects(restoreState(Buffer.concat(bytes)), refusal);
  }
});

test('a table that changes while it is written down gives rows of before or after, and none of neither', async () => {
  const words = Array.from({ length: 20_000 }, (_, i) => 0x0a00_0000 + i);
  const state = stateOf(words, []);
  const pieces: Buffer[] = [];
  let round = 0;
  for await (const piece of capture({ desired: state, head: HEAD, registered: undefined })) {
    pieces.push(piece);
    // As feeds do between two turns: rows go, come, and change.
    for (let i = 0; i < 500; i++) state.hosts4.remove([0x0a00_0000 + ((round * 977 + i) % 20_000)]);
    for (let i = 0; i < 500; i++) state.hosts4.set(state.hosts4.insert([0x0b00_0000 + round * 500 + i]), 0, 5);
    round++;
  }
  const { state: restored }: Restored = await restoreState(Buffer.concat(pieces));
  let rows = 0;
  restored.addresses.hosts4.forEach((slot) => {
    const key = restored.addresses.hosts4.keyAt(slot)[0] as number;
    const expected = key >= 0x0b00_0000 ? 5 : 300 + key - 0x0a00_0000;
    assert.equal(restored.addresses.hosts4.get(slot, 0), expected);
    rows++;
  });
  assert.ok(rows > 10_000 && rows < 30_000, `${rows}`);
});

function keeperIn(t: TestContext, desired: DesiredState) {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-last-good-'));
  const health = new Health(() => {});
  const place = new LastGoodPlace(folder);
  const timing = { settleMs: 20, confirmMs: 3_600_000 };
  const keeper = new LastGoodKeeper({
    place,
    name: 'my-vm',
    desired,
    registered: () => undefined,
    fresh: () => true,
    health,
    timing,
  });
  t.after(async () => {
    await keeper.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return { keeper, place, health, folder };
}

test('many changes are one snapshot, and none that is the same again', async (t) => {
  const { keeper, place } = keeperIn(t, stateOf([1, 2, 3], []));
  for (let i = 0; i < 100; i++) keeper.applied(true);
  await until('it is written', () => keeper.times !== undefined);
  const first = statSync(place.file).ino;
  keeper.applied(false);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(statSync(place.file).ino, first);
  assert.equal(statSync(place.file).mode & 0o777, 0o600);
  assert.equal((await place.facts())?.head.name, 'my-vm');
});

test('what is not written yet when the agent ends is written then', async (t) => {
  const { keeper, place } = keeperIn(t, stateOf([1, 2, 3], []));
  keeper.applied(true);
  await keeper.close();
  assert.equal((await restoreState((await place.read()) ?? assert.fail('nothing'))).state.addresses.hosts4.size, 3);
});

test('a folder that cannot be written is told, and no longer when it can', async (t) => {
  const { keeper, place, health, folder } = keeperIn(t, stateOf([1], []));
  writeFileSync(join(folder, 'last-good'), 'in the way');
  keeper.applied(true);
  await until('it is told', () =>
    health.list().some(({ code, severity }) => code === 'AGT-LASTGOOD' && severity === 'warning'),
  );
  rmSync(join(folder, 'last-good'));
  await until('it is over', () => health.list().length === 0);
  assert.ok(readFileSync(place.file).length > 100);
});
