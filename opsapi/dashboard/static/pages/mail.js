// The mail system: queue, messages, quarantine, suppression, domains.

import { h, fill, ask, badge, button, copy, empty, facts, field, notify, section, subnav } from '../lib/dom.js';
import { call, may, textOf } from '../lib/api.js';
import { listing, load, table } from '../lib/list.js';
import { ago, bytes, when } from '../lib/format.js';
import { followCalmly } from '../lib/live.js';

export const title = 'Email';

/** @typedef {import('../types').QueuedMessage} QueuedMessage */
/** @typedef {import('../types').Context} Context */

const unconfigured = () => empty('No mail system here', 'Configure emailConfig: at least ports, hostname and a route, such as {"match": {"recipients": "*@example.com"}, "action": {"type": "process"}}.');

/** @param {Context} context */
export function render(context) {
  const [part = 'queue', id] = context.params;
  const heading = h('h1', null, title);
  const content = h('div');
  fill(context.main, heading, subnav('Email', `#/mail/${part}`, [
    ['#/mail/queue', 'Queue'], ['#/mail/quarantine', 'Quarantine'], ['#/mail/suppression', 'Suppression'], ['#/mail/domains', 'Domains'],
  ]), content);
  /** @param {string} text */
  const name = (text) => fill(heading, text);
  switch (part) {
    case 'message': name('Message'); return message(context, content, id ?? '');
    case 'quarantine': name('Quarantine'); return queue(context, content, true);
    case 'suppression': name('Suppressed addresses'); return suppression(context, content);
    case 'domains': name('Mail domains'); return domains(context, content);
    default: name('Mail queue'); return queue(context, content, false);
  }
}

/** @param {string} state */
function stateOf(state) {
  switch (state) {
    case 'queued': return badge('info', 'Queued');
    case 'deferred': return badge('warn', 'Deferred');
    case 'quarantine': return badge('warn', 'Quarantine');
    case 'failed': return badge('bad', 'Failed');
    case 'delivered': return badge('ok', 'Delivered');
    default: return badge('idle', state === 'pending' ? 'Pending' : state);
  }
}

/** What may be done with a message. @param {QueuedMessage} m @param {() => void} done */
function actions(m, done) {
  const who = m.from || 'the null sender';
  /** @param {string} method @param {string} text @param {object} [more] */
  const act = async (method, text, more) => {
    try {
      await call(method, { id: m.id, ...more });
      notify(text);
    } catch (error) {
      notify(textOf(error), 'bad');
    }
    done();
  };
  const drop = async () => {
    const yes = await ask({ title: 'Drop this message?', text: h('p', null, `The message from ${who} is deleted. Nobody is told, and it cannot be brought back.`), action: 'Drop', danger: true });
    if (yes !== null) act('dropEmail', 'The message was dropped.');
  };
  const hold = async () => {
    const reason = await ask({ title: 'Hold this message back?', text: h('p', null, 'It goes into quarantine until it is released or dropped.'), action: 'Quarantine', input: 'Reason' });
    if (reason !== null) act('quarantineEmail', 'The message is in quarantine.', reason ? { reason } : {});
  };
  const label = (/** @type {string} */ what) => ({ kind: 'quiet', 'aria-label': `${what} the message from ${who}` });
  return h('div', { class: 'actions' }, m.state === 'quarantine'
    ? button('Release', () => act('releaseEmail', 'The message was released and goes on its way.'), label('Release'))
    : [button('Try now', () => act('retryEmail', 'The message is tried now.'), label('Try now:')), button('Hold', hold, label('Hold'))],
  button('Drop', drop, label('Drop')));
}

/** @param {Context} context @param {HTMLElement} content @param {boolean} held */
function queue({ signal, identity }, content, held) {
  const state = h('select', { onchange: () => list.reload() }, [['', 'All'], ['queued', 'Queued'], ['deferred', 'Deferred'], ['quarantine', 'Quarantine'], ['failed', 'Failed']].map(([value, text]) => h('option', { value }, text)));
  const list = listing({
    method: 'getEmailQueue', rows: (answer) => answer.messages, signal, request: () => held ? { state: 'quarantine' } : state.value ? { state: state.value } : {},
    caption: held ? 'Messages held back' : 'Messages in the queue', one: 'message', key: (/** @type {QueuedMessage} */ m) => m.id,
    filters: held ? null : field('State', state),
    nothing: held ? empty('Nothing is held back', 'Messages that a scanner finds suspicious, and those that you hold back, wait here.') : empty('The queue is empty', 'Messages that wait to be delivered show here. Delivered ones are gone from it.'),
    unconfigured: unconfigured(),
    columns: [
      { label: 'Message', wide: true, cell: (m) => h('span', null, h('a', { href: `#/mail/message/${encodeURIComponent(m.id)}` }, m.from || 'null sender'), h('br'), h('span', { class: 'muted' }, `to ${m.recipients[0]?.address ?? 'nobody'}${m.recipients.length > 1 ? ` and ${m.recipients.length - 1} more` : ''}`)) },
      { label: 'State', wide: true, cell: (m) => h('span', null, stateOf(m.state), m.reason ? [h('br'), h('span', { class: 'muted' }, m.reason)] : null) },
      { label: 'Arrived', cell: (m) => ago(m.arrived) },
      { label: held ? 'Kept until' : 'Next try', cell: (m) => ago(m.next) ?? '–' },
      { label: 'Tries', number: true, cell: (m) => m.tries },
      { label: 'Size', number: true, cell: (m) => bytes(m.size) },
      ...may(identity, 'operator') ? [{ label: '', cell: (/** @type {QueuedMessage} */ m) => actions(m, () => list.reload()) }] : [],
    ],
  });
  fill(content, list.element);
  followCalmly('mail', () => list.reload(), signal);
}

/** @param {Context} context @param {HTMLElement} content @param {string} id */
function message({ signal, identity }, content, id) {
  const show = () => load(content, {
    signal, unconfigured: unconfigured(), load: () => call('getEmailMessage', { id }, signal),
    show: (/** @type {import('../types').MessageDetail} */ { message: m, timeline, headers }) => {
      const recipients = table({
        caption: 'Recipients', key: (/** @type {import('../types').Recipient} */ r) => r.address,
        columns: [
          { label: 'Recipient', cell: (r) => r.address, wide: true },
          { label: 'State', cell: (r) => stateOf(r.state) },
          { label: 'Route', cell: (r) => r.route ?? '–' },
          { label: 'Last reply', cell: (r) => r.reply ?? '–', wide: true },
        ],
      });
      recipients.update(m?.recipients ?? []);
      return [
        m ? section(`From ${m.from || 'the null sender'}`, facts([
          ['State', stateOf(m.state)], ['Reason', m.reason], ['Arrived', when(m.arrived)], ['Next', ago(m.next)], ['Tries', String(m.tries)], ['Size', bytes(m.size)], ['Id', h('code', null, m.id)],
          ['Connection', m.connId ? h('a', { href: `#/logs/${encodeURIComponent(m.connId)}`, title: 'Its lines in the log' }, h('code', null, m.connId)) : ''],
        ]), may(identity, 'operator') ? actions(m, show) : null) : h('p', { class: 'lead' }, 'This message is in the queue no more.'),
        section('Timeline', timeline.length ? h('ol', { class: 'timeline' }, timeline.map((step) => h('li', null,
          h('div', { class: 'step-head' }, h('strong', null, step.kind), when(step.time)),
          h('p', null, step.text), step.recipient || step.host ? h('p', { class: 'muted' }, [step.recipient, step.host].filter(Boolean).join(' · ')) : null))) : empty('No steps', 'Nothing is remembered about this message.')),
        m ? section('Recipients', recipients.element) : null,
        headers ? section('Header', h('pre', { class: 'block', tabindex: 0, role: 'region', 'aria-label': 'Header of the message' }, headers)) : null,
      ];
    },
  });
  followCalmly('mail', show, signal);
  show();
}

/** @param {Context} context @param {HTMLElement} content */
function suppression({ signal, identity }, content) {
  const mayEdit = may(identity, 'operator');
  /** @param {import('../types').Suppressed} s */
  const remove = async (s) => {
    const yes = await ask({ title: 'Send to this address again?', text: h('p', null, `${s.address} is taken off the list. If the address is still bad, mail to it harms your reputation.`), action: 'Take off the list' });
    if (yes === null) return;
    try {
      await call('removeSuppression', { address: s.address });
      notify(`${s.address} is no longer suppressed.`);
    } catch (error) {
      notify(textOf(error), 'bad');
    }
    list.reload();
  };
  const list = listing({
    method: 'getSuppressions', rows: (answer) => answer.entries, signal, caption: 'Suppressed addresses', one: 'address', many: 'addresses',
    key: (/** @type {import('../types').Suppressed} */ s) => s.address,
    nothing: empty('No address is suppressed', 'Addresses that bounce for good or complain are put here by themselves, and get no more mail.'), unconfigured: unconfigured(),
    columns: [
      { label: 'Address', cell: (s) => h('strong', null, s.address), wide: true },
      { label: 'Reason', cell: (s) => s.reason },
      { label: 'Detail', cell: (s) => s.detail ?? '–', wide: true },
      { label: 'Since', cell: (s) => ago(s.since) },
      { label: 'Until', cell: (s) => s.expires ? ago(s.expires) : 'for good' },
      ...mayEdit ? [{ label: '', cell: (/** @type {import('../types').Suppressed} */ s) => button('Take off', () => remove(s), { kind: 'quiet', 'aria-label': `Take off ${s.address}` }) }] : [],
    ],
  });
  const address = h('input', { type: 'text', inputmode: 'email', autocomplete: 'off', required: true });
  const reason = h('input', { type: 'text', autocomplete: 'off', maxlength: 200 });
  const problem = h('p', { class: 'field-error', role: 'alert' });
  const form = h('form', {
    class: 'row', onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      fill(problem);
      try {
        await call('addSuppression', { address: address.value.trim(), ...(reason.value.trim() ? { reason: reason.value.trim() } : {}) });
        notify(`${address.value.trim()} gets no more mail.`);
        form.reset();
      } catch (error) {
        fill(problem, textOf(error));
        address.focus();
      }
      list.reload();
    },
  }, field('Address', address), field('Reason', reason), h('button', { class: 'button primary' }, 'Add'), problem);
  fill(content, list.element, mayEdit ? section('Suppress an address', form) : null);
}

/** @param {Context} context @param {HTMLElement} content */
function domains({ signal }, content) {
  load(content, {
    signal, unconfigured: unconfigured(), load: () => call('getEmailDomains', {}, signal),
    show: ({ domains: found }) => found.length === 0 ? empty('No mail domains', 'Add them to emailConfig.domains. What their DNS should say shows here then.') : found.map(domain),
  });
}

/** @param {import('../types').MailDomain} d */
function domain(d) {
  const wrong = d.records.filter((r) => r.state !== 'ok').length;
  const zone = h('pre', { class: 'block', tabindex: 0, role: 'region', 'aria-label': `Records of ${d.domain}` }, d.records.map((r) => `${r.name.replace(/\.?$/, '.')} 3600 IN ${r.type} ${zoneValue(r)}\n`).join(''));
  const rows = table({
    caption: `Records of ${d.domain}`, key: (/** @type {import('../types').MailRecord} */ r) => `${r.name} ${r.type} ${r.value}`,
    columns: [
      { label: 'State', cell: (r) => recordState(r.state) },
      { label: 'Type', cell: (r) => r.type },
      { label: 'Name', cell: (r) => h('code', null, r.name), wide: true },
      { label: 'Value', wide: true, cell: (r) => {
        const value = h('code', null, r.value);
        return h('div', null, h('div', { class: 'value' }, value, button('Copy', () => copy(r.value, value), { kind: 'quiet', 'aria-label': `Copy the ${r.type} record of ${r.name}` })),
          r.found?.length ? h('div', { class: 'muted' }, 'There now: ', r.found.map((text) => h('code', null, text))) : null);
      } },
    ],
  });
  rows.update(d.records);
  return section(d.domain, h('p', { class: 'domain-state' }, d.ready ? badge('ok', 'DNS is as it should be') : badge('warn', `${wrong} of ${d.records.length} records want attention`), h('span', { class: 'muted' }, ` ${d.mode}`)),
    rows.element, h('details', null, h('summary', null, 'All records to paste into a zone file'), button('Copy all', () => copy(zone.textContent ?? '', zone)), zone));
}

/** A record's value as zone files have it. @param {import('../types').MailRecord} r */
function zoneValue({ type, value }) {
  if (type !== 'TXT' || value.startsWith('"')) return value;
  // A string of a TXT record has 255 bytes at most (RFC 1035 section 3.3).
  return (value.match(/.{1,250}/g) ?? ['']).map((part) => `"${part.replace(/["\\]/g, '\\$&')}"`).join(' ');
}

/** @param {import('../types').MailRecord['state']} state */
function recordState(state) {
  switch (state) {
    case 'ok': return badge('ok', 'OK');
    case 'missing': return badge('bad', 'Missing');
    case 'differs': return badge('warn', 'Differs');
    default: return badge('idle', 'Unknown');
  }
}
