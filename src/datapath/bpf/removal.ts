import { hasBpfFileSystem } from '../../host/bpf/place.ts';
import { removePins } from '../pins.ts';
import { ClsactAttacher } from './clsact.ts';
import { BpfFolder } from './folder.ts';
import { TcxAttacher } from './tcx.ts';

/**
 * Takes the policy off the devices of this network namespace, with everything that kept it, whatever version and whichever way
 * put it there. Nothing happens where there is none. @throws BpfError, NetlinkError
 */
export async function removeBpfPolicy(fileSystem?: string): Promise<void> {
  if (!hasBpfFileSystem(fileSystem)) return;
  const folder = new BpfFolder(fileSystem);
  const kept = folder.generations();
  if (kept.length === 0) return;
  for (const attacher of [new TcxAttacher(folder.links), new ClsactAttacher()]) {
    for (const each of await attacher.list()) await attacher.drop(each);
    attacher.close();
  }
  for (const { path } of kept) removePins(path);
  removePins(folder.links);
  folder.removeEmpty();
}
