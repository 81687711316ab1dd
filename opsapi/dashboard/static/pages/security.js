// What hints at attacks: events, what is refused, what others say of an address.

import { h, fill, ask, badge, button, empty, facts, field, notify, section } from '../lib/dom.js';
import { call, may, textOf } from '../lib/api.js';
import { listing } from '../lib/list.js';
import { ago, count, when } from '../lib/format.js';
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
export function render({ main, signal, identity }) {
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
      { label: 'What', wide: true, cell: (e) => h('span', null, e.message, e.subject ? h('span', { class: 'muted' }, ` (${e.subject})`) : null,
        e.correlation ? [' ', h('a', { href: `#/logs/${encodeURIComponent(e.correlation)}`, 'aria-label': `Log of connection ${e.correlation}` }, 'log')] : null) },
    ],
  });
  const refused = h('div', { class: 'tallies' });
  const blocking = blocks(signal, may(identity, 'operator'));
  fill(main, h('h1', null, title), section('Refused since the start', refused), blocking.element, reputation(signal), section('Events', list.element));

  followCalmly('security', () => { list.reload(); blocking.reload(); }, signal);
  const quiet = empty('Nothing was refused', 'Connections, requests, messages and queries that are turned away are counted here by reason.');
  follow('stats', (/** @type {import('../types').StatsEvent} */ { stats }) => {
    const found = tallies(stats).filter(([, counts]) => Object.values(counts).some((n) => n > 0));
    fill(refused, found.length ? found.map(([name, counts]) => h('div', null, h('h3', null, name),
      h('dl', { class: 'tally' }, Object.entries(counts).filter(([, n]) => n > 0).toSorted((a, b) => b[1] - a[1]).map(([reason, n]) => h('div', null, h('dt', null, spaced(reason)), h('dd', null, count(n))))))) : quiet);
  }, signal);
}

/** @param {import('../types').Stats} stats @returns {[string, import('../types').Counts][]} */
function tallies({ proxy, email, dns, radius, blocking }) {
  const transports = Object.values(dns?.transports ?? {});
  const blocked = (proxy?.routes ?? []).reduce((n, r) => n + (r.blocked ?? 0), 0);
  return [
    ['Proxy', { ...proxy?.refused, ...(blocked && !proxy?.refused?.blocked ? { blocked } : {}) }],
    ['Email', { ...email?.refused, 'failed logins': email?.signInFailures ?? 0 }],
    ['DNS', { dropped: transports.reduce((n, t) => n + t.dropped, 0), 'held back by the rate limit': transports.reduce((n, t) => n + t.limited, 0), refused: dns?.rcodes?.REFUSED ?? 0 }],
    ['RADIUS', { ...radius?.dropped, rejected: radius?.rejects ?? 0 }],
    ['Blocked addresses', Object.fromEntries(Object.entries(blocking?.refused ?? {}).map(([who, n]) => [`turned away by ${who}`, n]))],
  ];
}

/** "tooManyPerIp" as words. @param {string} name */
const spaced = (name) => name.replace(/-/g, ' ').replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).replace(/\b(tls|ip|http2?|dns)\b/g, (word) => word.toUpperCase());

/** @typedef {import('../types').Block} Block */

/** The addresses that are refused, and a form to add one. @param {AbortSignal} signal @param {boolean} mayEdit */
function blocks(signal, mayEdit) {
  /** @param {Block} b */
  const lift = async (b) => {
    const yes = await ask({ title: 'Lift this block?', text: h('p', null, `${b.address} may come in again, and what it has done is forgotten.`), action: 'Lift the block' });
    if (yes === null) return;
    try {
      await call('removeBlock', { address: b.address });
      notify(`${b.address} is no longer blocked.`);
    } catch (error) {
      notify(textOf(error), 'bad');
    }
    list.reload();
  };
  const list = listing({
    method: 'getBlocks', rows: (answer) => answer.blocks, signal, caption: 'Blocked addresses', one: 'address', many: 'addresses',
    key: (/** @type {Block} */ b) => b.address,
    nothing: empty('No address is blocked', 'Addresses that fail to sign in, relay or break rules again and again are put here by themselves.'),
    unconfigured: empty('Blocking is off', 'The section "blocking" of the configuration, be it {}, has addresses refused everywhere that misbehave in one place.'),
    columns: [
      { label: 'Address', cell: (b) => h('strong', null, b.address), wide: true },
      { label: 'By', cell: (b) => h('span', null, b.source, (b.times ?? 0) > 1 ? h('span', { class: 'muted' }, ` time ${b.times}`) : null) },
      { label: 'Reason', cell: (b) => b.reason, wide: true },
      { label: 'Since', cell: (b) => ago(b.since) ?? '–' },
      { label: 'Until', cell: (b) => b.until ? ago(b.until) : b.source === 'configuration' ? 'it is configured otherwise' : 'it is lifted' },
      ...mayEdit ? [{ label: '', cell: (/** @type {Block} */ b) => b.source === 'configuration' ? '' : button('Lift', () => lift(b), { kind: 'quiet', 'aria-label': `Lift the block of ${b.address}` }) }] : [],
    ],
  });
  const address = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', required: true });
  const reason = h('input', { type: 'text', autocomplete: 'off', maxlength: 200 });
  const time = h('select', null, [['3600', 'an hour'], ['86400', 'a day'], ['604800', 'a week'], ['0', 'until it is lifted']].map(([value, text]) => h('option', { value }, text)));
  const problem = h('p', { class: 'field-error', role: 'alert' });
  const form = h('form', {
    class: 'row', onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      fill(problem);
      const what = address.value.trim();
      try {
        await call('addBlock', { address: what, seconds: Number(time.value), ...(reason.value.trim() ? { reason: reason.value.trim() } : {}) });
        notify(`${what} is blocked.`);
        form.reset();
      } catch (error) {
        fill(problem, textOf(error));
        address.focus();
      }
      list.reload();
    },
  }, field('Address or network', address), field('Why', reason), field('For', time), h('button', { class: 'button primary' }, 'Block'), problem);
  return { element: section('Blocked addresses', list.element, mayEdit ? form : null), reload: () => list.reload() };
}

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
