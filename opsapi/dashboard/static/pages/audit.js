// Who did what.

import { h, fill, badge, empty, field } from '../lib/dom.js';
import { listing } from '../lib/list.js';
import { when } from '../lib/format.js';

export const title = 'Audit';

/** @typedef {import('../types').AuditEntry} AuditEntry */

/** @param {import('../types').Context} context */
export function render({ main, signal }) {
  const user = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', onchange: () => list.reload() });
  const list = listing({
    method: 'getAuditLog', rows: (answer) => answer.entries, signal, caption: 'Audit log', one: 'entry', many: 'entries', filters: field('User', user),
    request: () => user.value.trim() ? { user: user.value.trim() } : {},
    following: (answer, rows) => answer.more ? { before: rows.at(-1)?.seq } : null,
    key: (/** @type {AuditEntry} */ e) => String(e.seq),
    nothing: empty('No entries', 'Sign-ins and changes are recorded here, with who made them and from where.'),
    columns: [
      { label: 'Time', cell: (e) => when(e.time) },
      { label: 'User', cell: (e) => h('span', null, h('strong', null, e.user || '–'), e.role ? h('span', { class: 'muted' }, ` ${e.role}`) : null) },
      { label: 'From', cell: (e) => e.address },
      { label: 'What', cell: (e) => h('code', null, e.method) },
      { label: 'Outcome', cell: (e) => e.outcome === 'ok' ? badge('ok', 'Done') : badge('bad', 'Refused') },
      { label: 'Detail', wide: true, cell: (e) => e.detail ?? '–' },
    ],
  });
  fill(main, h('h1', null, 'Audit log'), list.element);
}
