// Routes and targets, and editing them.

import { h, fill, badge, empty, section } from '../lib/dom.js';
import { call, may } from '../lib/api.js';
import { editor } from '../lib/editor.js';
import { applyPanel } from '../lib/changes.js';
import { follow, latest } from '../lib/live.js';
import { load, table } from '../lib/list.js';
import { bytes, count, figure } from '../lib/format.js';

export const title = 'Routes';

/** @typedef {import('../types').Routes} Routes */

/** @param {import('../types').Context} context */
export function render(context) {
  if (context.params[0] === 'edit') edit(context, context.params[1] ?? 'all');
  else overview(context);
}

const unconfigured = () => empty('No routes here', 'The host program has not said where its configuration has routes. In a Router they are in smartProxyConfig.routes.');

/** Values of a field that takes one or a list, in words. @param {any} value @returns {string[]} */
const list = (value) => [value ?? []].flat().map((one) => one === null || typeof one !== 'object' ? String(one) : 'from' in one && 'to' in one ? `${one.from}–${one.to}` : JSON.stringify(one));

/** What a route takes, in words. @param {any} route */
function match({ match: m = {} }) {
  const parts = [list(m.domains).join(', ') || 'every name', list(m.ports).length ? `port ${list(m.ports).join(', ')}` : ''];
  if (m.path) parts.push(`path ${m.path}`);
  if (m.clientIp) parts.push(`from ${list(m.clientIp).join(', ')}`);
  return parts.filter(Boolean).join(' · ');
}

/** @param {any} route @returns {string[]} */
const targets = (route) => (route.action?.targets ?? []).flatMap((/** @type {any} */ t) => list(t.host).map((host) => `${host}:${t.port}`));

/** What a route does, in words. @param {any} route */
function action(route) {
  const { type = 'forward', tls, root, redirect } = route.action ?? {};
  return [type, root, redirect?.to ?? redirect?.url, tls?.mode && `TLS ${tls.mode}`].filter(Boolean).join(' · ');
}

/** @param {import('../types').Context} context */
function overview({ main, signal, identity }) {
  const mayEdit = may(identity, 'operator');
  const place = h('div');
  const targetPlace = h('div');
  fill(main, h('h1', null, title),
    h('div', { class: 'page-tools' }, mayEdit
      ? [h('a', { class: 'button primary', href: '#/routes/edit/new' }, 'Add a route'), h('a', { class: 'button', href: '#/routes/edit/all' }, 'Edit all as JSON')]
      : h('p', { class: 'muted' }, 'You can look at routes; operators change them.')),
    section('Routes', place), section('Targets', targetPlace));

  /** @type {any[]} */
  let routes = [];
  /** @param {string} name */
  const statsOf = (name) => latest.stats?.stats.proxy?.routes?.find((r) => r.name === name);
  /** @param {string} name */
  const targetOf = (name) => latest.stats?.stats.proxy?.targets?.find((t) => t.name === name || t.name === `${name}/udp`);

  const rows = table({
    caption: 'Routes', key: (/** @type {any} */ row) => `${row.index}`,
    columns: [
      { label: 'Name', cell: (row) => h('span', null, h('strong', null, row.name), row.off ? [' ', badge('idle', 'Off')] : null) },
      { label: 'Takes', cell: (row) => row.match, wide: true },
      { label: 'Does', cell: (row) => h('span', null, row.action, row.targets.length ? h('ul', { class: 'plain' }, row.targets.map((/** @type {any} */ t) => h('li', null, t.name, ' ', health(t)))) : null), wide: true },
      { label: 'Active', number: true, cell: (row) => count(row.active) },
      { label: 'Requests', number: true, cell: (row) => count(row.requests) },
      { label: '5xx', number: true, cell: (row) => row.failed === undefined ? '–' : h('span', { class: row.failed ? 'bad-text' : null }, count(row.failed)) },
      { label: 'Sent', number: true, cell: (row) => bytes(row.sent) },
      ...mayEdit ? [{ label: '', cell: (/** @type {any} */ row) => h('a', { class: 'button quiet', href: `#/routes/edit/${row.index}`, 'aria-label': `Edit ${row.name}` }, 'Edit') }] : [],
    ],
  });
  const draw = () => rows.update(routes.map((route, index) => {
    const name = route.name || `routes[${index}]`;
    const s = statsOf(name);
    return {
      index, name, off: route.enabled === false, match: match(route), action: action(route),
      targets: targets(route).map((target) => ({ name: target, healthy: targetOf(target)?.healthy, circuit: targetOf(target)?.circuit })),
      active: s?.active, requests: s?.requests, failed: s?.responses?.[5], sent: s?.bytesOut,
    };
  }));
  const show = () => load(place, {
    signal, unconfigured: unconfigured(), load: () => call('getRoutes', {}, signal),
    show: (/** @type {Routes} */ answer) => {
      routes = answer.routes;
      draw();
      return routes.length ? rows.element : empty('No routes yet', 'A route says which connections or requests go where. Nothing is served without one.', mayEdit && h('a', { class: 'button primary', href: '#/routes/edit/new' }, 'Add the first route'));
    },
  });
  follow('configuration', show, signal);
  show();

  const targetRows = table({
    caption: 'Targets', key: (/** @type {import('../types').TargetStats} */ t) => t.name,
    columns: [
      { label: 'Target', cell: (t) => h('strong', null, t.name) },
      { label: 'Health', cell: (t) => health(t) },
      { label: 'Active', number: true, cell: (t) => count(t.active) },
      { label: 'Sent there', number: true, cell: (t) => count(t.total) },
      { label: 'Failures', number: true, cell: (t) => h('span', null, count(t.failures), t.total ? h('span', { class: 'muted' }, ` (${figure(Math.round(t.failures / t.total * 1000) / 10, '%')})`) : null) },
      { label: 'Ejections', number: true, cell: (t) => count(t.ejections) },
      { label: 'Last error', cell: (t) => t.lastError ? h('span', { class: t.healthy ? 'muted' : null }, t.lastError) : '–', wide: true },
    ],
  });
  const noTargets = empty('No targets', 'Targets of routes that forward show here with their health.');
  follow('stats', () => {
    if (routes.length) draw();
    const found = latest.stats?.stats.proxy?.targets ?? [];
    targetRows.update(found);
    const shown = found.length ? targetRows.element : noTargets;
    if (targetPlace.firstElementChild !== shown) fill(targetPlace, shown);
  }, signal);
}

/** @param {{healthy?: boolean, circuit?: string}} target */
function health({ healthy, circuit }) {
  if (healthy === undefined) return badge('idle', 'Unused');
  if (circuit === 'open') return badge('bad', 'Ejected');
  if (circuit === 'half-open') return badge('warn', 'On trial');
  return healthy ? badge('ok', 'Healthy') : badge('bad', 'Unhealthy');
}

const pattern = () => ({
  name: '', match: { domains: ['www.example.com'], ports: [443] },
  action: { type: 'forward', targets: [{ host: '192.0.2.10', port: 8080 }], tls: { mode: 'terminate', certificate: 'auto' } },
});

/** @param {import('../types').Context} context @param {string} which an index, "new" or "all" */
function edit({ main, signal, identity }, which) {
  const place = h('div');
  const heading = h('h1', null, which === 'new' ? 'Add a route' : which === 'all' ? 'Edit all routes' : 'Edit a route');
  fill(main, h('p', { class: 'crumbs' }, h('a', { href: '#/routes' }, 'Routes')), heading, place);
  if (!may(identity, 'operator')) {
    fill(place, empty('Not for your role', 'Operators change routes.'));
    return;
  }
  load(place, {
    signal, unconfigured: unconfigured(), load: () => call('getRoutes', {}, signal),
    show: (/** @type {Routes} */ { routes, hash }) => {
      const index = which === 'new' ? routes.length : Number(which);
      if (which !== 'all' && which !== 'new' && !(index in routes)) return empty('No such route', 'It may have been removed meanwhile.');
      const value = which === 'all' ? routes : routes[index] ?? pattern();
      if (which !== 'new' && which !== 'all') fill(heading, `Edit route ${value.name || index + 1}`);
      document.title = `${heading.textContent} · dcrouter`;
      const one = editor({ value, name: which === 'all' ? 'routes' : 'route', prefix: which === 'all' ? 'routes' : `routes[${index}]`, asText: which === 'all', base: hash, signal });
      /** @param {any} changed */
      const all = (changed) => which === 'all' ? changed : routes.toSpliced(index, 1, changed);
      return [one.element, applyPanel({
        editor: one, back: '#/routes',
        check: (changed) => call('validateRoutes', { routes: all(changed) }),
        apply: (changed, options) => call('updateRoutes', { routes: all(changed), ifMatch: hash, ...options }),
      })];
    },
  });
}
