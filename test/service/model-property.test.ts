import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { ServiceFact } from '../../src/service/facts.ts';
import { ServiceModel } from '../../src/service/model.ts';
import type { CheckPlan } from '../../src/service/result.ts';
import { type CheckSettings, DEFAULT_SETTINGS, type ServiceSettings } from '../../src/service/settings.ts';
import { addressFacts, service, targetTexts } from './build.ts';
import { referenceMap } from './reference.ts';

// Few names, clusters and addresses, so that everything meets everything.
const CLUSTERS = ['a', 'b', 'c'];
const NAMES = ['default/web', 'default/db', 'ot her/web own'];
const FRONTENDS = ['10.96.0.1', '10.96.0.2', '10.96.0.3', 'fd00:96::1'];
const BACKENDS = ['10.1.0.1', '10.1.0.2', '10.2.0.1', '10.3.0.1', 'fd00:1::1'];
const PORTS = ['http=TCP/80', 'TCP/80', 'http=TCP/8080 dns=UDP/53', 'dns=UDP/53', 'SCTP/7', 'http=TCP/0', 'odd=ICMP/1'];

const PLACES = BACKENDS.flatMap((address) => ['6 80', '6 8080', '17 53', '132 7'].map((end) => `${address} ${end}`));

const some = <T>(items: readonly T[], max: number): fc.Arbitrary<T[]> =>
  fc.uniqueArray(fc.constantFrom(...items), { maxLength: max });
const portsByAddress = (addresses: readonly string[]): fc.Arbitrary<Record<string, string>> =>
  some(addresses, 3).chain((chosen) =>
    fc
      .array(fc.constantFrom(...PORTS), { minLength: chosen.length, maxLength: chosen.length })
      .map((texts) => Object.fromEntries(chosen.map((address, index) => [address, texts[index] ?? '']))),
  );
const CHECK: CheckSettings = {
  ...{ type: 'tcp', path: '', port: undefined, intervalMs: 1000, timeoutMs: 1000 },
  ...{ rise: 1, fall: 1 },
};
const checks = fc.constantFrom<(CheckSettings | 'none')[]>('none', CHECK, { ...CHECK, port: 7 });
const settings: fc.Arbitrary<ServiceSettings> = fc
  .record({
    affinity: fc.dictionary(fc.constantFrom(...NAMES), fc.constantFrom('none', 'local', 'remote'), { maxKeys: 3 }),
    local: fc.option(fc.constantFrom(...CLUSTERS), { nil: undefined }),
    onClusterLoss: fc.constantFrom('keep' as const, 'remove' as const),
    weights: fc.dictionary(fc.constantFrom(...CLUSTERS), fc.integer({ min: 0, max: 3 }), { maxKeys: 2 }),
    checks: fc.dictionary(fc.constantFrom(...NAMES), checks, { maxKeys: 2 }),
    defaultCheck: checks,
  })
  .map((chosen) => ({
    ...DEFAULT_SETTINGS,
    ...chosen,
    affinity: new Map(Object.entries(chosen.affinity) as ['default/web', 'none' | 'local' | 'remote'][]),
    weights: new Map(Object.entries(chosen.weights)),
    checks: new Map(Object.entries(chosen.checks)),
  }));

type Step =
  | { readonly do: 'service'; readonly fact: ServiceFact; readonly gone: boolean }
  | { readonly do: 'lost'; readonly cluster: string; readonly lost: boolean }
  | { readonly do: 'joined'; readonly cluster: string | undefined }
  | { readonly do: 'settings'; readonly settings: ServiceSettings }
  | { readonly do: 'taken'; readonly address: string }
  | { readonly do: 'home'; readonly address: string; readonly cluster: string }
  | { readonly do: 'fails'; readonly place: string }
  | { readonly do: 'settle'; readonly budget: number };

const steps: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .record({
        cluster: fc.constantFrom(...CLUSTERS),
        name: fc.constantFrom(...NAMES),
        frontends: portsByAddress(FRONTENDS),
        backends: portsByAddress(BACKENDS),
        conditions: fc.dictionary(fc.constantFrom(...BACKENDS), fc.constantFrom('terminating', 'not-ready'), {
          maxKeys: 2,
        }),
        global: fc.boolean(),
        shared: fc.boolean(),
        gone: fc.boolean(),
      })
      .map(({ cluster, name, gone, ...shape }) => ({
        do: 'service' as const,
        gone,
        fact: service(cluster, name, shape),
      })),
  },
  fc.record({ do: fc.constant('lost' as const), cluster: fc.constantFrom(...CLUSTERS), lost: fc.boolean() }),
  fc.record({
    do: fc.constant('joined' as const),
    cluster: fc.option(fc.constantFrom(...CLUSTERS), { nil: undefined }),
  }),
  settings.map((chosen) => ({ do: 'settings' as const, settings: chosen })),
  fc.record({ do: fc.constant('taken' as const), address: fc.constantFrom(...FRONTENDS) }),
  fc.record({
    do: fc.constant('home' as const),
    address: fc.constantFrom(...BACKENDS),
    cluster: fc.constantFrom(...CLUSTERS),
  }),
  fc.record({ do: fc.constant('fails' as const), place: fc.constantFrom(...PLACES) }),
  fc.record({ do: fc.constant('settle' as const), budget: fc.constantFrom(0, Number.POSITIVE_INFINITY) }),
);

class Play {
  readonly services = new Map<string, ServiceFact>();
  readonly lost = new Set<string>();
  readonly taken = new Set<string>();
  readonly homes = new Map<string, string>();
  readonly failing = new Set<string>();
  /** As whoever checks knows them: by the changes alone. */
  readonly plans = new Map<string, CheckPlan>();
  joined: string | undefined;
  settings: ServiceSettings = DEFAULT_SETTINGS;
  readonly model = new ServiceModel(addressFacts(this.taken, this.homes), () => 1);
  /** What a data path would hold that follows the changes alone. */
  readonly followed = new Map<string, string[]>();

  take(step: Step): void {
    switch (step.do) {
      case 'service': {
        const { fact, gone } = step;
        const name = `${fact.namespace}/${fact.name}`;
        if (gone) this.services.delete(`${fact.cluster} ${name}`);
        else this.services.set(`${fact.cluster} ${name}`, fact);
        this.model.setService(fact.cluster, name, gone ? undefined : fact);
        break;
      }
      case 'lost':
        if (step.lost) this.lost.add(step.cluster);
        else this.lost.delete(step.cluster);
        this.model.setCluster(step.cluster, { lostSince: step.lost ? 1 : undefined });
        break;
      case 'joined':
        this.joined = step.cluster;
        this.model.setJoined(step.cluster);
        break;
      case 'settings':
        this.settings = step.settings;
        this.model.configure(step.settings);
        break;
      case 'taken':
        if (!this.taken.delete(step.address)) this.taken.add(step.address);
        this.model.addressChanged(step.address);
        break;
      case 'home':
        this.homes.set(step.address, step.cluster);
        this.model.addressChanged(step.address);
        break;
      case 'fails':
        if (!this.failing.delete(step.place)) this.failing.add(step.place);
        break;
      case 'settle':
        this.model.settle(step.budget);
        this.follow();
        this.check();
        break;
    }
  }

  /** What fails now fails for every service. */
  check(): void {
    for (const pool of this.model.drainPlans()) {
      const plan = this.model.planOf(pool);
      if (plan === undefined) this.plans.delete(pool);
      else this.plans.set(pool, plan);
    }
    for (const [pool, { targets }] of this.plans)
      for (const place of targets.keys())
        this.model.setHealth(pool, place, this.failing.has(place) ? 'no answer' : undefined);
  }

  follow(): void {
    for (const key of this.model.drainChanges()) {
      const frontend = this.model.frontends.get(key);
      if (frontend === undefined) this.followed.delete(key);
      else this.followed.set(key, targetTexts(frontend));
    }
  }
}

const sorted = (map: ReadonlyMap<string, string[]>): [string, string[]][] =>
  [...map].sort(([a], [b]) => (a < b ? -1 : 1));

test('whatever came in whatever order, frontends lead where the rules read off one by one say', () => {
  fc.assert(
    fc.property(fc.array(steps, { minLength: 1, maxLength: 40, size: 'max' }), (all) => {
      const play = new Play();
      for (const step of all) play.take(step);
      assert.equal(play.model.settle(), true);
      play.check();
      assert.equal(play.model.settle(), true);
      play.follow();
      const expected = sorted(
        referenceMap({
          joined: play.joined,
          services: [...play.services.values()],
          lost: play.lost,
          settings: play.settings,
          taken: play.taken,
          homes: play.homes,
          failing: play.failing,
        }),
      );
      const { frontends } = play.model;
      const present = new Map([...frontends.keys()].map((key) => [key, targetTexts(frontends.get(key))]));
      assert.deepEqual(sorted(present), expected);
      assert.deepEqual(sorted(play.followed), expected, 'who follows the changes alone arrives at the same');
    }),
    { numRuns: 1500 },
  );
});

test('facts that come again, or back to what they were, change nothing', () => {
  fc.assert(
    fc.property(fc.array(steps, { minLength: 1, maxLength: 20, size: 'max' }), (all) => {
      const play = new Play();
      for (const step of all) if (step.do !== 'taken') play.take(step);
      play.model.settle();
      play.follow();
      for (const fact of play.services.values()) {
        const name = `${fact.namespace}/${fact.name}`;
        play.model.setService(fact.cluster, name, undefined);
        play.model.setService(fact.cluster, name, fact);
      }
      play.model.addressesChanged();
      play.model.settle();
      assert.deepEqual([...play.model.drainChanges()], []);
    }),
    { numRuns: 300 },
  );
});
