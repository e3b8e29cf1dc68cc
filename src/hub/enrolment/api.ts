import { MeshError } from '../../core/errors.ts';
import type { HubApi, HubRequest } from '../api.ts';
import type { EnrolmentContext } from './context.ts';
import { joinScript } from './install-script.ts';
import { revokeMachine } from './revoke.ts';
import { createToken, listTokens, withdrawToken } from './tokens.ts';

/** What an administrator does about enrolment, over the hub's socket. */
export function serveEnrolmentApi(api: HubApi, context: EnrolmentContext): void {
  api.route('POST', 'tokens', async (request) => {
    const { workload, ttlSeconds, by } = fields(request);
    return {
      record: await createToken(context, {
        workload: text(workload, 'workload'),
        ...(ttlSeconds !== undefined && { ttlSeconds: Number(ttlSeconds) }),
        by: who(by),
      }),
    };
  });
  api.route('GET', 'tokens', async () => ({ list: await listTokens(context) }));
  api.route('DELETE', 'tokens/:id', async ({ params, query }) => {
    await withdrawToken(context, params.id ?? '', who(query.get('by')));
    return undefined;
  });
  api.route('POST', 'revocations', async (request) => {
    const { workload, by } = fields(request);
    const name = text(workload, 'workload');
    return { record: { workload: name, certificates: await revokeMachine(context, { workload: name, by: who(by) }) } };
  });
  api.route('GET', 'audit', async () => ({ list: await context.audit.list() }));
  api.route('POST', 'install-script', async (request) => {
    const { workload, ttlSeconds, by } = fields(request);
    const token =
      workload === undefined
        ? undefined
        : await createToken(context, {
            workload: text(workload, 'workload'),
            ...(ttlSeconds !== undefined && { ttlSeconds: Number(ttlSeconds) }),
            by: who(by),
          });
    return { record: { script: joinScript(context, token?.token), expiresAt: token?.expiresAt ?? null } };
  });
}

function fields({ body }: HubRequest): Readonly<Record<string, unknown>> {
  if (typeof body !== 'object' || body === null) throw new MeshError('API-REQUEST', 'a JSON object is expected');
  return body as Record<string, unknown>;
}

function text(value: unknown, name: string): string {
  if (typeof value !== 'string' || value === '') throw new MeshError('API-REQUEST', `${name} must be a text`);
  return value;
}

/** The command line says who types it; the socket is open to administrators alone. */
function who(by: unknown): string {
  return typeof by === 'string' && by !== '' ? `administrator ${by.slice(0, 100)}` : 'administrator';
}
