import { resolve } from 'node:path';
import type { Command } from 'commander';
import { command, Option } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { hubSocketOf, stateDirOf } from './place.ts';

export function hubRunCommand(): Command {
  return command<{ readonly kubeConfig?: string }>({
    name: 'run',
    summary: 'Run the hub in the foreground, as the service manager does',
    details: 'Its etcd runs as long as it does. Several hubs on one etcd elect one that leads.',
    examples: [
      ['hub run', 'the hub in /var/lib/mesh-agent/hub'],
      ['hub run --kube-config /etc/mesh-agent/kubeconfig', 'and take over the policies of that Kubernetes cluster'],
    ],
    shared: ['stateDir', 'socket'],
    options: [
      new Option(
        '--kube-config <file>',
        'kubeconfig of a Kubernetes cluster whose policies and external workloads are followed (`kubernetes.config` in hub.yaml)',
      ),
    ],
    async run(call) {
      const { loadHub } = await import('../../hub/init.ts');
      const { runHub } = await import('../../hub/run.ts');
      const { folder, config } = loadHub(stateDirOf(call));
      const { kubeConfig } = call.options;
      const kubernetes = kubeConfig === undefined ? config.kubernetes : { config: resolve(kubeConfig) };
      const code = await runHub({ folder, config: { ...config, kubernetes }, socket: hubSocketOf(call) });
      return code === 0 ? EXIT.ok : EXIT.failure;
    },
  });
}
