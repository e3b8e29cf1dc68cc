import { MeshError } from '../../core/errors.ts';
import { nft } from './program.ts';
import { removalText } from './ruleset.ts';

/** Takes our table away; nothing happens where there is none, or no nft. @throws MeshError DPN-* */
export async function removeTable(): Promise<void> {
  try {
    await nft(removalText());
  } catch (error) {
    if (!(error instanceof MeshError && error.code === 'DPN-MISSING')) throw error;
  }
}
