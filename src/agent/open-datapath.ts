import type { Config } from '../config/config.ts';
import { MeshError } from '../core/errors.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { KernelDatapath } from '../datapath/kernel.ts';
import { NftDatapath } from '../datapath/nft/datapath.ts';
import { NoneDatapath } from '../datapath/none.ts';
import { Overlay } from '../datapath/overlay/overlay.ts';
import { SocketDatapath } from '../datapath/sockets/datapath.ts';
import type { Log } from '../observe/log.ts';

/** The data path that the configuration chooses. Throws AGT-DATAPATH. */
export function chooseDatapath(config: Config, log: Log): Datapath {
  switch (config.datapath) {
    case 'none':
      return new KernelDatapath({ policy: new NoneDatapath(), overlay: new Overlay() });
    case 'bpf':
      throw new MeshError('AGT-DATAPATH', 'this build has no eBPF data path');
    case 'auto':
    case 'nftables': {
      const facts = factsOf(log);
      return new KernelDatapath({
        policy: choosePolicy(config, log),
        overlay: new Overlay({ log: facts }),
        log: facts,
      });
    }
  }
}

/** The part that judges packets alone, which needs no device of ours. Throws AGT-DATAPATH. */
export function choosePolicy(config: Config, log: Log): Datapath {
  if (config.datapath === 'none') return new NoneDatapath();
  if (config.datapath === 'bpf') throw new MeshError('AGT-DATAPATH', 'this build has no eBPF data path');
  const facts = factsOf(log);
  // Who asks for nftables by name gets nothing else.
  return new SocketDatapath({
    policy: new NftDatapath({ log: facts }),
    enabled: config.datapath === 'auto',
    log: facts,
  });
}

function factsOf(log: Log) {
  return {
    info: (details: object, message: string) => log.info(message, { ...details }),
    warn: (details: object, message: string) => log.warn(message, { ...details }),
  };
}
