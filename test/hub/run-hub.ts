import { loadHub } from '../../src/hub/init.ts';
import type { PartFactory } from '../../src/hub/part.ts';
import { HUB_PARTS } from '../../src/hub/parts.ts';
import { runHub } from '../../src/hub/run.ts';

/**
 * A hub as `mesh-agent hub run` runs it, with no parts but one that lets a test reach what parts are given, and one that
 * counts in the store while it leads; with all of a hub before these when `MESH_TEST_HUB_PARTS` is `all`.
 */
const [stateDir = '', socket = ''] = process.argv.slice(2);

const reach: PartFactory = {
  where: 'everywhere',
  create: ({ api, access }) => ({
    name: 'reach',
    async start() {
      api.route('POST', 'test/revoke/:name', async ({ params }) => {
        await access.revoke(params.name ?? '');
        return undefined;
      });
    },
    async stop() {},
    status: () => ({}),
  }),
};

const counter: PartFactory = {
  where: 'leader',
  create: (_context, leader) => {
    const facts = { written: 0, refused: 0 };
    let timer: NodeJS.Timeout | undefined;
    return {
      name: 'counter',
      async start() {
        timer = setInterval(() => {
          leader
            .transact({ perform: [{ put: `mesh-agent/v1/test/${leader.term}`, value: String(process.pid) }] })
            .then(() => facts.written++)
            .catch(() => facts.refused++);
        }, 50);
      },
      async stop() {
        clearInterval(timer);
      },
      status: () => facts,
    };
  },
};

const all = process.env.MESH_TEST_HUB_PARTS === 'all' ? HUB_PARTS : [];
process.exitCode = await runHub({ ...loadHub(stateDir), socket, parts: [...all, reach, counter] });
