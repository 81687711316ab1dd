// Which limits hold, and how full they are.

import { h, fill, badge } from '../lib/dom.js';
import { call } from '../lib/api.js';
import { load, table } from '../lib/list.js';
import { bytes, count, duration } from '../lib/format.js';

export const title = 'Limits';

/** @typedef {import('../types').Limit} Limit */

const refreshSeconds = 5;

/** @param {Limit} l */
function value(l) {
  if (l.value === 0) return 'none';
  if (l.unit === 'ms') return l.value < 1000 ? `${l.value} ms` : duration(l.value / 1000);
  return l.unit === 'bytes' ? bytes(l.value) : `${count(l.value)} ${l.unit}`;
}

/** @param {Limit} l */
function used(l) {
  if (l.used === undefined) return '–';
  if (l.value === 0) return count(l.used);
  const part = l.used / l.value;
  const text = `${count(l.used)} (${Math.round(part * 100)} %)`;
  return part >= 0.9 ? badge('bad', text) : part >= 0.7 ? badge('warn', text) : text;
}

/** @param {import('../types').Context} context */
export function render({ main, signal }) {
  const place = h('div');
  fill(main, h('h1', null, title), h('p', { class: 'lead' }, 'What clients may take up, and how much of it is taken now.'), place);
  const list = table({
    caption: 'Limits', key: (/** @type {Limit} */ l) => l.name,
    columns: [
      { label: 'Limit', wide: true, cell: (l) => h('code', null, l.name) },
      { label: 'Value', number: true, cell: value },
      { label: 'Set in', cell: (l) => ({ section: 'its own field', limits: 'limits', default: 'default' })[l.from] },
      { label: 'In use', number: true, cell: used },
      { label: 'Refused', number: true, cell: (l) => l.reached === undefined ? '–' : count(l.reached) },
    ],
  });
  const show = () => load(place, {
    signal, load: () => call('getLimits', {}, signal),
    show: ({ limits }) => {
      list.update(limits);
      return list.element;
    },
  });
  const timer = setInterval(show, refreshSeconds * 1000);
  signal.addEventListener('abort', () => clearInterval(timer));
  show();
}
