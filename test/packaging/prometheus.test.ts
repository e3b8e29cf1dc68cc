import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { parse } from 'yaml';
import { documentedMetrics } from '../lab/metrics-table.ts';

/** Alert rules and dashboard of the packages, read by Prometheus' own tool, against the table of metrics. */
const packaging = join(import.meta.dirname, '../../packaging');
const rulesFile = join(packaging, 'prometheus/mesh-agent.rules.yml');
const folder = mkdtempSync(join(tmpdir(), 'mesh-prometheus-'));
after(() => rmSync(folder, { recursive: true, force: true }));

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity?: string };
  readonly annotations: { readonly summary?: string; readonly description?: string };
}

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly targets?: readonly { readonly expr: string }[];
}

const rules = (parse(readFileSync(rulesFile, 'utf8')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  (each) => each.rules,
);
const dashboard = JSON.parse(readFileSync(join(packaging, 'grafana/mesh-agent.json'), 'utf8')) as {
  readonly panels: readonly Panel[];
};
const shown = dashboard.panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));

function promtool(...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync('promtool', args, { encoding: 'utf8' });
  assert.equal(status, 0, `${error?.message ?? ''}${stdout}${stderr}`);
  return stdout;
}

/** Names of metrics in an expression: what begins as one of ours, or of the process. */
function metricsIn(expr: string): string[] {
  const plain = expr.replaceAll(/"[^"]*"/g, '""');
  return [...plain.matchAll(/\b(?:cilium|mesh_agent|process|nodejs)_[a-z_]+/g)].map(([name]) => name);
}

/** Metrics of an expression that nobody exports, and series of the wrong kind. */
function unknownIn(expr: string): string[] {
  const table = documentedMetrics();
  return metricsIn(expr).filter((name) => {
    if (/^(process|nodejs)_/.test(name) || table.has(name)) return false;
    const base = table.get(name.replace(/_(bucket|sum|count)$/, ''));
    return base?.type !== 'histogram';
  });
}

test('Prometheus takes the alert rules, and they fire when they should and not before', () => {
  assert.match(promtool('check', 'rules', rulesFile), new RegExp(`SUCCESS: ${rules.length} rules found`));
  promtool('test', 'rules', join(import.meta.dirname, 'mesh-agent.rules.test.yml'));
});

test('each alert asks for metrics that exist, has its severity, and says what it is and what to do', () => {
  for (const { alert, expr, labels, annotations } of rules) {
    assert.ok(metricsIn(expr).length > 0, alert);
    assert.deepEqual(unknownIn(expr), [], alert);
    assert.match(labels.severity ?? '', /^(warning|critical)$/, alert);
    assert.ok((annotations.summary ?? '') !== '' && (annotations.description ?? '').length > 20, alert);
  }
});

test('each expression of the dashboard can be parsed and asks for metrics that exist', () => {
  const file = join(folder, 'dashboard.yml');
  const parsed = shown.map(({ expr }, index) => ({
    record: `panel:${index}`,
    expr: expr.replaceAll('$__rate_interval', '5m'),
  }));
  writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules: parsed }] }));
  assert.match(promtool('check', 'rules', file), new RegExp(`SUCCESS: ${shown.length} rules found`));
  for (const { title, expr } of shown) {
    assert.ok(metricsIn(expr).length > 0, title);
    assert.deepEqual(unknownIn(expr), [], title);
  }
  const ids = dashboard.panels.map(({ id }) => id);
  assert.equal(new Set(ids).size, ids.length);
});
