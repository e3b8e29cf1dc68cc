import { connect } from 'node:net';

/** Whether a TCP connection is taken within that time: who is silent after that is not kept so by a firewall. Never rejects. */
export function connects(
  target: { readonly host: string; readonly port: number },
  timeoutMs: number,
): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ ...target });
    const done = (taken: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(taken);
    };
    const timer = setTimeout(() => done(false), timeoutMs);
    socket.once('connect', () => done(true));
    socket.once('error', () => done(false));
  });
}
