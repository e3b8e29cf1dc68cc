const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

/** SIGHUP asks a daemon to read its configuration again. @returns begins with it: what was asked before is served then */
export function onReload(reload: () => void): () => void {
  let [asked, begun] = [false, false];
  process.on('SIGHUP', () => {
    asked = true;
    if (begun) reload();
  });
  return () => {
    begun = true;
    if (asked) reload();
  };
}

/** Resolves at the first signal that ends a daemon. SIGHUP does not: a terminal that closes must not take it along. */
export function stopSignal(onSignal: (signal: string) => void): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of SIGNALS) {
      process.on(signal, () => {
        onSignal(signal);
        resolve();
      });
    }
  });
}

/** An error that nobody caught leaves an unknown state: `last` says it, then the process ends, to be started anew. */
export function crashOnSurprise(last: (error: unknown) => void): void {
  const crash = (error: unknown): void => {
    last(error);
    process.exit(1);
  };
  process.on('uncaughtException', crash);
  process.on('unhandledRejection', crash);
}
