import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { PROGRAM } from '../lab/daemon.ts';
import { Fleet } from '../lab/hub-fleet.ts';
import { assertReach } from '../lab/matrix.ts';
import { savedBuilds, unpackBuild } from './older-build.ts';
import { begin, FRONTEND, LIFE_SECONDS, type Sides, story, unbroken } from './suite.ts';

/** A hub of this version with each machine that is saved. */
for (const build of savedBuilds()) {
  describe(`a machine of ${build}, a hub of this version`, () => {
    let sides: Sides;
    before(async () => {
      const fleet = new Fleet({ hurry: { certificateSeconds: LIFE_SECONDS, graceMs: 1000 } });
      const old = unpackBuild(build, join(fleet.folder, 'old'));
      const machine = fleet.machineFor('my-vm');
      machine.program = old;
      // What was added to the configuration since is an unknown key to it.
      writeFileSync(machine.configFile, JSON.stringify({ policies: machine.policies }));
      sides = { fleet, old };
      await begin(fleet);
    });
    after(() => sides?.fleet.close());

    story(() => sides);

    test('the machine is upgraded in place, and rolled back: nothing is lost and nothing gets in meanwhile', async () => {
      const { fleet, old } = sides;
      await unbroken(fleet, async () => {
        for (const program of [PROGRAM, old]) {
          await fleet.agent.stop();
          fleet.agent.program = program;
          fleet.agent.start();
          const { registration } = await fleet.agent.untilReady();
          assert.equal(registration.state, 'registered');
          await assertReach(fleet, FRONTEND, 10_000);
        }
      });
    });
  });
}
