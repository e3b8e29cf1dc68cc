import type { Config } from '../config/config.ts';
import { BpfDatapath } from '../datapath/bpf/datapath.ts';
import { removeBpfPolicy } from '../datapath/bpf/removal.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { KernelDatapath } from '../datapath/kernel.ts';
import { NftDatapath } from '../datapath/nft/datapath.ts';
import { NoneDatapath } from '../datapath/none.ts';
import { Overlay } from '../datapath/overlay/overlay.ts';
import { SocketDatapath } from '../datapath/sockets/datapath.ts';
import { SplitDatapath } from '../datapath/split.ts';
import { Successor } from '../datapath/successor.ts';
import type { Log } from '../observe/log.ts';

/** The data path that the configuration chooses. */
export function chooseDatapath(config: Config, log: Log): Datapath {
  switch (config.datapath) {
    case 'none':
      return new KernelDatapath({ policy: new NoneDatapath(), overlay: new Overlay() });
    case 'bpf':
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

/** The part that judges packets alone, which needs no device of ours; services beside it. */
export function choosePolicy(config: Config, log: Log): Datapath {
  if (config.datapath === 'none') return new NoneDatapath();
  const facts = factsOf(log);
  // Who asks for nftables by name gets nothing else.
  return new SocketDatapath({ policy: policyOf(config, facts), enabled: config.datapath !== 'nftables', log: facts });
}

/** What judges; what another data path left in force stays until this one is. */
function policyOf(config: Config, log: ReturnType<typeof factsOf>): Datapath {
  if (config.datapath !== 'bpf')
    return new Successor({ datapath: new NftDatapath({ log }), retire: removeBpfPolicy, log });
  return new SplitDatapath({ judge: new BpfDatapath({ log }), leader: new NftDatapath({ log, judges: false }) });
}

function factsOf(log: Log) {
  return {
    info: (details: object, message: string) => log.info(message, { ...details }),
    warn: (details: object, message: string) => log.warn(message, { ...details }),
  };
}
