import { BadValue, quoted } from './json.ts';
import { decodeNodeValue, encodeNode, type Node } from './node.ts';

/** A value of `noderegister/v1/<name>`: a Node in which all but the name may be empty (specification 2.2). @throws BadValue */
export function decodeRegisterNode(key: string, value: Buffer): Node {
  const node = decodeNodeValue(value);
  if (node.name !== key) throw new BadValue(`Name ${quoted(node.name)} is not the key's last part`);
  return node;
}

/** The announcement of the first phase: the name alone. */
export function announcement(name: string): Node {
  return {
    name,
    cluster: '',
    clusterId: 0,
    addresses: [],
    ranges4: [],
    ranges6: [],
    healthAddresses: [],
    ingressAddresses: [],
    source: 'local',
    labels: new Map(),
    nodeIdentity: 0,
    bootId: '',
  };
}

/** Annotations by which a machine tells its hub what it runs, and which of the hub's policies it applies. */
export const VERSION_ANNOTATION = 'mesh-agent.io/version';
export const POLICY_ANNOTATION = 'mesh-agent.io/policy-revision';

export const encodeRegisterNode = encodeNode;
