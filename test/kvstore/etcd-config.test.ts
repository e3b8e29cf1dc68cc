import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseEtcdConfig, readEtcdConfig } from '../../src/kvstore/etcd-config.ts';
import { PageCursor } from '../../src/kvstore/page-cursor.ts';

const parse = (text: string) => parseEtcdConfig(text, 'cluster1');

test('the configuration that Cilium writes is read', () => {
  const text = `endpoints:
- https://vmfleet.mesh.cilium.io:2379
trusted-ca-file: /var/lib/cilium/clustermesh/ca.crt
cert-file: /var/lib/cilium/clustermesh/client.crt
key-file: /var/lib/cilium/clustermesh/client.key
dial-timeout: 5s
`;
  assert.deepEqual(parse(text), {
    endpoints: ['https://vmfleet.mesh.cilium.io:2379'],
    ca: '/var/lib/cilium/clustermesh/ca.crt',
    cert: '/var/lib/cilium/clustermesh/client.crt',
    key: '/var/lib/cilium/clustermesh/client.key',
  });
});

test('an endpoint without a scheme is reached by TLS as soon as certificates are configured', () => {
  assert.deepEqual(parse('endpoints: ["10.0.0.1:2379"]').endpoints, ['http://10.0.0.1:2379']);
  assert.deepEqual(parse('endpoints: ["10.0.0.1:2379"]\nca-file: /ca').endpoints, ['https://10.0.0.1:2379']);
});

test('a configuration that would be less safe than it looks is refused, and so is nonsense', async () => {
  const refused = [
    'endpoints: ["http://10.0.0.1:2379"]\ntrusted-ca-file: /ca',
    'endpoints: ["https://10.0.0.1:2379"]\ninsecure-skip-tls-verify: true',
    'endpoints: []',
    'endpoints: https://10.0.0.1:2379',
    'endpoints: ["ftp://10.0.0.1"]',
    'endpoints: [7]',
    'endpoints: ["https://a"]\ncert-file: [1]',
    'endpoints: ["https://a"',
    '- a',
    '',
  ];
  for (const text of refused) assert.throws(() => parse(text), { code: 'KVS-CONFIG', place: 'cluster1' }, text);
  await assert.rejects(readEtcdConfig('/nonexistent/cluster1'), { code: 'KVS-FILE' });
});

test('pages of a list stay small when they come slowly', () => {
  const limits = (ms: number): number[] => {
    const cursor = new PageCursor(Buffer.from('a/'), Buffer.from('a0'));
    return Array.from({ length: 6 }, (_, page) => {
      const { limit } = cursor.next ?? assert.fail('there is a next page');
      const last = Buffer.from(`a/${page}`);
      cursor.answered({ keys: limit, bytes: limit * 100, last, more: true, count: limit * 2, ms });
      return limit;
    });
  };
  assert.ok((limits(10).at(-1) ?? 0) > 2000);
  assert.deepEqual(limits(2000), [256, 256, 256, 256, 256, 256]);
  assert.ok((limits(5000).at(-1) ?? 0) < 16);
});
