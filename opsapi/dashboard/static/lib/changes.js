// Changes of the configuration: what they are, how they come into force, and the
// banner while one waits to be confirmed.

import { h, fill, set, button, field, notify, badge } from './dom.js';
import { call, may, textOf, APIError } from './api.js';
import { clock, duration, plural } from './format.js';
import { follow, latest } from './live.js';

/** @typedef {import('../types').Change} Change */
/** @typedef {import('../types').Applied} Applied */

/** @param {Change[]} changes */
export function changeList(changes) {
  if (changes.length === 0) return h('p', { class: 'muted' }, 'No difference.');
  return h('ol', { class: 'changes' }, changes.map((change) => h('li', null,
    h('div', { class: 'change-head' }, badge(change.op === 'add' ? 'ok' : change.op === 'remove' ? 'bad' : 'info', words(change.op)), h('code', null, change.path || 'everything')),
    change.before === undefined ? null : h('pre', { class: 'before' }, `− ${pretty(change.before)}`),
    change.after === undefined ? null : h('pre', { class: 'after' }, `+ ${pretty(change.after)}`))));
}

/** @param {Change['op']} op */
function words(op) {
  switch (op) {
    case 'add': return 'Added';
    case 'remove': return 'Removed';
    case 'reorder': return 'Order';
    default: return 'Changed';
  }
}

/** @param {unknown} value */
function pretty(value) {
  const short = JSON.stringify(value);
  return short.length <= 60 ? short : JSON.stringify(value, null, 2);
}

/** The fields that all changes have in common. */
export function changeOptions() {
  const comment = h('input', { type: 'text', maxlength: 200, autocomplete: 'off' });
  const guarded = h('input', { type: 'checkbox', checked: true, onchange: () => { seconds.disabled = !guarded.checked; } });
  const seconds = h('input', { type: 'number', min: 5, max: 3600, value: '60', required: true });
  const element = h('div', { class: 'options' },
    field('Why (for the history)', comment),
    field('Take it back by itself unless I confirm it', guarded, 'For changes that may cut you off.'),
    field('Seconds to confirm in', seconds));
  return {
    element,
    /** What of a request these are. */
    request: () => ({ comment: comment.value.trim(), ...(guarded.checked ? { confirmWithinSeconds: Number(seconds.value) } : {}) }),
    valid: () => !guarded.checked || seconds.reportValidity(),
  };
}

/**
 * The lower part of a page on which something is edited: check, apply, cancel.
 * @param {object} options
 * @param {ReturnType<typeof import('./editor.js').editor>} options.editor
 * @param {(value: any) => Promise<import('../types').Checked>} options.check
 * @param {(value: any, options: object) => Promise<Applied>} options.apply
 * @param {string} options.back where to go afterwards
 */
export function applyPanel({ editor, check, apply, back }) {
  const options = changeOptions();
  const outcome = h('div', { class: 'outcome', role: 'status' });
  const applying = h('button', { type: 'submit', class: 'button primary' }, 'Apply');

  /** @param {() => Promise<void>} work */
  async function run(work) {
    set(element, { 'aria-busy': 'true' });
    applying.disabled = true;
    fill(outcome);
    try {
      await work();
    } catch (error) {
      if (error instanceof APIError && error.code === 'invalid') editor.show(error.fields);
      else fill(outcome, h('div', { class: 'empty bad' }, h('p', { class: 'empty-title' }, 'Nothing was changed'), h('p', null, textOf(error)),
        error instanceof APIError && error.code === 'conflict' ? h('p', null, ['What you have typed is kept. ', button('Open this page anew', () => dispatchEvent(new HashChangeEvent('hashchange')), { kind: 'link' }), ' to make the change on what is in force now.']) : null));
    }
    applying.disabled = false;
    set(element, { 'aria-busy': null });
  }

  const checking = button('Check', () => run(async () => {
    const value = editor.read();
    if (value === undefined) return;
    const result = await check(value);
    editor.show(result.problems);
    if (result.valid) fill(outcome, h('h3', null, `Valid: ${plural(result.changes.length, 'change')}`), changeList(result.changes));
  }));

  const element = h('form', {
    class: 'apply', novalidate: true,
    onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      if (!options.valid()) return;
      run(async () => {
        const value = editor.read();
        if (value === undefined) return;
        const applied = await apply(value, options.request());
        editor.forget();
        report(applied);
        location.hash = back;
      });
    },
  }, options.element, h('div', { class: 'actions' }, applying, checking, h('a', { class: 'button', href: back, onclick: editor.forget }, 'Cancel')), outcome);
  return element;
}

/** Says what came of a change. @param {Applied} applied */
export function report(applied) {
  if (applied.changes.length === 0) notify('Nothing differs from what is in force.');
  else notify(`Version ${applied.version} is in force.${applied.confirmBy ? ' Confirm it, or it is taken back.' : ''}`);
}

/**
 * The banner while a change waits to be confirmed.
 * @param {import('../types').Identity} identity @param {AbortSignal} signal
 */
export function pendingBanner(identity, signal) {
  const remaining = h('strong', { class: 'countdown', 'aria-hidden': 'true' });
  const text = h('p', { role: 'status' });
  const tools = h('div', { class: 'actions' });
  const element = h('aside', { class: 'pending', 'aria-label': 'Change waiting for confirmation', hidden: true }, text, remaining, tools);
  let until = 0;

  /** @param {string} method @param {number} version */
  const act = (method, version) => async () => {
    try {
      await call(method, { version });
    } catch (error) {
      notify(textOf(error), 'bad');
    }
  };

  /** @param {{version: number, confirmBy?: string}|undefined} pending */
  function show(pending) {
    const held = element.contains(document.activeElement);
    element.hidden = !pending?.confirmBy;
    if (!pending?.confirmBy) {
      fill(text);
      if (held) document.querySelector('h1')?.focus();
      return;
    }
    until = Date.parse(pending.confirmBy);
    fill(text, `Version ${pending.version} waits to be confirmed. At ${clock(new Date(until - latest.ahead))} it is taken back.`);
    fill(tools, may(identity, 'operator') ? [
      button('Confirm', act('confirmConfiguration', pending.version), { kind: 'primary' }),
      button('Take back now', act('revertConfiguration', pending.version)),
    ] : null);
    count();
  }

  function count() {
    if (!element.hidden) fill(remaining, duration((until - Date.now() - latest.ahead) / 1000));
  }

  async function look() {
    try {
      show((await call('getConfiguration', {}, signal)).pending);
    } catch {
      // Where there is no configuration, nothing waits.
    }
  }

  follow('configuration', (/** @type {import('../types').ConfigurationEvent|undefined} */ event) => {
    if (!event) {
      look();
      return;
    }
    show(event.what === 'pending' ? event : undefined);
    if (event.what === 'confirmed') notify(`Version ${event.version} is confirmed and stays.`);
    if (event.what === 'reverted') notify(`The change was taken back. Version ${event.version} is in force again.`);
  }, signal);
  look();
  const timer = setInterval(count, 500);
  signal.addEventListener('abort', () => clearInterval(timer));
  return element;
}
