import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { PROGRAM } from '../lab/daemon.ts';
import { Fleet } from '../lab/hub-fleet.ts';
import { assertReach } from '../lab/matrix.ts';
import { savedBuilds, unpackBuild } from './older-build.ts';
import { allow, BATCH, begin, FRONTEND, LIFE_SECONDS, type Sides, story, unbroken } from './suite.ts';

/** A machine of this version with each hub that is saved. */
for (const build of savedBuilds()) {
  describe(`a hub of ${build}, a machine of this version`, () => {
    let sides: Sides;
    before(async () => {
      const fleet = new Fleet();
      const old = unpackBuild(build, join(fleet.folder, 'old'), LIFE_SECONDS);
      fleet.hub.program = old;
      sides = { fleet, old };
      await begin(fleet);
    });
    after(() => sides?.fleet.close());

    story(() => sides);

    test('the hub is upgraded in place, and rolled back: the machine goes on and hears what the hub says', async () => {
      const { fleet, old } = sides;
      await unbroken(fleet, async () => {
        for (const [program, app] of [
          [PROGRAM, 'batch'],
          [old, 'frontend'],
        ] as const) {
          await fleet.hub.stop();
          fleet.hub.program = program;
          fleet.hub.start();
          await fleet.hub.untilLeading();
          await fleet.apply('web', allow(app));
          await assertReach(fleet, app === 'batch' ? BATCH : FRONTEND, 30_000);
        }
      });
    });
  });
}
