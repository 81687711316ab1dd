// Making elements, and the small parts that every page uses.

/** @typedef {Node|string|number|null|undefined|false|Child[]} Child */
/** @typedef {Record<string, any>|null} Props */

/**
 * Makes an element. Props are attributes, or listeners where the name begins with
 * "on". Text is always text: nothing here reads markup.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Props} [props] @param {Child[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  element.append(...nodes(children));
  set(element, props);
  return element;
}

/**
 * Makes an element of SVG.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag @param {Props} [props] @param {SVGElement[]} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, props, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  element.append(...children);
  set(element, props);
  return element;
}

/** @param {Element} element @param {Props} [props] */
export function set(element, props) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === 'function') element.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked') Reflect.set(element, name, value);
    else if (value === undefined || value === null || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
}

/** @param {Child[]} children @returns {(Node|string)[]} */
export function nodes(children) {
  /** @type {(Node|string)[]} */
  const list = [];
  for (const child of children) {
    if (Array.isArray(child)) list.push(...nodes(child));
    else if (child instanceof Node) list.push(child);
    else if (child !== null && child !== undefined && child !== false) list.push(String(child));
  }
  return list;
}

/** Replaces what is in an element. @param {Element} element @param {Child[]} children */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
}

let lastId = 0;

/** An id for labels and descriptions. @param {string} prefix */
export function newId(prefix) {
  return `${prefix}-${++lastId}`;
}

/**
 * A button.
 * @param {string} label @param {(event: Event) => unknown} action
 * @param {Props} [props] with `kind`: primary, danger or quiet
 */
export function button(label, action, props) {
  const { kind = '', ...rest } = props ?? {};
  return h('button', { type: 'button', class: `button ${kind}`.trim(), onclick: action, ...rest }, label);
}

/**
 * A labelled control. The control gets the label's id and, if there is one, the
 * hint as its description.
 * @param {string} label @param {HTMLElement} control @param {string} [hint]
 */
export function field(label, control, hint) {
  control.id ||= newId('field');
  const below = hint ? h('span', { class: 'hint', id: `${control.id}-hint` }, hint) : null;
  if (below) control.setAttribute('aria-describedby', below.id);
  const check = control instanceof HTMLInputElement && control.type === 'checkbox';
  return h('div', { class: check ? 'field check' : 'field' }, h('label', { for: control.id }, label), control, below);
}

/** A word about a state, with a mark that is more than a colour. @param {'ok'|'warn'|'bad'|'idle'|'info'} tone @param {string} text */
export function badge(tone, text) {
  return h('span', { class: `badge ${tone}` }, text);
}

/**
 * What a page or a part shows where there is nothing.
 * @param {string} title @param {Child} text @param {Child} [action]
 */
export function empty(title, text, action) {
  return h('div', { class: 'empty' }, h('p', { class: 'empty-title' }, title), h('p', null, text), action);
}

/** Pairs of names and values. @param {[string, Child][]} pairs */
export function facts(pairs) {
  return h('dl', { class: 'facts' }, pairs.map(([name, value]) => value === null || value === undefined || value === '' || value === false ? null
    : h('div', null, h('dt', null, name), h('dd', null, value))));
}

/** A part of a page with a heading. @param {string} title @param {Child[]} children */
export function section(title, ...children) {
  const id = newId('section');
  return h('section', { class: 'panel', 'aria-labelledby': id }, h('h2', { id }, title), children);
}

/** Links between the pages of one area. @param {string} label @param {string} here address of this one @param {[string, string][]} links address and text */
export function subnav(label, here, links) {
  return h('nav', { class: 'subnav', 'aria-label': label }, links.map(([href, text]) =>
    h('a', { href, 'aria-current': here === href ? 'page' : null }, text)));
}

/**
 * Says that something happened, to eyes and to screen readers. What went wrong
 * stays until it is closed.
 * @param {string} text @param {'ok'|'bad'} [tone]
 */
export function notify(text, tone = 'ok') {
  const host = /** @type {HTMLElement} */ (document.getElementById('notices'));
  const notice = h('div', { class: `notice ${tone}` }, h('span', null, text));
  notice.append(button('Close', () => notice.remove(), { kind: 'quiet' }));
  host.append(notice);
  while (host.children.length > 3) host.firstElementChild?.remove();
  if (tone === 'ok') setTimeout(() => notice.remove(), 8000);
}

/**
 * Asks before something is done that cannot be undone. Resolves to what was
 * typed where `input` asks for text, else to "", or null for no.
 * @param {{title: string, text: Child, action: string, danger?: boolean, input?: string}} options
 * @returns {Promise<string|null>}
 */
export function ask({ title, text, action, danger, input }) {
  const id = newId('dialog');
  const control = input ? h('input', { type: 'text', maxlength: 200 }) : null;
  const form = h('form', { method: 'dialog' },
    h('h2', { id }, title), h('div', { class: 'dialog-text' }, text), control ? field(input ?? '', control) : null,
    h('div', { class: 'actions' },
      h('button', { class: `button ${danger ? 'danger' : 'primary'}`, value: 'yes' }, action),
      h('button', { class: 'button', value: 'no', formnovalidate: true }, 'Cancel')));
  const dialog = h('dialog', { 'aria-labelledby': id }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'yes' ? control?.value ?? '' : null);
    });
    dialog.showModal();
  });
}

/**
 * Copies text, or where the browser does not let us selects it to be copied by
 * hand.
 * @param {string} text @param {Element} shown the element that shows it
 */
export async function copy(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    notify('Copied.');
  } catch {
    getSelection()?.selectAllChildren(shown);
    notify('Selected: press Ctrl+C to copy.');
  }
}
