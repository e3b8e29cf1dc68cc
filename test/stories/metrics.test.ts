import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Fleet } from '../lab/hub-fleet.ts';
import { documentedMetrics, type Metric } from '../lab/metrics-table.ts';
import type { Place } from '../lab/place.ts';
import { CLUSTER_A } from '../lab/story.ts';

/** What a real agent and a real hub export, against the page that says what they export. */
let fleet: Fleet;

before(async () => {
  fleet = new Fleet();
  await fleet.hub.init();
  fleet.hub.start();
  await Promise.all([fleet.hub.untilLeading(), fleet.add(CLUSTER_A)]);
  await fleet.connect('cluster-a');
  fleet.machineFor('my-vm').configure({ health: { enabled: true } });
  await fleet.create('my-vm');
  await fleet.join('my-vm');
});
after(() => fleet?.close());

const scrape = (place: Place, port: number): string =>
  place.namespace.run('curl', '-sS', '-m', '10', `http://127.0.0.1:${port}/metrics`);

/** Metrics of a scrape by name, with the labels that were seen. */
function exported(text: string): Map<string, Omit<Metric, 'of'>> {
  const found = new Map<string, { name: string; type: string; help: string; labels: string[] }>();
  for (const [, name = '', help = ''] of text.matchAll(/^# HELP (\S+) (.*)$/gm))
    found.set(name, { name, help, type: '', labels: [] });
  for (const [, name = '', type = ''] of text.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
    const metric = found.get(name);
    if (metric !== undefined) metric.type = type;
  }
  for (const [, sample = '', labels = ''] of text.matchAll(/^([a-z_]+)\{([^}]*)\}/gm)) {
    const metric = found.get(sample) ?? found.get(sample.replace(/_(bucket|sum|count)$/, ''));
    for (const [, label = ''] of labels.matchAll(/([a-z_]+)="/g))
      if (label !== 'le' && !metric?.labels.includes(label)) metric?.labels.push(label);
  }
  return found;
}

test('every metric of the agent and the hub is in the table of the documentation, and no other', () => {
  const agent = exported(scrape(fleet.machine, 9964));
  const hub = exported(scrape(fleet.hub.place, 9965));
  const table = documentedMetrics();
  const own = (name: string): boolean => !/^(process|nodejs)_/.test(name);
  const names = new Set([...agent.keys(), ...hub.keys()].filter(own));
  const wrong: string[] = [];
  for (const name of names) {
    const seen = agent.get(name) ?? hub.get(name) ?? assert.fail();
    const of = !hub.has(name) ? 'agent' : agent.has(name) ? 'both' : 'hub';
    const row = table.get(name);
    const line = `| \`${name}\` | ${seen.type} | ${seen.labels.join(', ')} | ${of} | ${seen.help} |`;
    if (row === undefined) wrong.push(`missing: ${line}`);
    else if (row.type !== seen.type || row.of !== of || row.help !== seen.help) wrong.push(`differs: ${line}`);
    else if (seen.labels.some((label) => !row.labels.includes(label))) wrong.push(`labels: ${line}`);
  }
  for (const name of table.keys()) if (!names.has(name)) wrong.push(`not exported: ${name}`);
  assert.deepEqual(wrong, [], wrong.join('\n'));
});

test('stores, certificate, start and connections are measured', () => {
  const text = scrape(fleet.machine, 9964);
  const value = (sample: string): number => {
    const line = text.split('\n').find((each) => each.startsWith(`${sample} `)) ?? assert.fail(`no ${sample}`);
    return Number(line.split(' ')[1]);
  };
  const labels = 'action="Range",kind="read",outcome="success",scope="all"';
  assert.ok(value(`cilium_kvstore_operations_duration_seconds_count{${labels}}`) > 0);
  assert.ok(value('mesh_agent_certificate_expiry_seconds') > Date.now() / 1000);
  assert.equal(value('mesh_agent_registered'), 1);
  assert.ok(value('mesh_agent_reconcile_delay_seconds_count') > 0);
  assert.ok(value('cilium_agent_bootstrap_seconds{scope="overall",outcome="success"}') > 0);
  const pressure = value('cilium_bpf_map_pressure{map_name="conntrack"}');
  assert.ok(pressure >= 0 && pressure <= 1, `${pressure}`);
});
