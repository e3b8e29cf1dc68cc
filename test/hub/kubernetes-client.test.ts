import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { JobGroup } from '../../src/core/job.ts';
import { KubeClient } from '../../src/hub/kubernetes/api-client.ts';
import { loadKubeConfig } from '../../src/hub/kubernetes/kubeconfig.ts';
import { LineSplitter } from '../../src/hub/kubernetes/lines.ts';
import { Reflector } from '../../src/hub/kubernetes/reflector.ts';
import { KubeApi, type KubeObject } from '../lab/kube-api.ts';
import { until } from '../lab/namespace.ts';
import { Pki } from '../lab/pki.ts';

const RESOURCE = {
  kind: 'NetworkPolicy',
  apiVersion: 'networking.k8s.io/v1',
  plural: 'networkpolicies',
  namespaced: true,
};
const PLURAL = 'networking.k8s.io/v1/networkpolicies';

let api: KubeApi;
let jobs: JobGroup;

beforeEach(async () => {
  api = await KubeApi.start();
  jobs = new JobGroup((name, error) => {
    throw new Error(`${name}: ${String(error)}`);
  });
});
afterEach(async () => {
  await jobs.stop();
  await api.close();
});

const named = (name: string, note = ''): KubeObject => ({
  kind: 'NetworkPolicy',
  metadata: { name, namespace: 'default', note },
});

function follow(file = api.kubeconfig(), timing = { answerMs: 5000, watchMs: 60_000 }): Reflector<string> {
  const reflector = new Reflector<string>({
    resource: RESOURCE,
    connect: async () => new KubeClient(await loadKubeConfig(file), timing),
    convert: (object) => String((object as KubeObject).metadata.note ?? ''),
    onChange: () => undefined,
    retry: { minMs: 20, maxMs: 200 },
  });
  jobs.start('reflector', (signal) => reflector.run(signal));
  return reflector;
}

const shown = (reflector: Reflector<string>): string =>
  [...(reflector.objects ?? [])]
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(' ');
const shows = (reflector: Reflector<string>, expected: string): Promise<void> =>
  until(`it knows ${expected}`, () => reflector.objects !== undefined && shown(reflector) === expected).catch(
    (error) => {
      throw new Error(`${String(error)}: ${shown(reflector)} ${JSON.stringify(reflector.status)}`);
    },
  );
const lists = (): number => api.asked.filter((line) => line === `list ${PLURAL}`).length;

test('a list of several pages is taken as a whole, and followed from there', async () => {
  api.pageSize = 2;
  for (const name of ['a', 'b', 'c', 'd', 'e']) api.put(named(name));
  const reflector = follow();
  await shows(reflector, 'default/a= default/b= default/c= default/d= default/e=');
  assert.equal(lists(), 3);
  await until('it watches', () => api.watching === 1);
  api.put(named('a', 'new'));
  api.delete(named('b'));
  await shows(reflector, 'default/a=new default/c= default/d= default/e=');
  assert.equal(lists(), 3, 'no second list');
});

test('a list whose next page is too old begins again', async () => {
  api.pageSize = 2;
  for (const name of ['a', 'b', 'c']) api.put(named(name));
  api.onPage = () => {
    api.onPage = undefined;
    api.delete(named('a'));
    api.compact();
  };
  const reflector = follow();
  await shows(reflector, 'default/b= default/c=');
  assert.equal(lists(), 3);
});

test('events are read however the bytes are cut, also within a character', async () => {
  const reflector = follow();
  await until('it watches', () => api.watching === 1);
  for (const size of [1, 2, 3, 7, 64]) {
    api.chunkBytes = size;
    api.put(named('a', `ключ-${size}-🔑`));
    await shows(reflector, `default/a=ключ-${size}-🔑`);
  }
});

test('lines that are cut at every place come out the same', () => {
  const bytes = Buffer.from('eins\n\nzwö\ndrei🔑\n');
  for (let at = 0; at <= bytes.length; at++) {
    const lines = new LineSplitter(100);
    const found = [bytes.subarray(0, at), bytes.subarray(at)].flatMap((part) => [...lines.push(part)]);
    assert.deepEqual(found.map(String), ['eins', 'zwö', 'drei🔑'], `cut at ${at}`);
    assert.equal(lines.pending, 0);
  }
  const small = new LineSplitter(5);
  assert.throws(() => [...small.push(Buffer.from('123')), ...small.push(Buffer.from('456'))], RangeError);
});

test('a connection that breaks within a line loses nothing, invents nothing, and is taken up without a list', async () => {
  const reflector = follow();
  await until('it watches', () => api.watching === 1);
  api.put(named('a', 'one'));
  await shows(reflector, 'default/a=one');
  const half = JSON.stringify({ type: 'DELETED', object: { ...named('a'), kind: 'NetworkPolicy' } }).slice(0, -20);
  api.say(half);
  await api.shut();
  api.put(named('b', 'meanwhile'));
  api.delete(named('a'));
  assert.equal(shown(reflector), 'default/a=one', 'kept while the server is away');
  await until('it is told', () => reflector.status.state === 'away');
  assert.equal(reflector.status.error?.code, 'HUB-KUBE-UNREACHABLE');
  await api.open();
  await shows(reflector, 'default/b=meanwhile');
  assert.equal(lists(), 1);
  assert.equal(reflector.status.error, undefined);
});

test('a version that is too old leads to a list, in which what was deleted meanwhile is missing', async () => {
  const reflector = follow();
  api.put(named('a'));
  api.put(named('b'));
  await shows(reflector, 'default/a= default/b=');
  await api.shut();
  api.delete(named('a'));
  api.compact();
  await api.open();
  await shows(reflector, 'default/b=');
  assert.equal(lists(), 2);
});

test('events that come twice change nothing', async () => {
  const reflector = follow();
  await until('it watches', () => api.watching === 1);
  api.put(named('a', 'one'));
  await shows(reflector, 'default/a=one');
  api.repeat();
  api.repeat();
  api.put(named('b'));
  await shows(reflector, 'default/a=one default/b=');
});

test('a list that breaks, ends early or makes no sense replaces nothing', async () => {
  const reflector = follow();
  api.put(named('a'));
  await shows(reflector, 'default/a=');
  const answers: ((answer: ServerResponse) => void)[] = [
    (answer) => answer.end('{"metadata":{"resourceVersion":"7","continue":"x"},"items":[]}'),
    (answer) => answer.end('{"metadata":{"resourceVersion":"7"}}'),
    (answer) => answer.end('{"metadata":{},"items":[]}'),
    (answer) => answer.end('[]'),
    (answer) => answer.end('{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"resourceVersion":"1"}}]}'),
    (answer) =>
      answer.end(
        '{"metadata":{"resourceVersion":"7"},"items":[{"kind":"Secret","metadata":{"name":"x","resourceVersion":"1"}}]}',
      ),
    (answer) => {
      answer.write('{"metadata":{"resourceVersion":"7"},"items":[');
      setImmediate(() => answer.destroy());
    },
    (answer) => {
      answer.statusCode = 500;
      answer.end('x'.repeat(100_000));
    },
    (answer) => {
      answer.statusCode = 302;
      answer.setHeader('location', 'https://127.0.0.1:1/');
      answer.end();
    },
  ];
  for (const [index, broken] of answers.entries()) {
    const before = lists();
    api.brokenList = broken;
    api.compact();
    api.cut();
    await until(`answer ${index} was given twice`, () => lists() >= before + 2);
    await until(`answer ${index} is told`, () => reflector.status.error !== undefined);
    assert.equal(shown(reflector), 'default/a=', `answer ${index}`);
    api.brokenList = undefined;
    await until('it is over', () => reflector.status.state === 'following' && reflector.status.error === undefined);
  }
});

test('a line without end is given up, and what can be read afterwards is read', async () => {
  const reflector = follow();
  api.put(named('a'));
  await shows(reflector, 'default/a=');
  await until('it watches', () => api.watching === 1);
  const before = lists();
  for (let i = 0; i < 5; i++) api.say('x'.repeat(1 << 20));
  await until('it lists again', () => lists() > before);
  api.put(named('b'));
  await shows(reflector, 'default/a= default/b=');
});

test('pages that are larger than the hub takes are asked for in smaller pieces', async () => {
  for (let i = 0; i < 30; i++) api.put(named(`large-${i}`, 'x'.repeat(1_300_000)));
  const reflector = follow();
  await until('all are known', () => reflector.size === 30, 30_000);
  assert(lists() > 2);
});

test('a resource that the server does not know is no error, and nothing is concluded from it', async () => {
  api.missing.add(PLURAL);
  const reflector = follow();
  await until('it is missing', () => reflector.status.state === 'missing');
  assert.equal(reflector.objects, undefined);
  assert.equal(reflector.status.error, undefined);
});

test('a server that says nothing is given up in time', async () => {
  api.broken = () => undefined;
  const reflector = follow(api.kubeconfig(), { answerMs: 200, watchMs: 1000 });
  await until('it is told', () => reflector.status.error?.code === 'HUB-KUBE-UNREACHABLE');
  api.broken = undefined;
  await shows(reflector, '');
});

test('a token is read again when it is renewed, and its refusal is told as that', async () => {
  const file = join(api.pki.folder, 'token');
  writeFileSync(file, 'old\n');
  const reflector = follow(api.kubeconfig({ user: 'tokenFile: token' }));
  await until('it is refused', () => reflector.status.error?.code === 'HUB-KUBE-DENIED');
  writeFileSync(file, `${api.token}\n`);
  await shows(reflector, '');
});

test('a server with a certificate of somebody else is told apart from one that is away', async () => {
  const other = new Pki('other-ca');
  try {
    const reflector = follow(api.kubeconfig({ cluster: `server: ${api.url}, certificate-authority: ${other.ca}` }));
    await until('it is told', () => reflector.status.error?.code === 'HUB-KUBE-TLS');
    assert.deepEqual(api.asked, [], 'nothing was sent');
  } finally {
    other.close();
  }
});

test('a kubeconfig with data instead of files, and a name for the certificate, is understood', async () => {
  const base64 = (file: string): string => readFileSync(file).toString('base64');
  const { cert, key } = api.pki.client('hub');
  const file = api.kubeconfig({
    cluster: `server: ${api.url}/, certificate-authority-data: ${base64(api.pki.ca)}, tls-server-name: localhost`,
    user: `client-certificate-data: ${base64(cert)}, client-key-data: ${base64(key)}`,
  });
  const access = await loadKubeConfig(file);
  assert.equal(access.server, api.url);
  assert.equal(access.serverName, 'localhost');
  assert.equal(access.client?.cert, readFileSync(cert, 'utf8'));
  await shows(follow(file), '');
});

test('a kubeconfig that would start programs, skip checks or is not whole is refused with the reason', async () => {
  const refused = async (more: Parameters<KubeApi['kubeconfig']>[0], reason: RegExp): Promise<void> => {
    await assert.rejects(loadKubeConfig(api.kubeconfig(more)), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'HUB-KUBE-CONFIG');
      assert.match(error.message, reason);
      return true;
    });
  };
  await refused({ user: 'exec: {command: aws}' }, /exec/);
  await refused({ user: 'auth-provider: {name: gcp}' }, /auth-provider/);
  await refused({ user: 'username: a, password: b' }, /password/);
  await refused({ user: 'as: admin, token: a' }, /acting as/);
  await refused({ user: 'token: "a\\nb"' }, /token/);
  await refused({ user: 'client-certificate: ca.crt' }, /come together/);
  await refused({ user: 'tokenFile: missing' }, /tokenFile: ENOENT/);
  await refused({ cluster: `server: ${api.url}, insecure-skip-tls-verify: true` }, /insecure-skip-tls-verify/);
  await refused({ cluster: 'server: "http://127.0.0.1"' }, /https/);
  await refused({ cluster: `server: ${api.url}, proxy-url: "http://x"` }, /proxy-url/);
  await refused({ cluster: `server: ${api.url}, certificate-authority-data: "***"` }, /base64/);
  const file = join(api.pki.folder, 'broken');
  for (const [text, reason] of [
    ['{', /YAML/],
    ['[]', /no map/],
    ['a: 1', /current-context/],
    ['current-context: x', /contexts has no/],
    ['a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]', /references/],
  ] as const) {
    writeFileSync(file, text);
    await assert.rejects(loadKubeConfig(file), (error: Error) => reason.test(error.message));
  }
});
