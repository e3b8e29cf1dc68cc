import assert from 'node:assert/strict';
import { test } from 'node:test';
import { identity } from '../../src/core/identity.ts';
import { FactSink } from '../../src/mesh/fact-sinks.ts';
import { Tables } from '../../src/mesh/tables.ts';

const PREFIX = 'cilium/state/ip/v1/default/';

function pod(ip: string, id: number, ports: readonly object[]): Buffer {
  const value = { IP: ip, Mask: null, HostIP: '192.168.0.1', ID: id, Key: 0, Metadata: '', NamedPorts: ports };
  return Buffer.from(JSON.stringify(value));
}

function follow() {
  const tables = new Tables(() => {});
  const cluster = { name: 'b', id: 2, max: 255, joined: false } as const;
  const sink = new FactSink(tables, cluster, { kind: 'endpoints', prefix: PREFIX, onListed: () => {} });
  const shown = (id: number): string[] =>
    tables.portNames.of(identity(id)).map(({ name, protocol, port }) => `${name} ${protocol}/${port}`);
  const changed = tables.portNames.changed.read(() => {});
  return { sink, shown, changed };
}

const http = { Name: 'HTTP', Port: 8080, Protocol: 'TCP' };

test('names of ports are known by identity, and follow their endpoint', () => {
  const { sink, shown, changed } = follow();
  sink.listing();
  sink.put('10.2.0.1', pod('10.2.0.1', 131_073, [http, { Name: 'dns', Port: 53, Protocol: 'UDP' }]));
  sink.put('10.2.0.2', pod('10.2.0.2', 131_073, []));
  sink.listed();
  assert.deepEqual(shown(131_073), ['http 6/8080', 'dns 17/53']);
  assert.deepEqual([...changed.drain()], [131_073]);
  sink.put('10.2.0.1', pod('10.2.0.1', 131_074, [http]));
  assert.deepEqual([shown(131_073), shown(131_074)], [[], ['http 6/8080']]);
  assert.deepEqual([...changed.drain()].sort(), [131_073, 131_074]);
  sink.remove('10.2.0.1');
  assert.deepEqual(shown(131_074), []);
});

test('a list without the endpoint takes its names away, one that repeats it wakes nobody', () => {
  const { sink, shown, changed } = follow();
  const list = (...keys: string[]): void => {
    sink.listing();
    for (const key of keys) sink.put(key, pod(key, 131_073, [http]));
    sink.listed();
  };
  list('10.2.0.1', '10.2.0.2');
  changed.drain();
  list('10.2.0.1', '10.2.0.2');
  assert.equal(changed.pending, false);
  list('10.2.0.2');
  assert.deepEqual(shown(131_073), ['http 6/8080']);
  list();
  assert.deepEqual(shown(131_073), []);
});

test('a malformed port refuses the whole value, and what was known stays', () => {
  const { sink, shown } = follow();
  sink.listing();
  sink.put('10.2.0.1', pod('10.2.0.1', 131_073, [http]));
  sink.put('10.2.0.1', pod('10.2.0.1', 131_073, [{ Name: 'x', Port: 'eighty', Protocol: 'TCP' }]));
  sink.listed();
  assert.deepEqual(shown(131_073), ['http 6/8080']);
});
