// Figures and times in words. Every figure has its unit.

import { h } from './dom.js';

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** @param {number|undefined} n */
export function count(n) {
  if (n === undefined || !Number.isFinite(n)) return '–';
  return n >= 1e7 ? scaled(n, ['', ' k', ' M', ' G', ' T']) : grouped.format(n);
}

/** A figure with three digits that count. @param {number} n @param {string[]} units of 1, 1000, ... */
function scaled(n, units) {
  let i = 0;
  while (Math.abs(n) >= 999.5 && i < units.length - 1) {
    n /= 1000;
    i++;
  }
  const digits = i === 0 || n >= 100 ? 0 : n >= 10 ? 1 : 2;
  return n.toFixed(i === 0 && n > 0 && n < 10 && n % 1 ? 1 : digits) + units[i];
}

/** @param {number|undefined} n */
export function bytes(n) {
  return n === undefined ? '–' : scaled(n, [' B', ' kB', ' MB', ' GB', ' TB', ' PB']);
}

/** @param {number|undefined} n */
export function bitRate(n) {
  return n === undefined ? '–' : scaled(n, [' bit/s', ' kbit/s', ' Mbit/s', ' Gbit/s', ' Tbit/s']);
}

/** @param {number|undefined} n @param {string} unit */
export function figure(n, unit) {
  if (n === undefined) return '–';
  return `${n < 1e4 && n % 1 && n < 100 ? n.toFixed(1) : count(n)} ${unit}`;
}

/** "1 message", "2 messages". @param {number} n @param {string} one @param {string} [many] */
export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ''}`.trim();
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

/** @param {number} n */
const two = (n) => String(n).padStart(2, '0');

/** The time of day here. @param {Date} d */
export function clock(d) {
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

/** @param {Date} d */
function date(d) {
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
}

/** A time here, with that in UTC as its title. @param {string|undefined} iso */
export function when(iso) {
  if (!iso) return null;
  const d = new Date(iso);
  return h('time', { datetime: iso, title: `${d.toISOString().slice(0, 19).replace('T', ' ')} UTC` }, `${date(d)} ${clock(d)}`);
}

/** How long ago or ahead a time is; it is kept right by [freshen]. @param {string|undefined} iso */
export function ago(iso) {
  if (!iso) return null;
  const d = new Date(iso);
  return h('time', { datetime: iso, 'data-ago': true, title: `${date(d)} ${clock(d)}` }, distance(d));
}

/** @param {Date} d */
function distance(d) {
  const s = Math.round((d.getTime() - Date.now()) / 1000);
  const text = rough(Math.abs(s));
  if (Math.abs(s) < 5) return 'now';
  return s > 0 ? `in ${text}` : `${text} ago`;
}

/** @param {number} s */
function rough(s) {
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  if (s < 36 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

/** Keeps all distances of time on the page right. */
export function freshen() {
  for (const element of document.querySelectorAll('time[data-ago]')) {
    const text = distance(new Date(element.getAttribute('datetime') ?? ''));
    if (element.textContent !== text) element.textContent = text;
  }
}
