import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Attributes, AttributeWriter, forEachAttribute, NESTED } from '../../src/host/attributes.ts';

test('numbers come back in both byte orders', () => {
  const writer = new AttributeWriter();
  writer.u8(1, 0xfe);
  writer.u16(2, 0x1234);
  writer.u16be(3, 0x1234);
  writer.u32(4, 0xfedcba98);
  writer.u32be(5, 0xfedcba98);
  writer.u64(6, 0xfedcba9876543210n);
  writer.u64be(7, 0xfedcba9876543210n);
  writer.flag(8);
  writer.wordsBe(9, [0x0a000001, 0xffffffff]);
  const read = new Attributes(writer.bytes());
  assert.equal(read.u8(1), 0xfe);
  assert.equal(read.u16(2), 0x1234);
  assert.equal(read.u16be(3), 0x1234);
  assert.equal(read.u32(4), 0xfedcba98);
  assert.equal(read.u32be(5), 0xfedcba98);
  assert.equal(read.u64(6), 0xfedcba9876543210n);
  assert.equal(read.u64be(7), 0xfedcba9876543210n);
  assert.equal(read.has(8), true);
  assert.equal(read.data(9)?.toString('hex'), '0a000001ffffffff');
  assert.equal(read.u64(1), undefined);
  assert.equal(read.u8(99), undefined);
});

test('every list of byte strings survives writing, growing and reading', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 50 }), (values) => {
      const writer = new AttributeWriter(64);
      const outer = writer.begin(7 | NESTED);
      for (const [index, value] of values.entries()) writer.data(index + 1, value);
      writer.end(outer);
      assert.equal(writer.length % 4, 0);
      const inner = new Attributes(writer.bytes()).data(7);
      assert.ok(inner !== undefined);
      const read: Buffer[] = [];
      forEachAttribute(inner, { offset: 0, end: inner.length }, (type, start, length) => {
        assert.equal(type, read.length + 1);
        read.push(inner.subarray(start, start + length));
      });
      assert.deepEqual(
        read.map((value) => value.toString('hex')),
        values.map((value) => Buffer.from(value).toString('hex')),
      );
    }),
  );
});

test('any bytes can be read without an error', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const attributes = new Attributes(Buffer.from(bytes));
      for (let type = 0; type < 20; type++) {
        attributes.u64(type);
        attributes.string(type);
        attributes.nested(type)?.u32(1);
      }
    }),
  );
});

test('an attribute over 65,535 bytes is refused, not cut', () => {
  const writer = new AttributeWriter();
  const outer = writer.begin(1);
  for (let i = 0; i < 9000; i++) writer.u32(1, i);
  assert.throws(() => writer.end(outer), RangeError);
  writer.truncate(writer.length - 8 * 1000);
  writer.end(outer);
  assert.throws(() => writer.data(1, Buffer.alloc(65_533)), RangeError);
});

test('padding is zero even in memory that was used before', () => {
  const writer = new AttributeWriter();
  writer.data(1, Buffer.alloc(40, 0xff));
  writer.reset();
  writer.string(2, 'abcd');
  assert.equal(writer.bytes().toString('hex'), '09000200616263640000000000'.slice(0, 24));
});
