import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeLabels, encodeLabels, labelSet, labelTexts, parseLabel } from '../../src/core/labels.ts';

test('labels are read as Cilium reads them', () => {
  for (const [text, source, key, value] of [
    ['k8s:app=web', 'k8s', 'app', 'web'],
    ['app=web', 'unspec', 'app', 'web'],
    ['k8s:a=b=c', 'k8s', 'a', 'b=c'],
    ['k8s:a=x:y', 'k8s', 'a', 'x:y'],
    ['$host', 'reserved', 'host', ''],
    ['reserved.host', 'reserved', 'host', ''],
    ['reserved:=host', 'reserved', 'host', ''],
    ['cidr:10.0.0.0/8', 'cidr', '10.0.0.0/8', ''],
  ] as const) {
    const label = parseLabel(text);
    assert.deepEqual([label.source, label.key, label.value], [source, key, value], text);
  }
});

test('the kvstore form is sorted bytewise by key alone, with a final semicolon and `=` for empty values', () => {
  const text = 'unspec:Zone=1;k8s:app=vm;k8s:empty=;k8s:io.cilium.k8s.policy.cluster=vmfleet;';
  assert.equal(
    encodeLabels(decodeLabels(`k8s:io.cilium.k8s.policy.cluster=vmfleet;;k8s:empty;k8s:app=vm;Zone=1`)),
    text,
  );
});

test('of two labels with one key the last wins', () => {
  assert.deepEqual(labelTexts(labelSet([parseLabel('k8s:a=1'), parseLabel('any:a=2')])), ['any:a=2']);
});

test('keys beyond ASCII are sorted by bytes, not by UTF-16 units', () => {
  assert.deepEqual(labelTexts(labelSet([parseLabel('k8s:\u{1f600}=1'), parseLabel('k8s:\uffee=2')])), [
    'k8s:\uffee=2',
    'k8s:\u{1f600}=1',
  ]);
});
