import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type FlowParameters, parseFlowQuery } from '../../src/api/flow-query.ts';
import { MeshError } from '../../src/core/errors.ts';
import { flow } from '../agent/flows.ts';

const FITS: readonly FlowParameters[] = [
  {},
  { from: '10.244.1.5' },
  { from: '10.244.0.0/16' },
  { from: '66001' },
  { from: 'k8s:app=frontend,app!=batch' },
  { from: 'production/web' },
  { from: 'web' },
  { to: 'self' },
  { to: 'cluster-a/my-vm' },
  { to: 'my-vm' },
  { identity: '7,59102' },
  { label: 'app=backend' },
  { port: '8080' },
  { port: '40000' },
  { port: 'tcp/8000-8100,udp/53' },
  { protocol: 'udp,tcp' },
  { verdict: 'dropped,audit' },
  { direction: 'ingress' },
];
const MISSES: readonly FlowParameters[] = [
  { from: '10.244.1.6' },
  { from: 'fd00::/8' },
  { from: 'self' },
  { from: '59102' },
  { from: 'app=batch' },
  { to: 'other-vm' },
  { identity: '7' },
  { label: 'app=batch' },
  { port: 'udp/8080' },
  { port: '8081-8090' },
  { protocol: 'icmp' },
  { verdict: 'allowed' },
  { direction: 'egress' },
  { from: '10.244.1.5', port: '22' },
];

test('a filter fits what it names, and nothing else; all of them must fit', () => {
  for (const query of FITS) assert.equal(parseFlowQuery(query).matches(flow()), true, JSON.stringify(query));
  for (const query of MISSES) assert.equal(parseFlowQuery(query).matches(flow()), false, JSON.stringify(query));
});

test('a filter that makes no sense is refused with its name and what it may be', () => {
  const refused: readonly (readonly [FlowParameters, RegExp])[] = [
    [{ from: '10.0.0.300' }, /from: "10\.0\.0\.300" is not an address/],
    [{ to: 'fd00:::1' }, /to: .* is not an address/],
    [{ from: '' }, /from: ""/],
    [{ identity: 'web' }, /identity: "web" is not a number/],
    [{ port: '80-79' }, /port: "80-79" is not a port such as/],
    [{ port: '70000' }, /port: /],
    [{ port: 'xyz/80' }, /port: /],
    [{ protocol: 'gre' }, /protocol: "gre" is not tcp/],
    [{ verdict: 'lost' }, /verdict: "lost" is not one of dropped/],
    [{ verdict: 'constructor' }, /verdict: "constructor" is not one of dropped/],
    [{ direction: 'sideways' }, /direction: /],
    [{ last: '-1' }, /last: /],
    [{ last: '1e9' }, /last: /],
    [{ label: '=' }, /label: /],
  ];
  for (const [query, message] of refused)
    assert.throws(
      () => parseFlowQuery(query),
      (error) => error instanceof MeshError && error.code === 'API-REQUEST' && message.test(error.message),
      JSON.stringify(query),
    );
});
