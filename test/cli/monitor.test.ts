import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { after, test } from 'node:test';
import type { FlowEvent, FlowRecord } from '../../src/api/flow-types.ts';
import { serveApi } from '../../src/api/server.ts';
import { compactText, flowText } from '../../src/cli/monitor-text.ts';
import { runCommandLine } from '../../src/cli/program.ts';
import { DROP } from '../../src/core/drop-reason.ts';
import { FRONTEND, flow, MACHINE } from '../agent/flows.ts';
import { memoryAgent } from '../api/memory-agent.ts';
import { until } from '../lab/namespace.ts';

const folder = mkdtempSync(join(tmpdir(), 'mesh-monitor-'));
const socket = join(folder, 'agent.sock');
let events: readonly FlowEvent[] = [];
const asked: unknown[] = [];
let stays = false;
const server = await serveApi({
  socket,
  api: memoryAgent({
    async *flows(query, signal) {
      asked.push(query);
      yield* events;
      if (query.follow && stays) await new Promise((resolve) => signal.addEventListener('abort', resolve));
    },
  }),
});
after(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

async function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [out, error] = [new PassThrough(), new PassThrough()];
  const terminal = { out, error, env: {}, interactive: false, color: false, columns: undefined };
  const code = await runCommandLine([...args, '--socket', socket], terminal);
  const text = (stream: PassThrough): string => (stream.read() as Buffer | null)?.toString() ?? '';
  return { code, stdout: text(out), stderr: text(error) };
}

const STYLE = { color: false, columns: undefined, wide: false, place: [] };
const HOSTILE = '\x1b[2J\nk8s:app=\u202eevil';

test('a drop is a block of lines: the packet, the other end, what decided, and the command that explains it', () => {
  const [head, ...rest] = flowText(flow(), STYLE).split('\n');
  assert.match(head ?? '', /^\d\d:\d\d:\d\d\.\d{3} DROPPED in {2}tcp 10\.244\.1\.5:40000 > 192\.168\.1\.100:8080 SYN$/);
  assert.deepEqual(rest, [
    '      from identity 66001 k8s:app=frontend cluster cluster-a service production/web',
    '      no rule allows it (133 Policy denied): CiliumNetworkPolicy/production/web spec',
    '      mesh-agent policy explain 10.244.1.5 self tcp/8080',
    '',
  ]);
});

test('an allowed connection names no command, a service without backends the one that shows it', () => {
  const { dropReason: _, ...passed } = flow({
    verdict: 'FORWARDED',
    policy: { reason: 'allowed-by-rule', rules: [], ports: 'tcp/8080' },
  });
  assert.ok(!flowText(passed, STYLE).includes('mesh-agent'));
  const refused = flow({ dropReason: DROP.noBackend, explain: ['service', 'get', 'production/api'] });
  assert.match(
    flowText(refused, { ...STYLE, place: ['--socket', '/x y'] }),
    /mesh-agent service get production\/api --socket '\/x y'\n$/,
  );
});

test('lines fit a terminal of 80 cells wherever one can be broken, and colors come only where they are wanted', () => {
  const v6 = flow({
    ipVersion: 6,
    source: {
      ...FRONTEND,
      address: '2001:db8:1111:2222:3333:4444:5555:6666',
      labels: ['k8s:app=a', 'k8s:tier=b', 'k8s:x=y'],
    },
    destination: { ...MACHINE, address: 'fd00:1111:2222:3333:4444:5555:6666:7777' },
  });
  for (const line of flowText(v6, { ...STYLE, columns: 80 }).split('\n')) assert.ok(line.length <= 80, line);
  assert.ok(!flowText(v6, STYLE).includes('\x1b'));
  assert.ok(flowText(v6, { ...STYLE, color: true }).includes('\x1b[31mDROPPED\x1b[0m'));
});

test('what comes from stores and from DNS plays no tricks on a terminal', () => {
  const evil = flow({ source: { ...FRONTEND, labels: [HOSTILE], service: HOSTILE, names: [HOSTILE] } });
  for (const text of [flowText(evil, STYLE), compactText(evil)])
    for (const trick of ['\x1b', '\u202e']) assert.ok(!text.includes(trick));
});

test('the compact form is that of Cilium', () => {
  const drop = flow({ number: 27_199 });
  assert.equal(
    compactText(drop),
    'xx drop (Policy denied) flow 0x6a3f to endpoint 1, ifindex 2, identity 66001->59102: 10.244.1.5:40000 -> 192.168.1.100:8080 tcp SYN\n',
  );
  const audited = flow({ verdict: 'AUDIT', policy: { reason: 'denied-by-rule', rules: [], ports: 'tcp/8080' } });
  assert.equal(
    compactText(audited),
    'Policy verdict log: flow 0x0 local EP ID 1, remote ID 66001, proto 6, ingress, action audit, auth: disabled, match L3-L4, 10.244.1.5:40000 -> 192.168.1.100:8080 tcp SYN\n',
  );
  const {
    tcpFlags: _,
    sourcePort: __,
    destinationPort: ___,
    ...echo
  } = flow({ protocol: 'icmp', icmp: { type: 8, code: 0 } });
  assert.match(compactText(echo), /: 10\.244\.1\.5 -> 192\.168\.1\.100 icmp EchoRequest\n$/);
});

test('what was not shown is said where it happened, and at the end', async () => {
  events = [
    { flow: flow() },
    { lost: { source: 'kernel-limit', packets: 1200 } },
    { alive: 1 },
    { flow: flow({ number: 1 }) },
  ];
  const { code, stdout, stderr } = await run('monitor', '--follow', '--compact');
  assert.equal(code, 0);
  assert.match(stdout, /^xx drop .*\n1200 packets not shown: more came than `monitor.rate` tells of\nxx drop .*\n$/);
  assert.equal(stderr, '2 packets shown, 1200 not\n');
  events = [];
  assert.match((await run('monitor')).stderr, /no packet that fits was seen/);
});

test('JSON is a list of what was, and one event a line of what comes', async () => {
  events = [{ flow: flow() }, { lost: { source: 'reader', packets: 3 } }, { alive: 1 }];
  const list = await run('monitor', '-o', 'json');
  const { kind, items } = JSON.parse(list.stdout) as { kind: string; items: FlowRecord[] };
  assert.deepEqual([kind, items], ['FlowList', [flow()]]);
  assert.match(list.stderr, /3 packets not shown/);
  const { stdout } = await run('monitor', '-f', '-o', 'json');
  assert.deepEqual(
    stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown),
    events.slice(0, 2),
  );
});

test('filters reach the agent, and one that makes no sense is a usage error before anything is asked', async () => {
  asked.length = 0;
  events = [];
  await run('monitor', '--drops', '--since', '10m', '--port', '80', '--from', 'app=web', '--last', '7');
  const [query] = asked as [{ last: number; since: number; allowed: boolean }];
  assert.deepEqual([query.last, query.allowed], [7, false]);
  assert.ok(Math.abs(Date.now() - 600_000 - query.since) < 60_000);
  asked.length = 0;
  for (const args of [
    ['--port', 'http'],
    ['--from', '10.0.0.300'],
    ['--verdict', 'lost'],
    ['--since', 'yesterday'],
    ['--last', '-1'],
    ['--drops', '--verdict', 'audit'],
  ])
    assert.equal((await run('monitor', ...args)).code, 2, args.join(' '));
  assert.equal(asked.length, 0);
});

test('Ctrl-C ends it with a word on what was not shown, and without an error', async () => {
  events = [{ flow: flow() }, { lost: { source: 'kernel-limit', packets: 5 } }];
  stays = true;
  const main = join(import.meta.dirname, '../../src/main.ts');
  const child = spawn(process.execPath, ['--no-warnings', main, 'monitor', '-f', '--compact', '--socket', socket]);
  let [out, error] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => {
    out += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    error += chunk.toString();
  });
  await until('it shows what there is', () => out.includes('not shown'));
  child.kill('SIGINT');
  const [code] = (await once(child, 'close')) as [number];
  stays = false;
  assert.deepEqual([code, error], [0, '1 packet shown, 5 not\n']);
});
