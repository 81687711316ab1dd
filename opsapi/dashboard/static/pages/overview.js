// What goes on now.

import { h, fill, badge, empty, section } from '../lib/dom.js';
import { call } from '../lib/api.js';
import { chart } from '../lib/chart.js';
import { follow, followCalmly } from '../lib/live.js';
import { load, table } from '../lib/list.js';
import { bitRate, count, duration, figure, ago } from '../lib/format.js';
import { severity } from './security.js';

export const title = 'Overview';

/** @param {number|undefined} n */
const perSecond = (n) => figure(n, 'per s');
/** @param {number|undefined} n */
const perMinute = (n) => figure(n, 'per min');

/** @param {import('../types').Context} context */
export function render({ main, signal }) {
  const charts = [
    chart({
      title: 'Connections', href: '#/routes', format: count, missing: 'No proxy runs: configure smartProxyConfig.',
      lines: [{ label: 'connections open', counter: 'connections' }, { label: 'UDP sessions', counter: 'sessions' }],
    }),
    chart({
      title: 'HTTP requests', href: '#/routes', format: perSecond, missing: 'No proxy runs: configure smartProxyConfig.',
      lines: [{ label: 'requests', counter: 'requests', per: 1, over: 3 }, { label: 'failed (5xx)', counter: 'failed', per: 1, over: 3 }],
    }),
    chart({
      title: 'Bandwidth', href: '#/routes', format: bitRate, missing: 'No proxy runs: configure smartProxyConfig.',
      lines: [{ label: 'to clients', counter: 'bytesOut', per: 1, over: 3, times: 8 }, { label: 'from clients', counter: 'bytesIn', per: 1, over: 3, times: 8 }],
    }),
    chart({
      title: 'Mail', href: '#/mail', format: perMinute, missing: 'No mail system runs: configure emailConfig.',
      lines: [{ label: 'accepted', counter: 'mailIn', per: 60, over: 30 }, { label: 'delivered', counter: 'mailOut', per: 60, over: 30 }],
    }),
    chart({
      title: 'DNS queries', href: '#/dns', format: perSecond, missing: 'No DNS server runs: configure dnsServerConfig or dnsNsDomains.',
      lines: [{ label: 'queries', counter: 'queries', per: 1, over: 3 }, { label: 'no such name', counter: 'nameErrors', per: 1, over: 3 }],
    }),
    chart({
      title: 'RADIUS', href: '#/radius', format: count, missing: 'No RADIUS server runs: configure radiusConfig.',
      lines: [{ label: 'sessions open', counter: 'accounts' }, { label: 'logins per min', counter: 'authentications', per: 60, over: 30 }],
    }),
  ];
  const facts = h('p', { class: 'lead' }, 'Waiting for the first figures…');
  const components = h('div');
  const events = h('div');
  fill(main, h('h1', null, title), facts, h('div', { class: 'charts' }, charts.map((one) => one.element)),
    h('div', { class: 'columns' }, section('Components', components), section('Latest security events', events, h('p', null, h('a', { href: '#/security' }, 'All security events')))));

  let version = '';
  let uptime = 0;
  const lead = () => fill(facts, version ? `Version ${version} · ` : '', `up for ${duration(uptime)}`);
  follow('stats', (/** @type {import('../types').StatsEvent} */ event) => {
    uptime = event.uptimeSeconds;
    lead();
    charts.forEach((one) => one.update());
  }, signal);

  const list = table({
    caption: 'Components', key: (/** @type {import('../types').Component} */ c) => c.name,
    columns: [
      { label: 'Name', cell: (c) => h('span', null, c.name, c.detail ? [h('br'), h('span', { class: 'muted' }, c.detail)] : null) },
      { label: 'State', cell: (c) => c.ready ? badge('ok', 'Ready') : badge('bad', 'Not ready') },
      { label: 'Listens on', wide: true, cell: (c) => c.addresses?.length ? h('ul', { class: 'plain' }, c.addresses.map((a) => h('li', null, a))) : '–' },
    ],
  });
  follow('health', (/** @type {import('../types').Health} */ health) => {
    version = health.version ?? '';
    uptime = health.uptimeSeconds;
    lead();
    if (health.components.length === 0) fill(components, empty('No components', 'This program does not say how its parts are.'));
    else if (components.firstElementChild !== list.element) fill(components, list.element);
    list.update(health.components);
  }, signal);

  const show = () => load(events, {
    signal, load: () => call('getSecurityEvents', { limit: 6 }, signal),
    show: ({ events: found }) => found.length === 0 ? empty('All quiet', 'Refused sign-ins, blocked clients and the like show here.')
      : h('ul', { class: 'events' }, found.map((/** @type {import('../types').SecurityEvent} */ e) => h('li', null, severity(e.severity), h('span', { class: 'event-text' }, e.message), h('span', { class: 'muted' }, ago(e.time))))),
  });
  followCalmly('security', show, signal);
  show();
}
