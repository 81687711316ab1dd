// The stream of events, and the figures of the last minutes that charts draw.

import { call, session } from './api.js';
import { reduce } from './figures.js';

/** @typedef {import('./figures.js').Sample} Sample */

/** How much the charts show, in seconds. */
export const windowSeconds = 300;

/** @type {Map<string, Set<(value: any) => void>>} */
const listeners = new Map();

/** The last of each, and what charts need of the time before. */
export const latest = {
  /** @type {import('../types').StatsEvent|undefined} */
  stats: undefined,
  /** @type {import('../types').Health|undefined} */
  health: undefined,
  /** @type {Sample[]} */
  samples: [],
  /** How far the server's clock is ahead of ours, in ms. */
  ahead: 0,
  /** Whether the stream is open. */
  connected: false,
};

/**
 * Calls a function with each event of a topic until the signal is aborted; of
 * stats and health at once with the last one. Of other topics an event is undefined
 * when some were missed: then look anew.
 * @param {string} topic @param {(value: any) => void} listener @param {AbortSignal} [signal]
 */
export function follow(topic, listener, signal) {
  const set = listeners.get(topic) ?? new Set();
  listeners.set(topic, set);
  set.add(listener);
  signal?.addEventListener('abort', () => set.delete(listener));
  if (topic === 'stats' && latest.stats) listener(latest.stats);
  if (topic === 'health' && latest.health) listener(latest.health);
  if (topic === 'connected') listener(latest.connected);
}

/**
 * Calls a function half a second after an event of a topic, once for all that come
 * meanwhile: a flood of them is no flood of requests, and what an event tells of is
 * done by then.
 * @param {string} topic @param {() => void} work @param {AbortSignal} signal
 */
export function followCalmly(topic, work, signal) {
  let timer = 0;
  follow(topic, () => {
    timer ||= setTimeout(() => {
      timer = 0;
      work();
    }, 500);
  }, signal);
  signal.addEventListener('abort', () => clearTimeout(timer));
}

/** @param {string} topic @param {any} value */
function tell(topic, value) {
  for (const listener of listeners.get(topic) ?? []) listener(value);
}

/** @param {boolean} is */
function setConnected(is) {
  if (is === latest.connected) return;
  latest.connected = is;
  tell('connected', is);
}

/** @type {EventSource|null} */
let source = null;
let again = 0; // timer of the next attempt
let hiddenSince = 0; // timer that ends the stream of a page that nobody sees
let wanted = false;
let opened = false;

const topics = ['security', 'configuration', 'mail', 'radius'];

/** Has everybody look anew, as events were missed. @param {string[]} [which] */
function missed(which = topics) {
  for (const topic of which) if (topics.includes(topic)) tell(topic, undefined);
}

/** Opens the stream, and keeps it open. */
export function start() {
  wanted = true;
  open();
}

/** Ends the stream and forgets what it brought. */
export function stop() {
  wanted = opened = false;
  close();
  latest.samples = [];
  latest.stats = latest.health = undefined;
}

function close() {
  clearTimeout(again);
  source?.close();
  source = null;
  setConnected(false);
}

function open() {
  close();
  const stream = new EventSource('api/v1/events');
  source = stream;
  let before = opened; // the browser asks for what it missed only of a stream of its own
  opened = true;
  stream.onopen = () => {
    setConnected(true);
    if (before) missed();
    before = false;
  };
  stream.onerror = () => {
    setConnected(false);
    if (stream.readyState === EventSource.CLOSED) retry();
  };
  stream.addEventListener('stats', (event) => takeStats(JSON.parse(event.data)));
  stream.addEventListener('health', (event) => {
    latest.health = JSON.parse(event.data);
    tell('health', latest.health);
  });
  for (const topic of topics) stream.addEventListener(topic, (event) => tell(topic, JSON.parse(event.data)));
  stream.addEventListener('lost', (event) => missed(Object.keys(JSON.parse(event.data).topics)));
  stream.addEventListener('bye', (event) => {
    close();
    if (JSON.parse(event.data).reason === 'stopping') retry();
    else session.ended();
  });
}

/** The browser gave up: either the session is over or the gateway is. */
function retry() {
  clearTimeout(again);
  again = setTimeout(async () => {
    if (!wanted) return;
    try {
      if (!(await call('verifyIdentity')).valid) session.ended();
      else open();
    } catch {
      retry();
    }
  }, 3000);
}

/** @param {import('../types').StatsEvent} event */
function takeStats(event) {
  const at = Date.parse(event.time);
  latest.ahead = at - Date.now();
  const samples = latest.samples;
  // A gateway that has started anew counts from zero.
  if (latest.stats && event.uptimeSeconds < latest.stats.uptimeSeconds) samples.length = 0;
  latest.stats = event;
  samples.push(reduce(at, event.stats));
  while (samples.length > 2 && samples[1].at < at - (windowSeconds + 60) * 1000) samples.shift();
  tell('stats', event);
}

// Browsers open few connections to one server: pages that nobody sees let go of
// theirs.
document.addEventListener('visibilitychange', () => {
  clearTimeout(hiddenSince);
  if (!wanted) return;
  if (document.hidden) hiddenSince = setTimeout(close, 60_000);
  else if (!source) open();
});
