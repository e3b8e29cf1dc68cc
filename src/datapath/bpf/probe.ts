import { hasBpfFileSystem } from '../../host/bpf/place.ts';
import { ClsactAttacher } from './clsact.ts';
import { BpfDatapath } from './datapath.ts';
import { BpfFolder } from './folder.ts';
import { TcxAttacher } from './tcx.ts';

/** Whether the kernel takes the programs; nothing stays. @throws MeshError DPB-*, HST-NO-BPF */
export async function probeBpf(): Promise<void> {
  const datapath = new BpfDatapath();
  await datapath.open();
  await datapath.close();
}

/** On how many places of devices the policy sits. @throws BpfError, NetlinkError */
export async function countAttached(fileSystem?: string): Promise<number> {
  if (!hasBpfFileSystem(fileSystem)) return 0;
  const folder = new BpfFolder(fileSystem);
  if (folder.generations().length === 0) return 0;
  let count = 0;
  for (const attacher of [new TcxAttacher(folder.links), new ClsactAttacher()]) {
    count += (await attacher.list()).length;
    attacher.close();
  }
  return count;
}
