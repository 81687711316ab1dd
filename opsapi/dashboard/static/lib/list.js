// Tables that keep what is on the screen in its place while data changes, and
// lists that are searched, paged and loaded anew by themselves.

import { h, fill, set, button, field, empty } from './dom.js';
import { call, textOf, APIError } from './api.js';
import { plural } from './format.js';

/** @typedef {import('./dom.js').Child} Child */

/**
 * @template T
 * @typedef {{label: string, cell: (row: T) => Child, number?: boolean, wide?: boolean}} Column
 */

/**
 * A table. Narrow screens show each row as a card; roles keep it a table for
 * screen readers.
 * @template T
 * @param {object} options
 * @param {string} options.caption
 * @param {Column<T>[]} options.columns
 * @param {(row: T) => string} options.key what tells rows apart
 */
export function table({ caption, columns, key }) {
  const body = h('tbody', { role: 'rowgroup' });
  const element = h('table', { class: 'cards', role: 'table' },
    h('caption', { class: 'unseen' }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, columns.map((column) =>
      h('th', { role: 'columnheader', scope: 'col', class: column.number ? 'number' : null }, column.label || h('span', { class: 'unseen' }, 'Actions'))))),
    body);
  /** @type {Map<string, {text: string, row: HTMLTableRowElement}>} */
  let known = new Map();

  /** @param {T} data */
  const draw = (data) => h('tr', { role: 'row' }, columns.map((column) =>
    h('td', { role: 'cell', 'data-label': column.label, class: [column.number && 'number', column.wide && 'wide', !column.label && 'tools'].filter(Boolean).join(' ') || null }, column.cell(data))));

  /** Shows these rows; those that are as they were stay untouched. @param {T[]} rows */
  function update(rows) {
    const focused = document.activeElement;
    const held = focused && body.contains(focused) ? place(focused) : null;
    /** @type {typeof known} */
    const now = new Map();
    for (const data of rows) {
      const id = key(data);
      const text = JSON.stringify(data);
      const before = known.get(id);
      now.set(id, before?.text === text ? before : { text, row: draw(data) });
    }
    const wanted = [...now.values()].map((entry) => entry.row);
    if (wanted.length !== body.children.length || wanted.some((row, i) => row !== body.children[i])) {
      body.replaceChildren(...wanted);
      // Whoever was at a button of a row is there still.
      if (held) (now.get(held.id)?.row.querySelectorAll('a,button')[held.index] ?? body.querySelector('a,button'))?.dispatchEvent(new CustomEvent('refocus', { bubbles: true }));
    }
    known = now;
  }
  body.addEventListener('refocus', (event) => /** @type {HTMLElement} */ (event.target).focus());

  /** @param {Element} focused */
  function place(focused) {
    const row = focused.closest('tr');
    const id = [...known].find(([, entry]) => entry.row === row)?.[0] ?? '';
    return { id, index: row ? [...row.querySelectorAll('a,button')].indexOf(focused) : -1 };
  }
  return { element, update };
}

/**
 * What to show in place of data that could not be had.
 * @param {unknown} error @param {() => unknown} again @param {Child} [unconfigured] for parts that the host does not have
 */
export function failure(error, again, unconfigured) {
  const code = error instanceof APIError ? error.code : '';
  if (code === 'not_configured') {
    return unconfigured ?? empty('Not set up', 'This program has no such part.');
  }
  if (code === 'forbidden') return empty('Not for your role', `This takes the role ${/** @type {APIError} */ (error).data.role}. Ask whoever runs the gateway.`);
  return h('div', { class: 'empty bad', role: 'alert' }, h('p', { class: 'empty-title' }, 'This could not be loaded'), h('p', null, textOf(error)), button('Try again', again));
}

/**
 * Loads something into an element and shows how that goes.
 * @template T
 * @param {HTMLElement} host
 * @param {object} options
 * @param {() => Promise<T>} options.load
 * @param {(data: T) => Child} options.show
 * @param {Child} [options.unconfigured]
 * @param {AbortSignal} options.signal
 */
export async function load(host, { load: get, show, unconfigured, signal }) {
  host.setAttribute('aria-busy', 'true');
  if (!host.hasChildNodes()) fill(host, h('p', { class: 'loading' }, 'Loading…'));
  try {
    const data = await get();
    if (!signal.aborted) fill(host, show(data));
  } catch (error) {
    if (!signal.aborted) fill(host, failure(error, () => load(host, { load: get, show, unconfigured, signal }), unconfigured));
  }
  host.removeAttribute('aria-busy');
}

const refreshSeconds = 10;

/**
 * A list of the API's: search, pages, and loading anew.
 * @template T
 * @param {object} options
 * @param {string} options.method
 * @param {(answer: any) => T[]} options.rows
 * @param {() => object} [options.request] what is asked for beside search and page
 * @param {(answer: any, rows: T[]) => object|null} [options.following] what asks for the next page; by default by `next`
 * @param {string} options.caption
 * @param {string} options.one what a row is, in words
 * @param {string} [options.many]
 * @param {Column<T>[]} options.columns
 * @param {(row: T) => string} options.key
 * @param {null} [options.search] null where the method cannot search
 * @param {Child} [options.filters]
 * @param {Child} options.nothing what to show where there are none
 * @param {Child} [options.unconfigured]
 * @param {boolean} [options.whole] whether the method gives all at once
 * @param {boolean} [options.still] not to be loaded anew by itself
 * @param {AbortSignal} options.signal
 */
export function listing(options) {
  const { method, one, many, signal, nothing, unconfigured } = options;
  const following = options.following ?? ((/** @type {any} */ answer) => answer.next ? { after: answer.next } : null);
  const search = h('input', { type: 'search', autocomplete: 'off', spellcheck: 'false' });
  const number = h('p', { class: 'count', role: 'status' });
  const rows = table(options);
  const more = button('Load more', () => next(), { hidden: true });
  const place = h('div', { class: 'place' }, h('p', { class: 'loading' }, 'Loading…'));
  const tools = h('div', { class: 'toolbar' }, options.search === null ? null : field('Search', search), options.filters, number);
  const element = h('div', { class: 'listing' }, tools, place, more);

  /** @type {T[]} */
  let data = [];
  /** @type {object|null} */
  let page = null;
  let turn = 0; // of requests: a late answer to an old one is dropped

  /** @param {object} from */
  const get = (from) => call(method, { ...options.request?.(), ...(search.value.trim() ? { search: search.value.trim() } : {}), ...from }, signal);

  function show() {
    const shown = data.length ? rows.element : search.value.trim() ? empty('Nothing found', `No ${one} has “${search.value.trim()}” in it.`) : nothing;
    if (place.firstElementChild !== shown) fill(place, shown);
    rows.update(data);
    set(more, { hidden: page === null });
    const text = plural(data.length, one, many) + (page ? ' shown, there are more' : '');
    if (number.textContent !== text) fill(number, text);
  }

  async function reload() {
    const mine = ++turn;
    try {
      const answer = await get(options.whole ? {} : { limit: Math.min(1000, Math.max(100, data.length)) });
      if (mine !== turn || signal.aborted) return;
      data = options.rows(answer);
      page = following(answer, data);
      tools.hidden = false;
      show();
    } catch (error) {
      if (mine !== turn || signal.aborted) return;
      data = [];
      page = null;
      set(more, { hidden: true });
      tools.hidden = error instanceof APIError && error.code === 'not_configured';
      fill(number);
      fill(place, failure(error, reload, unconfigured));
    }
  }

  async function next() {
    const mine = ++turn;
    more.setAttribute('aria-busy', 'true');
    try {
      const answer = await get({ limit: 100, ...page });
      if (mine !== turn || signal.aborted) return;
      data = [...data, ...options.rows(answer)];
      page = following(answer, data);
      show();
    } catch (error) {
      if (mine === turn && !signal.aborted) fill(number, textOf(error));
    }
    more.removeAttribute('aria-busy');
  }

  let typing = 0;
  search.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(reload, 250);
  });
  if (!options.still) {
    const timer = setInterval(() => {
      if (!document.hidden) reload();
    }, refreshSeconds * 1000);
    signal.addEventListener('abort', () => clearInterval(timer));
  }
  reload();
  return { element, reload };
}
