import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { ConfigErrors } from '../../src/config/config-errors.ts';
import { type LoadedConfig, type LoadOptions, loadConfig, socketPath } from '../../src/config/load.ts';

const root = mkdtempSync(join(tmpdir(), 'mesh-config-'));
after(() => rmSync(root, { recursive: true, force: true }));
let count = 0;

/** A folder of its own for one configuration, with the files of conf.d. */
function place(text: string, parts: Record<string, string> = {}): string {
  const folder = join(root, String(count++));
  mkdirSync(join(folder, 'conf.d'), { recursive: true });
  writeFileSync(join(folder, 'config.yaml'), text);
  for (const [name, part] of Object.entries(parts)) writeFileSync(join(folder, 'conf.d', name), part);
  return join(folder, 'config.yaml');
}

function load(text: string, options: Partial<LoadOptions> = {}): Promise<LoadedConfig> {
  return loadConfig({ file: place(text), env: {}, ...options });
}

/** The problems as `line code detail`, the line 0 for those of no line. */
async function problemsOf(text: string, options: Partial<LoadOptions> = {}): Promise<string[]> {
  try {
    await load(text, options);
    return [];
  } catch (error) {
    assert(error instanceof ConfigErrors, String(error));
    return error.problems.map(({ code, place, message }) => {
      const line = /config\.yaml:([0-9]+)/.exec(place ?? '')?.[1] ?? '0';
      return `${line} ${code} ${message.replace(/^[^:]*: /, '')}`;
    });
  }
}

test('the example of the documentation is accepted as it stands', async () => {
  const { config } = await load(`
name: my-vm                  # default: host name
cluster: {name: vms, id: 100}   # learnt at registration; if given, checked
kvstore:
  endpoints: [https://hub.example.com:2379]
  ca: /var/lib/mesh-agent/pki/ca.crt
  cert: /var/lib/mesh-agent/pki/agent.crt
  key: /var/lib/mesh-agent/pki/agent.key
address: {ipv4: 192.168.1.100, ipv6: ""}     # default: from the default route
datapath: auto               # auto | nftables | bpf | none
devices: auto                # auto | list of external devices
routing: tunnel              # tunnel | native
tunnel: {protocol: vxlan, port: 8472}
enforcement: default         # default | always | never
audit: false
failsafe: {ingress: [tcp/22], egress: []}
policies: /etc/mesh-agent/policies.d   # local policies, besides those of the hub
metrics: {listen: 127.0.0.1:9964}
log: {level: info, format: auto}
`);
  assert.deepEqual(config.cluster, { name: 'vms', id: 100 });
  assert.deepEqual(config.kvstore, {
    endpoints: ['https://hub.example.com:2379'],
    ca: '/var/lib/mesh-agent/pki/ca.crt',
    cert: '/var/lib/mesh-agent/pki/agent.crt',
    key: '/var/lib/mesh-agent/pki/agent.key',
  });
  assert.deepEqual(config.address, { ipv4: '192.168.1.100' });
  assert.deepEqual(config.failsafe, { ingress: [{ protocol: 6, port: 22 }], egress: [] });
});

test('without a word the defaults hold, and paths follow the state folder', async () => {
  const { config, origins } = await load('name: vm\n', { stateDir: '/srv/state' });
  assert.equal(config.clustermesh, '/srv/state/clustermesh');
  assert.equal(config.socket, '/run/mesh-agent/agent.sock');
  assert.equal(config.metrics.listen, '127.0.0.1:9964');
  assert.deepEqual(config.failsafe.ingress, [{ protocol: 6, port: 22 }]);
  assert.deepEqual(config.kvstore, { endpoints: [] });
  assert.equal(origins.get('datapath')?.kind, 'default');
  assert.equal(origins.get('stateDir')?.place, '--state-dir');
});

test('values of many forms are read as they are meant', async () => {
  const { config } = await load(`
name: vm-1.example.com
devices: [eth0, wg0]
failsafe: {ingress: [TCP/22, udp/53, sctp/7], egress: []}
namedPorts: {HTTP: tcp/8080, dns: [tcp/53, udp/53]}
address: {ipv4: "", ipv6: "FD00:0::1"}
metrics: {listen: ""}
socketGroup: adm
maxConnectedClusters: 511
cluster: {name: a, id: 400}
`);
  assert.deepEqual(config.devices, ['eth0', 'wg0']);
  assert.deepEqual(
    config.failsafe.ingress.map(({ protocol, port }) => `${protocol}/${port}`),
    ['6/22', '17/53', '132/7'],
  );
  assert.deepEqual(config.namedPorts, [
    { name: 'http', protocol: 6, port: 8080 },
    { name: 'dns', protocol: 6, port: 53 },
    { name: 'dns', protocol: 17, port: 53 },
  ]);
  assert.deepEqual(config.address, { ipv6: 'fd00::1' });
  assert.equal(config.metrics.listen, '');
  assert.equal(config.socketGroup, 'adm');
  assert.equal(config.cluster?.id, 400);
});

test('flags go over the environment, that over conf.d, that over the file, that over defaults', async () => {
  const file = place('name: file\naudit: true\nlog: {level: error, format: json}\nrouting: native\n', {
    '10-first.yaml': 'name: first\nlog: {level: warn}\nenforcement: never\n',
    '20-second.yaml': 'name: second\n',
    'ignored.yml': 'nonsense: 1\n',
    '.hidden.yaml': 'nonsense: 1\n',
  });
  const env = {
    MESH_AGENT_NAME: 'env',
    MESH_AGENT_LOG_LEVEL: 'debug',
    MESH_AGENT_KVSTORE_ENDPOINTS: 'https://a:1, https://b:2',
  };
  const { config, origins, files } = await loadConfig({ file, env, flags: { name: 'flag' }, socket: '/tmp/x.sock' });
  assert.equal(config.name, 'flag');
  assert.equal(config.log.level, 'debug');
  assert.equal(config.log.format, 'json');
  assert.equal(config.enforcement, 'never');
  assert.equal(config.audit, true);
  assert.equal(config.datapath, 'auto');
  assert.deepEqual(config.kvstore.endpoints, ['https://a:1', 'https://b:2']);
  assert.equal(files.length, 3);
  const place_ = (name: Parameters<typeof origins.get>[0]): string => origins.get(name)?.place ?? '';
  assert.equal(place_('name'), '--name');
  assert.equal(place_('log.level'), 'MESH_AGENT_LOG_LEVEL');
  assert.match(place_('enforcement'), /conf\.d\/10-first\.yaml:3$/);
  assert.match(place_('audit'), /config\.yaml:2$/);
  assert.equal(place_('datapath'), 'default');
});

test('every kind of value can come from the environment', async () => {
  const { config } = await load('', {
    env: {
      MESH_AGENT_NAME: 'vm',
      MESH_AGENT_AUDIT: 'true',
      MESH_AGENT_TUNNEL_PORT: '8473',
      MESH_AGENT_DEVICES: 'eth0,eth1',
      MESH_AGENT_FAILSAFE_INGRESS: '',
      MESH_AGENT_NAMED_PORTS: 'http=tcp/80,dns=udp/53',
      MESH_AGENT_MAX_CONNECTED_CLUSTERS: '511',
      MESH_AGENT_KVSTORE_CONFIG: '/var/lib/cilium/etcd/config.yaml',
      MESH_AGENT_ALLOW_LOCALHOST: 'policy',
    },
  });
  assert.equal(config.audit, true);
  assert.equal(config.tunnel.port, 8473);
  assert.deepEqual(config.devices, ['eth0', 'eth1']);
  assert.deepEqual(config.failsafe.ingress, []);
  assert.equal(config.namedPorts.length, 2);
  assert.equal(config.maxConnectedClusters, 511);
  assert.equal(config.kvstore.config, '/var/lib/cilium/etcd/config.yaml');
  assert.equal(config.allowLocalhost, 'policy');
});

test('an unknown variable of our prefix is a warning with a guess; one that is wrong is an error that names it', async () => {
  const { warnings } = await load('name: vm\n', { env: { MESH_AGENT_KVSTORE_ENDPOINT: 'x', PATH: '/' } });
  assert.deepEqual(
    warnings.map(({ code, message }) => `${code} ${message}`),
    [
      'CFG-VARIABLE unknown environment variable: MESH_AGENT_KVSTORE_ENDPOINT; did you mean MESH_AGENT_KVSTORE_ENDPOINTS?',
    ],
  );
  await assert.rejects(
    load('name: vm\n', { env: { MESH_AGENT_AUDIT: 'yes' } }),
    /MESH_AGENT_AUDIT: .*audit: "yes" is not true or false/,
  );
});

const BAD: readonly (readonly [yaml: string, ...problems: (string | RegExp)[]])[] = [
  ['nam: vm', /^1 CFG-KEY nam; did you mean name\?/],
  ['a: 1\nb: 2', /^1 CFG-KEY a$/, /^2 CFG-KEY b$/],
  ['kvstore:\n  endpoint: []', /^2 CFG-KEY kvstore\.endpoint; did you mean kvstore\.endpoints\?/],
  ['endpoints: []', /^1 CFG-KEY endpoints; did you mean kvstore\.endpoints\?/],
  ['"<<": {a: 1}', /^1 CFG-KEY "<<"/],
  ['1: x', /^1 CFG-SYNTAX a key must be text/],
  ['? [a]\n: x', /^1 CFG-SYNTAX a key must be text/],
  ['audit: true\nname: a\naudit: false', /^3 CFG-SYNTAX the key "audit" is given twice/],
  ['log: {level: info}\n\nlog: {level: info}', /^3 CFG-SYNTAX the key "log" is given twice/],
  ['log:\n\tlevel: info', /^2 CFG-SYNTAX tabs are not allowed/],
  ['name: [', /CFG-SYNTAX/],
  ['name: a\n---\nname: b', /^2 CFG-SYNTAX a configuration file holds one document/],
  ['- name', /^1 CFG-SYNTAX a mapping of keys to values is expected/],
  ['just text', /^1 CFG-SYNTAX a mapping of keys to values is expected/],
  ['name: !mine vm', /^1 CFG-SYNTAX/],
  ['devices: &a [eth0]\nfailsafe: {ingress: *a}', /^2 CFG-SYNTAX references such as \*a/],
  ['name: ', /^1 CFG-VALUE name has no value/],
  ['name: 5', /^1 CFG-VALUE name: 5 is not text .*put it into quotes/],
  ['name: My_VM', /^1 CFG-VALUE name: "My_VM" is not text of lower-case letters/],
  [`name: ${'a'.repeat(254)}`, /^1 CFG-VALUE name: "aaa.*\.\.\. is not/],
  ['log: debug', /^1 CFG-VALUE log: a mapping is expected, with level, format/],
  ['log: {level: loud}', /^1 CFG-VALUE log\.level: "loud" is not one of trace, debug/],
  ['audit: yes', /^1 CFG-VALUE audit: "yes" is not true or false/],
  ['audit: 1', /^1 CFG-VALUE audit: 1 is not true or false/],
  ['cluster: {name: default, id: 1}', /^1 CFG-VALUE cluster\.name: "default" is not/],
  ['cluster: {name: Upper, id: 1}', /^1 CFG-VALUE cluster\.name: "Upper" is not/],
  [`cluster: {name: ${'a'.repeat(33)}, id: 1}`, /^1 CFG-VALUE cluster\.name/],
  ['cluster: {name: a-, id: 1}', /^1 CFG-VALUE cluster\.name/],
  ['cluster: {name: a, id: 0}', /^1 CFG-VALUE cluster\.id: 0 is not/],
  ['cluster: {name: a, id: 256}', /^1 CFG-VALUE cluster\.id: 256 is more than the 255/],
  ['cluster: {name: a, id: 512}\nmaxConnectedClusters: 511', /^1 CFG-VALUE cluster\.id: 512 is not/],
  ['cluster: {name: a, id: 1.5}', /^1 CFG-VALUE cluster\.id: 1\.5 is not/],
  ['cluster: {name: a}', /^1 CFG-VALUE cluster\.name needs cluster\.id/],
  ['cluster: {id: 4}', /^1 CFG-VALUE cluster\.id needs cluster\.name/],
  ['maxConnectedClusters: 300', /^1 CFG-VALUE maxConnectedClusters: 300 is not 255 or 511/],
  ['kvstore: {endpoints: https://a:1}', /^1 CFG-VALUE kvstore\.endpoints: "https:\/\/a:1" is not a list of URLs/],
  ['kvstore:\n  endpoints:\n  - https://a:1\n  - a:1', /^4 CFG-VALUE kvstore\.endpoints: "a:1" is not an http/],
  ['kvstore: {endpoints: [https://user:secret@a:1]}', /^1 CFG-VALUE kvstore\.endpoints/],
  ['kvstore: {endpoints: [https://a:1/path]}', /^1 CFG-VALUE kvstore\.endpoints/],
  [
    'kvstore: {endpoints: [https://a:1], ca: pki/ca.crt}',
    /^1 CFG-VALUE kvstore\.ca: "pki\/ca\.crt" is not an absolute path/,
  ],
  ['kvstore:\n  endpoints: [https://a:1]\n  cert: /c', /^3 CFG-VALUE kvstore\.cert needs kvstore\.key/],
  ['kvstore:\n  endpoints: [https://a:1]\n  key: /c', /^3 CFG-VALUE kvstore\.key needs kvstore\.cert/],
  ['kvstore: {ca: /c}', /^1 CFG-VALUE kvstore\.ca needs kvstore\.endpoints/],
  ['kvstore:\n  config: /e\n  endpoints: [https://a:1]', /^2 CFG-CONFLICT kvstore\.config and kvstore\.endpoints/],
  [
    'kvstore: {config: /e, cert: /c, key: /k}',
    /CONFLICT kvstore\.config and kvstore\.cert/,
    /CONFLICT kvstore\.config and kvstore\.key/,
  ],
  ['address: {ipv4: fd00::1}', /^1 CFG-VALUE address\.ipv4: "fd00::1" is not an IPv4 address/],
  ['address: {ipv4: 127.0.0.1}', /^1 CFG-VALUE address\.ipv4/],
  ['address: {ipv4: 192.168.1.0/24}', /^1 CFG-VALUE address\.ipv4/],
  ['address: {ipv4: 192.168.001.1}', /^1 CFG-VALUE address\.ipv4/],
  ['address: {ipv6: "::1"}', /^1 CFG-VALUE address\.ipv6/],
  ['address: {ipv6: ff02::1}', /^1 CFG-VALUE address\.ipv6/],
  ['datapath: iptables', /^1 CFG-VALUE datapath: "iptables" is not one of auto, nftables, bpf, none/],
  ['devices: eth0', /^1 CFG-VALUE devices: "eth0" is not "auto" or a list of device names/],
  ['devices:\n- eth0\n- a-name-that-is-too-long', /^3 CFG-VALUE devices/],
  ['devices: [../x]', /^1 CFG-VALUE devices/],
  ['routing: direct', /^1 CFG-VALUE routing/],
  ['tunnel: {protocol: geneve}', /^1 CFG-VALUE tunnel\.protocol: "geneve" is not vxlan/],
  ['tunnel: {port: 70000}', /^1 CFG-VALUE tunnel\.port: 70000 is not a port number/],
  ['tunnel: {port: "8472"}', /^1 CFG-VALUE tunnel\.port: "8472" is not a port number/],
  ['failsafe: {ingress: [22]}', /^1 CFG-VALUE failsafe\.ingress: 22 is not a protocol and a port such as tcp\/22/],
  ['failsafe:\n  ingress:\n    - tcp/22\n    - tcp/65536', /^4 CFG-VALUE failsafe\.ingress: "tcp\/65536"/],
  ['failsafe: {ingress: [icmp/8]}', /^1 CFG-VALUE failsafe\.ingress/],
  ['policies: policies.d', /^1 CFG-VALUE policies: "policies\.d" is not an absolute path/],
  ['metrics: {listen: 9964}', /^1 CFG-VALUE metrics\.listen: 9964 is not an address and port/],
  ['metrics: {listen: "127.0.0.1:99999"}', /^1 CFG-VALUE metrics\.listen/],
  ['metrics: {listen: "1.2.3:9"}', /^1 CFG-VALUE metrics\.listen/],
  ['namedPorts:\n  http: 80', /^2 CFG-VALUE namedPorts: 80 is not a protocol and a port/],
  ['namedPorts:\n  a-name-that-is-too-long: tcp/80', /^2 CFG-VALUE namedPorts: "a-name/],
  ['services: {affinity: {api: local}}', /^1 CFG-VALUE services\.affinity: "api" is not text: namespace\/name/],
  [
    'services:\n  affinity:\n    default/api: near',
    /^3 CFG-VALUE services\.affinity: "near" is not one of default, none/,
  ],
  ['services: {weights: {cluster-b: 101}}', /^1 CFG-VALUE services\.weights: 101 is not a weight/],
  ['services: {checks: {default/api: udp}}', /^1 CFG-VALUE services\.checks: "udp" is not a check such as tcp/],
  ['services: {checks: {default/api: "http:"}}', /^1 CFG-VALUE services\.checks: "http:" is not a check/],
  ['services: {checks: {default/api: "tcp:70000"}}', /^1 CFG-VALUE services\.checks: "tcp:70000" is not a check/],
  ['services: {checks: {default/api: "http:/a b"}}', /^1 CFG-VALUE services\.checks: "http:\/a b" is not a check/],
  [
    'services: {checks: {api: tcp}}',
    /^1 CFG-VALUE services\.checks: "api" is not text: namespace\/name of a service, or/,
  ],
  [
    'services: {checks: {default: {interval: 1s}}}',
    /^1 CFG-VALUE services\.checks: there is no `check`: a check such as/,
  ],
  [
    'services: {checks: {default: {check: tcp, interval: 1s}}}',
    /^1 CFG-VALUE services\.checks: a timeout of 2 s is longer than the interval of 1 s/,
  ],
  [
    'services: {checks: {default: {check: tcp, every: 1s}}}',
    /^1 CFG-VALUE services\.checks: "every" is none of check,/,
  ],
  ['services: {checks: {default: {check: tcp, fall: 0}}}', /^1 CFG-VALUE services\.checks: 0 is not a whole number/],
  ['dns: {listen: "192.0.2.1:53"}', /^1 CFG-VALUE dns\.listen: "192\.0\.2\.1:53" is not an IPv4 loopback address/],
  ['dns: {listen: "127.0.0.153:0"}', /^1 CFG-VALUE dns\.listen/],
  ['dns: {listen: "127.0.0.153"}', /^1 CFG-VALUE dns\.listen/],
  ['dns: {domain: cluster..local}', /^1 CFG-VALUE dns\.domain: "cluster\.\.local" is not a domain/],
  ['services: {enabled: false}\ndns: {enabled: true}', /CFG-CONFLICT dns\.enabled needs services\.enabled/],
  ['dns: {enabled: true, domain: "", clusterset: ""}', /CFG-VALUE dns\.enabled needs dns\.domain or dns\.clusterset/],
  [
    'dns: {enabled: true, domain: a.b, clusterset: a.b}',
    /CFG-CONFLICT dns\.domain and dns\.clusterset are both "a\.b"/,
  ],
  ['services: {lossGrace: 2d}', /^1 CFG-VALUE services\.lossGrace: "2d" is not a time such as 30s/],
  ['services: {frontends: [10.96.0.0/33]}', /^1 CFG-VALUE services\.frontends: "10\.96\.0\.0\/33" is not a prefix/],
  ['namedPorts: [http]', /^1 CFG-VALUE namedPorts: \["http"\] is not a mapping/],
  [
    'enforcement: sometimes\nallowLocalhost: never\nfoo: 1',
    /^1 CFG-VALUE enforcement/,
    /^2 CFG-VALUE allowLocalhost/,
    /^3 CFG-KEY foo/,
  ],
];

for (const [yaml, ...expected] of BAD) {
  test(`refused, with its line: ${JSON.stringify(yaml.slice(0, 60))}`, async () => {
    const problems = await problemsOf(yaml, {
      env: { MESH_AGENT_NAME: 'vm' },
    });
    assert.equal(problems.length, expected.length, problems.join('\n'));
    for (const [index, each] of expected.entries()) assert.match(problems[index] ?? '', new RegExp(each));
  });
}

test('affinity, weights and grace of services are read from a file and from text alike', async () => {
  const { config } = await load(
    'services:\n  affinity: {production/api: local}\n  weights: {cluster-b: 3}\n  lossGrace: 2m\n  sticky: [default/web]\n',
  );
  assert.deepEqual(config.services.affinity, { 'production/api': 'local' });
  assert.deepEqual(
    [config.services.weights, config.services.lossGrace, config.services.sticky],
    [{ 'cluster-b': 3 }, 120, ['default/web']],
  );
  const env = { MESH_AGENT_SERVICES_AFFINITY: 'a/b=remote,c/d=local', MESH_AGENT_SERVICES_LOSS_GRACE: '5s' };
  const other = (await load('', { env })).config.services;
  assert.deepEqual([other.affinity, other.lossGrace], [{ 'a/b': 'remote', 'c/d': 'local' }, 5]);
});

test('checks of services are short or with all their times, from a file and from text alike', async () => {
  const { checks } = (
    await load(
      'services:\n  checks:\n    default: tcp\n    a/b: {check: "http:8081/healthz?x=1", interval: 5s, timeout: 1s, rise: 1, fall: 4}\n    c/d: none\n',
    )
  ).config.services;
  const times = { interval: 10, timeout: 2, rise: 2, fall: 3 };
  assert.deepEqual(checks, {
    default: { type: 'tcp', path: '', ...times },
    'a/b': { type: 'http', path: '/healthz?x=1', port: 8081, interval: 5, timeout: 1, rise: 1, fall: 4 },
    'c/d': 'none',
  });
  const env = { MESH_AGENT_SERVICES_CHECKS: 'a/b=http:/,default=tcp:7' };
  assert.deepEqual((await load('', { env })).config.services.checks, {
    'a/b': { type: 'http', path: '/', ...times },
    default: { type: 'tcp', path: '', port: 7, ...times },
  });
});

test('everything that is wrong in every source is said at once', async () => {
  const file = place('nam: a\nlog: {level: loud}\n', { 'x.yaml': 'audit: 3\n', 'y.yaml': 'a: [\n' });
  await assert.rejects(loadConfig({ file, env: { MESH_AGENT_ROUTING: 'x' }, flags: { datapath: 'y' } }), (error) => {
    assert(error instanceof ConfigErrors);
    const places = error.problems.map(({ place }) => (place ?? '').replace(/^.*\//, ''));
    for (const each of ['config.yaml:1', 'config.yaml:2', 'x.yaml:1', 'MESH_AGENT_ROUTING', '--datapath'])
      assert(places.includes(each), each);
    assert(places.some((each) => each.startsWith('y.yaml:')));
    return true;
  });
});

test('a missing default file is fine, a missing named one is not', async () => {
  const missing = join(root, 'no', 'config.yaml');
  await assert.rejects(loadConfig({ file: missing, env: {} }), /CFG|no such file/);
  await assert.rejects(loadConfig({ env: { MESH_AGENT_CONFIG: missing } }), /no such file/);
  await assert.rejects(loadConfig({ file: root, env: {} }), /not a regular file/);
});

test('a file that never ends, is too large, nests without end or multiplies itself is refused', async () => {
  const folder = join(root, 'bombs');
  mkdirSync(folder);
  const pipe = join(folder, 'pipe');
  assert.equal(spawnSync('mkfifo', [pipe]).status, 0);
  const laughs = [
    'a0: &a0 [x]',
    ...Array.from({ length: 30 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i},`.repeat(9)}]`),
  ].join('\n');
  const bombs: readonly (readonly [string, RegExp])[] = [
    ['x: 1\n'.repeat(1 << 16), /more than the/],
    [`devices: ${'['.repeat(60_000)}`, /nested too deeply/],
    [`devices:\n${'- '.repeat(20_000)}`, /nested too deeply/],
    [laughs, /references such as/],
    [Array.from({ length: 6000 }, (_, i) => `k${i}: 1`).join('\n'), /unknown configuration key/],
  ];
  await assert.rejects(loadConfig({ file: pipe, env: {} }), /not a regular file/);
  for (const [text, reason] of bombs) await assert.rejects(load(text), reason);
});

test('no spelling of a key reaches what is not a key', async () => {
  assert.match((await problemsOf('__proto__: {polluted: true}\nname: vm'))[0] ?? '', /CFG-KEY/);
  assert.match((await problemsOf('constructor: {a: 1}\nname: vm'))[0] ?? '', /CFG-KEY/);
  assert.match((await problemsOf('"kvstore.endpoints.length": 1\nname: vm'))[0] ?? '', /CFG-KEY/);
  assert.equal(({} as Record<string, unknown>).polluted, undefined);
});

test('a secret never appears in a message', async () => {
  const problems = await problemsOf('name: vm\nkvstore: {endpoints: [https://a:1], username: u, password: [hunter2]}');
  const inUrl = await problemsOf('name: vm\nkvstore: {endpoints: ["https://user:hunter2@a:1"]}');
  assert.deepEqual([problems.length, inUrl.length], [1, 1]);
  assert.doesNotMatch([...problems, ...inUrl].join(), /hunter2/);
});

test('what is open to the network is warned about', async () => {
  const { warnings } = await load(
    'name: vm\nmetrics: {listen: "0.0.0.0:9964"}\nkvstore: {endpoints: [http://10.0.0.1:2379]}\n',
  );
  assert.deepEqual(
    warnings.map(({ code, place }) => `${code} ${place?.replace(/^.*:/, '')}`),
    ['CFG-EXPOSED 2', 'CFG-EXPOSED 3'],
  );
  assert.deepEqual((await load('name: vm\nkvstore: {endpoints: [http://127.0.0.1:2379]}\n')).warnings, []);
});

test('the socket is found although another key is wrong, but never by guessing past a named file', () => {
  const file = place('socket: /srv/a.sock\nnonsense: 1\n');
  assert.equal(socketPath({ file, env: {} }), '/srv/a.sock');
  assert.equal(socketPath({ file, env: { MESH_AGENT_SOCKET: '/srv/b.sock' } }), '/srv/b.sock');
  assert.equal(socketPath({ file, env: {}, socket: '/srv/c.sock' }), '/srv/c.sock');
  assert.throws(() => socketPath({ file: join(root, 'none.yaml'), env: {} }), ConfigErrors);
});
