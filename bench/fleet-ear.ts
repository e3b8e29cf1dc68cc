import { hearAddresses } from './kernel-ear.ts';

/** In the network namespace of a machine: a line for each address that its kernel hears of, with the monotonic time in ms. */
hearAddresses((address) => {
  process.stdout.write(`${address} ${Number(process.hrtime.bigint()) / 1e6}\n`);
});
process.stdin.on('end', () => process.exit(0)).resume();
