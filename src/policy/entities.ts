import { CLUSTER_LABEL } from '../core/labels.ts';
import { requirement } from './resolve/match.ts';
import type { Selector } from './rule.ts';

/** Entities (specification 7.4): each is a union of label selectors. */
const reserved = (name: string): Selector => [requirement('reserved', name, 'Exists')];

const SINGLE = [
  'host',
  'remote-node',
  'kube-apiserver',
  'ingress',
  'health',
  'init',
  'unmanaged',
  'none',
  'world-ipv4',
  'world-ipv6',
] as const;

const NODES_AND_MORE = ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver'];

export function isEntity(name: string): boolean {
  return name === 'all' || name === 'world' || name === 'cluster' || SINGLE.some((each) => each === name);
}

/** The selectors behind an entity; `all` is the wildcard. */
export function entitySelectors(name: string, clusterName: string): readonly Selector[] {
  switch (name) {
    case 'all':
      return [[]];
    case 'world':
      return [reserved('world'), reserved('world-ipv4'), reserved('world-ipv6')];
    case 'cluster':
      return [...NODES_AND_MORE.map(reserved), [requirement('k8s', CLUSTER_LABEL, 'In', [clusterName])]];
    default:
      return [reserved(name)];
  }
}
