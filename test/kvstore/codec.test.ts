import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatAddress, formatPrefix, parseAddress } from '../../src/core/ip.ts';
import { decodeAddress } from '../../src/kvstore/codec/address.ts';
import { decodeClusterConfig } from '../../src/kvstore/codec/cluster-config.ts';
import { decodeIdentity } from '../../src/kvstore/codec/identity.ts';
import { BadValue } from '../../src/kvstore/codec/json.ts';
import { decodeNode, encodeNode, type Node, nodeIp } from '../../src/kvstore/codec/node.ts';
import { announcement, decodeRegisterNode, encodeRegisterNode } from '../../src/kvstore/codec/register-node.ts';
import { decodeService } from '../../src/kvstore/codec/service.ts';

const BLOCK = [65_536, 131_071] as const;
const CLUSTER1 = { cluster: 'cluster1', clusterId: 1 };
const json = (value: unknown): Buffer => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
const address = (key: string, value: unknown) => decodeAddress(key, json(value), BLOCK);

const NODE = `{"Name":"runtime","Cluster":"cluster1","IPAddresses":[{"Type":"InternalIP","IP":"192.168.56.10"},{"Type":"CiliumInternalIP","IP":"10.192.1.1"},{"Type":"InternalIP","IP":"fd00::10"}],"IPv4AllocCIDR":{"IP":"10.192.1.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":{"IP":"fd00:10:192:1::","Mask":"//////////8AAAAAAAAAAA=="},"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"10.192.1.2","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"custom-resource","EncryptionKey":0,"Labels":{"kubernetes.io/os":"linux"},"Annotations":null,"NodeIdentity":6,"WireguardPubKey":"","BootID":"45d1b1a3-8c1f-4f3e-9a55-1f2b7c0e9d10"}`;
const ANNOUNCEMENT = `{"Name":"runtime","Cluster":"","IPAddresses":null,"IPv4AllocCIDR":null,"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":0,"Source":"local","EncryptionKey":0,"Labels":null,"Annotations":null,"NodeIdentity":0,"WireguardPubKey":"","BootID":""}`;
const ANSWER = `{"Name":"runtime","Cluster":"cluster1","IPAddresses":null,"IPv4AllocCIDR":{"IP":"10.192.1.0","Mask":"/////A=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"kvstore","EncryptionKey":0,"Labels":{"app":"vm","io.cilium.k8s.policy.cluster":"cluster1","io.kubernetes.pod.name":"runtime","io.kubernetes.pod.namespace":"default"},"Annotations":null,"NodeIdentity":66544,"WireguardPubKey":"","BootID":""}`;
const SERVICE = `{"cluster":"cluster1","namespace":"default","name":"rebel-base","frontends":{"10.96.3.7":{"http":{"Protocol":"TCP","Port":80}}},"backends":{"10.0.1.23":{"http":{"Protocol":"TCP","Port":8080}},"10.0.1.24":{"http":{"Protocol":"TCP","Port":8080}}},"hostnames":{},"labels":{"app":"rebel"},"selector":{"name":"rebel-base"},"includeExternal":true,"shared":true,"clusterID":1}`;
const HOST = `{"IP":"10.0.1.23","Mask":null,"HostIP":"192.168.56.10","ID":66544,"Key":0,"Metadata":"","K8sNamespace":"default","K8sPodName":"runtime"}`;
const CIDR = `{"IP":"10.1.0.0","Mask":"//8AAA==","HostIP":"192.168.56.10","ID":66544,"Key":0,"Metadata":"","NamedPorts":[{"Name":"http","Port":80,"Protocol":"TCP"}]}`;

test('a node as Cilium writes it', () => {
  const node = decodeNode('runtime', json(NODE), CLUSTER1);
  assert.equal(node.clusterId, 1);
  assert.deepEqual(node.ranges4.map(formatPrefix), ['10.192.1.0/24']);
  assert.deepEqual(node.ranges6.map(formatPrefix), ['fd00:10:192:1::/64']);
  assert.deepEqual(node.healthAddresses.map(formatAddress), ['10.192.1.2']);
  assert.deepEqual([...node.labels], [['kubernetes.io/os', 'linux']]);
  const [ip4, ip6] = [nodeIp(node, 4), nodeIp(node, 6)];
  assert.equal(ip4 && formatAddress(ip4), '192.168.56.10');
  assert.equal(ip6 && formatAddress(ip6), 'fd00::10');
  assert.equal(node.bootId, '45d1b1a3-8c1f-4f3e-9a55-1f2b7c0e9d10');
});

test('the node IP: first InternalIP, else the last ExternalIP, else another type but CiliumInternalIP', () => {
  const ip = (...addresses: [type: string, ip: string][]): string | undefined => {
    const list = addresses.map(([Type, IP]) => ({ Type, IP }));
    const found = nodeIp(
      decodeNode('n', json({ Name: 'n', Cluster: 'cluster1', ClusterID: 1, IPAddresses: list }), CLUSTER1),
      4,
    );
    return found && formatAddress(found);
  };
  assert.equal(ip(['ExternalIP', '1.1.1.1'], ['InternalIP', '2.2.2.2'], ['InternalIP', '3.3.3.3']), '2.2.2.2');
  assert.equal(ip(['Hostname', '4.4.4.4'], ['ExternalIP', '1.1.1.1'], ['ExternalIP', '5.5.5.5']), '5.5.5.5');
  assert.equal(ip(['CiliumInternalIP', '6.6.6.6'], ['SomethingNew', '7.7.7.7'], ['Hostname', '4.4.4.4']), '7.7.7.7');
  assert.equal(ip(['CiliumInternalIP', '6.6.6.6']), undefined);
  assert.equal(ip(['InternalIP', '']), undefined);
});

test('a node that is not what its key and its cluster say is refused', () => {
  const change = (fields: object): Buffer => json({ ...(JSON.parse(NODE) as object), ...fields });
  const decode = (value: Buffer) => () => decodeNode('runtime', value, CLUSTER1);
  assert.throws(decode(change({ Name: 'other' })), /is not the key's last part/);
  assert.throws(decode(change({ Name: '' })), BadValue);
  assert.throws(decode(change({ Cluster: 'cluster2' })), /is not cluster1/);
  assert.throws(decode(change({ Cluster: '' })), BadValue);
  assert.throws(decode(change({ ClusterID: 2 })), /is not 1/);
  assert.throws(decode(change({ ClusterID: 0 })), BadValue);
  assert.throws(decode(change({ ClusterID: 512 })), BadValue);
  assert.throws(decode(change({ IPv4AllocCIDR: { IP: '10.0.0.0', Mask: '255.255.255.0' } })), /no base64/);
  assert.throws(decode(change({ IPv4AllocCIDR: { IP: '10.0.0.0', Mask: '//////////8AAAAAAAAAAA==' } })), /IPv4 mask/);
  assert.throws(decode(change({ IPv6AllocCIDR: { IP: 'fd00::', Mask: '////AA==' } })), /IPv6 mask/);
  assert.throws(decode(change({ IPv4AllocCIDR: { IP: '10.0.0.0', Mask: '/wD/AA==' } })), /without holes/);
  assert.throws(decode(change({ IPAddresses: [{ Type: 'InternalIP', IP: '300.1.1.1' }] })), /is no address/);
  assert.throws(decode(change({ IPAddresses: { a: 1 } })), /no list/);
  assert.throws(decode(change({ Labels: { a: 1 } })), /no string/);
});

test('a registration in its three phases', () => {
  assert.equal(encodeRegisterNode(announcement('runtime')), ANNOUNCEMENT);
  assert.deepEqual(decodeRegisterNode('runtime', json(ANNOUNCEMENT)), announcement('runtime'));
  const answer = decodeRegisterNode('runtime', json(ANSWER));
  assert.equal(answer.nodeIdentity, 66_544);
  assert.deepEqual(answer.ranges4.map(formatPrefix), ['10.192.1.0/30']);
  assert.equal(answer.labels.get('io.kubernetes.pod.namespace'), 'default');
  assert.throws(() => decodeRegisterNode('other', json(ANSWER)), /is not the key's last part/);
  const address = (text: string) => parseAddress(text) ?? assert.fail();
  const third: Node = {
    ...answer,
    source: 'local',
    bootId: 'b9ccfd51',
    addresses: [
      { type: 'InternalIP', address: address('192.168.56.1') },
      { type: 'CiliumInternalIP', address: address('10.192.1.1') },
    ],
  };
  const expected = ANSWER.replace(
    '"IPAddresses":null',
    '"IPAddresses":[{"Type":"InternalIP","IP":"192.168.56.1"},{"Type":"CiliumInternalIP","IP":"10.192.1.1"}]',
  )
    .replace('"Source":"kvstore"', '"Source":"local"')
    .replace('"Annotations":null', '"Annotations":{}')
    .replace('"BootID":""', '"BootID":"b9ccfd51"');
  assert.equal(encodeRegisterNode(third), expected);
});

test('addresses as Cilium writes them', () => {
  const host = address('10.0.1.23', HOST);
  assert.equal(formatAddress(host.address), '10.0.1.23');
  assert.equal(host.bits, undefined);
  assert.equal(host.identity, 66_544);
  assert.equal(host.host && formatAddress(host.host), '192.168.56.10');
  assert.equal(`${host.namespace}/${host.pod}`, 'default/runtime');
  const cidr = address('10.1.0.0/16', CIDR);
  assert.equal(`${formatAddress(cidr.address)}/${cidr.bits}`, '10.1.0.0/16');
  const six = address('fd00::10', { IP: 'fd00::10', Mask: null, HostIP: 'fd00::1', ID: 2, Key: 0, Metadata: '' });
  assert.equal(formatAddress(six.address), 'fd00::10');
  assert.equal(six.host && formatAddress(six.host), 'fd00::1');
});

test('what Cilium accepts of an address, and what it refuses', () => {
  assert.equal(address('10.0.0.1', { ip: '10.0.0.1', id: 5, hostip: '' }).host, undefined);
  assert.equal(address('10.0.0.1', { IP: '10.0.0.1', id: 70_000 }).identity, 70_000, 'any case, beside the usual one');
  assert.equal(address('10.0.0.1', { IP: '10.0.0.1', Unknown: { a: 1.5 } }).identity, 0);
  assert.equal(address('10.0.0.1', { IP: '10.0.0.1', ID: 1 }).identity, 6, 'host is a remote node');
  assert.equal(address('10.0.0.1', { IP: '::ffff:10.0.0.1' }).address.family, 4);
  assert.equal(address('10.212.0.1/32', { IP: '10.212.0.1', Mask: '/////w==' }).bits, 32);
  const refused: [key: string, value: unknown][] = [
    ['FD00::1', { IP: 'fd00::1' }],
    ['10.210.0.0/16', { IP: '10.210.5.5', Mask: null }],
    ['10.0.0.0/16', { IP: '10.0.0.0', Mask: '255.255.0.0' }],
    ['10.0.0.1/32', { IP: '10.0.0.1' }],
    ['10.211.5.5/16', { IP: '10.211.5.5', Mask: '//8AAA==' }],
    ['10.0.0.1', { IP: '10.0.0.1', ID: 131_072 }],
    ['10.0.0.1', { IP: '10.0.0.1', ID: 65_535 }],
    ['10.0.0.1', { IP: '10.0.0.1', ID: 256 }],
    ['10.0.0.1', { IP: '10.0.0.1', ID: -1 }],
    ['10.0.0.1', { IP: '10.0.0.1', ID: '66544' }],
    ['10.0.0.1', { IP: '10.0.0.1', ID: 4_294_967_296 }],
    ['10.0.0.1', { IP: '10.0.0.1', HostIP: 'node1' }],
    ['10.0.0.1', { IP: '10.0.0.1', HostIP: 7 }],
    ['10.0.0.1', { IP: '10.0.0.1', Key: 256 }],
    ['10.0.0.1', { IP: '10.0.0.1%eth0' }],
    ['010.0.0.1', { IP: '010.0.0.1' }],
    ['', {}],
    ['', { IP: '' }],
  ];
  for (const [key, value] of refused)
    assert.throws(() => address(key, value), BadValue, `${key} ${JSON.stringify(value)}`);
});

test('numbers are whole, as Go reads them', () => {
  const id = (source: string): number => address('10.0.0.1', `{"IP":"10.0.0.1","ID":${source}}`).identity;
  assert.equal(id('66544'), 66_544);
  assert.equal(id('null'), 0);
  for (const source of ['66544.0', '6.6544e4', '-0', '1e999', '99999999999999999999999999', 'true', '[1]', '{}'])
    assert.throws(() => id(source), BadValue, source);
  const usual = (source: string) => () =>
    address('10.0.0.1', HOST.replace('10.0.1.23', '10.0.0.1').replace('66544', source));
  for (const source of ['066544', '66544.0', '', '+5', '0x5', '9999999999'])
    assert.throws(usual(source), BadValue, source);
});

test('the quick way of an address and the general one agree', () => {
  const part = fc.oneof(
    fc.stringMatching(/^[a-z0-9-]{0,20}$/),
    fc.string(),
    fc.constantFrom('a"b', '\\', 'é', '\u0000'),
  );
  const pair = fc.record({
    ip: fc.oneof(fc.ipV4(), fc.ipV6(), fc.constant('')),
    host: fc.oneof(fc.ipV4(), fc.ipV6(), fc.constantFrom('', 'x')),
    id: fc.oneof(fc.integer({ min: 65_536, max: 131_071 }), fc.nat()),
    namespace: part,
    pod: part,
  });
  const attempt = (key: string, value: Buffer): unknown => {
    try {
      return decodeAddress(key, value, BLOCK);
    } catch (error) {
      assert.ok(error instanceof BadValue);
      return 'refused';
    }
  };
  fc.assert(
    fc.property(pair, ({ ip, host, id, namespace, pod }) => {
      const fields = {
        IP: ip,
        Mask: null,
        HostIP: host,
        ID: id,
        Key: 0,
        Metadata: '',
        K8sNamespace: namespace,
        K8sPodName: pod,
      };
      const parsed = parseAddress(ip);
      const key = parsed === undefined ? ip : formatAddress(parsed);
      // A blank is enough to leave the quick way.
      assert.deepEqual(attempt(key, json(fields)), attempt(key, json(` ${JSON.stringify(fields)}`)));
    }),
    { numRuns: 2000 },
  );
});

test('identities must be in the block, and of the cluster', () => {
  const expected = { cluster: 'vmfleet', block: [5_046_272, 5_111_807] as const };
  const labels = 'k8s:app=vm;k8s:io.cilium.k8s.policy.cluster=vmfleet;k8s:io.kubernetes.pod.namespace=default;';
  const found = decodeIdentity('5046273', Buffer.from(labels), expected);
  assert.equal(found.id, 5_046_273);
  assert.deepEqual(found.labels.map(({ text }) => text), labels.split(';').slice(0, 3)); // biome-ignore format: short
  const refused = (key: string, value: string): void =>
    assert.throws(() => decodeIdentity(key, Buffer.from(value), expected), BadValue, `${key} ${value}`);
  for (const key of ['65536', '5111808', '05046273', '5046273.0', '-1', '', '1e7', '../5046273']) refused(key, labels);
  refused('5046273', labels.replace('vmfleet', 'other'));
  refused('5046273', labels.replace('k8s:io.cilium', 'unspec:io.cilium'));
  refused('5046273', 'k8s:app=vm;');
  refused('5046273', '');
});

test('a service as Cilium writes it, and what is refused', () => {
  const service = decodeService('default/rebel-base', json(SERVICE), CLUSTER1);
  assert.deepEqual([...service.backends.keys()], ['10.0.1.23', '10.0.1.24']);
  assert.deepEqual(service.frontends.get('10.96.3.7'), [{ name: 'http', protocol: 'TCP', port: 80 }]);
  assert.equal(service.shared && service.includeExternal, true);
  const many = Object.fromEntries(Array.from({ length: 1025 }, (_, n) => [`p${n}`, { Protocol: 'TCP', Port: n + 1 }]));
  const crowded = JSON.stringify({ ...(JSON.parse(SERVICE) as object), frontends: { '10.96.3.7': many } });
  assert.throws(
    () => decodeService('default/rebel-base', Buffer.from(crowded), CLUSTER1),
    /1025 frontend ports are more than 1024/,
  );
  const change = (fields: object) => () =>
    decodeService('default/rebel-base', json({ ...(JSON.parse(SERVICE) as object), ...fields }), CLUSTER1);
  assert.equal(change({ backends: null })().backends.size, 0);
  assert.deepEqual(change({ backends: { 'FD00::1': null } })().backends.get('fd00::1'), []);
  assert.equal(change({ labels: { a: null } })().labels.get('a'), '');
  assert.equal(service.hostnames, undefined);
  const hostnames = { 'FD00::1': 'db-0', '10.0.0.1': 'a.b', '10.0.0.2': 'Db', nowhere: 'db-1' };
  assert.deepEqual([...(change({ hostnames })().hostnames ?? [])], [['fd00::1', 'db-0']]);
  assert.throws(change({ cluster: 'x' }), BadValue);
  assert.throws(change({ name: 'x' }), BadValue);
  assert.throws(change({ namespace: '' }), BadValue);
  assert.throws(change({ clusterID: 0 }), BadValue);
  assert.throws(change({ clusterID: 2 }), BadValue);
  assert.throws(change({ backends: { host: {} } }), BadValue);
  assert.throws(change({ backends: { '10.0.0.1': 5 } }), BadValue);
  assert.throws(change({ backends: { '10.0.0.1': 'abc' } }), BadValue);
  assert.throws(change({ backends: { '10.0.0.1': { http: { Protocol: 'TCP', Port: 65_536 } } } }), BadValue);
  assert.throws(change({ shared: 'true' }), BadValue);
});

test('a cluster configuration as Cilium writes it, and what is refused', () => {
  const decode = (text: string) => decodeClusterConfig(Buffer.from(text));
  assert.deepEqual(
    decode('{"id":77,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255}}'),
    {
      id: 77,
      syncedCanaries: true,
      cached: true,
      maxConnectedClusters: 255,
      sliceMode: '',
    },
  );
  assert.equal(decode('{"id":1,"capabilities":{}}').syncedCanaries, false);
  assert.equal(decode('{"ID":1}').maxConnectedClusters, 255);
  assert.equal(decode('{"id":300,"capabilities":{"maxConnectedClusters":511}}').id, 300);
  for (const text of [
    '{}',
    '{"id":0}',
    '{"id":256}',
    '{"id":512,"capabilities":{"maxConnectedClusters":511}}',
    '{"id":1,"capabilities":[]}',
    '{"id":1,"capabilities":{"maxConnectedClusters":100}}',
  ])
    assert.throws(() => decode(text), BadValue, text);
});

test('names of the prototype are names like others', () => {
  const labels = '{"__proto__":"x","constructor":"y","toString":"z"}';
  const node = decodeNode(
    'n',
    json(`{"Name":"n","Cluster":"cluster1","ClusterID":1,"Labels":${labels},"__proto__":{"Source":"evil"}}`),
    CLUSTER1,
  );
  assert.deepEqual([...node.labels], [['__proto__', 'x'], ['constructor', 'y'], ['toString', 'z']]); // biome-ignore format: short
  assert.equal(node.source, '');
  assert.ok(encodeNode(node).includes(labels));
  assert.equal(({} as { Source?: string }).Source, undefined);
});

test('nodes survive being written and read', () => {
  const addressArb = fc
    .oneof(fc.ipV4(), fc.ipV6())
    .map((text) => parseAddress(text))
    .filter((found) => found !== undefined);
  const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,15}$/);
  const node = fc.record({
    name,
    clusterId: fc.integer({ min: 1, max: 255 }),
    addresses: fc.array(
      fc.record(
        { type: fc.constantFrom('InternalIP', 'ExternalIP', 'Hostname'), address: addressArb },
        { noNullPrototype: true },
      ),
    ),
    labels: fc.dictionary(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' })),
    nodeIdentity: fc.nat(),
    bootId: fc.string(),
    source: fc.string(),
  });
  fc.assert(
    fc.property(node, (fields) => {
      const whole: Node = {
        ...announcement(fields.name),
        ...fields,
        cluster: 'c',
        labels: new Map(Object.entries(fields.labels)),
      };
      const read = decodeNode(whole.name, Buffer.from(encodeNode(whole)), { cluster: 'c', clusterId: whole.clusterId });
      const sorted = (labels: ReadonlyMap<string, string>) => [...labels].sort(([a], [b]) => (a < b ? -1 : 1));
      assert.deepEqual({ ...read, labels: sorted(read.labels) }, { ...whole, labels: sorted(whole.labels) });
    }),
    { numRuns: 500 },
  );
});

test('whatever the bytes are, a codec answers or says BadValue', () => {
  const expected = { cluster: 'c', clusterId: 1 };
  const codecs: ((value: Buffer) => unknown)[] = [
    (value) => decodeAddress('10.0.0.1', value, BLOCK),
    (value) => decodeNode('n', value, expected),
    (value) => decodeRegisterNode('n', value),
    (value) => decodeService('a/b', value, expected),
    (value) => decodeClusterConfig(value),
    (value) => decodeIdentity('65536', value, { cluster: 'c', block: BLOCK }),
  ];
  const good = [NODE, ANNOUNCEMENT, ANSWER, SERVICE, HOST, CIDR].map((text) => Buffer.from(text));
  const damaged = fc
    .tuple(fc.constantFrom(...good), fc.nat(), fc.integer({ min: 0, max: 255 }), fc.nat())
    .map(([value, at, byte, cut]) => {
      const copy = Buffer.from(value);
      copy[at % copy.length] = byte;
      return cut % 4 === 0 ? copy.subarray(0, cut % copy.length) : copy;
    });
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array)),
    damaged,
    fc.json().map((text) => Buffer.from(text)),
    fc
      .json()
      .map((text) => Buffer.from(`{"IP":${text},"Name":"n","name":${text},"IPAddresses":${text},"Labels":${text}}`)),
  );
  fc.assert(
    fc.property(bytes, (value) => {
      for (const codec of codecs) {
        try {
          codec(value);
        } catch (error) {
          assert.ok(error instanceof BadValue, String(error));
        }
      }
    }),
    { numRuns: 3000 },
  );
  const deep = [Buffer.from('['.repeat(200_000)), Buffer.from('{"IP":'.repeat(100_000)), Buffer.alloc(2_000_000, ' ')];
  deep.push(Buffer.from(`{"Labels":${'['.repeat(100_000)}${']'.repeat(100_000)}}`));
  for (const value of deep) for (const codec of codecs) assert.throws(() => codec(value), BadValue);
});
