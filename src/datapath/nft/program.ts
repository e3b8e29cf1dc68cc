import { MeshError } from '../../core/errors.ts';
import { CommandError, run } from '../../host/command.ts';

/** Runs `nft -f -`; `check` changes nothing. Errors carry the words of the program. @returns its process id */
export async function nft(text: string, options: { check?: boolean } = {}): Promise<number> {
  try {
    const result = await run('nft', [...(options.check === true ? ['-c'] : []), '-f', '-'], {
      input: text,
      timeoutMs: 60_000,
    });
    return result.pid;
  } catch (error) {
    throw explain(error);
  }
}

function explain(error: unknown): unknown {
  if (!(error instanceof CommandError)) return error;
  if (error.failure === 'missing') return new MeshError('DPN-MISSING', '', { cause: error });
  if (/Operation not permitted|must be root|Permission denied/i.test(error.stderr))
    return new MeshError('DPN-PERMISSION', '', { cause: error });
  const said = error.stderr.trim().split('\n').slice(0, 6).join('; ').slice(0, 1000);
  if (/syntax error|unknown datatype|unexpected/i.test(said)) return new MeshError('DPN-OLD', said, { cause: error });
  return new MeshError('DPN-RULES', said, { cause: error });
}
