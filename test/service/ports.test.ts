import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { matchingPorts, PortMatcher } from '../../src/service/ports.ts';

const port = fc.record({
  name: fc.constantFrom('', 'http', 'grpc', 'TCP', 'TCP http'),
  protocol: fc.constantFrom('TCP', 'UDP', 'TCP http'),
  port: fc.constantFrom(0, 80, 8080),
});

test('the ports that match are the same with an index and without one', () => {
  fc.assert(
    fc.property(
      fc.array(port, { maxLength: 40 }),
      fc.array(port, { minLength: 1, maxLength: 5 }),
      (backend, wanted) => {
        const matcher = new PortMatcher();
        for (const frontend of wanted)
          assert.deepEqual(matcher.match(frontend, backend), matchingPorts(frontend, backend));
      },
    ),
  );
});
