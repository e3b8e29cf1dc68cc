import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { identity } from '../../src/core/identity.ts';
import { judge } from '../../src/datapath/judge.ts';
import type { Contribution } from '../../src/policy/resolve/contribution.ts';
import { decide, type Match } from '../../src/policy/resolve/decision.ts';
import { computeRows } from '../../src/policy/resolve/rows.ts';
import type { PolicyRow, Protocol } from '../../src/policy/result.ts';

const port = fc.constantFrom(0, 1, 2, 3, 4, 79, 80, 81, 90, 65534, 65535);
const range = fc
  .tuple(fc.constantFrom<Protocol>(6, 17), port, port, fc.nat(5))
  .map(([protocol, a, b, whole]) =>
    whole === 0 ? { protocol, first: 0, last: 65535 } : { protocol, first: Math.min(a, b), last: Math.max(a, b) },
  );

const contribution: fc.Arbitrary<Contribution> = fc
  .record({
    ranges: fc.option(fc.array(range, { minLength: 1, maxLength: 3 }), { nil: undefined, freq: 3 }),
    deny: fc.nat(2).map((each) => each === 0),
    audit: fc.boolean(),
    everyone: fc.boolean(),
    authentication: fc.constantFrom(undefined, undefined, undefined, 'required' as const, 'disabled' as const),
  })
  .map((each) => ({
    ...each,
    ref: { policy: 'p', path: '' },
    authentication: each.deny ? undefined : each.authentication,
  }));

/** The row that a look-up ends at. */
function rowAt(rows: readonly PolicyRow[], protocol: number, port: number): PolicyRow | undefined {
  const fitting = rows.filter((row) => row.protocol === protocol && row.first <= port && port <= row.last);
  const narrowest = fitting.sort((a, b) => a.last - a.first - (b.last - b.first))[0];
  return narrowest ?? rows.find((row) => row.protocol === 0);
}

test('reading the rows gives the decision on every port, with audit and authentication', () => {
  const input = fc.record({ contributions: fc.array(contribution, { maxLength: 6 }), audited: fc.boolean() });
  fc.assert(
    fc.property(input, ({ contributions, audited }) => {
      const auditedMiss = audited ? [{ policy: 'miss', path: '' }] : undefined;
      const rows = computeRows({ contributions, auditedMiss });
      const of = { id: 1, rows };
      const policy = {
        enforcing: true,
        defaultDeny: true,
        unknownClass: of,
        classOf: () => of,
        identities: () => [],
        classes: () => [of],
      };
      for (const protocol of [6, 17, 47]) {
        for (const at of [0, 1, 2, 3, 4, 5, 78, 79, 80, 81, 82, 89, 90, 91, 65533, 65534, 65535]) {
          const matching = contributions.flatMap((each): Match[] => {
            if (each.ranges === undefined) return [{ contribution: each, width: Number.POSITIVE_INFINITY }];
            return each.ranges
              .filter((one) => one.protocol === protocol && one.first <= at && at <= one.last)
              .map(({ first, last }) => ({ contribution: each, width: last - first + 1 }));
          });
          const { outcome, by } = decide(matching, audited);
          const expected = outcome === 'allow' || outcome === 'audited-deny' ? 'allow' : 'deny';
          assert.equal(judge(policy, { identity: identity(1), protocol, port: at }), expected, `${protocol}/${at}`);
          const row = rowAt(rows, protocol, at);
          // A row for everything stands for what would say the same.
          if (row === undefined || row.protocol === 0) continue;
          for (const { ref } of by) assert.ok(row.rules.includes(ref), 'the row names what decides');
        }
      }
    }),
    { numRuns: 3000, seed: 5 },
  );
});
