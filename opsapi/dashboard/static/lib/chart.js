// A small chart of the last minutes, with a table of the same figures.

import { h, svg, set, fill, button } from './dom.js';
import { latest, windowSeconds } from './live.js';
import { values } from './figures.js';
import { clock } from './format.js';

/** @typedef {import('./figures.js').Line} Line */

const width = 300;
const height = 100;
const tableStep = 10; // seconds between the rows of the table

/**
 * @param {object} options
 * @param {string} options.title
 * @param {Line[]} options.lines one or two
 * @param {(n: number|undefined) => string} options.format with the unit
 * @param {string} options.href the page with more
 * @param {string} options.missing what to do where there are no such figures
 */
export function chart({ title, lines, format, href, missing }) {
  const id = `chart-${title.toLowerCase().replace(/\W+/g, '-')}`;
  const figures = lines.map(() => h('span', { class: 'figure' }, '–'));
  const top = h('span', { class: 'axis limit' });
  const curves = lines.map((_, i) => svg('path', { class: `curve curve-${i}` }));
  const area = svg('path', { class: 'area' });
  const grid = [0, 50, 100].map((y) => svg('path', { class: 'grid', d: `M0 ${y}H${width}` }));
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img' }, ...grid, area, ...curves);
  const readout = h('span', { class: 'axis readout' });
  const plot = h('div', { class: 'plot' }, picture, top, h('span', { class: 'axis from' }, '5 min ago'), readout, h('span', { class: 'axis to' }, 'now'));
  const rows = h('tbody');
  const twin = h('div', { class: 'twin', hidden: true, tabindex: 0, role: 'region', 'aria-label': `${title}, figures` },
    h('table', null, h('caption', { class: 'unseen' }, `${title}, the last 5 minutes`),
      h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'Time'), lines.map((line) => h('th', { scope: 'col' }, line.label)))), rows));
  const toggle = button('Table', () => {
    twin.hidden = !twin.hidden;
    plot.hidden = !twin.hidden;
    toggle.setAttribute('aria-pressed', String(!twin.hidden));
    update();
  }, { kind: 'quiet', 'aria-pressed': 'false', 'aria-label': `${title} as a table` });
  const body = h('div', { class: 'chart-body' }, plot, twin);
  const none = h('div', { class: 'chart-none', hidden: true }, h('p', null, missing));
  const legend = h('div', { class: 'legend' }, lines.map((line, i) => h('div', { class: `key key-${i}` }, figures[i], h('span', { class: 'key-label' }, line.label))));
  const element = h('section', { class: 'panel chart', 'aria-labelledby': id },
    h('header', null, h('h2', { id }, h('a', { href }, title)), toggle), legend, body, none);

  /** @type {number|null} where the pointer is, from 0 to 1 */
  let pointer = null;
  plot.addEventListener('pointermove', (event) => {
    const box = picture.getBoundingClientRect();
    pointer = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    update();
  });
  plot.addEventListener('pointerleave', () => {
    pointer = null;
    update();
  });

  function update() {
    const samples = latest.samples;
    const known = latest.stats !== undefined && lines.some((line) => samples.at(-1)?.[line.counter] !== undefined);
    const lacking = latest.stats !== undefined && !known;
    none.hidden = !lacking;
    body.hidden = legend.hidden = lacking;
    set(toggle, { hidden: lacking });
    const series = lines.map((line) => values(samples, line));
    series.forEach((list, i) => {
      const [, number, unit] = /** @type {string[]} */ (/^(\S*)(.*)$/.exec(format(list.at(-1))));
      fill(figures[i], number, h('small', null, unit));
    });
    const times = samples.slice(1).map((sample) => sample.at);
    const now = times.at(-1) ?? 0;
    const start = now - windowSeconds * 1000;
    if (!twin.hidden) {
      fill(rows, tableRows(times, series, format));
      return;
    }
    const shown = series.flatMap((list) => list.filter((v, i) => v !== undefined && times[i] >= start));
    const limit = nice(Math.max(0, .../** @type {number[]} */ (shown)));
    fill(top, format(limit));
    /** @param {number} at */
    const x = (at) => (at - start) / (windowSeconds * 1000) * width;
    /** @param {number} v */
    const y = (v) => height - v / limit * (height - 4);
    series.forEach((list, i) => {
      const d = path(times, list, x, y);
      curves[i].setAttribute('d', d);
      if (i === 0) area.setAttribute('d', areaOf(times, list, x, y));
    });
    if (pointer === null || !times.length) fill(readout);
    else {
      const at = start + pointer * windowSeconds * 1000;
      const i = times.reduce((best, t, j) => Math.abs(t - at) < Math.abs(times[best] - at) ? j : best, 0);
      fill(readout, `${clock(new Date(times[i]))} · ${series.map((list) => format(list[i])).join(' · ')}`);
    }
    picture.setAttribute('aria-label', `${title}, the last 5 minutes. ${lines.map((line, i) => `${line.label}: ${format(series[i].at(-1))}`).join(', ')}`);
  }
  return { element, update };
}

/** @param {number[]} times @param {(number|undefined)[][]} series @param {(n: number|undefined) => string} format */
function tableRows(times, series, format) {
  const list = [];
  for (let i = times.length - 1; i >= 0; i--) {
    if (i !== times.length - 1 && Math.floor(times[i] / 1000) % tableStep) continue;
    list.push(h('tr', null, h('th', { scope: 'row' }, clock(new Date(times[i]))), series.map((values) => h('td', null, format(values[i])))));
  }
  return list;
}

/** The next round number above n. @param {number} n */
function nice(n) {
  if (n <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(n * 1.05));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((m) => m * unit).find((m) => m >= n * 1.05) ?? n;
}

/**
 * @param {number[]} times @param {(number|undefined)[]} list
 * @param {(at: number) => number} x @param {(v: number) => number} y
 */
function path(times, list, x, y) {
  let d = '';
  let on = false;
  list.forEach((v, i) => {
    // Where the stream was away there is no line.
    if (v === undefined || x(times[i]) < 0) on = false;
    else {
      if (i > 0 && times[i] - times[i - 1] > 10_000) on = false;
      d += `${on ? 'L' : 'M'}${x(times[i]).toFixed(1)} ${y(v).toFixed(1)}`;
      on = true;
    }
  });
  return d;
}

/**
 * @param {number[]} times @param {(number|undefined)[]} list
 * @param {(at: number) => number} x @param {(v: number) => number} y
 */
function areaOf(times, list, x, y) {
  return path(times, list, x, y).split('M').filter(Boolean).map((part) => {
    const points = part.split('L');
    const first = points[0].split(' ')[0];
    const last = points[points.length - 1].split(' ')[0];
    return `M${first} ${height}L${points.join('L')}L${last} ${height}Z`;
  }).join('');
}
