// An editor of JSON: as a form or as text, with problems where they are.

import { h, fill, set, button, newId } from './dom.js';
import { form } from './form.js';
import { parse, locate, JSONError } from './jsontext.js';
import { plural } from './format.js';

/** @typedef {import('../types').FieldProblem} FieldProblem */

/**
 * What was typed on pages that were left, or when the session ended, by address;
 * base is the hash of the configuration that it was made from.
 * @type {Map<string, {text: string, base: string}>}
 */
export const drafts = new Map();

const lineHeight = 20; // of the text, in pixels, as in app.css

/**
 * @param {object} options
 * @param {any} options.value
 * @param {string} options.name what is edited
 * @param {string} options.prefix of the paths that the API gives
 * @param {string} options.base hash of the configuration that the value is from
 * @param {AbortSignal} options.signal
 * @param {boolean} [options.asText] whether it begins as text
 */
export function editor({ value, name, prefix, base, signal, asText = false }) {
  const address = location.hash;
  let data = structuredClone(value);
  let fields = form({ value: data, name });
  const text = h('textarea', { spellcheck: 'false', autocomplete: 'off', autocapitalize: 'off', wrap: 'off', 'aria-label': `${name} as JSON`, rows: 12 });
  const numbers = h('div', { class: 'line-numbers' });
  const marks = h('div', { class: 'line-marks' });
  const source = h('div', { class: 'json-text' }, h('div', { class: 'gutter', 'aria-hidden': 'true' }, numbers), h('div', { class: 'text-box' }, h('div', { class: 'marks-box', 'aria-hidden': 'true' }, marks), text));
  const host = h('div');
  const list = h('div', { class: 'problems', role: 'alert', id: newId('problems') });
  const asForm = button('Form', () => toForm(), { 'aria-pressed': 'true' });
  const asJSON = button('JSON', () => toText(), { 'aria-pressed': 'false' });
  const element = h('div', { class: 'editor' }, h('div', { class: 'switch', role: 'group', 'aria-label': 'Edit as' }, asForm, asJSON), offer(), host, list);

  /** @type {FieldProblem[]} */
  let problems = [];
  let textual = false;

  function view() {
    set(asForm, { 'aria-pressed': String(!textual) });
    set(asJSON, { 'aria-pressed': String(textual) });
    fill(host, textual ? source : fields.element);
    mark();
  }

  const original = JSON.stringify(value, null, 2);
  const now = () => textual ? text.value : JSON.stringify(data, null, 2);
  let kept = true; // whether a draft is of use
  signal.addEventListener('abort', () => {
    if (kept && now() !== original) drafts.set(address, { text: now(), base });
  });

  /** Offers what was typed here before. */
  function offer() {
    const draft = drafts.get(address);
    if (!draft) return null;
    const box = h('div', { class: 'panel draft' }, h('p', null, 'What you had typed here and not applied was kept.',
      draft.base === base ? null : ' The configuration has changed since: check what your text would change before you apply it.'));
    const done = () => {
      drafts.delete(address);
      box.remove();
    };
    box.append(h('div', { class: 'actions' }, button('Use it', () => {
      done();
      toText(draft.text);
      text.focus();
    }), button('Discard it', () => {
      done();
      asForm.focus();
    })));
    return box;
  }

  /** @param {string} [instead] */
  function toText(instead) {
    if (textual && instead === undefined) return;
    const what = instead ?? now();
    textual = true;
    text.value = what;
    resize();
    view();
  }

  function toForm() {
    if (!textual || read() === undefined) return;
    textual = false;
    fields = form({ value: data, name });
    view();
  }

  /** Reads the text. @returns {any} undefined if it is no JSON, which is shown */
  function read() {
    if (!textual) return data;
    try {
      data = parse(text.value).value;
    } catch (error) {
      if (!(error instanceof JSONError)) throw error;
      showSyntax(error);
      return undefined;
    }
    // A form is of an object; so is all that this edits, or a list.
    if (data === null || typeof data !== 'object') {
      showSyntax(new JSONError('An object or a list belongs here', 0));
      return undefined;
    }
    return data;
  }

  /** @param {number} at */
  const lineOf = (at) => text.value.slice(0, at).split('\n').length;

  /** @param {JSONError} error */
  function showSyntax(error) {
    problems = [];
    const line = lineOf(error.at);
    fill(list, h('p', null, button(`Line ${line}`, () => select(error.at, error.at + 1), { kind: 'link' }), `: ${error.message}.`));
    drawMarks([[line, error.message]]);
    set(text, { 'aria-invalid': 'true', 'aria-describedby': list.id });
    select(error.at, error.at + 1);
  }

  /** @param {number} start @param {number} end */
  function select(start, end) {
    text.focus();
    text.setSelectionRange(start, end);
    const top = (lineOf(start) - 1) * lineHeight;
    if (top < text.scrollTop || top > text.scrollTop + text.clientHeight - 2 * lineHeight) text.scrollTop = Math.max(0, top - text.clientHeight / 2);
  }

  /** @param {string} path */
  const inside = (path) => path === prefix ? '' : path.startsWith(prefix) && /[.[]/.test(path[prefix.length]) ? path.slice(prefix.length).replace(/^\./, '') : prefix === '' ? path : null;

  /** Shows the problems where they are. */
  function mark() {
    fill(list, problems.length === 0 ? null : [
      h('p', { class: 'problems-title' }, `${plural(problems.length, 'problem')}: nothing has changed yet.`),
      h('ul', null, problems.map(({ path, message }) => h('li', null, button(path || name, () => go(path), { kind: 'link' }), `: ${message}`))),
    ]);
    const here = problems.flatMap(({ path, message }) => {
      const at = inside(path);
      return at === null ? [] : [{ path: at, message }];
    });
    set(text, { 'aria-invalid': textual && here.length > 0 && 'true', 'aria-describedby': problems.length > 0 && list.id });
    if (!textual) {
      fields.show(here);
      return;
    }
    try {
      const { ranges } = parse(text.value);
      drawMarks(here.map(({ path, message }) => [lineOf(locate(ranges, path)[0]), message]));
    } catch {
      drawMarks([]);
    }
  }

  /** @param {string} path */
  function go(path) {
    const at = inside(path) ?? '';
    if (!textual) fields.focus(at);
    else {
      try {
        select(...locate(parse(text.value).ranges, at));
      } catch {
        text.focus();
      }
    }
  }

  /** @param {[number, string][]} lines */
  function drawMarks(lines) {
    fill(marks, lines.map(([line, message]) => {
      const one = h('div', { class: 'line-mark' }, h('span', null, message));
      one.style.top = `${(line - 1) * lineHeight}px`;
      return one;
    }));
  }

  function resize() {
    const lines = text.value.split('\n').length;
    text.rows = Math.min(32, Math.max(8, lines + 1));
    fill(numbers, Array.from({ length: lines }, (_, i) => `${i + 1}\n`).join(''));
    scroll();
  }

  function scroll() {
    numbers.style.transform = `translateY(${-text.scrollTop}px)`;
    marks.style.transform = `translateY(${-text.scrollTop}px)`;
  }

  text.addEventListener('scroll', scroll);
  text.addEventListener('input', () => {
    resize();
    drawMarks([]);
  });

  if (asText) toText();
  else view();

  return {
    element,
    /** What is edited, or undefined if it is no JSON, which is shown then. @returns {any} */
    read,
    /** Forgets what was typed: it is applied, or not wanted. */
    forget() {
      kept = false;
      drafts.delete(address);
    },
    /** Shows what the API found wrong, and goes to the first. @param {FieldProblem[]} found */
    show(found) {
      problems = found;
      mark();
      if (found.length > 0) go(found[0].path);
    },
  };
}
