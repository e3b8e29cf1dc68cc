import assert from 'node:assert/strict';
import { isIPv4, isIPv6 } from 'node:net';
import { test } from 'node:test';
import fc from 'fast-check';
import { contains, formatAddress, formatPrefix, parseAddress, parseIpv4, parsePrefix } from '../../src/core/ip.ts';

test('addresses print as Go prints them', () => {
  for (const [given, printed] of [
    ['10.0.1.23', '10.0.1.23'],
    ['FD00::1', 'fd00::1'],
    ['fd00:0:0:0:0:0:0:10', 'fd00::10'],
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['::ffff:1.2.3.4', '1.2.3.4'],
  ] as const) {
    const address = parseAddress(given);
    assert.ok(address, given);
    assert.equal(formatAddress(address), printed);
  }
});

test('text that is no address is refused', () => {
  for (const text of [
    '',
    '1',
    '1.2.3',
    '1.2.3.4.5',
    '01.2.3.4',
    '256.1.1.1',
    '1.2.3.4 ',
    ':',
    ':::',
    '1::2::3',
    'fe80::1%eth0',
    '1:2:3:4:5:6:7',
    '::1.2.3',
    'g::',
  ]) {
    assert.equal(parseAddress(text), undefined, text);
  }
});

test('what node:net takes as an address, and only that, is parsed', () => {
  const part = fc.oneof(
    fc.constantFrom('', ':', '::', '.', '0', '255', 'ff', 'FFFF', '1.2.3.4'),
    fc.string({ maxLength: 3 }),
  );
  fc.assert(
    fc.property(fc.array(part, { maxLength: 9 }), (parts) => {
      const text = parts.join(':');
      assert.equal(parseAddress(text) !== undefined, isIPv4(text) || (isIPv6(text) && !text.includes('%')), text);
    }),
  );
});

test('an IPv6 address survives printing and parsing', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom(0, 1, 0xffff, 0x10000, 0xffffffff), { minLength: 4, maxLength: 4 }),
      (words) => {
        if (words[0] === 0 && words[1] === 0 && words[2] === 0xffff) return;
        assert.deepEqual(parseAddress(formatAddress({ family: 6, words })), { family: 6, words });
      },
    ),
  );
});

test('prefixes lose their host bits and know what they contain', () => {
  const prefix = (text: string) => parsePrefix(text) ?? assert.fail(text);
  assert.equal(formatPrefix(prefix('10.1.2.3/16')), '10.1.0.0/16');
  assert.equal(formatPrefix(prefix('fd00:1:2:3::/31')), 'fd00::/31');
  assert.equal(formatPrefix(prefix('0.0.0.0/0')), '0.0.0.0/0');
  assert.equal(formatPrefix(prefix('10.0.0.1')), '10.0.0.1/32');
  assert.ok(contains(prefix('10.0.0.0/8'), prefix('10.255.0.0/16')));
  assert.ok(!contains(prefix('10.0.0.0/16'), prefix('10.0.0.0/8')));
  assert.ok(!contains(prefix('0.0.0.0/0'), prefix('::/0')));
  for (const text of ['10.0.0.0/33', '10.0.0.0/', '10.0.0.0/08', '::/129', '10.0.0.0/-1'])
    assert.equal(parsePrefix(text), undefined, text);
  assert.equal(parseIpv4('255.255.255.255'), 0xffffffff);
});
