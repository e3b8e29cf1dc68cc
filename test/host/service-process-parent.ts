import { ServiceProcess } from '../../src/host/service-process.ts';

/** Runs a program under supervision until it is killed: for a test of what is left behind. */
const [pidFile = '', command = '', ...args] = process.argv.slice(2);
const service = new ServiceProcess({
  command,
  arguments: () => args,
  pidFile,
  onLine: () => {},
  onChange: () => process.stdout.write(`${service.status.state} ${service.status.pid ?? ''}\n`),
});
await service.start();
setInterval(() => {}, 1000);
