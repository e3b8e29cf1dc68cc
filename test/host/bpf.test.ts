import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type BpfError, closeObject, openPinned } from '../../src/host/bpf/command.ts';
import { BpfMap, MAP_TYPE, type MapShape } from '../../src/host/bpf/map.ts';
import type { BpfProgram } from '../../src/host/bpf/object.ts';
import { closeCgroup, hasBpfFileSystem, networkNamespaceCookie, openRootCgroup } from '../../src/host/bpf/place.ts';
import { loadProgram, SOCKET_ADDRESS } from '../../src/host/bpf/program.ts';
import { BpfFileSystem } from '../lab/bpf.ts';
import { host } from '../lab/namespace.ts';

const SHAPE: MapShape = { name: 'numbers', type: MAP_TYPE.hash, keyBytes: 4, valueBytes: 8, entries: 20_000, flags: 1 };
const CONNECT4 = { type: SOCKET_ADDRESS, attach: 10 };

let fileSystem: BpfFileSystem;
before(() => {
  fileSystem = new BpfFileSystem();
});
after(() => fileSystem.close());

const key = (number: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(number);
  return bytes;
};

test('a map gives back what was put, every element once, also more than one batch', () => {
  const map = BpfMap.create(SHAPE);
  for (let number = 0; number < 10_000; number++) map.put(key(number), Buffer.alloc(8, number & 255));
  assert.deepEqual(map.get(key(77)), Buffer.alloc(8, 77));
  assert.equal(map.get(key(10_001)), undefined);
  const seen = new Set<number>();
  for (const element of map.entries()) seen.add(element.key.readUInt32LE());
  assert.equal(seen.size, 10_000);
  assert.equal(map.delete(key(77)), true);
  assert.equal(map.delete(key(77)), false);
  map.close();
});

test('a map that is full says so', () => {
  const map = BpfMap.create({ ...SHAPE, entries: 1 });
  map.put(key(1), Buffer.alloc(8));
  assert.throws(
    () => map.put(key(2), Buffer.alloc(8)),
    (error: BpfError) => error.errnoName === 'E2BIG',
  );
  map.close();
});

test('what is pinned is found again by its name, unless it has another shape', () => {
  const map = BpfMap.create(SHAPE);
  map.put(key(5), Buffer.alloc(8, 9));
  const path = join(fileSystem.path, 'numbers');
  map.pin(path);
  map.close();
  const again = BpfMap.open(path, SHAPE);
  assert.deepEqual(again?.get(key(5)), Buffer.alloc(8, 9));
  again?.close();
  assert.equal(BpfMap.open(path, { ...SHAPE, valueBytes: 4 }), undefined);
  assert.equal(BpfMap.open(join(fileSystem.path, 'nothing'), SHAPE), undefined);
  for (const kind of ['map', 'prog', 'link'] as const)
    assert.equal(openPinned(join(fileSystem.path, 'nothing'), kind), undefined);
  assert.equal(openPinned(path, 'link'), undefined);
  mkdirSync(join(fileSystem.path, 'folder'));
  assert.equal(openPinned(join(fileSystem.path, 'folder'), 'link'), undefined);
  assert.equal(openPinned(join(path, 'below'), 'map'), undefined);
});

/** Two instructions: `r0 = 1; exit`, or without the first. */
const program = (...instructions: string[]): BpfProgram => ({
  name: 'two',
  section: 'cgroup/connect4',
  instructions: Buffer.from(instructions.join(''), 'hex').toString('base64'),
  maps: [],
});
const [ONE, EXIT] = ['b700000001000000', '9500000000000000'];

test('a program is loaded, and one that the verifier refuses brings its log', () => {
  closeObject(loadProgram(program(ONE, EXIT), CONNECT4, new Map()));
  assert.throws(
    () => loadProgram(program(EXIT), CONNECT4, new Map()),
    (error: BpfError) =>
      error.code === 'HST-BPF' && /load the eBPF program two: EACCES .*\n[\s\S]*R0 !read_ok/.test(error.message),
  );
});

test('the root of the cgroups is found among the mounts, and a part of them is not taken for it', () => {
  closeCgroup(openRootCgroup());
  assert.throws(() => openRootCgroup('25 1 0:22 / /proc rw - proc proc rw'), /no cgroup2 file system is mounted/);
  const [mount = ''] = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => / - cgroup2 /.test(line));
  const root = mount.split(' ')[4] as string;
  const part = join(root, `mesh-test-${process.pid}`);
  host('mkdir', part);
  try {
    assert.throws(() => openRootCgroup(mount.replace(root, part)), /is a part of the cgroups alone/);
  } finally {
    rmdirSync(part);
  }
});

test('network namespaces have cookies, and a folder is a BPF file system or not', () => {
  assert.equal(typeof networkNamespaceCookie(), 'bigint');
  assert.equal(hasBpfFileSystem(fileSystem.path), true);
  assert.equal(hasBpfFileSystem('/tmp'), false);
  assert.equal(hasBpfFileSystem('/nowhere'), false);
});
