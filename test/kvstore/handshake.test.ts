import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { MeshError } from '../../src/core/errors.ts';
import { DEFAULT_TIMING, Transport } from '../../src/kvstore/transport.ts';
import { portOf } from '../lab/door.ts';
import { until } from '../lab/namespace.ts';

test('a store that takes connections and never answers the handshake holds no socket after it was given up', async () => {
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    socket.on('error', () => undefined).on('close', () => open.delete(socket));
    socket.resume();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    const timing = { ...DEFAULT_TIMING, connectMs: 200 };
    const endpoint = `https://127.0.0.1:${portOf(server)}`;
    for (let attempt = 0; attempt < 3; attempt++) {
      const failure = await Transport.connect(
        endpoint,
        { endpoints: [endpoint] },
        timing,
        new AbortController().signal,
      ).catch((error: unknown) => error);
      assert.ok(failure instanceof MeshError && failure.code === 'KVS-TIMEOUT');
    }
    await until('all sockets are closed', () => open.size === 0);
  } finally {
    for (const socket of open) socket.destroy();
    server.close();
  }
});
