// RADIUS: sessions, clients, VLANs.

import { h, fill, ask, button, empty, notify, section, subnav } from '../lib/dom.js';
import { call, may, textOf } from '../lib/api.js';
import { listing, load, table } from '../lib/list.js';
import { ago, bytes, count, duration } from '../lib/format.js';
import { follow, followCalmly } from '../lib/live.js';

export const title = 'RADIUS';

/** @typedef {import('../types').RADIUSSession} Session */
/** @typedef {import('../types').Context} Context */

const unconfigured = () => empty('No RADIUS server here', 'Configure radiusConfig: clients with their secrets, and vlanAssignment.');

/** @param {Context} context */
export function render(context) {
  const content = h('div');
  const part = context.params[0] ?? 'sessions';
  fill(context.main, h('h1', null, part === 'clients' ? 'RADIUS clients' : part === 'vlans' ? 'VLANs' : 'RADIUS sessions'),
    subnav('RADIUS', `#/radius/${part}`, [['#/radius/sessions', 'Sessions'], ['#/radius/clients', 'Clients'], ['#/radius/vlans', 'VLANs']]), content);
  switch (part) {
    case 'clients': return clients(context, content);
    case 'vlans': return vlans(context, content);
    default: return sessions(context, content);
  }
}

/** @param {Session} s */
const device = (s) => s.userName || s.callingStationId || s.id;

/** @param {Context} context @param {HTMLElement} content */
function sessions({ signal, identity }, content) {
  /** @param {Session} s */
  const disconnect = async (s) => {
    const yes = await ask({
      title: 'Disconnect this session?', action: 'Disconnect', danger: true,
      text: h('p', null, `${device(s)} is cut off at ${s.nasIdentifier || s.source}. It may come back at once if it is still allowed.`),
    });
    if (yes === null) return;
    try {
      await call('disconnectRadiusSession', { key: s.key });
      notify(`${device(s)} was disconnected.`);
    } catch (error) {
      notify(textOf(error), 'bad');
    }
    list.reload();
  };
  const list = listing({
    method: 'getRadiusSessions', rows: (answer) => answer.sessions, signal, caption: 'RADIUS sessions', one: 'session', key: (/** @type {Session} */ s) => s.key,
    nothing: empty('No open sessions', 'A session shows when a switch or access point reports its start (accounting).'), unconfigured: unconfigured(),
    columns: [
      { label: 'Device', wide: true, cell: (s) => h('span', null, h('strong', null, device(s)), s.callingStationId && s.userName ? [h('br'), h('span', { class: 'muted' }, s.callingStationId)] : null) },
      { label: 'Address', cell: (s) => s.framedIp ?? '–' },
      { label: 'VLAN', number: true, cell: (s) => s.vlan ? String(s.vlan) : s.vlanName ?? '–' },
      { label: 'At', cell: (s) => h('span', null, s.nasIdentifier || s.nasAddress || s.source, s.nasPort ? h('span', { class: 'muted' }, ` port ${s.nasPort}`) : null) },
      { label: 'Lasts', number: true, cell: (s) => duration(s.durationSeconds) },
      { label: 'Sent', number: true, cell: (s) => bytes(s.inputOctets) },
      { label: 'Received', number: true, cell: (s) => bytes(s.outputOctets) },
      { label: 'Heard of', cell: (s) => ago(s.updated) },
      ...may(identity, 'operator') ? [{ label: '', cell: (/** @type {Session} */ s) => button('Disconnect', () => disconnect(s), { kind: 'quiet', 'aria-label': `Disconnect ${device(s)}` }) }] : [],
    ],
  });
  fill(content, list.element);
  followCalmly('radius', () => list.reload(), signal);
  /** @type {number|undefined} */
  let records; // of accounting: with each a session may begin or end
  follow('stats', (/** @type {import('../types').StatsEvent} */ { stats }) => {
    const now = stats.radius?.accounting;
    if (records !== undefined && now !== records) list.reload();
    records = now;
  }, signal);
}

/** @param {Context} context @param {HTMLElement} content */
function clients({ signal }, content) {
  const list = listing({
    method: 'getRadiusClients', rows: (answer) => answer.clients, signal, search: null, whole: true, caption: 'RADIUS clients', one: 'client',
    key: (/** @type {import('../types').RADIUSClient} */ c) => `${c.name} ${c.address}`,
    nothing: empty('No clients', 'Add switches and access points to radiusConfig.clients, each with its address and secret.'), unconfigured: unconfigured(),
    columns: [
      { label: 'Client', cell: (c) => h('strong', null, c.name || c.address), wide: true },
      { label: 'Address', cell: (c) => c.address || 'any' },
      { label: 'Requests', number: true, cell: (c) => count(c.requests) },
      { label: 'Accepted', number: true, cell: (c) => count(c.accepts) },
      { label: 'Rejected', number: true, cell: (c) => count(c.rejects) },
      { label: 'Dropped', number: true, cell: (c) => h('span', { class: c.dropped ? 'bad-text' : null }, count(c.dropped)) },
      { label: 'Last seen', cell: (c) => ago(c.lastSeen) ?? '–' },
    ],
  });
  fill(content, list.element);
}

/** Which devices get which VLAN, by the configuration, and how many are there. @param {Context} context @param {HTMLElement} content */
function vlans({ signal }, content) {
  load(content, {
    signal, unconfigured: unconfigured(),
    load: async () => {
      const [{ sessions: open, next }, configuration] = await Promise.all([
        call('getRadiusSessions', { limit: 1000 }, signal), call('getConfiguration', {}, signal).catch(() => null)]);
      return { open, partial: Boolean(next), radius: configuration?.configuration?.radiusConfig };
    },
    show: ({ open, partial, radius }) => {
      /** @type {Map<string, number>} */
      const used = new Map();
      for (const { vlan, vlanName } of open) {
        const name = String(vlan || vlanName || '');
        if (name) used.set(name, (used.get(name) ?? 0) + 1);
      }
      /** @type {{name: string, rules: string[]}[]} */
      const list = [];
      /** @param {string|number|undefined} name @param {string} rule */
      const add = (name, rule) => {
        if (!name) return;
        const known = list.find((one) => one.name === String(name)) ?? list[list.push({ name: String(name), rules: [] }) - 1];
        if (rule) known.rules.push(rule);
      };
      for (const { match = {}, vlan, vlanName } of radius?.vlanAssignment ?? []) add(vlan || vlanName, match.default ? 'everything else' : Object.entries(match).map(([key, value]) => `${key} ${value}`).join(', '));
      add(radius?.macAuth?.defaultVlan, 'allowed devices without a rule');
      add(radius?.macAuth?.guestVlan, 'devices that are not allowed');
      for (const name of used.keys()) add(name, '');
      if (list.length === 0) return empty('No VLANs', 'Rules in radiusConfig.vlanAssignment put devices into VLANs, such as {"match": {"mac": "aa:bb:cc:*"}, "vlan": 100}.');
      const rows = table({
        caption: 'VLANs', key: (/** @type {typeof list[0]} */ v) => v.name,
        columns: [
          { label: 'VLAN', cell: (v) => h('strong', null, v.name) },
          { label: 'For', wide: true, cell: (v) => v.rules.length ? h('ul', { class: 'plain' }, v.rules.map((rule) => h('li', null, rule))) : '–' },
          { label: 'Open sessions', number: true, cell: (v) => count(used.get(v.name) ?? 0) + (partial ? ' or more' : '') },
        ],
      });
      rows.update(list);
      return section('Rules in their order, and who is there', rows.element, h('p', { class: 'muted' }, 'Rules are changed in the ', h('a', { href: '#/configuration' }, 'configuration'), ', at radiusConfig.vlanAssignment.'));
    },
  });
}
