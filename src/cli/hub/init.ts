import { hostname } from 'node:os';
import type { Command } from 'commander';
import { command, InvalidArgumentError, Option } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { write } from '../output.ts';
import { stateDirOf } from './place.ts';

interface Options {
  readonly clusterName: string;
  readonly clusterId: number;
  readonly pool?: readonly string[];
  readonly servicePool?: readonly string[];
  readonly name?: readonly string[];
  readonly listenEtcd?: string;
  readonly listenEnrolment?: string;
  readonly etcdEndpoints?: readonly string[];
  readonly etcdCa?: string;
  readonly force?: true;
}

export function hubInitCommand(): Command {
  return command<Options>({
    name: 'init',
    summary: 'Make a hub: its configuration, certificate authority and keys',
    details:
      'The name and the id of the cluster must be its own in the mesh. Names are those under which machines and clusters reach the hub; the first is told to machines.',
    examples: [
      ['hub init --cluster-name vms --cluster-id 100 --pool 10.192.0.0/16', 'with an etcd of its own'],
      ['hub init --cluster-name vms --cluster-id 100 --name hub.example.com 192.0.2.10', 'with names'],
    ],
    shared: ['stateDir'],
    options: [
      new Option('--cluster-name <name>', 'name of the cluster of machines').makeOptionMandatory(),
      new Option('--cluster-id <id>', 'its id, 1 to 255 (or to 511)').argParser(whole).makeOptionMandatory(),
      new Option('--pool <cidr...>', 'ranges for workloads that ask for none'),
      new Option('--service-pool <cidr...>', 'ranges for the addresses of services on machines'),
      new Option('--name <name...>', 'DNS names and addresses of the hub (default: the host name)'),
      new Option('--listen-etcd <address>', 'where etcd listens (default: 0.0.0.0:2379)'),
      new Option('--listen-enrolment <address>', 'where machines enrol (default: 0.0.0.0:8443)'),
      new Option('--etcd-endpoints <url...>', 'an etcd that is there, instead of one of its own'),
      new Option('--etcd-ca <file>', 'the authority of its certificates, if not pki/internal.crt of the hub'),
      new Option('--force', 'give up the hub that is there, with its keys and data'),
    ],
    async run(call) {
      const { options, terminal } = call;
      const { listenEtcd, listenEnrolment, etcdEndpoints, etcdCa } = options;
      const choices = {
        clusterName: options.clusterName,
        clusterId: options.clusterId,
        pools: options.pool ?? [],
        ...(options.servicePool !== undefined && { servicePools: options.servicePool }),
        names: options.name ?? [hostname().toLowerCase()],
        ...(listenEtcd !== undefined && { listenEtcd }),
        ...(listenEnrolment !== undefined && { listenEnrolment }),
        ...(etcdEndpoints !== undefined && { etcdEndpoints }),
        ...(etcdCa !== undefined && { etcdCa }),
      };
      // Loaded here, so that other commands start without the code that makes certificates.
      const { initHub } = await import('../../hub/init.ts');
      const { config, folder } = await initHub({
        stateDir: stateDirOf(call),
        choices,
        force: options.force === true,
      });
      const { name, id } = config.cluster;
      await write(
        terminal.out,
        `The hub of cluster ${name} (id ${id}) is made in ${folder.path}.\nStart it: mesh-agent hub run\n`,
      );
      return EXIT.ok;
    },
  });
}

function whole(text: string): number {
  if (!/^[0-9]{1,3}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(text);
}
