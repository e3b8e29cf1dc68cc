import type { PolicyText } from '../../api/policy-types.ts';
import { MeshError } from '../../core/errors.ts';
import type { HubContext, PartFactory } from '../part.ts';
import { PolicyBook } from './policy-book.ts';
import { PolicyKeeper } from './policy-keeper.ts';

const keepers = new WeakMap<HubContext, PolicyKeeper>();
const MAX_TEXTS = 1000;

/** In every hub: policies as an administrator applies and deletes them. */
export const policiesPart: PartFactory = {
  where: 'everywhere',
  create: (context) => {
    const { store, api, config } = context;
    let keeper: PolicyKeeper | undefined;
    return {
      name: 'policies',
      async start() {
        keeper = new PolicyKeeper(store);
        keepers.set(context, keeper);
        const book = new PolicyBook(store, { kubernetes: config.kubernetes.config !== undefined });
        api.route('GET', 'policies', async () => ({ record: await book.list() }));
        api.route('GET', 'policies/:name', async ({ params }) => ({ record: await book.get(params.name ?? '') }));
        api.route('POST', 'policies', async ({ body }) => ({ record: await book.apply(readTexts(body)) }));
        api.route('DELETE', 'policies/:name', async ({ params }) => ({ record: await book.delete(params.name ?? '') }));
      },
      async stop() {
        keeper?.close();
        keepers.delete(context);
      },
      status: () => ({ policies: keeper?.size ?? 0 }),
    };
  },
};

/**
 * In the hub that leads, before anything that writes canaries: policies that the store lost are there again when `start`
 * resolves.
 */
export const policyKeeperPart: PartFactory = {
  where: 'leader',
  create: (context, leader) => {
    let restored = 0;
    return {
      name: 'policy-keeper',
      async start() {
        restored = (await keepers.get(context)?.restore(leader)) ?? 0;
        if (restored > 0)
          context.log.warn('the store had lost its policies: they are back, as this hub knew them', { restored });
      },
      async stop() {},
      status: () => ({ restored }),
    };
  },
};

function readTexts(body: unknown): readonly PolicyText[] {
  const texts = typeof body === 'object' && body !== null && 'texts' in body ? body.texts : undefined;
  if (!Array.isArray(texts) || texts.length === 0 || texts.length > MAX_TEXTS)
    throw new MeshError('API-REQUEST', `texts must be a list of 1 to ${MAX_TEXTS}`);
  return texts.map((each: unknown) => {
    if (typeof each !== 'object' || each === null || !('name' in each) || !('text' in each))
      throw new MeshError('API-REQUEST', 'each text has a name and a text');
    const { name, text } = each;
    if (typeof name !== 'string' || typeof text !== 'string')
      throw new MeshError('API-REQUEST', 'name and text are texts');
    return { name: name.slice(0, 300), text };
  });
}
