// Certificates and when they expire.

import { h, fill, badge, button, empty, notify } from '../lib/dom.js';
import { call, may, textOf } from '../lib/api.js';
import { listing } from '../lib/list.js';
import { ago, when } from '../lib/format.js';

export const title = 'Certificates';

/** @typedef {import('../types').Certificate} Certificate */

/** @param {Certificate} c */
function state(c) {
  if (c.inProgress) return badge('info', 'Being obtained');
  switch (c.state) {
    case 'valid': return badge('ok', 'Valid');
    case 'expiring': return badge('warn', 'Expires soon');
    case 'expired': return badge('bad', 'Expired');
    case 'missing': return badge('warn', 'Missing');
    default: return badge('bad', 'Failing');
  }
}

/** What comes first: whatever wants attention. @param {Certificate} a @param {Certificate} b */
function urgency(a, b) {
  const order = ['expired', 'failing', 'missing', 'expiring', 'valid'];
  return order.indexOf(a.state) - order.indexOf(b.state) || (a.notAfter ?? '').localeCompare(b.notAfter ?? '') || a.name.localeCompare(b.name);
}

/** @param {import('../types').Context} context */
export function render({ main, signal, identity }) {
  /** @param {Certificate} c */
  const renew = async (c) => {
    try {
      await call('renewCertificate', { name: c.name });
      notify(`A new certificate for ${c.name} is being obtained.`);
    } catch (error) {
      notify(textOf(error), 'bad');
    }
    list.reload();
  };
  const list = listing({
    method: 'getCertificates', rows: (answer) => answer.certificates.toSorted(urgency), signal, search: null, whole: true,
    caption: 'Certificates', one: 'certificate', key: (/** @type {Certificate} */ c) => `${c.source} ${c.name}`,
    nothing: empty('No certificates', 'A route with "tls": {"mode": "terminate", "certificate": "auto"} gets one by itself.'),
    unconfigured: empty('Certificates are not set up', 'Set an account\'s e-mail address in smartProxyConfig.acme or tls.contactEmail, and "certificate": "auto" in a route.'),
    columns: [
      { label: 'Name', cell: (c) => h('strong', null, c.name) },
      { label: 'State', cell: state },
      { label: 'Expires', cell: (c) => c.notAfter ? h('span', null, ago(c.notAfter), h('br'), h('span', { class: 'muted' }, when(c.notAfter))) : '–' },
      { label: 'From', cell: (c) => h('span', null, c.issuer || c.source, c.challenge ? h('span', { class: 'muted' }, ` by ${c.challenge}`) : null) },
      { label: 'Trouble', wide: true, cell: (c) => c.lastError ? h('span', null, c.lastError, c.failures ? h('span', { class: 'muted' }, ` (${c.failures} in a row`, c.nextTry ? [', next try ', ago(c.nextTry)] : null, ')') : null) : '–' },
      ...may(identity, 'operator') ? [{ label: '', cell: (/** @type {Certificate} */ c) => c.source === 'acme' && button('Renew', () => renew(c), { kind: 'quiet', 'aria-label': `Renew ${c.name}` }) }] : [],
    ],
  });
  fill(main, h('h1', null, title), list.element);
}
