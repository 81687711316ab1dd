// What hints at attacks: events, what is refused, what others say of an address.

import { h, fill, badge, empty, facts, field, section } from '../lib/dom.js';
import { call, textOf } from '../lib/api.js';
import { listing } from '../lib/list.js';
import { count, when } from '../lib/format.js';
import { follow, followCalmly } from '../lib/live.js';

export const title = 'Security';

/** @typedef {import('../types').SecurityEvent} SecurityEvent */

/** @param {SecurityEvent['severity']} level */
export function severity(level) {
  switch (level) {
    case 'critical': return badge('bad', 'Critical');
    case 'warning': return badge('warn', 'Warning');
    default: return badge('info', 'Info');
  }
}

/** @param {import('../types').Context} context */
export function render({ main, signal }) {
  const kind = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', onchange: () => list.reload() });
  const list = listing({
    method: 'getSecurityEvents', rows: (answer) => answer.events, signal, still: true, caption: 'Security events', one: 'event',
    request: () => kind.value.trim() ? { kind: kind.value.trim() } : {},
    following: (answer, rows) => answer.more ? { before: rows.at(-1)?.seq } : null,
    key: (/** @type {SecurityEvent} */ e) => String(e.seq), filters: field('Kind', kind),
    nothing: empty('All quiet', 'Failed sign-ins, blocked clients, refused transfers and the like show here.'),
    columns: [
      { label: 'Time', cell: (e) => when(e.time) },
      { label: 'Severity', cell: (e) => severity(e.severity) },
      { label: 'Kind', cell: (e) => h('span', null, e.kind, h('span', { class: 'muted' }, ` ${e.component}`)) },
      { label: 'From', cell: (e) => e.address ?? '–' },
      { label: 'What', wide: true, cell: (e) => h('span', null, e.message, e.subject ? h('span', { class: 'muted' }, ` (${e.subject})`) : null) },
    ],
  });
  const refused = h('div', { class: 'tallies' });
  fill(main, h('h1', null, title), section('Refused since the start', refused), reputation(signal), section('Events', list.element));

  followCalmly('security', () => list.reload(), signal);
  const quiet = empty('Nothing was refused', 'Connections, requests, messages and queries that are turned away are counted here by reason.');
  follow('stats', (/** @type {import('../types').StatsEvent} */ { stats }) => {
    const found = tallies(stats).filter(([, counts]) => Object.values(counts).some((n) => n > 0));
    fill(refused, found.length ? found.map(([name, counts]) => h('div', null, h('h3', null, name),
      h('dl', { class: 'tally' }, Object.entries(counts).filter(([, n]) => n > 0).toSorted((a, b) => b[1] - a[1]).map(([reason, n]) => h('div', null, h('dt', null, spaced(reason)), h('dd', null, count(n))))))) : quiet);
  }, signal);
}

/** @param {import('../types').Stats} stats @returns {[string, import('../types').Counts][]} */
function tallies({ proxy, email, dns, radius }) {
  const transports = Object.values(dns?.transports ?? {});
  const blocked = (proxy?.routes ?? []).reduce((n, r) => n + (r.blocked ?? 0), 0);
  return [
    ['Proxy', { ...proxy?.refused, ...(blocked && !proxy?.refused?.blocked ? { blocked } : {}) }],
    ['Email', { ...email?.refused, 'failed logins': email?.signInFailures ?? 0 }],
    ['DNS', { dropped: transports.reduce((n, t) => n + t.dropped, 0), 'held back by the rate limit': transports.reduce((n, t) => n + t.limited, 0), refused: dns?.rcodes?.REFUSED ?? 0 }],
    ['RADIUS', { ...radius?.dropped, rejected: radius?.rejects ?? 0 }],
  ];
}

/** "tooManyPerIp" as words. @param {string} name */
const spaced = (name) => name.replace(/-/g, ' ').replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).replace(/\b(tls|ip|http2?|dns)\b/g, (word) => word.toUpperCase());

/** @param {AbortSignal} signal */
function reputation(signal) {
  const address = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', required: true, inputmode: 'text' });
  const answer = h('div', { role: 'status' });
  const form = h('form', {
    class: 'row', onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      fill(answer, h('p', { class: 'muted' }, 'Asking…'));
      try {
        /** @type {import('../types').Reputation} */
        const r = await call('checkReputation', { address: address.value.trim() }, signal);
        fill(answer, facts([
          ['Address', r.address], ['Verdict', r.blocked ? badge('bad', 'Blocked') : badge('ok', 'Not blocked')], ['Score', r.score.toFixed(2)], ['Reason', r.reason],
          ['Listed by', r.listings.length ? h('ul', { class: 'plain' }, r.listings.map((l) => h('li', null, l.list, l.detail ? h('span', { class: 'muted' }, ` ${l.detail}`) : null))) : 'no list'],
        ]));
      } catch (error) {
        fill(answer, h('p', { class: 'field-error' }, textOf(error)));
      }
    },
  }, field('IP address', address), h('button', { class: 'button primary' }, 'Look up'));
  return section('Reputation of an address', form, answer);
}
