/**
 * One table of error codes: each has a summary, the remedy an operator should try first, and whether
 * trying again can help. Every face (log, status, command line, metrics) renders these same records.
 *
 * Code prefixes name the room: CFG configuration, KVS kvstore, MSH mesh, POL policy, DPN nftables data path, DPB eBPF
 * data path, OVL overlay, PKI certificates, JOIN joining, HUB hub, API local socket, OBS metrics and log, HST host, AGT agent, DOC doctor.
 */
export interface ErrorEntry {
  readonly summary: string;
  readonly remedy: string;
  readonly retryable: boolean;
}

const entry = (summary: string, remedy: string, retryable = false): ErrorEntry => ({ summary, remedy, retryable });

export const ERROR_CODES = {
  // configuration
  'CFG-FILE': entry('configuration file cannot be read', 'create the file or name another one with --config'),
  'CFG-SYNTAX': entry('configuration is not valid YAML', 'correct the line that is named'),
  'CFG-KEY': entry(
    'unknown configuration key',
    'remove the key or correct its spelling; `mesh-agent config show` lists the known ones',
  ),
  'CFG-VALUE': entry('configuration value is not acceptable', 'correct the value at the place that is named'),
  'CFG-CONFLICT': entry('configuration keys do not fit together', 'keep one of the keys that are named'),
  'CFG-VARIABLE': entry(
    'unknown environment variable',
    'unset it or correct its spelling; `mesh-agent config show -o wide` lists the known ones',
  ),
  'CFG-CERTIFICATE': entry(
    'a certificate or private key is not usable',
    'renew it, and check that the configuration names the right files',
  ),
  'CFG-EXPOSED': entry(
    'the configuration gives away more than it should',
    'restrict it to this machine, or protect it, unless you want it so',
  ),
  'CFG-RELOAD': entry(
    'the configuration could not be taken over',
    'correct it (`mesh-agent config check` shows every problem), then `systemctl reload mesh-agent`',
  ),
  'CFG-RESTART': entry(
    'changed keys of the configuration need a restart',
    'systemctl restart mesh-agent: the rules stay in force meanwhile',
  ),
  // host
  'HST-NATIVE': entry(
    'native module cannot be loaded',
    'make one of $RUNTIME_DIRECTORY, /dev/shm, /var/tmp or /tmp writable and mounted without noexec',
  ),
  'HST-COMMAND': entry('a system command failed', 'read the command output that is attached', true),
  'HST-PERMISSION': entry('the agent lacks a permission', 'run the agent as root, or grant CAP_NET_ADMIN'),
  'HST-NETLINK': entry('a netlink request failed', 'read the kernel error that is attached', true),
  'HST-BPF': entry(
    'the kernel refused an eBPF command',
    'read the kernel error that is attached; `datapath: nftables` does without eBPF',
    true,
  ),
  'HST-NO-BPF': entry(
    'this machine cannot do eBPF as it is',
    'a current systemd mounts /sys/fs/bpf and /sys/fs/cgroup; in a container, give it those of the host. Without it nftables does the work',
  ),
  'HST-SPACE': entry(
    'the file system of the state is full or nearly so',
    'make room, or put the state elsewhere (`stateDir`): certificates cannot be renewed and the last-good snapshot cannot be written',
    true,
  ),
  'HST-READ-ONLY': entry(
    'the file system of the state cannot be written',
    'mount it with write access; the kernel remounts read-only after disk errors: see `dmesg`',
    true,
  ),
  'HST-CONNTRACK': entry(
    'the table of tracked connections is nearly full',
    'raise it (`sysctl -w net.netfilter.nf_conntrack_max=...`) and find who opens so many (`conntrack -L`): a full table drops new connections',
    true,
  ),
  'HST-RP-FILTER': entry(
    'the reverse-path filter drops packets that come another way than answers go',
    'set it to loose (2) on that device and on `all`',
  ),
  'HST-SYSCTL': entry('a setting of the kernel stands in the way', 'set it as the text says, in /etc/sysctl.d as well'),
  'HST-FIREWALL': entry(
    'the packet filter of another program drops packets that the agent needs',
    'let them pass in the program that made the rule which is named (ufw, firewalld, a script); ours does not change it',
  ),
  'HST-BYPASS': entry(
    'rules of another program take packets past connection tracking or past the packet filter',
    'take that rule away, or narrow it to traffic that no policy judges',
  ),
  'HST-ROUTE': entry(
    'this machine has no route to a store',
    'add the route that is missing (`ip route get ADDRESS`), or correct the address of the endpoint',
    true,
  ),
  'HST-CLOCK': entry(
    'the clock of this machine is not right',
    'set it, and keep it set (`timedatectl set-ntp true`): certificates, leases and tokens depend on it',
    true,
  ),
  'HST-RANGE': entry(
    'a network of this machine overlaps with an address range of a cluster',
    'give the device (a Docker bridge: `bip` and `default-address-pools` in daemon.json) or the cluster another range',
  ),
  // kvstore
  'KVS-FILE': entry(
    'a file of the kvstore configuration cannot be read',
    'create the file or correct its path; renew the certificate with your cluster operator',
  ),
  'KVS-CONFIG': entry(
    'the etcd configuration file is not valid',
    'correct the key that is named; the format is that of an etcd client configuration',
    false,
  ),
  'KVS-DNS': entry(
    'the name of a store endpoint cannot be resolved',
    'check the name and the name server, or add the name to /etc/hosts',
    true,
  ),
  'KVS-REFUSED': entry(
    'nothing listens at the store endpoint',
    'check that the clustermesh-apiserver or hub runs and that the address and port are right',
    true,
  ),
  'KVS-BUSY': entry(
    'the store takes no more writes for the moment',
    'wait: it is tried again; a hub takes ten writes a second of one machine, so look for what changes all the time',
    true,
  ),
  'KVS-TIMEOUT': entry('the store does not answer in time', 'check the network path and the load of the store', true),
  'KVS-TLS-UNTRUSTED': entry(
    'the certificate of the store is not signed by the configured CA',
    'configure the CA of that cluster (`kvstore.ca`)',
    true,
  ),
  'KVS-TLS-EXPIRED': entry(
    'a certificate is expired or not yet valid',
    'renew the certificate, and check the clock of this machine',
    true,
  ),
  'KVS-TLS-NAME': entry(
    'the certificate of the store is for another name',
    'use an endpoint name that the certificate carries, such as <cluster>.mesh.cilium.io',
    true,
  ),
  'KVS-TLS-CLIENT': entry(
    'the store refused our client certificate',
    'use a certificate that the CA of that cluster signed and that is not expired',
    true,
  ),
  'KVS-NOT-TLS': entry(
    'the store endpoint does not speak TLS',
    'use http:// for a store without TLS, or turn TLS on there',
    true,
  ),
  'KVS-NOT-PLAIN': entry(
    'the store endpoint speaks TLS only',
    'use https:// for this endpoint and configure its CA and our certificate',
    true,
  ),
  'KVS-NOT-ETCD': entry(
    'the store endpoint does not speak the etcd protocol',
    'check the address and the port: it must be the client port of an etcd (2379)',
    true,
  ),
  'KVS-AUTH': entry(
    'the store refuses access',
    'check that the user of our certificate exists in the store and has the right role',
    true,
  ),
  'KVS-NO-QUORUM': entry('the store has no quorum', 'bring back the lost etcd members', true),
  'KVS-HEARTBEAT': entry(
    'the heartbeat of the store stopped',
    'check the clustermesh-apiserver or operator that writes cilium/.heartbeat',
    true,
  ),
  'KVS-MIXED': entry(
    'the endpoints of one store belong to different etcd clusters',
    'name only endpoints of one etcd cluster: facts would change with every reconnect',
  ),
  'KVS-LOST': entry(
    'the connection to the store was lost',
    'wait: it is tried again; check the network if it stays',
    true,
  ),
  // mesh
  'MSH-CLUSTER-ID': entry(
    'a cluster cannot be followed because of its id or name',
    'give every cluster of the mesh an id and a name of its own; the cluster that holds the id is not affected',
  ),
  'MSH-CLUSTER-NAME': entry(
    'the store of a cluster belongs to a cluster of another name',
    'name the file in the clustermesh directory exactly as the cluster calls itself (`cluster-name` there)',
  ),
  'MSH-CONFIG': entry(
    'the configuration that a cluster published is not valid',
    'check cluster-config/<name> in that store',
  ),
  'MSH-CLUSTER-FILE': entry(
    'the file of a remote cluster is not valid',
    'correct the file in the clustermesh directory; its name is the name of the cluster',
  ),
  'MSH-STORE': entry(
    'the store of a cluster is out of reach',
    'its last known facts stay in force; check the store',
    true,
  ),
  'MSH-INCOMPLETE': entry(
    'a cluster does not publish what is needed to follow it',
    'check that its clustermesh-apiserver runs and is done; facts that were known before stay in force',
    true,
  ),
  'MSH-QUARANTINE': entry(
    'values of a store were refused',
    'correct what wrote them: `mesh-agent status --verbose` names key and reason; all other values are in force',
  ),
  'MSH-CONTESTED': entry(
    'several clusters announce the same address',
    'give the clusters disjoint address ranges; `mesh-agent ipcache get` shows who claims an address and who has it',
  ),
  'MSH-STALE': entry(
    'facts of a cluster are old',
    'they stay in force; bring the connection to its store back (`mesh-agent status`)',
    true,
  ),
  'MSH-RANGES': entry(
    'address ranges of two clusters overlap',
    'give every cluster pod ranges of its own: packets for one of the two go to the other',
  ),
  'MSH-NOT-SHARED': entry(
    'a cluster has a global service too, but does not share it',
    'annotate the service in that cluster: `service.cilium.io/global: "true"` (of old: `io.cilium/global-service`), and not `service.cilium.io/shared: "false"`',
  ),
  'MSH-NO-BACKENDS': entry(
    'a global service has no backend',
    'check the selector and the pods of the service in the clusters that are named; `mesh-agent service get NAMESPACE/NAME` shows all backends',
  ),
  'MSH-SERVICE-NAME': entry(
    'services that look alike are not one global service',
    'give them the same name and the same namespace in every cluster',
  ),
  'MSH-SERVICE': entry(
    'what clusters announce of services is not all in force',
    '`mesh-agent service get NAMESPACE/NAME` shows every frontend and backend with the reason; correct what the cluster announces',
  ),
  'MSH-SERVICE-LOST': entry(
    'backends of clusters that cannot be reached are out of rotation',
    'bring the connection to the cluster back (`mesh-agent status`); `services.lossGrace` and `services.onClusterLoss` say what happens until then',
  ),
  'MSH-SERVICE-CHECK': entry(
    'backends of services do not pass the checks of this machine',
    '`mesh-agent service get NAMESPACE/NAME` shows which and why; repair them, let the egress policy of this machine through to them, or correct `services.checks`',
  ),
  'MSH-UNREACHABLE': entry(
    'nodes of a cluster do not answer probes',
    'run `mesh-agent health --failing`; check routes and firewalls on the way to them for ICMP echo and the health port',
    true,
  ),
  'MSH-REGISTRATION': entry(
    'the registration of this machine is not answered',
    'create the external workload under the name of this machine in the cluster (`cilium clustermesh vm create NAME`)',
    true,
  ),
  'MSH-REFUSED': entry(
    'the answer to our registration is not acceptable',
    'compare `cluster` in the configuration with the cluster that the store belongs to',
  ),
  // nftables data path
  'DPN-MISSING': entry('the program nft is not installed', 'install the package nftables'),
  'DPN-PERMISSION': entry(
    'the kernel refuses changes to its packet filter',
    'run the agent as root, or grant CAP_NET_ADMIN',
  ),
  'DPN-OLD': entry('the installed nft does not know a feature that is needed', 'install nftables 1.0.2 or newer'),
  'DPN-RULES': entry(
    'the kernel or nft refused the rules',
    'read the message that is attached; a kernel module such as nf_tables or nf_conntrack may be missing',
    true,
  ),
  'DPN-FULL': entry('a map of the packet filter is full', 'reduce the number of addresses or policies', true),
  'DPN-APPLY': entry(
    'a change could not be written to the packet filter',
    'wait: it is tried again; read the kernel error that is attached if it stays',
    true,
  ),
  'DPN-ABSENT': entry(
    'our rules are not in the kernel',
    'start the agent (`systemctl start mesh-agent`), or restore the last ones (`mesh-agent restore`); find out who removed them',
    true,
  ),
  'DPN-DRIFT': entry(
    'somebody else changes our rules',
    'end what does it: a firewall script that flushes everything, or a second agent; `nft monitor` shows the hand at work',
  ),
  // eBPF data path
  'DPB-PERMISSION': entry(
    'the kernel refuses eBPF to the agent',
    'run the agent as root, or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; a container or a lockdown of the kernel may forbid it: `datapath: nftables` does without',
  ),
  'DPB-OLD': entry(
    'the kernel lacks a feature of eBPF that is needed',
    'use Linux 5.14 or newer, or choose `datapath: nftables`',
  ),
  'DPB-VERIFIER': entry(
    'the kernel does not accept an eBPF program',
    'choose `datapath: nftables`; the words of the verifier are attached',
  ),
  'DPB-ATTACH': entry(
    'a program cannot be attached to a device',
    'look at what others have there (`tc filter show dev DEVICE ingress`, `bpftool net`); it is tried again',
    true,
  ),
  'DPB-FULL': entry('a map of the policy is full', 'reduce the number of addresses or policies', true),
  'DPB-APPLY': entry(
    'a change could not be written to the maps of the policy',
    'wait: it is tried again; read the kernel error that is attached if it stays',
    true,
  ),
  // metrics
  'OBS-LISTEN': entry(
    'the address of the metrics cannot be used',
    'choose another one in `metrics.listen`, or turn metrics off with ""',
  ),
  'OBS-LOG': entry(
    'the file of the log cannot be used',
    'correct `log.file`, or remove it: the log goes to standard error until then; as a service the agent may only write below /var/lib/mesh-agent',
  ),
  'OBS-NO-LOG': entry(
    'there is no log to show',
    'run it as root, or as a member of the group systemd-journal, where the agent runs as a service; or set `log.file`',
  ),
  'DPN-NONE': entry('no policy is enforced', 'remove `datapath: none` from the configuration'),
  // overlay
  'OVL-DEVICE': entry(
    'the overlay device cannot be used',
    'remove or rename the device of that name; the agent makes its own and never changes one that is not its own',
  ),
  'OVL-PORT': entry(
    'another device of this machine uses the port of the overlay',
    'remove that device, or set `tunnel.port` here and in every cluster to another port',
    true,
  ),
  'OVL-SOURCE': entry(
    'the own address of the overlay is not on this machine',
    'add the address to a device, or configure another one under `address`',
    true,
  ),
  'OVL-KERNEL': entry(
    'the kernel cannot carry the overlay',
    'load the module vxlan (`modprobe vxlan`) and lwtunnel support, or set `routing: native`',
    true,
  ),
  'OVL-ROUTE': entry(
    'routes of the overlay are refused',
    'read the kernel error that is attached; remove a foreign route that stands in the way',
    true,
  ),
  'OVL-APPLY': entry(
    'the overlay could not be brought to its desired state',
    'wait: it is tried again; read the kernel error that is attached if it stays',
    true,
  ),
  'OVL-NODE': entry(
    'the node at the other end of the overlay does not answer',
    'check that the node runs, and that the network between carries packets to it',
    true,
  ),
  'OVL-UNREACHABLE': entry(
    'a node cannot be reached through the overlay',
    'let udp/8472 (`tunnel.port`) pass between this machine and the node in both directions: security groups, firewalls, and the tunnel port of the cluster',
    true,
  ),
  'OVL-MTU': entry(
    'large packets are lost in the overlay',
    'the network below carries less than the device of this machine says: lower its MTU, or raise that of the network',
    true,
  ),
  // agent
  'AGT-DEVICES': entry(
    'no external device was found',
    'name the devices that lead out of this machine in `devices`; `mesh-agent status --verbose` lists all with their role',
  ),
  'AGT-ADDRESS': entry(
    'this machine has no address to register with',
    'give the machine an address and a default route, or set `address.ipv4` or `address.ipv6`',
  ),
  'AGT-KVSTORE': entry(
    'no store to join is configured',
    'set `kvstore.endpoints` or `kvstore.config`, or run `mesh-agent join`',
  ),
  'AGT-DRIFT': entry(
    'the kernel does not hold what is desired',
    'wait a moment; if it stays, `mesh-agent status` says what keeps it from being applied',
    true,
  ),
  'AGT-VERSION': entry(
    'the versions of this machine do not fit together',
    'upgrade the older one: the hub first, then the agents; restart the agent after its package was upgraded',
  ),
  'AGT-WAITING': entry(
    'the agent still waits for its first complete view',
    'read what it waits for; until then the rules of the last run stay in force',
    true,
  ),
  'AGT-UNENFORCED': entry('nothing is enforced', 'set `datapath: auto` to enforce policy on this machine'),
  'AGT-ROUTE': entry(
    'a range or address of a cluster is not routed over the overlay',
    'correct what that cluster announces: it would take traffic that does not belong to it',
  ),
  'AGT-POLICY': entry(
    'policies need attention',
    '`mesh-agent policy list` shows which and why; `mesh-agent policy validate FILE` checks a correction',
  ),
  'AGT-STATE': entry(
    'a file of the state cannot be read or written',
    'check the folder of the state, its rights and free space',
    true,
  ),
  'AGT-LASTGOOD': entry(
    'the last-good snapshot cannot be used or written',
    'nothing, once the agent reaches its store: it writes a new one; until then look at the folder last-good of the state and its rights',
    true,
  ),
  'AGT-NAMES': entry(
    'DNS answers cannot be seen, so that rules with `toFQDNs` learn no addresses',
    'load the kernel modules nft_log and nfnetlink_log; end the other program that listens to the same log group',
    true,
  ),
  'AGT-HEALTH': entry(
    'probes between nodes do not work on this machine',
    'free the port that is named, or set `health.port` (the same on every node); echo requests need CAP_NET_RAW',
    true,
  ),
  'AGT-DNS': entry(
    'names of services are not answered',
    'free the address that is named, or set another one as `dns.listen` (`ss -lunp`, `ss -ltnp` show who has it)',
    true,
  ),
  'AGT-RESOLVED': entry(
    'systemd-resolved does not send names of services here',
    'read the message that is attached; `resolvectl status mesh_dns` shows what it knows',
    true,
  ),
  'AGT-MONITOR': entry(
    'dropped packets cannot be seen, so that `mesh-agent monitor` shows nothing',
    'load the kernel modules nft_log and nfnetlink_log; end the other program that listens to the same log group',
    true,
  ),
  'AGT-SERVING': entry(
    'this machine does not pass the checks of services that it serves, and gets no connections for them',
    'start the program that serves them on the address of this machine, or look at what the check says',
    true,
  ),
  'AGT-DRAIN': entry(
    'there is nobody who would take this machine out of rotation',
    'join a hub first: only a hub publishes machines as backends of services',
  ),
  'AGT-FAILED': entry('the agent cannot run', 'read the message that is attached'),
  // policy
  'POL-CLUSTER': entry(
    'a policy names a cluster from which nothing comes',
    'use the name that the cluster gives itself in the label `io.cilium.k8s.policy.cluster`; `mesh-agent identity list` shows what came from where',
  ),
  // doctor
  'DOC-SLOW': entry(
    'a check took too long',
    'run it again; what it looks at hangs, or this machine is overloaded',
    true,
  ),
  'DOC-FAILED': entry('a check could not be made', 'read the message that is attached', true),
  // certificates
  'PKI-FILE': entry('a file of keys or certificates cannot be written', 'check the folder, its rights and free space'),
  'PKI-REQUEST': entry(
    'a certificate signing request is not acceptable',
    'make it with `mesh-agent join`: EC P-256, ECDSA with SHA-256, one common name',
  ),
  'PKI-NAME': entry(
    'a common name is not acceptable',
    'use 1 to 64 printable characters: names of workloads have 56 at most',
  ),
  'PKI-CA': entry(
    'the certificate authority is not usable',
    'restore `ca.key` and `ca.crt` of the hub from a backup (`mesh-agent hub restore`)',
  ),
  // hub
  'HUB-CONFIG': entry('hub.yaml is not acceptable', 'correct the line that is named; docs/hub.md shows every key'),
  'HUB-EXISTS': entry(
    'there is a hub in this folder already',
    'use it (`mesh-agent hub run`), name another --state-dir, or give up its keys and data with --force',
  ),
  'HUB-MISSING': entry('there is no hub in this folder', 'make one with `mesh-agent hub init`, or restore a backup'),
  'HUB-FILES': entry(
    'a file of the hub is missing or not usable',
    'restore it from a backup (`mesh-agent hub restore`)',
  ),
  'HUB-UNREACHABLE': entry(
    'the hub does not answer on its socket',
    'start it with `systemctl start mesh-agent-hub`, or name its socket with --socket',
    true,
  ),
  'HUB-RUNNING': entry('a hub runs in this folder already', 'stop it first, or name another --state-dir'),
  'HUB-ETCD': entry(
    "the hub's etcd does not run",
    'install the package etcd-server; read its last words above and in the log of the hub',
    true,
  ),
  'HUB-ETCD-PORT': entry(
    "another program uses the port of the hub's etcd",
    'stop it, or choose another port in `listen.etcd` of hub.yaml',
    true,
  ),
  'HUB-ETCD-SPACE': entry(
    "the hub's etcd is out of space",
    'wait for compaction and defragmentation; raise `etcd.quota` in hub.yaml if it comes back',
    true,
  ),
  'HUB-ETCD-DATA': entry(
    "the data of the hub's etcd were lost or replaced",
    'restore a backup (`mesh-agent hub restore`); workloads, tokens and policies are gone otherwise',
  ),
  'HUB-LISTEN': entry(
    'an address of the hub cannot be used',
    'stop what uses it, or choose another one under `listen` in hub.yaml',
    true,
  ),
  'HUB-NOT-LEADER': entry('this hub does not lead any more', 'wait: the hub that leads now does it', true),
  'HUB-CERTIFICATE': entry(
    'a certificate of the hub expires soon',
    'it is renewed at the next start; that of the authority must be replaced by hand before it expires',
  ),
  'HUB-PART': entry('a part of the hub cannot run', 'read the message that is attached', true),
  'HUB-BACKUP': entry(
    'a backup cannot be written or is not usable',
    'check the file, the free space and that it was made by `mesh-agent hub backup`',
  ),
  'HUB-WORKLOAD': entry('the workload is not acceptable', 'correct what is named'),
  'HUB-WORKLOAD-EXISTS': entry(
    'there is a workload of that name already',
    'choose another name (names are unique over namespaces), or delete the one that is there',
  ),
  'HUB-WORKLOAD-MISSING': entry(
    'there is no workload of that name',
    'list them with `mesh-agent hub workload list`, or create it',
  ),
  'HUB-RANGE': entry(
    'the address range is taken or not usable',
    'choose another one, or leave it out: the hub takes one from its pools',
  ),
  'HUB-POOL': entry('the pools of the hub are exhausted', 'add a pool to `pools` in hub.yaml, or delete workloads'),
  'HUB-CONFLICT': entry('someone else changed the same thing at the same time', 'try again', true),
  'HUB-REGISTRATION': entry(
    'a machine claims what it must not have, or nothing that can be used',
    'see `mesh-agent hub workload get NAME`: correct the machine, its address or the workload',
  ),
  'HUB-IDENTITY': entry(
    'an identity cannot be given',
    'see the reason that is attached; the hub tries again by itself',
    true,
  ),
  'HUB-OVERLAP': entry(
    'an address or range of a workload is also in use in a connected cluster',
    'give the workload or the cluster other addresses: traffic to one of the two goes astray',
  ),
  'HUB-CLUSTER': entry(
    'a remote cluster cannot be connected like that',
    'correct the etcd configuration file or its certificates, then connect again',
  ),
  'HUB-CLUSTER-UNKNOWN': entry('the hub is connected to no such cluster', '`mesh-agent hub cluster list` names them'),
  'HUB-CLUSTER-WAITING': entry(
    'a remote cluster has not told everything yet',
    'wait; if it stays, check the clustermesh-apiserver there: it writes cluster-config, heartbeat and canaries',
    true,
  ),
  'HUB-CLUSTER-REFUSED': entry(
    'values of a remote cluster were not taken over',
    'correct what announces them: `mesh-agent hub cluster status NAME` counts them and names some; all others are in force',
  ),
  'HUB-CLUSTER-LIMIT': entry(
    'a remote cluster has more than the hub takes from one cluster',
    'find out what fills its store; values beyond the limit are missing on machines',
  ),
  'HUB-CLUSTER-RANGES': entry(
    'address ranges of the mesh overlap',
    'give every cluster, and the pools of the hub, ranges of their own: who answers for an address must be clear',
  ),
  'HUB-CLUSTER-CERTIFICATE': entry(
    'the certificate by which the hub reaches a remote cluster expires soon',
    'get a new one from that cluster and run `mesh-agent hub cluster connect` again',
  ),
  'HUB-CLUSTER-VERSION': entry(
    'a remote cluster says something that not every reader understands',
    'bring the clusters of the mesh to versions that are next to each other',
  ),
  'HUB-CLUSTER-ENCRYPTION': entry(
    'a remote cluster encrypts between its nodes, and machines do not',
    'traffic with machines is in plain text, or dropped in strict mode: exempt their addresses there, or encrypt above',
  ),
  'HUB-CLUSTER-WRITE': entry(
    'what a remote cluster says cannot be written into our store',
    'wait: it is tried again; check the etcd of the hub if it stays',
    true,
  ),
  'HUB-POLICY': entry(
    'the policies are refused, all of them',
    'correct the places that are named; `mesh-agent policy validate FILE` checks a correction',
  ),
  'HUB-POLICY-UNKNOWN': entry('the hub has no such policy', '`mesh-agent hub policy list` names them'),
  'HUB-SERVICE': entry('the service is not acceptable', 'correct what is named; nothing was changed'),
  'HUB-SERVICE-EXISTS': entry(
    'there is a service of that name already',
    'choose another name, or replace it as a whole with --replace',
  ),
  'HUB-SERVICE-MISSING': entry(
    'there is no service of that name',
    'list them with `mesh-agent hub service list`, or create it',
  ),
  'HUB-SERVICE-ADDRESS': entry(
    'the address of the service is taken or not usable',
    'choose another one, or `--address auto`: the hub takes one from `services.pools`',
  ),
  'HUB-SERVICE-OBJECT': entry(
    'a service in the store cannot be read, and is not published',
    'create it again with --replace, or update this hub: the object may be of a newer one',
  ),
  'HUB-SERVICE-LIMIT': entry(
    'a service has more backends than one value holds',
    'split it, or give it fewer ports: the machines that come last by name get nothing',
  ),
  'HUB-SILENCE': entry(
    'so many machines are silent at once that none is taken out of rotation for it',
    'look at the way from the machines to the hub: what they serve is published as it was',
    true,
  ),
  'HUB-MACHINES-GONE': entry(
    'machines are out of rotation: no hub has a connection of them',
    'look at the machine, its agent and its way to the hub: it serves again as soon as it is connected',
    true,
  ),
  'HUB-MACHINES-KEPT': entry(
    'so many machines of a service are without a connection that none of them is taken out of rotation',
    'look at the way from the machines to the hubs: what they serve is published as it was; a check would tell more',
    true,
  ),
  'HUB-SERVICE-IDLE': entry(
    'services have no machine that serves',
    '`mesh-agent hub service get NAME` tells of each machine why; clients use other clusters, or are refused',
  ),
  'HUB-WORKLOAD-KUBERNETES': entry(
    'the workload is from the Kubernetes cluster that the hub follows',
    'change or delete its CiliumExternalWorkload there; `mesh-agent hub workload revoke NAME` locks its machine out at once',
  ),
  'HUB-POLICY-KUBERNETES': entry(
    'the policy is from the Kubernetes cluster that the hub follows',
    'delete the object there; the hub follows at once',
  ),
  'HUB-KUBE-CONFIG': entry(
    'the kubeconfig of the hub is not usable',
    'correct what is named; it must have a server with TLS, its CA, and a client certificate or a token',
  ),
  'HUB-KUBE-UNREACHABLE': entry(
    'the Kubernetes API server is out of reach',
    'check the address in the kubeconfig and the network path; policies and workloads stay as they are',
    true,
  ),
  'HUB-KUBE-TLS': entry(
    'the certificate of the Kubernetes API server, or ours, is not accepted',
    'renew the kubeconfig: its CA, its client certificate, and the name in `tls-server-name`',
    true,
  ),
  'HUB-KUBE-DENIED': entry(
    'the Kubernetes API server refuses access',
    'give the user of the kubeconfig the ClusterRole of docs/hub.md, or renew its token',
    true,
  ),
  'HUB-KUBE-ANSWER': entry(
    'an answer of the Kubernetes API server is not acceptable',
    'check that the address is that of an API server; policies and workloads stay as they are',
    true,
  ),
  'HUB-KUBE-OBJECT': entry(
    'objects of Kubernetes are not taken over',
    'correct the objects that are named; until then their last good versions stay in force',
  ),
  'HUB-KUBE-CONFLICT': entry(
    'objects of Kubernetes are also made by hand, and those win',
    'delete one of the two: `mesh-agent hub policy list` and `mesh-agent hub workload list` show their sources',
  ),
  'HUB-KUBE-WRITE': entry(
    'what Kubernetes says cannot be written into our store',
    'wait: it is tried again; check the etcd of the hub if it stays',
    true,
  ),
  // joining: what a machine says, and what the hub answers to it
  'JOIN-TOKEN': entry(
    'the join token is not readable',
    'copy the whole token again, from `mat1_` to its last character; the checksum tells a mistyped one apart',
  ),
  'JOIN-TOKEN-UNKNOWN': entry(
    'the hub does not know this join token',
    'make a new one with `mesh-agent hub workload token NAME`, and check that it is for this hub',
  ),
  'JOIN-TOKEN-EXPIRED': entry(
    'the join token is expired',
    'make a new one with `mesh-agent hub workload token NAME`; its life is set by --ttl',
  ),
  'JOIN-TOKEN-USED': entry(
    'the join token was used before, or withdrawn',
    'make a new one with `mesh-agent hub workload token NAME`; if this machine did not use it, read `mesh-agent hub audit`',
  ),
  'JOIN-WRONG-NAME': entry(
    'the join token is for another workload',
    'leave --name out, or make a token for that workload',
  ),
  'JOIN-NO-WORKLOAD': entry(
    'the hub has no workload of this name',
    'create it with `mesh-agent hub workload create NAME`',
  ),
  'JOIN-PIN': entry(
    'THE HUB IS NOT THE ONE THAT THE TOKEN NAMES: its certificate is signed by another authority',
    'someone may be in between: do not use this network path; compare `CA hash` of `mesh-agent hub status` with the one above',
  ),
  'JOIN-SERVER': entry(
    'the certificate of the hub is not acceptable',
    'use a name that the hub carries (`names` in hub.yaml), and check its certificate with `mesh-agent hub status`',
  ),
  'JOIN-CLOCK': entry(
    'the clocks of this machine and of the hub do not agree',
    'set the clock of this machine (`timedatectl set-ntp true`), then try again',
  ),
  'JOIN-UNREACHABLE': entry(
    'the hub cannot be reached',
    'check the address, the port (8443 unless set otherwise) and the network path to it',
    true,
  ),
  'JOIN-BUSY': entry('the hub takes no more requests at this moment', 'wait a little, then try again', true),
  'JOIN-ANSWER': entry(
    'the answer of the hub is not acceptable',
    'check that the versions of hub and agent fit together; nothing was changed on this machine',
  ),
  'JOIN-REQUEST': entry('the hub refuses the request', 'use an agent of a version that fits the hub'),
  'JOIN-REVOKED': entry(
    'the certificate is revoked or unknown to the hub',
    'join again with a new token: `mesh-agent hub workload token NAME`, then `mesh-agent join --force`',
  ),
  'JOIN-EXPIRED': entry(
    'the certificate of this machine is expired',
    'join again with a new token: `mesh-agent hub workload token NAME`, then `mesh-agent join --force`',
  ),
  'JOIN-PRESENT': entry(
    'this machine is joined already',
    'keep it so, run `mesh-agent leave` first, or replace it with --force',
  ),
  'JOIN-PERMISSION': entry('a file or the kernel of this machine cannot be changed', 'run it as root (sudo)'),
  'JOIN-RUNNING': entry('another join or leave runs on this machine', 'wait for it to end', true),
  'JOIN-CONFIG': entry(
    'the configuration of this machine stands against joining',
    'remove the keys that are named from the place that is named; `mesh-agent config show -o wide` shows all',
  ),
  'JOIN-RENEWAL': entry(
    'the certificate of this machine could not be renewed',
    'wait: it is tried again; check the path to the hub and `mesh-agent hub status`',
    true,
  ),
  'JOIN-CONSENT': entry('this needs your consent', 'say it with --yes'),
  'JOIN-LEAVE': entry(
    'the machine could not leave completely',
    'correct what is named, then run `mesh-agent leave` again: it goes on where it stopped',
    true,
  ),
  'HUB-TOKEN': entry('a join token cannot be made or found', 'read the message that is attached'),
  'HUB-ENROLMENT': entry(
    'the address for enrolment cannot be used',
    'choose another one in `listen.enrolment` of hub.yaml, or stop what listens there',
    true,
  ),
  'HUB-PACKAGES': entry('the packages folder of the hub cannot be read', 'check the folder and its rights'),
  // local API
  'API-UNREACHABLE': entry(
    'the agent does not answer on its socket',
    'start it with `systemctl start mesh-agent`, or name its socket with --socket',
    true,
  ),
  'API-DENIED': entry(
    'the socket of the agent is not open to this user',
    'use sudo, or join the group of `socketGroup` in the configuration',
  ),
  'API-BUSY': entry(
    'another agent answers on this socket',
    'stop the other agent, or give this one its own --socket and --state-dir',
  ),
  'API-SOCKET': entry(
    'the socket of the agent cannot be made',
    'check the folder of the socket and its rights, or name another one with --socket',
  ),
  'API-NOT-FOUND': entry('the agent knows no such object', 'check the name against the list command'),
  'API-READ-ONLY': entry(
    'the socket of the agent is shared with a group, so it takes no changes',
    'put the policy into the folder of local policies, or remove `socketGroup` from the configuration',
  ),
  'API-QUESTION': entry(
    'the question cannot be answered',
    'name the machine (`self`) and a peer: an address, an identity number or labels; `mesh-agent policy explain --help`',
  ),
  'API-LIMIT': entry('the agent serves no more clients at once', 'end other clients, then try again', true),
  'API-FAILED': entry('the agent could not answer', 'read the log of the agent (`journalctl -u mesh-agent`)', true),
  'API-REQUEST': entry(
    'the request is not understood by the agent',
    'use a command line of the same version as the agent',
  ),
} satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface MeshErrorOptions {
  /** Where: a file and line, a key of the store, an endpoint, a device. */
  readonly place?: string;
  readonly cause?: unknown;
}

/** An error with a code of the table; `message` is the summary plus the detail and never repeats the remedy. */
export class MeshError extends Error {
  readonly code: ErrorCode;
  readonly place: string | undefined;

  constructor(code: ErrorCode, detail: string, options: MeshErrorOptions = {}) {
    super(detail === '' ? ERROR_CODES[code].summary : `${ERROR_CODES[code].summary}: ${detail}`, {
      cause: options.cause,
    });
    this.name = 'MeshError';
    this.code = code;
    this.place = options.place;
  }

  get remedy(): string {
    return ERROR_CODES[this.code].remedy;
  }

  get retryable(): boolean {
    return ERROR_CODES[this.code].retryable;
  }
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
