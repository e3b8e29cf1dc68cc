import type { Config } from '../config/config.ts';
import { MeshError } from '../core/errors.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { KernelDatapath } from '../datapath/kernel.ts';
import { NftDatapath } from '../datapath/nft/datapath.ts';
import { NoneDatapath } from '../datapath/none.ts';
import { Overlay } from '../datapath/overlay/overlay.ts';
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
      const facts = {
        info: (details: object, message: string) => log.info(message, { ...details }),
        warn: (details: object, message: string) => log.warn(message, { ...details }),
      };
      return new KernelDatapath({
        policy: new NftDatapath({ log: facts }),
        overlay: new Overlay({ log: facts }),
        log: facts,
      });
    }
  }
}
