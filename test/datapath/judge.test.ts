import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { NumericIdentity } from '../../src/core/identity.ts';
import { judge, type Packet } from '../../src/datapath/judge.ts';
import type { DirectionPolicy, PolicyRow, Protocol, Verdict } from '../../src/policy/result.ts';

const verdict = fc.constantFrom<Verdict>('allow', 'deny');
const protocol = fc.constantFrom<Protocol>(0, 1, 6, 17);

/** Rows as the model makes them: ranges of one protocol do not meet, and no place has two rows. */
const rows = fc
  .array(
    fc.record({ protocol, first: fc.nat(60), width: fc.nat(12), verdict, audit: fc.boolean(), whole: fc.boolean() }),
    { maxLength: 12 },
  )
  .map((list) => {
    const taken = new Set<string>();
    const kept: PolicyRow[] = [];
    for (const { protocol: of, first, width, verdict: says, audit, whole } of list) {
      const all = of === 0 || whole;
      const [from, to] = all ? [0, 65_535] : [first, first + width];
      const places = all
        ? [`${of} all`]
        : width === 0
          ? [`${of} =${from}`]
          : Array.from({ length: width + 1 }, (_, i) => `${of} ${from + i}`);
      if (places.some((place) => taken.has(place))) continue;
      for (const place of places) taken.add(place);
      kept.push({ protocol: of, first: from, last: to, verdict: says, audit, rules: [] });
    }
    return kept;
  });

/** The order of result.ts, row by row: exact port, range, protocol, anything. */
function slowly(of: readonly PolicyRow[], packet: Packet, deny: boolean): Verdict {
  const holds = (row: PolicyRow): boolean => row.first <= packet.port && packet.port <= row.last;
  const mine = of.filter((row) => row.protocol === packet.protocol);
  const isWhole = (row: PolicyRow): boolean => row.first === 0 && row.last === 65_535;
  const hit =
    mine.find((row) => row.first === row.last && row.first === packet.port) ??
    mine.find((row) => !isWhole(row) && row.first !== row.last && holds(row)) ??
    mine.find(isWhole) ??
    of.find((row) => row.protocol === 0);
  if (hit === undefined) return deny ? 'deny' : 'allow';
  return hit.audit === true ? 'allow' : hit.verdict;
}

test('a packet gets the verdict of the most exact row', () => {
  fc.assert(
    fc.property(rows, fc.boolean(), fc.boolean(), (of, enforcing, defaultDeny) => {
      const only = { id: 1, rows: of };
      const policy: DirectionPolicy = {
        enforcing,
        defaultDeny,
        unknownClass: only,
        classOf: () => only,
        identities: () => [],
        classes: () => [only],
      };
      for (const number of [1, 6, 17, 47]) {
        for (let port = 0; port < 80; port++) {
          const packet = { identity: 7 as NumericIdentity, protocol: number, port };
          assert.equal(judge(policy, packet), slowly(of, packet, enforcing && defaultDeny));
        }
      }
    }),
    { numRuns: 300 },
  );
});
