// The frame around the pages: signing in, navigation, what is seen everywhere.

import { h, fill, set, button, field, badge, notify } from './lib/dom.js';
import { call, session, textOf, APIError } from './lib/api.js';
import { follow, start, stop } from './lib/live.js';
import { freshen, ago, clock } from './lib/format.js';
import { pendingBanner } from './lib/changes.js';
import { drafts } from './lib/editor.js';
import * as overview from './pages/overview.js';
import * as routes from './pages/routes.js';
import * as certificates from './pages/certificates.js';
import * as mail from './pages/mail.js';
import * as dns from './pages/dns.js';
import * as radius from './pages/radius.js';
import * as limits from './pages/limits.js';
import * as security from './pages/security.js';
import * as logs from './pages/logs.js';
import * as configuration from './pages/configuration.js';
import * as audit from './pages/audit.js';

/** @typedef {import('./types').Identity} Identity */
/** @typedef {{title: string, render: (context: import('./types').Context) => void}} Page */

/** @type {Record<string, Page>} */
const pages = { overview, routes, certificates, mail, dns, radius, limits, security, logs, configuration, audit };

/** @type {[string, string[]][]} */
const navigation = [
  ['Gateway', ['overview', 'routes', 'certificates']],
  ['Services', ['mail', 'dns', 'radius']],
  ['Watch', ['security', 'limits', 'logs']],
  ['Control', ['configuration', 'audit']],
];

const refreshMinutes = 5; // a token lives for 15
const app = /** @type {HTMLElement} */ (document.getElementById('app'));

let inside = new AbortController(); // aborted when the session ends
let lastUser = '';

/** @param {string} [reason] */
function showSignIn(reason) {
  inside.abort();
  stop();
  document.title = 'Sign in · dcrouter';
  const username = h('input', { type: 'text', name: 'username', autocomplete: 'username', autocapitalize: 'off', spellcheck: 'false', required: true });
  const password = h('input', { type: 'password', name: 'password', autocomplete: 'current-password', required: true });
  const problem = h('p', { class: 'field-error', role: 'alert' });
  const submit = h('button', { type: 'submit', class: 'button primary' }, 'Sign in');
  const form = h('form', {
    onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      fill(problem);
      submit.disabled = true;
      try {
        const { identity } = await call('adminLoginWithUsernameAndPassword', { username: username.value, password: password.value, cookie: true });
        if ((await call('verifyIdentity')).valid) {
          enter(identity);
          return;
        }
        fill(problem, 'The browser does not keep the session: come by HTTPS, or from the gateway itself.');
      } catch (error) {
        fill(problem, error instanceof APIError && error.code === 'locked'
          ? ['Too many failed attempts. Try again at ', clock(new Date(error.data.retryAt)), ' (', ago(error.data.retryAt), ').'] : textOf(error));
      }
      submit.disabled = false;
      password.value = '';
      password.focus();
    },
  }, field('Username', username), field('Password', password), problem, submit);
  fill(app, h('main', { class: 'sign-in' }, h('img', { src: 'icon.svg', alt: '', width: 48, height: 48 }), h('h1', null, 'Sign in to dcrouter'), h('p', { class: 'lead', role: 'status' }, reason), form));
  username.focus();
}

/** @param {Identity} identity */
function enter(identity) {
  inside = new AbortController();
  const { signal } = inside;
  if (identity.userId !== lastUser) drafts.clear();
  lastUser = identity.userId;
  const main = h('main', { id: 'main', tabindex: -1 });
  const links = navigation.map(([group, names]) => h('div', { class: 'nav-group' }, h('p', { id: `nav-${group}` }, group),
    h('ul', { 'aria-labelledby': `nav-${group}` }, names.map((name) => h('li', null, h('a', { href: `#/${name}`, 'data-page': name }, pages[name].title))))));
  const nav = h('nav', { id: 'nav', 'aria-label': 'Pages' }, links);
  const menu = button('Menu', () => openMenu(!document.body.classList.contains('menu-open')), { class: 'button menu', 'aria-expanded': 'false', 'aria-controls': 'nav' });
  const health = h('span', { class: 'health' });
  const connection = h('span', { class: 'connection', role: 'status' });

  /** @param {boolean} is */
  function openMenu(is) {
    document.body.classList.toggle('menu-open', is);
    menu.setAttribute('aria-expanded', String(is));
  }

  follow('health', (/** @type {import('./types').Health} */ state) => {
    const bad = state.components.filter((c) => !c.ready);
    fill(health, state.status === 'healthy' ? badge('ok', 'Healthy') : badge('bad', `Degraded: ${bad.map((c) => c.name).join(', ')}`));
  }, signal);
  let lost = 0;
  follow('connected', (on) => {
    clearTimeout(lost);
    if (on) fill(connection);
    else lost = setTimeout(() => fill(connection, badge('warn', 'Not live: connecting…')), 2000);
  }, signal);

  const signOut = button('Sign out', async () => {
    inside.abort();
    history.replaceState(null, '', '#/overview'); // whoever signs in next begins there
    try {
      await call('adminLogout');
      showSignIn('You have signed out.');
    } catch (error) {
      showSignIn(`You are signed out here, but the gateway does not know: ${textOf(error)}`);
    }
  });
  fill(app,
    h('a', { class: 'skip', href: '#main', onclick: (/** @type {Event} */ event) => { event.preventDefault(); main.focus(); } }, 'Skip to the content'),
    h('header', { class: 'top' }, menu, h('a', { class: 'brand', href: '#/overview' }, h('img', { src: 'icon.svg', alt: '', width: 24, height: 24 }), 'dcrouter'),
      health, connection, h('span', { class: 'who' }, identity.name, h('span', { class: 'role' }, identity.role)), signOut),
    pendingBanner(identity, signal), nav, main);

  let here = new AbortController();
  /** @param {boolean} moved whether the user went here */
  function show(moved) {
    const [name, ...params] = location.hash.replace(/^#\/?/, '').split('/').map(decode);
    const page = pages[name];
    if (!page) {
      location.replace('#/overview');
      return;
    }
    here.abort();
    here = new AbortController();
    openMenu(false);
    for (const link of nav.querySelectorAll('a')) set(link, { 'aria-current': link.dataset.page === name ? 'page' : null });
    fill(main);
    page.render({ main, params, signal: here.signal, identity });
    const heading = main.querySelector('h1');
    document.title = `${heading?.textContent ?? page.title} · dcrouter`;
    set(/** @type {Element} */ (heading), { tabindex: -1 });
    scrollTo(0, 0);
    if (moved) heading?.focus();
  }
  addEventListener('hashchange', () => show(true), { signal });
  addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && document.body.classList.contains('menu-open')) {
      openMenu(false);
      menu.focus();
    }
  }, { signal });
  const timers = [setInterval(freshen, 10_000), setInterval(() => call('refreshIdentity').catch(() => {}), refreshMinutes * 60_000)];
  signal.addEventListener('abort', () => {
    here.abort();
    timers.forEach(clearInterval);
  });
  session.ended = () => {
    if (!signal.aborted) showSignIn('Your session has ended. Sign in again.');
  };
  start();
  show(true);
}

/** @param {string} part */
function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

addEventListener('unhandledrejection', (event) => {
  if (event.reason?.name !== 'AbortError') notify(textOf(event.reason), 'bad');
  event.preventDefault();
});

try {
  const { valid, identity } = await call('verifyIdentity');
  if (valid) enter(identity);
  else showSignIn();
} catch (error) {
  showSignIn(textOf(error));
}
