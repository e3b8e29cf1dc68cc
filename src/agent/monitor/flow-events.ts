import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FlowQuery } from '../../api/flow-query.ts';
import type { FlowEvent, LostSource } from '../../api/flow-types.ts';
import type { FlowFeed } from './flow-feed.ts';
import type { FlowRing } from './flow-ring.ts';

/** Whoever hears nothing for longer may take the connection for dead. */
const ALIVE_MS = 3_000;
const CLOCK_EVERY = 64;
const TURN_MS = 8;
/** Without any other word. */
const LAST = 20;

/**
 * What one reader is told, at its own pace: nothing is kept for it but its place in the ring. What went by meanwhile, and what
 * was lost before it got there, is counted and said.
 */
export async function* flowEvents(feed: FlowFeed, query: FlowQuery, signal: AbortSignal): AsyncGenerator<FlowEvent> {
  const stop = query.follow && query.allowed ? feed.watchAllowed() : undefined;
  try {
    yield* eventsOf(feed, query, signal);
  } finally {
    stop?.();
  }
}

async function* eventsOf(feed: FlowFeed, query: FlowQuery, signal: AbortSignal): AsyncGenerator<FlowEvent> {
  const { ring } = feed;
  let place = await startOf(ring, query);
  // A question about the past is told of all that was lost, a listener of what is lost while it listens.
  const told: Partial<Record<LostSource, number>> = query.follow ? { ...feed.lost } : {};
  let saidAt = performance.now();
  for (let turn = performance.now(), seen = 0; !signal.aborted; ) {
    if (place < ring.oldest) {
      yield { lost: { source: 'reader', packets: ring.oldest - place } };
      place = ring.oldest;
    }
    const flow = ring.at(place);
    if (flow !== undefined) {
      place++;
      if (query.matches(flow) && (query.since === undefined || flow.time >= query.since)) {
        yield { flow };
        saidAt = performance.now();
      }
      if (++seen % CLOCK_EVERY === 0 && performance.now() - turn > TURN_MS) {
        await nextTurn();
        turn = performance.now();
      }
      continue;
    }
    for (const [source, packets] of Object.entries(feed.lost) as [LostSource, number][]) {
      const more = packets - (told[source] ?? 0);
      told[source] = packets;
      if (more > 0) yield { lost: { source, packets: more } };
    }
    if (!query.follow) return;
    // Something may have come while the reader took what was lost.
    if (ring.next > place) continue;
    await ring.wait(Math.max(0, saidAt + ALIVE_MS - performance.now()), signal);
    turn = performance.now();
    // Also while much happens, and nothing of it is asked for.
    if (turn - saidAt < ALIVE_MS) continue;
    yield { alive: Date.now() };
    saidAt = performance.now();
  }
}

/** The place of the first flow that is told. */
async function startOf(ring: FlowRing, query: FlowQuery): Promise<number> {
  const { since, follow, last = since !== undefined ? undefined : follow ? 0 : LAST } = query;
  if (last === undefined) return ring.oldest;
  let place = ring.next;
  let turn = performance.now();
  for (let found = 0; found < last && place > ring.oldest; ) {
    const flow = ring.at(--place);
    if (flow !== undefined && query.matches(flow)) found++;
    if (place % CLOCK_EVERY === 0 && performance.now() - turn > TURN_MS) {
      await nextTurn();
      turn = performance.now();
    }
  }
  return place;
}
