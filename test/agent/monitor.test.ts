import assert from 'node:assert/strict';
import { test } from 'node:test';
import { flowEvents } from '../../src/agent/monitor/flow-events.ts';
import type { FlowFeed } from '../../src/agent/monitor/flow-feed.ts';
import { FlowRing } from '../../src/agent/monitor/flow-ring.ts';
import { type FlowParameters, parseFlowQuery } from '../../src/api/flow-query.ts';
import type { FlowEvent } from '../../src/api/flow-types.ts';
import { flow } from './flows.ts';

interface Feed {
  readonly ring: FlowRing;
  lost: FlowFeed['lost'];
  watchers: number;
  watchAllowed(): () => void;
}

function feedOf(size: number, flows: number): Feed {
  const ring = new FlowRing(size);
  const feed: Feed = {
    ring,
    lost: { 'kernel-limit': 0, 'kernel-buffer': 0, 'agent-queue': 0 },
    watchers: 0,
    watchAllowed() {
      feed.watchers++;
      return () => void feed.watchers--;
    },
  };
  for (let i = 0; i < flows; i++) ring.push(flow({ number: ring.next, time: 1000 + i }));
  return feed;
}

function read(feed: Feed, query: FlowParameters, signal = new AbortController().signal) {
  return flowEvents(feed as unknown as FlowFeed, parseFlowQuery(query), signal);
}

async function all(events: AsyncIterable<FlowEvent>): Promise<FlowEvent[]> {
  const found: FlowEvent[] = [];
  for await (const event of events) found.push(event);
  return found;
}

const numbers = (events: readonly FlowEvent[]): number[] =>
  events.flatMap((event) => ('flow' in event ? [event.flow.number] : []));

test('the ring keeps the newest, and tells where it begins', async () => {
  const feed = feedOf(100, 250);
  assert.deepEqual(
    [feed.ring.oldest, feed.ring.next, feed.ring.at(149), feed.ring.at(250)],
    [150, 250, undefined, undefined],
  );
  assert.equal(feed.ring.at(150)?.number, 150);
  assert.equal((await all(read(feed, { since: '0' }))).length, 100);
});

test('without a word the last twenty are told, else so many as are asked for and fit', async () => {
  const feed = feedOf(100, 50);
  assert.deepEqual(
    numbers(await all(read(feed, {}))),
    Array.from({ length: 20 }, (_, i) => 30 + i),
  );
  assert.deepEqual(numbers(await all(read(feed, { last: '3' }))), [47, 48, 49]);
  feed.ring.push(flow({ number: 50, protocol: 'udp' }));
  for (let i = 51; i < 60; i++) feed.ring.push(flow({ number: i }));
  assert.deepEqual(numbers(await all(read(feed, { last: '1', protocol: 'udp' }))), [50]);
});

test('since bounds the time of a flow', async () => {
  assert.deepEqual(numbers(await all(read(feedOf(100, 50), { since: '1047' }))), [47, 48, 49]);
});

test('a reader that is too slow is told how many went by, and goes on with the oldest that is there', async () => {
  const feed = feedOf(64, 10);
  const leave = new AbortController();
  const events = read(feed, { follow: '1', last: '2' }, leave.signal);
  assert.deepEqual(numbers([(await events.next()).value as FlowEvent]), [8]);
  for (let i = 10; i < 110; i++) feed.ring.push(flow({ number: i }));
  assert.deepEqual((await events.next()).value, { lost: { source: 'reader', packets: 37 } });
  assert.deepEqual(numbers([(await events.next()).value as FlowEvent]), [46]);
  leave.abort();
});

test('who follows is told of what comes and of what is lost from then on', async () => {
  const feed = feedOf(64, 10);
  feed.lost = { 'kernel-limit': 100, 'kernel-buffer': 0, 'agent-queue': 0 };
  const leave = new AbortController();
  const events = read(feed, { follow: '1' }, leave.signal);
  const first = events.next();
  setImmediate(() => feed.ring.push(flow({ number: 10 })));
  assert.deepEqual(numbers([(await first).value as FlowEvent]), [10]);
  feed.lost = { 'kernel-limit': 107, 'kernel-buffer': 0, 'agent-queue': 0 };
  assert.deepEqual((await events.next()).value, { lost: { source: 'kernel-limit', packets: 7 } });
  const last = events.next();
  leave.abort();
  assert.equal((await last).done, true);
});

test('who follows what does not happen hears that the agent lives, also while much else happens', async (t) => {
  const feed = feedOf(64, 0);
  const leave = new AbortController();
  const others = setInterval(() => feed.ring.push(flow({ number: feed.ring.next })), 100);
  t.after(() => clearInterval(others));
  const events = read(feed, { follow: '1', protocol: 'udp' }, leave.signal);
  const late = setTimeout(() => leave.abort(), 9_000);
  t.after(() => clearTimeout(late));
  for (let times = 0; times < 2; times++) assert.ok('alive' in ((await events.next()).value ?? {}));
  leave.abort();
  await events.return(undefined);
});

test('a question about the past is told of all that was lost', async () => {
  const feed = feedOf(64, 1);
  feed.lost = { 'kernel-limit': 3, 'kernel-buffer': 2, 'agent-queue': 0 };
  const lost = (await all(read(feed, {}))).flatMap((event) => ('lost' in event ? [event.lost] : []));
  assert.deepEqual(lost, [
    { source: 'kernel-limit', packets: 3 },
    { source: 'kernel-buffer', packets: 2 },
  ]);
});

test('allowed connections are watched only while somebody follows who wants them', async () => {
  const feed = feedOf(64, 1);
  await all(read(feed, { last: '1' }));
  assert.equal(feed.watchers, 0);
  for (const [query, watchers] of [
    [{ follow: '1', verdict: 'dropped,audit' }, 0],
    [{ follow: '1' }, 1],
  ] as const) {
    const leave = new AbortController();
    const events = read(feed, query, leave.signal);
    const first = events.next();
    await new Promise(setImmediate);
    assert.equal(feed.watchers, watchers);
    leave.abort();
    await first;
    assert.equal(feed.watchers, 0);
  }
});
