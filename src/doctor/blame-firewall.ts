import type { CheckRecord } from '../api/doctor-types.ts';
import { parseAddress } from '../core/ip.ts';
import type { ForeignRules } from '../datapath/nft/foreign.ts';
import { nameServers } from '../host/name-servers.ts';
import { Findings } from './check.ts';
import { addressFlow, type NeededFlow, suspectsOf } from './machine/foreign-rules.ts';
import type { EndpointEvidence } from './store/probe-endpoint.ts';
import type { ConfiguredStore } from './store/store-list.ts';

/** Endpoints whose failure looks as if packets were dropped on the way. */
export interface Silence {
  readonly store: ConfiguredStore;
  readonly endpoint: EndpointEvidence;
}

export function isSilence({ failure }: EndpointEvidence): boolean {
  return failure?.code === 'KVS-TIMEOUT' || failure?.code === 'KVS-DNS' || failure?.code === 'KVS-REFUSED';
}

/**
 * Rules of others that may explain what was seen: a chain that drops by default is no finding of its own, but it is one
 * when packets do not come through. What was found before (`known`) is not said again.
 */
export function blameFirewall(
  silences: readonly Silence[],
  foreign: ForeignRules,
  known: readonly CheckRecord[],
): CheckRecord[] {
  const findings = new Findings({ group: 'machine', name: 'foreign-rules' });
  for (const { store, endpoint } of silences) {
    if (known.some(({ code, subject }) => code === 'HST-FIREWALL' && (subject === store.name || subject === '')))
      continue;
    const flows = endpoint.failure?.code === 'KVS-DNS' ? dnsFlows() : storeFlows(endpoint);
    const refused = endpoint.failure?.code === 'KVS-REFUSED';
    for (const flow of flows) {
      const suspect = suspectsOf(foreign, flow).find(({ sure, out }) => sure || (out && !refused));
      if (suspect === undefined) continue;
      const sureness = suspect.sure ? '' : 'probably ';
      findings.error('HST-FIREWALL', `${flow.what}: ${sureness}${suspect.text}`, {
        subject: store.name,
        place: suspect.place,
      });
      break;
    }
  }
  return findings.list;
}

function storeFlows({ addresses, port }: EndpointEvidence): NeededFlow[] {
  return addresses.flatMap((text) => {
    const address = parseAddress(text);
    return address === undefined ? [] : [addressFlow(address, port)];
  });
}

function dnsFlows(): NeededFlow[] {
  return nameServers().flatMap((text) => {
    const peer = parseAddress(text);
    return peer === undefined
      ? []
      : [{ what: `DNS to ${text}`, protocol: 17 as const, port: 53, peer, portAt: 'peer' as const }];
  });
}
