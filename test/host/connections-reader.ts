import { connectionPeers } from '../../src/host/connections.ts';

// Started by connections.test.ts in a network namespace: tells the peers of all connections, one a line.
process.stdout.write(`${[...(await connectionPeers())].join('\n')}\n`);
