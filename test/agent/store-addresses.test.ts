import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StoreAddresses } from '../../src/agent/store-addresses.ts';
import { formatAddress } from '../../src/core/ip.ts';

test('endpoints become sorted addresses and ports, and a name that stops resolving keeps what it had', async () => {
  let changes = 0;
  const stores = new StoreAddresses({ onChange: () => changes++ });
  await stores.set([
    'https://10.0.0.2:2379',
    'http://[fd00::1]:2380',
    'https://10.0.0.2:2379',
    'https://10.0.0.1',
    'http://localhost:9999',
    'not a url',
  ]);
  const texts = stores.list().map(({ address, port }) => `${formatAddress(address)} ${port}`);
  assert.deepEqual(
    texts.filter((text) => !text.endsWith('9999')),
    ['10.0.0.1 443', '10.0.0.2 2379', 'fd00::1 2380'],
  );
  assert.ok(texts.some((text) => text.endsWith('9999')));
  assert.equal(changes, 1);
  await stores.refresh();
  assert.equal(changes, 1, 'nothing changed, nothing is told');
  await stores.set(['https://name.invalid:2379']);
  assert.deepEqual(stores.list(), []);
});
