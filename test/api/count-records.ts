import { openClient } from '../../src/api/client.ts';

// Reads the ipcache of the agent behind a socket and says how many entries it has.
let count = 0;
for await (const _record of openClient({ socket: process.argv[2] ?? '' }).ipcache()) count++;
process.stdout.write(`${count}\n`);
