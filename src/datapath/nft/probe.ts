import { nft } from './program.ts';
import { mapsText, rulesText } from './ruleset.ts';

/** Parts of the rules that older kernels or programs cannot do. */
export interface OptionalParts {
  readonly names: boolean;
  readonly services: boolean;
}

/**
 * Whether nft and the kernel take the rules; changes nothing. Where they cannot do DNS names or services, it goes without
 * that part, and `onMissing` is told. @throws MeshError DPN-*
 */
export async function probeRules(
  onMissing?: (part: keyof OptionalParts, error: unknown) => void,
): Promise<OptionalParts> {
  const has = async (part: keyof OptionalParts): Promise<boolean> => {
    try {
      await probe({ names: false, services: false, [part]: true });
      return true;
    } catch (error) {
      onMissing?.(part, error);
      return false;
    }
  };
  try {
    await probe({ names: true, services: true });
    return { names: true, services: true };
  } catch {
    await probe({ names: false, services: false });
    return { names: await has('names'), services: await has('services') };
  }
}

async function probe(parts: OptionalParts): Promise<void> {
  const fresh = { telling: { rate: parts.names ? 1 : 0 }, present: [], counted: new Map() };
  const services = parts.services ? 'lead' : 'none';
  const everything =
    mapsText({ ...parts, ...fresh }) + rulesText({ judges: true, overlay: true, ...parts, services, ...fresh });
  await nft(everything.replaceAll('table inet mesh_agent ', 'table inet mesh_agent_probe '), { check: true });
}
