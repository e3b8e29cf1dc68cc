import { serveEverywhere } from './matrix.ts';
import { type ClusterOptions, MeshLab, type MeshLabOptions } from './mesh-lab.ts';

/** The clusters of most stories: two of them, with pods of the same labels. */
export const CLUSTER_A: ClusterOptions = {
  name: 'cluster-a',
  id: 1,
  pods: { frontend: { app: 'frontend' }, batch: { app: 'batch' } },
};
export const CLUSTER_B: ClusterOptions = { name: 'cluster-b', id: 2, pods: { frontend: { app: 'frontend' } } };

/** A lab with a running, joined agent, remote clusters connected, and echo servers everywhere. */
export async function startStory(
  clusters: readonly ClusterOptions[] = [CLUSTER_A],
  options: MeshLabOptions = {},
): Promise<MeshLab> {
  const lab = await MeshLab.start(clusters, options);
  try {
    for (const { name } of clusters.slice(1)) lab.connect(name);
    lab.agent.start();
    await serveEverywhere(lab);
    await lab.agent.untilReady();
    return lab;
  } catch (error) {
    await lab.close();
    throw error;
  }
}

/** A CiliumNetworkPolicy for the machine; JSON is YAML. */
export function policyFor(name: string, spec: object): string {
  return JSON.stringify({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name, namespace: 'production' },
    spec: { endpointSelector: { matchLabels: { app: 'backend' } }, ...spec },
  });
}

export const fromFrontendOf = (cluster: string): object => ({
  fromEndpoints: [{ matchLabels: { app: 'frontend', 'io.cilium.k8s.policy.cluster': cluster } }],
});

/** Section 3.2 of the text that describes the mesh. */
export const CROSS_CLUSTER = policyFor('allow-cross-cluster', { ingress: [fromFrontendOf('cluster-a')] });

/** Puts a policy in force and waits until the kernel has it. */
export async function enforce(lab: MeshLab, text: string, file = 'policy.yaml'): Promise<void> {
  const { revision } = (await lab.agent.status()).policy;
  lab.agent.policy(file, text);
  await lab.agent.untilStatus(
    'the policy is in force',
    ({ policy, datapath }) => policy.revision > revision && datapath.applied && datapath.lagMs === 0,
  );
}
