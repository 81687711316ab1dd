// The configuration: what is in force, what was, and changing it.

import { h, fill, ask, badge, button, empty, facts, field, notify, section, subnav } from '../lib/dom.js';
import { call, may, textOf } from '../lib/api.js';
import { applyPanel, changeList, changeOptions, report } from '../lib/changes.js';
import { editor } from '../lib/editor.js';
import { listing, load } from '../lib/list.js';
import { when } from '../lib/format.js';
import { follow } from '../lib/live.js';

export const title = 'Configuration';

/** @typedef {import('../types').Context} Context */
/** @typedef {import('../types').Version} Version */

const unconfigured = () => empty('No configuration here', 'The host program has not opened its configuration to this desk (WithConfiguration).');

/** @param {Context} context */
export function render(context) {
  const [part = 'current', ...rest] = context.params;
  const content = h('div');
  const heading = h('h1', null, part === 'history' ? 'History' : part === 'compare' ? 'Compare versions' : part === 'edit' ? 'Edit the configuration' : title);
  fill(context.main, heading, subnav('Configuration', `#/configuration/${part}`, [['#/configuration/current', 'In force'], ['#/configuration/history', 'History'], ['#/configuration/compare', 'Compare']]), content);
  switch (part) {
    case 'edit': return edit(context, content);
    case 'history': return history(context, content);
    case 'compare': return compare(context, content, rest);
    case 'version': return current(context, content, Number(rest[0]) || 0);
    default: return current(context, content, 0);
  }
}

/** @param {Context} context @param {HTMLElement} content @param {number} version 0 for what is in force */
function current({ signal, identity }, content, version) {
  const show = () => load(content, {
    signal, unconfigured: unconfigured(), load: () => call('getConfiguration', version ? { version } : {}, signal),
    show: (/** @type {import('../types').Configuration} */ c) => [
      facts([['Version', String(c.version)], ['By', c.author], ['Since', when(c.time)], ['Why', c.comment], ['Hash', h('code', { class: 'hash' }, c.hash.slice(0, 16))]]),
      h('div', { class: 'page-tools' }, may(identity, 'admin') && !version ? h('a', { class: 'button primary', href: '#/configuration/edit' }, 'Edit') : null),
      h('p', { class: 'muted' }, 'Secrets show as ***.'),
      Object.entries(c.configuration).map(([key, value], i) => h('details', { class: 'panel part', open: i === 0 }, h('summary', null, h('code', null, key)), h('pre', { class: 'block', tabindex: 0, role: 'region', 'aria-label': key }, JSON.stringify(value, null, 2)))),
    ],
  });
  if (!version) follow('configuration', show, signal);
  show();
}

/** @param {Context} context @param {HTMLElement} content */
function edit({ signal, identity }, content) {
  if (!may(identity, 'admin')) {
    fill(content, empty('Not for your role', 'Admins change the configuration. Operators change routes.'));
    return;
  }
  load(content, {
    signal, unconfigured: unconfigured(), load: () => call('getConfiguration', {}, signal),
    show: (/** @type {import('../types').Configuration} */ { configuration, hash, version }) => {
      const one = editor({ value: configuration, name: 'configuration', prefix: '', asText: true, base: hash, signal });
      return [h('p', { class: 'muted' }, `From version ${version}. Secrets show as ***: leave that, and the secret stays.`), one.element, applyPanel({
        editor: one, back: '#/configuration',
        check: (changed) => call('validateConfiguration', { configuration: changed }),
        apply: (changed, options) => call('updateConfiguration', { configuration: changed, ifMatch: hash, ...options }),
      })];
    },
  });
}

/** @param {Version['state']} state */
function stateOf(state) {
  switch (state) {
    case 'current': return badge('ok', 'In force');
    case 'pending': return badge('warn', 'To be confirmed');
    case 'reverted': return badge('bad', 'Taken back');
    default: return badge('idle', 'Past');
  }
}

/** @param {Context} context @param {HTMLElement} content */
function history({ signal, identity }, content) {
  /** @param {Version} v */
  const rollBack = async (v) => {
    const options = changeOptions();
    const difference = h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'What changes' }, h('p', { class: 'muted' }, 'Comparing…'));
    call('getConfigurationDiff', { to: v.version, from: now() }, signal).then(({ changes }) => fill(difference, changeList(changes)), (error) => fill(difference, textOf(error)));
    const yes = await ask({ title: `Roll back to version ${v.version}?`, text: [h('p', null, 'It comes into force again, as a new version. What changes:'), difference, options.element], action: 'Roll back' });
    if (yes === null) return;
    try {
      report(await call('rollbackConfiguration', { version: v.version, ...options.request() }));
    } catch (error) {
      notify(textOf(error), 'bad');
    }
    list.reload();
  };
  /** @type {Version[]} */
  let versions = [];
  const now = () => versions.find((v) => v.state === 'pending' || v.state === 'current')?.version ?? versions[0]?.version;
  const list = listing({
    method: 'getConfigurationHistory', rows: (answer) => versions = answer.versions, signal, search: null, caption: 'Versions', one: 'version', key: (/** @type {Version} */ v) => String(v.version),
    following: (answer, rows) => answer.more ? { before: rows.at(-1)?.version } : null,
    nothing: empty('No versions', 'Each change makes one.'), unconfigured: unconfigured(),
    columns: [
      { label: 'Version', cell: (v) => h('a', { href: `#/configuration/version/${v.version}`, 'aria-label': `Version ${v.version}` }, String(v.version)) },
      { label: 'State', cell: (v) => stateOf(v.state) },
      { label: 'Time', cell: (v) => when(v.time) },
      { label: 'By', cell: (v) => v.author },
      { label: 'Why', wide: true, cell: (v) => v.comment ?? '–' },
      { label: '', cell: (v) => h('div', { class: 'actions' }, h('a', { class: 'button quiet', href: `#/configuration/compare/${v.version - 1 || 1}/${v.version}`, 'aria-label': `Changes of version ${v.version}` }, 'Changes'),
        may(identity, 'admin') && v.state !== 'current' && v.state !== 'pending' ? button('Roll back', () => rollBack(v), { kind: 'quiet', 'aria-label': `Roll back to version ${v.version}` }) : null) },
    ],
  });
  fill(content, list.element);
  follow('configuration', () => list.reload(), signal);
}

/** @param {Context} context @param {HTMLElement} content @param {string[]} versions */
function compare({ signal }, content, [from, to]) {
  const place = h('div');
  load(content, {
    signal, unconfigured: unconfigured(), load: () => call('getConfigurationHistory', { limit: 1000 }, signal),
    show: (/** @type {{versions: Version[]}} */ { versions }) => {
      const options = () => versions.map((v) => h('option', { value: v.version }, `${v.version} · ${v.author}${v.comment ? ` · ${v.comment}` : ''}`));
      const left = h('select', { onchange: show }, options());
      const right = h('select', { onchange: show }, options());
      left.value = from ?? String(versions[1]?.version ?? versions[0]?.version);
      right.value = to ?? String(versions[0]?.version);
      /** Shows what differs. */
      function show() {
        if (!left.value || !right.value) {
          fill(place, empty('No such version', 'Old versions are removed in time: choose others.'));
          return;
        }
        load(place, { signal, load: () => call('getConfigurationDiff', { from: Number(left.value), to: Number(right.value) }, signal), show: ({ changes }) => changeList(changes) });
      }
      show();
      return [h('div', { class: 'toolbar versions' }, field('From version', left), field('To version', right)), section('Changes', place)];
    },
  });
}
