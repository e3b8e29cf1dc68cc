import { native } from './load-native.ts';

/**
 * sd_notify(3): state messages to the service manager. Without a service manager every call does nothing, and a
 * message that cannot be delivered is dropped: the agent must run on.
 */
export interface ServiceManager {
  /** Whether someone listens. */
  readonly present: boolean;
  notifyReady(status: string): void;
  notifyStatus(text: string): void;
  notifyReloading(): void;
  notifyStopping(): void;
  /** Sends a sign of life at half the time that the unit allows, from the event loop. Nothing if it asks for none. */
  startWatchdog(): void;
  stopWatchdog(): void;
}

/**
 * Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and takes them out of the environment, so that no program
 * started later speaks in our name. Call it once, before the first program is started.
 */
export function openServiceManager(env: NodeJS.ProcessEnv = process.env): ServiceManager {
  const { NOTIFY_SOCKET: path, WATCHDOG_USEC: usec, WATCHDOG_PID: pid } = env;
  delete env.NOTIFY_SOCKET;
  delete env.WATCHDOG_USEC;
  delete env.WATCHDOG_PID;
  const usable = path !== undefined && /^[/@]./.test(path);
  const watchdogMs = usable && (pid === undefined || Number(pid) === process.pid) ? Number(usec ?? 0) / 1000 : 0;
  return new NotifySocket(usable ? path : undefined, Number.isFinite(watchdogMs) ? watchdogMs : 0);
}

class NotifySocket implements ServiceManager {
  readonly #path: string | undefined;
  readonly #watchdogMs: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(path: string | undefined, watchdogMs: number) {
    this.#path = path;
    this.#watchdogMs = watchdogMs;
  }

  get present(): boolean {
    return this.#path !== undefined;
  }

  notifyReady(status: string): void {
    this.#send('READY=1', `STATUS=${oneLine(status)}`);
  }

  notifyStatus(text: string): void {
    this.#send(`STATUS=${oneLine(text)}`);
  }

  notifyReloading(): void {
    // Type=notify-reload wants the time, in microseconds of CLOCK_MONOTONIC.
    this.#send('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  notifyStopping(): void {
    this.stopWatchdog();
    this.#send('STOPPING=1');
  }

  startWatchdog(): void {
    if (this.#watchdogMs <= 0 || this.#timer !== undefined) return;
    const beat = (): void => this.#send('WATCHDOG=1');
    beat();
    this.#timer = setInterval(beat, Math.max(1, this.#watchdogMs / 2));
    this.#timer.unref();
  }

  stopWatchdog(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #send(...lines: string[]): void {
    if (this.#path === undefined) return;
    native().datagramSend(this.#path, Buffer.from(`${lines.join('\n')}\n`));
  }
}

/** A line break in a status would start a second assignment. */
function oneLine(text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ');
}
