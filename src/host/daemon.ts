const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

/** Resolves at the first signal that ends a daemon. SIGHUP does not: a terminal that closes must not take it along. */
export function stopSignal(onSignal: (signal: string) => void): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of SIGNALS) {
      process.on(signal, () => {
        onSignal(signal);
        resolve();
      });
    }
    process.on('SIGHUP', () => onSignal('SIGHUP'));
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
