// A form made of a JSON value: a control for each leaf, a group for each object
// and list.

import { h, fill, set, button, field, newId } from './dom.js';
import { join, parse, split } from './jsontext.js';

/** @typedef {import('../types').FieldProblem} FieldProblem */

/**
 * @param {object} options
 * @param {any} options.value it is changed in place
 * @param {string} options.name what the whole is called
 */
export function form({ value, name }) {
  const element = h('div', { class: 'json-form' });
  /** @type {Map<string, {show: (texts: string[]) => void, focus: () => void}>} fields and groups, by path */
  let places = new Map();

  function build() {
    places = new Map();
    fill(element, group(value, '', name, null));
  }

  /** Builds anew and goes to a field. @param {string} path */
  function rebuild(path) {
    build();
    focus(path);
  }

  /**
   * @param {any} data @param {string} path @param {string} label @param {(() => void)|null} remove
   * @returns {HTMLElement}
   */
  function node(data, path, label, remove) {
    return data !== null && typeof data === 'object' ? group(data, path, label, remove) : leaf(data, path, label, remove);
  }

  /** @param {string} label @param {(() => void)|null} remove */
  const removal = (label, remove) => remove && button('×', remove, { kind: 'quiet remove', 'aria-label': `Remove ${label}`, title: `Remove ${label}` });

  /** @param {any} data @param {string} path @param {string} label @param {(() => void)|null} remove */
  function leaf(data, path, label, remove) {
    const error = h('span', { class: 'field-error', id: newId('error'), hidden: true });
    const control = typeof data === 'boolean'
      ? h('input', { type: 'checkbox', checked: data, onchange: () => assign(path, control.checked) })
      : h('input', {
        type: 'text', value: data === null ? 'null' : String(data), spellcheck: 'false', autocomplete: 'off',
        inputmode: typeof data === 'number' ? 'decimal' : null, oninput: () => assign(path, read(control.value, data)),
      });
    const box = field(label, control);
    box.append(error);
    places.set(path, {
      show(texts) {
        fill(error, texts.join('; '));
        error.hidden = texts.length === 0;
        set(control, { 'aria-invalid': texts.length > 0 && 'true', 'aria-describedby': texts.length > 0 && error.id });
      },
      focus: () => control.focus(),
    });
    return h('div', { class: 'leaf' }, box, removal(label, remove));
  }

  /** @param {any} data @param {string} path @param {string} label @param {(() => void)|null} remove */
  function group(data, path, label, remove) {
    const error = h('p', { class: 'field-error', hidden: true, id: newId('error') });
    const list = Array.isArray(data);
    const members = list
      ? data.map((item, i) => node(item, join(path, i), `${label} ${i + 1}`, () => {
        data.splice(i, 1);
        rebuild(path);
      }))
      : Object.entries(data).map(([key, item]) => node(item, join(path, key), key, () => {
        delete data[key];
        rebuild(path);
      }));
    const plain = list && data.every((item) => item === null || typeof item !== 'object');
    const box = h('fieldset', { tabindex: -1, class: plain ? 'plain-list' : null }, h('legend', null, label), error, members,
      h('div', { class: 'group-tools' }, list && data.length > 0
        ? button(`Add to ${label}`, () => {
          data.push(blank(data[data.length - 1]));
          rebuild(join(path, data.length - 1));
        }, { kind: 'quiet' })
        : addition(data, path, label), remove && button(`Remove ${label}`, remove, { kind: 'quiet' })));
    places.set(path, {
      show(texts) {
        fill(error, texts.join('; '));
        error.hidden = texts.length === 0;
        set(box, { 'aria-describedby': texts.length > 0 && error.id });
      },
      focus: () => (/** @type {HTMLElement|null} */ (box.querySelector('input')) ?? box).focus(),
    });
    return box;
  }

  /** What adds a member that there is no pattern for. @param {any} data @param {string} path @param {string} label */
  function addition(data, path, label) {
    const key = h('input', { type: 'text', spellcheck: 'false', autocomplete: 'off' });
    const content = h('input', { type: 'text', spellcheck: 'false', autocomplete: 'off' });
    const list = Array.isArray(data);
    const add = () => {
      if (!list && (key.value.trim() === '' || key.value.trim() in data)) {
        key.focus();
        return;
      }
      const step = list ? data.length : key.value.trim();
      data[step] = readAny(content.value);
      rebuild(join(path, step));
    };
    return h('details', { class: 'addition' }, h('summary', null, list ? `Add to ${label}` : `Add a field to ${label}`),
      h('div', { class: 'row' }, list ? null : field('Name', key), field('Value', content, 'Text, or JSON such as 443, true, ["a"] or {"b": 1}'), button('Add', add)));
  }

  /** @param {string} path @param {any} to */
  function assign(path, to) {
    const steps = split(path);
    const last = steps.pop();
    const holder = steps.reduce((/** @type {any} */ at, step) => at[step], value);
    if (last !== undefined) holder[last] = to;
  }

  /** The innermost place that there is on the way to a path. @param {string} path */
  function nearest(path) {
    const steps = split(path);
    for (; steps.length; steps.pop()) {
      const known = steps.reduce(join, '');
      if (places.has(known)) return known;
    }
    return '';
  }

  /** @param {string} path */
  function focus(path) {
    places.get(nearest(path))?.focus();
  }

  build();
  return {
    element,
    focus,
    /** Shows each problem at its field. @param {FieldProblem[]} problems */
    show(problems) {
      /** @type {Map<string, string[]>} */
      const texts = new Map();
      for (const { path, message } of problems) {
        const at = nearest(path);
        const rest = split(path).slice(split(at).length).reduce(join, '');
        texts.set(at, [...texts.get(at) ?? [], rest ? `${rest}: ${message}` : message]);
      }
      for (const [path, known] of places) known.show(texts.get(path) ?? []);
    },
  };
}

/** What was typed, of the kind that was there. @param {string} text @param {any} before */
function read(text, before) {
  if (typeof before === 'string') return text;
  return typeof before === 'number' && !/^-?\d+(\.\d+)?$/.test(text.trim()) ? text : readAny(text);
}

/** JSON, or else text. @param {string} text */
function readAny(text) {
  try {
    return parse(text).value;
  } catch {
    return text;
  }
}

/** A value of the same shape with nothing in it. @param {any} value @returns {any} */
function blank(value) {
  if (Array.isArray(value)) return [];
  if (value !== null && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, blank(inner)]));
  return typeof value === 'number' ? 0 : typeof value === 'boolean' ? false : '';
}

