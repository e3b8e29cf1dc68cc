import type { Config } from '../../config/config.ts';
import { MeshError } from '../../core/errors.ts';
import { parseAddress } from '../../core/ip.ts';
import type { Datapath } from '../../datapath/datapath.ts';
import type { Border, DesiredState } from '../../datapath/desired.ts';
import { classifyDevices, externalDevices } from '../../datapath/devices.ts';
import { NO_ADDRESSES, OPEN_POLICY } from '../../datapath/nothing.ts';
import { readLinkState } from '../../host/links.ts';
import type { DirectionPolicy } from '../../policy/result.ts';
import { OVERLAY_DEVICE } from '../machine.ts';
import { refused } from './file.ts';
import { LastGoodPlace, machineMark } from './place.ts';
import { type Restored, restoreState } from './restored-state.ts';

export interface RestoreOptions {
  readonly config: Config;
  /** Whether the name is the operator's or a joiner's, and not the host name, which may come late in a boot. */
  readonly named: boolean;
  /** Opened and closed here. */
  readonly datapath: Datapath;
  /** Also when rules are in force already. */
  readonly force: boolean;
  /** Reads and checks, and leaves the kernel alone. */
  readonly check: boolean;
}

export interface RestoreReport {
  /**
   * `in-force`: the kernel has rules of ours already. `nothing`: there is no snapshot. `failsafe`: there was none that can be
   * used, and only what the failsafe ports allow may come in. `usable`: what `check` found.
   */
  readonly outcome: 'restored' | 'in-force' | 'nothing' | 'failsafe' | 'usable';
  readonly savedAt?: number;
  readonly confirmedAt?: number;
  readonly cluster?: string;
  readonly addresses: number;
  readonly prefixes: number;
  readonly tookMs: number;
  /** Why the snapshot was not used. */
  readonly refusal?: MeshError;
}

/**
 * Puts the last-good snapshot in force: for a boot, before the network is up and before any store can be asked. No device and
 * no address need be there. What is the operator's (failsafe ports, audit, enforcement, devices that are named) is taken from
 * the configuration as it is now.
 * @throws MeshError DPN-*: the kernel does not take it
 */
export async function restoreLastGood(options: RestoreOptions): Promise<RestoreReport> {
  const { config, datapath, check, force } = options;
  const start = performance.now();
  const tookMs = (): number => performance.now() - start;
  const none = { addresses: 0, prefixes: 0 };
  if (config.datapath === 'none') return { outcome: 'nothing', ...none, tookMs: tookMs() };
  const place = new LastGoodPlace(config.stateDir);
  const found = await readSnapshot(place, options);
  const facts = found.restored === undefined ? none : countsOf(found.restored.state);
  const about = { ...facts, ...(await aboutOf(place, found.restored)) };
  const refusal = found.refusal === undefined ? {} : { refusal: found.refusal };
  if (check) return { outcome: found.restored ? 'usable' : 'nothing', ...about, ...refusal, tookMs: tookMs() };
  const fallback = found.restored === undefined && config.lastGood.fallback === 'failsafe' && isJoined(config);
  if (found.restored === undefined && !fallback) return { outcome: 'nothing', ...about, ...refusal, tookMs: tookMs() };
  try {
    await datapath.open();
    if (!force && datapath.status.entries.classes > 0)
      return { outcome: 'in-force', ...about, ...refusal, tookMs: tookMs() };
    const border = await presentBorder(config, found.restored?.state.border);
    const state =
      found.restored === undefined ? failsafeOnly(border) : asConfigured(found.restored.state, border, config);
    await datapath.apply(state, { everything: true });
    if (!fallback) await place.note(Date.now());
  } finally {
    await datapath.close();
  }
  return { outcome: fallback ? 'failsafe' : 'restored', ...about, ...refusal, tookMs: tookMs() };
}

/** The snapshot of this machine. @throws MeshError AGT-LASTGOOD */
export async function readRestored(
  place: LastGoodPlace,
  { config, named }: Pick<RestoreOptions, 'config' | 'named'>,
): Promise<Restored | undefined> {
  const file = await place.read();
  if (file === undefined) return undefined;
  const restored = await restoreState(file);
  const { name, cluster, machine } = restored.head;
  const mark = machineMark();
  if (machine !== '' && mark !== '' && machine !== mark) throw refused('it is of another machine');
  if (named && name !== config.name) throw refused(`it is of a machine named ${name}, this one is ${config.name}`);
  if (config.cluster !== undefined && cluster !== '' && cluster !== config.cluster.name)
    throw refused(`it is of cluster ${cluster}, this machine is in ${config.cluster.name}`);
  return restored;
}

async function readSnapshot(
  place: LastGoodPlace,
  options: RestoreOptions,
): Promise<{ readonly restored?: Restored; readonly refusal?: MeshError }> {
  try {
    const restored = await readRestored(place, options);
    return restored === undefined ? {} : { restored };
  } catch (error) {
    if (error instanceof MeshError) return { refusal: error };
    throw error;
  }
}

async function aboutOf(place: LastGoodPlace, restored: Restored | undefined): Promise<object> {
  if (restored === undefined) return {};
  const { head } = restored;
  const confirmedAt = (await place.facts())?.confirmedAt ?? head.savedAt;
  return { savedAt: head.savedAt, confirmedAt, cluster: head.cluster };
}

export function countsOf({ addresses }: DesiredState): { readonly addresses: number; readonly prefixes: number } {
  return { addresses: addresses.hosts4.size + addresses.hosts6.size, prefixes: [...addresses.prefixes()].length };
}

/** The state of a snapshot, with what the operator says now. */
export function asConfigured(state: DesiredState, border: Border, { enforcement }: Config): DesiredState {
  // Without copying: the tables are large.
  const open = enforcement === 'never';
  return {
    addresses: state.addresses,
    overlay: state.overlay,
    services: state.services,
    border,
    ingress: open ? OPEN_POLICY : state.ingress,
    egress: open ? OPEN_POLICY : state.egress,
  };
}

async function presentBorder(config: Config, saved: Border | undefined): Promise<Border> {
  return {
    devices: config.devices === 'auto' ? await devicesOf(saved) : config.devices,
    dualStack: saved?.dualStack ?? true,
    failsafe: config.failsafe,
    stores: [...(saved?.stores ?? []), ...storesOf(config)],
    nodes: saved?.nodes ?? [],
    tunnelPort: saved?.tunnelPort ?? config.tunnel.port,
    watchNames: saved?.watchNames ?? false,
    tellRate: config.monitor.rate,
    audit: config.audit,
  };
}

/** Those that were external, and those that are there by now and are. Their names are enough for the rules. */
async function devicesOf(saved: Border | undefined): Promise<readonly string[]> {
  const state = await readLinkState();
  const present = externalDevices(classifyDevices(state, { devices: 'auto', overlayDevice: OVERLAY_DEVICE }));
  return [...new Set([...(saved?.devices ?? []), ...present])];
}

/** Stores that the configuration names by address: names cannot be looked up without a network. */
function storesOf({ kvstore }: Config): Border['stores'] {
  return kvstore.endpoints.flatMap((endpoint) => {
    const { hostname, port } = new URL(endpoint);
    const address = parseAddress(hostname.replace(/^\[|\]$/g, ''));
    return address === undefined ? [] : [{ address, port: Number(port === '' ? '443' : port) }];
  });
}

function isJoined({ kvstore }: Config): boolean {
  return kvstore.config !== undefined || kvstore.endpoints.length > 0;
}

const CLOSED: DirectionPolicy = { ...OPEN_POLICY, enforcing: true, defaultDeny: true };

/** Nothing may come in but over the failsafe ports. Out it may: the machine must find its name servers and its hub. */
function failsafeOnly(border: Border): DesiredState {
  return {
    addresses: NO_ADDRESSES,
    ingress: CLOSED,
    egress: OPEN_POLICY,
    border,
    overlay: undefined,
  };
}
