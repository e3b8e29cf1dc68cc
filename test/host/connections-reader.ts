import { connectionPeers, openConnections } from '../../src/host/connections.ts';

// Started by connections.test.ts in a network namespace: tells the peers of all connections, one a line, or how many are open
// to ports (`6/7000`) of an address.
const [address, ...ports] = process.argv.slice(2);
if (address === undefined) process.stdout.write(`${[...(await connectionPeers())].join('\n')}\n`);
else {
  const wanted = ports
    .map((text) => text.split('/').map(Number))
    .map(([protocol = 0, port = 0]) => ({ protocol, port }));
  const counts = await openConnections(new Set([address]), wanted);
  process.stdout.write(`${[...counts].map(([port, count]) => `${port}: ${count}`).join('\n')}\n`);
}
