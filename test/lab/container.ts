import { Place } from './place.ts';

/** A container behind a bridge of a machine, 172.17.0.2, as Docker makes them. The machine forwards. */
export function containerOn({ namespace }: Place): Place {
  const container = new Place('container');
  namespace.run('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1');
  namespace.run('ip', 'link', 'add', 'docker0', 'type', 'bridge');
  namespace.run('ip', 'address', 'add', '172.17.0.1/16', 'dev', 'docker0');
  namespace.run('ip', 'link', 'set', 'docker0', 'up');
  const ends = { device: 'veth1', peerDevice: 'eth0', peerAddresses: ['172.17.0.2/16'] };
  namespace.connect(container.namespace, ends);
  namespace.run('ip', 'link', 'set', 'veth1', 'master', 'docker0');
  container.namespace.run('ip', 'route', 'add', 'default', 'via', '172.17.0.1');
  return container;
}
