// What of the gateway's counters is worth a chart.

/** @typedef {import('../types').Stats} Stats */

/**
 * A moment's counters: at in ms, the rest undefined where the part of the gateway
 * does not exist.
 * @typedef {{at: number} & Partial<Record<Counter, number>>} Sample
 */

/**
 * @typedef {'connections'|'sessions'|'requests'|'failed'|'bytesIn'|'bytesOut'|'mailIn'|'mailOut'|'mailRefused'|
 *   'queries'|'nameErrors'|'accounts'|'authentications'} Counter
 */

/** @param {(number|undefined)[]} list */
const sum = (list) => list.reduce((/** @type {number} */ total, n) => total + (n ?? 0), 0);

/** @param {number} at in ms @param {Stats} stats @returns {Sample} */
export function reduce(at, stats) {
  const { proxy, email, dns, radius } = stats;
  /** @type {Sample} */
  const sample = { at };
  if (proxy) {
    const routes = proxy.routes ?? [];
    sample.connections = proxy.activeConnections;
    sample.sessions = proxy.udpSessions;
    sample.requests = proxy.requests;
    sample.failed = sum(routes.map((r) => (r.responses?.[5] ?? 0) + (r.responses?.[0] ?? 0)));
    sample.bytesIn = sum(routes.map((r) => r.bytesIn));
    sample.bytesOut = sum(routes.map((r) => r.bytesOut));
  }
  if (email) {
    sample.mailIn = email.messages?.accepted;
    sample.mailOut = sum([email.deliveries?.mailboxes, email.deliveries?.forwarded]);
    sample.mailRefused = sum(Object.values(email.refused ?? {}));
  }
  if (dns) {
    sample.queries = sum(Object.values(dns.transports ?? {}).map((t) => t.queries));
    sample.nameErrors = dns.rcodes?.NXDOMAIN ?? 0;
  }
  if (radius) {
    sample.accounts = radius.sessions;
    sample.authentications = sum([radius.accepts, radius.rejects]);
  }
  return sample;
}

/**
 * A line of a chart.
 * @typedef {object} Line
 * @property {string} label
 * @property {Counter} counter
 * @property {number} [per] for what is counted up: the rate per so many seconds. Without it the figure itself is shown.
 * @property {number} [over] seconds that a rate is the mean of, 1 by default
 * @property {number} [times] what the figure is multiplied by
 */

/**
 * The values of a line at all samples but the first.
 * @param {Sample[]} samples @param {Line} line
 * @returns {(number|undefined)[]}
 */
export function values(samples, { counter, per, over = 1, times = 1 }) {
  let from = 0;
  return samples.slice(1).map((sample, i) => {
    const now = sample[counter];
    if (now === undefined) return undefined;
    if (!per) return now * times;
    while (from < i && samples[from + 1].at <= sample.at - over * 1000) from++;
    const before = samples[from];
    const was = before[counter];
    if (was === undefined || sample.at === before.at) return undefined;
    return Math.max(0, now - was) * times * per * 1000 / (sample.at - before.at);
  });
}
