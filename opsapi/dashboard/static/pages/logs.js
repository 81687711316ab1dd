// The log, as it is written.

import { h, fill, set, badge, button, empty, field } from '../lib/dom.js';
import { call } from '../lib/api.js';
import { failure } from '../lib/list.js';
import { plural } from '../lib/format.js';

export const title = 'Logs';

/** @typedef {import('../types').LogEntry} LogEntry */

const most = 1000; // lines on the page

/** @param {import('../types').Context} context */
export function render({ main, params, signal }) {
  const level = h('select', { onchange: reload }, [['debug', 'Debug'], ['info', 'Info'], ['warn', 'Warnings'], ['error', 'Errors']].map(([value, text]) => h('option', { value }, text)));
  level.value = 'info';
  const component = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', onchange: reload });
  const search = h('input', { type: 'search', autocomplete: 'off', spellcheck: 'false' });
  const correlation = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', value: params[0] ?? '', onchange: reload });
  const live = button('Pause', () => setLive(!following), { 'aria-pressed': 'false' });
  const older = button('Load older lines', loadOlder, { hidden: true });
  const number = h('p', { class: 'count', role: 'status' });
  const lines = h('ol', { class: 'log', 'aria-label': 'Log, the newest line last' });
  const view = h('div', { class: 'log-view', tabindex: 0, role: 'region', 'aria-label': 'Log' }, older, lines);
  const place = h('div');
  fill(main, h('h1', null, title),
    h('div', { class: 'toolbar' }, field('At least', level), field('Component', component), field('Text', search), field('Correlation id', correlation), live, number), place);

  let following = true;
  let first = 0; // seq of the first line shown
  let last = 0;
  let turn = 0;
  /** @type {EventSource|null} */
  let stream = null;
  /** @type {LogEntry[]} */
  let pending = []; // what came since the last drawing
  let drawing = 0;
  let typing = 0;
  search.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(reload, 250);
  });

  const filter = () => Object.fromEntries(Object.entries({
    level: level.value, component: component.value.trim(), search: search.value.trim(), correlation: correlation.value.trim(),
  }).filter(([, value]) => value));

  /** @param {LogEntry} e */
  const line = (e) => h('li', { class: `line ${e.level.toLowerCase().replace(/\W.*/, '')}` },
    h('time', { datetime: e.time, title: e.time }, new Date(e.time).toTimeString().slice(0, 8)),
    levelOf(e.level), h('span', { class: 'component' }, e.component ?? ''),
    h('span', { class: 'message' }, e.message, attributes(e)));

  /** @param {LogEntry} e */
  const attributes = (e) => Object.entries(e.attributes ?? {}).filter(([key]) => key !== 'component').map(([key, value]) => [' ',
    value && value === e.correlation
      ? button(`${key}=${value}`, () => { correlation.value = value; reload(); }, { kind: 'link', 'aria-label': `Only lines with ${key} ${value}` })
      : h('span', { class: 'attribute' }, `${key}=${value}`)]);

  const nothing = empty('No lines', 'Nothing has been logged that fits. Choose a lower level, or empty the filters.');

  function counted() {
    const n = lines.children.length;
    nothing.hidden = n > 0;
    const text = `${plural(n, 'line')}${following ? ', live' : ', paused'}`;
    if (number.textContent !== text) fill(number, text);
  }

  async function reload() {
    const mine = ++turn;
    close();
    try {
      const answer = await call('getLogs', { limit: 200, ...filter() }, signal);
      if (mine !== turn || signal.aborted) return;
      fill(lines, answer.entries.map(line));
      first = answer.entries[0]?.seq ?? 0;
      last = answer.entries.at(-1)?.seq ?? 0;
      set(older, { hidden: !answer.more });
      if (place.firstElementChild !== view) fill(place, view, nothing);
      counted();
      view.scrollTop = view.scrollHeight;
      if (following) open();
    } catch (error) {
      if (mine === turn && !signal.aborted) fill(place, failure(error, reload, empty('The log is not kept here', 'Give the host\'s logger an opsapi.LogBuffer (WithLogs), and its lines show here.')));
    }
  }

  async function loadOlder() {
    const mine = turn;
    const answer = await call('getLogs', { limit: 200, before: first, ...filter() }, signal);
    if (mine !== turn || signal.aborted) return;
    setLive(false); // else the new lines push the old ones out
    const height = view.scrollHeight;
    lines.prepend(...answer.entries.map(line));
    first = answer.entries[0]?.seq ?? first;
    set(older, { hidden: !answer.more || lines.children.length >= 4 * most });
    view.scrollTop += view.scrollHeight - height;
    counted();
  }

  function open() {
    const query = new URLSearchParams({ topics: 'log', ...filter(), logAfter: String(last) });
    stream = new EventSource(`api/v1/events?${query}`);
    stream.addEventListener('log', (event) => {
      pending.push(JSON.parse(event.data));
      if (pending.length > most) pending.shift();
      drawing ||= requestAnimationFrame(draw);
    });
    stream.addEventListener('lost', () => reload());
    const mine = stream;
    stream.onerror = () => {
      // The main stream finds out what is the matter.
      if (mine.readyState === EventSource.CLOSED && mine === stream) setTimeout(() => mine === stream && !signal.aborted && reload(), 5000);
    };
  }

  function draw() {
    drawing = 0;
    const atEnd = view.scrollTop + view.clientHeight >= view.scrollHeight - 40;
    const news = pending.filter((e) => e.seq > last);
    pending = [];
    if (news.length === 0) return;
    last = news[news.length - 1].seq;
    lines.append(...news.map(line));
    while (lines.children.length > most) {
      lines.firstElementChild?.remove();
      set(older, { hidden: false });
    }
    if (atEnd) view.scrollTop = view.scrollHeight;
    counted();
  }

  function close() {
    stream?.close();
    stream = null;
    cancelAnimationFrame(drawing);
    drawing = 0;
    pending = [];
  }

  /** @param {boolean} on */
  function setLive(on) {
    if (on === following) return;
    following = on;
    set(live, { 'aria-pressed': String(!on) });
    if (on) reload();
    else close();
    counted();
  }

  signal.addEventListener('abort', close);
  reload();
}

/** @param {string} level */
function levelOf(level) {
  if (level.startsWith('ERROR')) return badge('bad', 'Error');
  if (level.startsWith('WARN')) return badge('warn', 'Warn');
  return level.startsWith('INFO') ? badge('info', 'Info') : badge('idle', 'Debug');
}
