// Drives the dashboard in Chromium, by the keyboard alone where an operator
// would work, and prints a line of JSON for each step.
import { readFileSync, mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const { CHROMIUM, FULL, BARE, PASSWORD, DASHBOARD_SCREENSHOTS: shots } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const patience = 30_000; // for anything, on a slow machine

const browser = await chromium.launch({
  executablePath: CHROMIUM, headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

/** What went wrong in any page: violations of the policy, errors. */
const troubles = [];

async function open(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce', ...options });
  context.setDefaultTimeout(patience);
  const page = await context.newPage();
  page.on('pageerror', (error) => troubles.push(`error in the page: ${error.message}`));
  page.on('console', (message) => {
    // Chromium logs each answer that is no 2xx; those are part of the test.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) troubles.push(`console: ${message.text()}`);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    addEventListener('securitypolicyviolation', (event) => globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
  });
  await page.goto(url);
  return page;
}

if (shots) mkdirSync(shots, { recursive: true });

/** Takes a picture, if somebody wants to see it. */
async function picture(page, name) {
  if (shots) await page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
}

let failed = false;

async function step(name, work, page) {
  const start = Date.now();
  const result = { name };
  try {
    result.findings = await work() ?? [];
  } catch (error) {
    failed = true;
    result.error = error.stack;
    if (page) {
      result.error += `\n${(await page.evaluate(() => `${location.hash}\n${document.querySelector('main')?.innerText.slice(0, 1500)}`).catch(() => ''))}`;
      await picture(page, `failed-${name.replace(/\W+/g, '-')}`).catch(() => {});
    }
  }
  result.millis = Date.now() - start;
  console.log(JSON.stringify(result));
}

function check(is, what) {
  if (!is) throw new Error(what);
}

/** Waits until something in the page is true. */
const until = (page, what, arg) => page.waitForFunction(what, arg, { timeout: patience });

/** Goes to a control by the keyboard: Tab until it has the focus. */
async function tabTo(page, name, backwards = false) {
  for (let i = 0; i < 150; i++) {
    const here = await page.evaluate(() => {
      const e = document.activeElement;
      if (!e || e === document.body) return '';
      const label = e.getAttribute('aria-label') ?? e.labels?.[0]?.textContent ?? e.textContent ?? '';
      const style = getComputedStyle(e);
      return { label: label.trim(), seen: style.outlineStyle !== 'none' || getComputedStyle(e.parentElement).outlineStyle !== 'none' || getComputedStyle(e.closest('.json-text') ?? e).outlineStyle !== 'none' };
    });
    if (here.label === name) {
      check(here.seen, `the focus at "${name}" cannot be seen`);
      return;
    }
    await page.keyboard.press(backwards ? 'Shift+Tab' : 'Tab');
  }
  throw new Error(`no way to "${name}" by the keyboard`);
}

async function press(page, name, key = 'Enter') {
  await tabTo(page, name);
  await page.keyboard.press(key);
}

async function type(page, name, text) {
  await tabTo(page, name);
  await page.keyboard.press('Control+A');
  await page.keyboard.type(text);
}

const heading = (page, text) => until(page, (t) => document.querySelector('h1')?.textContent.startsWith(t) && document.title.startsWith(t) && !document.querySelector('main [aria-busy], main .loading'), text);
const notice = (page, text) => until(page, (t) => document.getElementById('notices').textContent.includes(t), text);
const api = (page, method, request = {}) => page.evaluate(async ([m, r]) => (await fetch(`api/v1/${m}`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(r) })).json(), [method, request]);
const port = async (page) => (await api(page, 'getRoutes')).routes[0].action.targets[0].port;

async function signIn(page, username) {
  await type(page, 'Username', username);
  await type(page, 'Password', PASSWORD);
  await page.keyboard.press('Enter');
  await heading(page, 'Overview');
}

/** Edits the port of the first target by the keyboard, from the list of routes. */
async function editPort(page, value) {
  await press(page, 'Edit api-gateway');
  await heading(page, 'Edit route');
  await type(page, 'port', value);
}

const everyPage = [
  'overview', 'routes', 'routes/edit/0', 'routes/edit/all', 'certificates', 'mail/queue', 'mail/quarantine', 'mail/message/01JDW2K9Q7', 'mail/suppression', 'mail/domains', 'dns', 'dns/example.com.',
  'radius/sessions', 'radius/clients', 'radius/vlans', 'security', 'limits', 'logs', 'configuration', 'configuration/history', 'configuration/compare', 'configuration/edit', 'audit',
];

/** Goes to a page and waits until it is there. */
async function visit(p, name) {
  await p.evaluate((hash) => { location.hash = hash; }, `#/${name}`);
  await until(p, (hash) => location.hash === hash && document.getElementById('nav') && document.querySelector('main h1') && !document.querySelector('main [aria-busy], main .loading'), `#/${name}`);
}

/** What axe-core finds in a page. */
const findings = (p, label) => p.evaluate(async (where) => {
  const { violations } = await globalThis.axe.run(document, { resultTypes: ['violations'] });
  return violations.flatMap((v) => v.nodes.map((n) => `${where}: ${v.id}: ${n.html.slice(0, 200)}: ${n.failureSummary}`));
}, label);

const looks = [['light', 1280], ['dark', 320]];

/** A Server that has nothing, while the other waits for a change to take itself back. */
async function nothingConfigured() {
  const empty = await open(BARE, { viewport: { width: 320, height: 640 } });
  await step('nothing is configured', async () => {
    await signIn(empty, 'admin');
    await empty.evaluate(axe);
    const found = [];
    for (const [name, hint] of [
      ['routes', 'smartProxyConfig.routes'], ['certificates', 'smartProxyConfig.acme'], ['mail/queue', 'emailConfig'], ['mail/quarantine', 'emailConfig'], ['mail/suppression', 'emailConfig'],
      ['mail/domains', 'emailConfig'], ['dns', 'dnsServerConfig'], ['radius/sessions', 'radiusConfig'], ['radius/clients', 'radiusConfig'], ['radius/vlans', 'radiusConfig'],
      ['security', '"blocking"'], ['logs', 'WithLogs'], ['configuration', 'WithConfiguration'], ['configuration/history', 'WithConfiguration'], ['overview', 'configure radiusConfig'],
    ]) {
      await visit(empty, name);
      try {
        await until(empty, (text) => [...document.querySelectorAll('.empty, .chart-none')].some((e) => e.checkVisibility() && e.textContent.includes(text)), hint);
      } catch {
        found.push(`${name} does not say what to do`);
      }
      found.push(...await findings(empty, `${name} of nothing`));
      await picture(empty, `bare-${name.replace(/\W+/g, '-')}`);
    }
    troubles.push(...await empty.evaluate(() => globalThis.violations));
    return found;
  }, empty);
}

const page = await open(FULL);

await step('sign in', async () => {
  await until(page, () => document.activeElement?.getAttribute('name') === 'username');
  await page.evaluate(axe);
  await page.keyboard.type('admin');
  await type(page, 'Password', 'wrong');
  await page.keyboard.press('Enter');
  await until(page, () => document.querySelector('[role=alert]')?.textContent.includes('Wrong username or password'));
  const found = await findings(page, 'signing in');
  await signIn(page, 'admin');
  check(await page.evaluate(() => document.cookie === ''), 'script sees the session');
  check(await page.evaluate(() => document.activeElement.tagName === 'H1'), 'the focus is not at the heading');
  return found;
}, page);

await step('JSON with places', async () => page.evaluate(async () => {
  const { parse, locate, split, join } = await import('/lib/jsontext.js');
  const found = [];
  for (const text of ['{}', ' [1, -2.5e3, true, null, "a\\u00e9\\n"] ', '{"a": {"b.c": [{"d": "e"}]}, "__proto__": 1}', '0', '""',
    '', '{', '[1,]', '{"a":1,}', '{a:1}', '01', '1 2', '"\n"', '"\\x"', 'nul', '[1 2]', '{"a" 1}', '-', '[', '{"a":']) {
    let want, got;
    try { want = JSON.stringify(JSON.parse(text)); } catch { want = 'error'; }
    try { got = JSON.stringify(parse(text).value); } catch (e) { got = Number.isInteger(e.at) && e.at <= text.length ? 'error' : String(e); }
    if (want !== got) found.push(`${text}: ${got}, not ${want}`);
  }
  const text = '{"routes": [{"name": "a"}, {"x-y": {"a.b": 70000}}]}';
  const { ranges } = parse(text);
  for (const [path, want] of [['routes[1].x-y["a.b"]', '70000'], ['routes[0].name', '"a"'], ['routes[0].port', '{"name": "a"}'], ['routes[7]', '[{"name": "a"}, {"x-y": {"a.b": 70000}}]'], ['', text]]) {
    const got = text.slice(...locate(ranges, path));
    if (got !== want) found.push(`${path}: ${got}`);
    if (split(path).reduce(join, '') !== path) found.push(`${path} becomes ${split(path).reduce(join, '')}`);
  }
  const { values } = await import('/lib/figures.js');
  const samples = [0, 1, 2, 12].map((s) => ({ at: s * 1000, requests: [100, 110, 130, 230][s > 2 ? 3 : s], connections: s }));
  const rates = JSON.stringify([values(samples, { counter: 'requests', per: 1 }), values(samples, { counter: 'requests', per: 60, over: 2 }), values(samples, { counter: 'connections' }), values(samples, { counter: 'queries', per: 1 })]);
  if (rates !== '[[10,20,10],[600,900,600],[1,2,12],[null,null,null]]') found.push(`rates: ${rates}`);
  return found;
}), page);

await step('live figures', async () => {
  const read = () => page.evaluate(() => [...document.querySelectorAll('.chart')].map((c) => c.querySelector('.figure').textContent));
  await until(page, () => [...document.querySelectorAll('.chart')].every((c) => /\d/.test(c.querySelector('.figure').textContent) && c.querySelector('.curve').getAttribute('d')));
  const before = await read();
  check(before.length === 6 && before.every((text) => /\d/.test(text)), `figures: ${before}`);
  await until(page, (old) => [...document.querySelectorAll('.chart')].filter((c, i) => c.querySelector('.figure').textContent !== old[i]).length >= 3, before);
  check((await read())[1].endsWith(' per s') && (await read())[2].endsWith('bit/s'), `figures without a unit: ${await read()}`);
  await press(page, 'Bandwidth as a table', 'Space');
  await until(page, () => document.querySelector('[aria-label="Bandwidth, figures"] tbody tr td')?.textContent.includes('bit/s'));
  const box = await page.evaluate(() => document.querySelector('.chart:nth-child(3)').getBoundingClientRect().height);
  await press(page, 'Bandwidth as a table', 'Space');
  check(box === await page.evaluate(() => document.querySelector('.chart:nth-child(3)').getBoundingClientRect().height), 'the page jumps when a table is shown');
}, page);

await step('an error at its field', async () => {
  await page.keyboard.press('Home');
  await press(page, 'Routes');
  await heading(page, 'Routes');
  await until(page, () => document.body.innerText.includes('Ejected') && document.body.innerText.includes('192.0.2.21:8080'));
  await editPort(page, '70000');
  await press(page, 'Check');
  await until(page, () => {
    const bad = document.querySelectorAll('main input[aria-invalid=true]');
    const error = document.getElementById(bad[0]?.getAttribute('aria-describedby'));
    return bad.length === 1 && bad[0].value === '70000' && bad[0] === document.activeElement && error?.textContent.includes('70000') && error.checkVisibility();
  });
  await picture(page, 'error-form');
  const found = await findings(page, 'an error in a form');
  // The same as text.
  await tabTo(page, 'JSON', true);
  await page.keyboard.press('Enter');
  await until(page, () => document.querySelector('.line-mark')?.textContent.includes('70000'));
  await picture(page, 'error-text');
  found.push(...await findings(page, 'an error in text'));
  check(await page.evaluate(() => {
    const mark = document.querySelector('.line-mark').getBoundingClientRect();
    const number = Math.round((mark.top - document.querySelector('textarea').getBoundingClientRect().top - 8) / 20);
    return document.querySelector('textarea').value.split('\n')[number].includes('"port": 70000');
  }), 'the mark is not at the line');
  await tabTo(page, 'route as JSON');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('{"a": 1,}');
  await press(page, 'Check');
  await until(page, () => document.querySelector('.problems')?.textContent.includes('No comma belongs before }'));
  check(await port(page) === 8080, 'the route has changed');
  return found;
}, page);

let bare = Promise.resolve();

await step('a change takes itself back', async () => {
  await press(page, 'Cancel');
  await heading(page, 'Routes');
  await editPort(page, '9090');
  await press(page, 'Check');
  await until(page, () => document.querySelector('.outcome')?.innerText.includes('targets[0].port'));
  await type(page, 'Why (for the history)', 'move the backend');
  await type(page, 'Seconds to confirm in', '5');
  // On a slow machine it may have come and gone before anybody looks.
  await page.evaluate(() => {
    const banner = document.querySelector('.pending');
    globalThis.shown = [];
    new MutationObserver(() => {
      if (!banner.hidden) globalThis.shown.push(banner.innerText.replace(/\s+/g, ' '));
    }).observe(banner, { subtree: true, childList: true, attributes: true });
  });
  await press(page, 'Apply');
  await heading(page, 'Routes');
  bare = nothingConfigured();
  await notice(page, 'The change was taken back');
  await until(page, () => document.querySelector('.pending').hidden);
  const shown = await page.evaluate(() => globalThis.shown);
  const counts = new Set(shown.map((text) => /Version 2 waits to be confirmed. At [\d:]+ it is taken back. (\d+) s Confirm Take back now/.exec(text)?.[1]));
  check(counts.size >= 3 && !counts.has(undefined), `the banner said ${JSON.stringify(shown)}`);
  check(await port(page) === 8080, 'the change is still there');
}, page);

await bare;

await step('a change is confirmed', async () => {
  await editPort(page, '9090');
  await type(page, 'Seconds to confirm in', '300');
  await press(page, 'Apply');
  await heading(page, 'Routes');
  await until(page, () => document.querySelector('.pending').checkVisibility());
  await picture(page, 'pending');
  const found = await findings(page, 'a change that waits');
  await press(page, 'Confirm');
  await notice(page, 'is confirmed and stays');
  check(await port(page) === 9090, 'the change is not in force');
  check(!(await api(page, 'getConfiguration')).pending, 'the change still waits');
  return found;
}, page);

await step('roll back', async () => {
  await press(page, 'Configuration');
  await heading(page, 'Configuration');
  check(!(await page.evaluate(() => document.body.innerText.includes('s3cret'))), 'a secret is shown');
  await press(page, 'History');
  await heading(page, 'History');
  await until(page, () => document.querySelectorAll('main tbody tr').length === 3 && document.body.innerText.includes('Taken back'));
  await press(page, 'Roll back to version 1');
  await until(page, () => document.querySelector('dialog .changes')?.innerText.includes('9090'));
  await press(page, 'Take it back by itself unless I confirm it', 'Space');
  await picture(page, 'roll-back');
  const found = await findings(page, 'a dialog');
  await press(page, 'Roll back');
  await notice(page, 'Version 4 is in force');
  check(await port(page) === 8080, 'the old version is not in force');
  await press(page, 'Changes of version 4');
  await heading(page, 'Compare');
  await until(page, () => document.querySelector('.changes')?.innerText.includes('9090'));
  return found;
}, page);

await step('somebody else was faster', async () => {
  await press(page, 'Routes');
  await heading(page, 'Routes');
  await editPort(page, '7070');
  const { routes } = await api(page, 'getRoutes');
  routes[0].action.targets[0].port = 9191;
  await api(page, 'updateRoutes', { routes });
  await press(page, 'Apply');
  await until(page, () => document.querySelector('.outcome')?.innerText.includes('Nothing was changed'));
  check(await port(page) === 9191, 'the other change is lost');
  await press(page, 'Open this page anew');
  await until(page, () => document.querySelector('.draft')?.innerText.includes('has changed since'));
  check(await page.evaluate(() => [...document.querySelectorAll('main input')].some((i) => i.value === '9191')), 'the page is not new');
  const found = await findings(page, 'a draft');
  await press(page, 'Use it');
  await until(page, () => document.querySelector('textarea')?.value.includes('"port": 7070'));
  await press(page, 'Cancel');
  await heading(page, 'Routes');
  await press(page, 'Edit api-gateway');
  await heading(page, 'Edit route');
  check(await page.evaluate(() => !document.querySelector('.draft')), 'what was cancelled is kept');
  await press(page, 'Cancel');
  await heading(page, 'Routes');
  return found;
}, page);

await step('a message and its timeline', async () => {
  await press(page, 'Email');
  await heading(page, 'Mail queue');
  await type(page, 'Search', 'newsletter');
  await until(page, () => document.querySelectorAll('main tbody tr').length === 1);
  await press(page, 'newsletter@example.com');
  await heading(page, 'Message');
  await until(page, () => document.querySelectorAll('.timeline li').length === 3 && document.querySelector('.timeline').innerText.includes('Greylisted'));
  check(await page.evaluate(() => document.querySelector('pre').textContent.includes('<b>News</b>')), 'the header is not shown as it is');
  await press(page, 'Quarantine');
  await heading(page, 'Quarantine');
  await press(page, 'Release the message from winner@lottery.example');
  await notice(page, 'released');
  await until(page, () => document.body.innerText.includes('Nothing is held back'));
  await press(page, 'Suppression');
  await heading(page, 'Suppressed');
  await type(page, 'Address', 'new@example.net');
  await press(page, 'Add');
  await until(page, () => document.querySelectorAll('main tbody tr').length === 3);
  await press(page, 'Domains');
  await heading(page, 'Mail domains');
  await until(page, () => document.body.innerText.includes('3 of 4 records want attention'));
}, page);

await step('DNS records', async () => {
  await press(page, 'DNS');
  await heading(page, 'DNS zones');
  await press(page, 'example.com.');
  await heading(page, 'example.com.');
  await type(page, 'Name', 'new.example.com.');
  await type(page, 'Value', '2001:db8::1');
  await page.keyboard.press('Enter');
  await until(page, () => document.querySelector('input[aria-invalid=true]') === document.activeElement && document.body.innerText.includes('is not an IPv4 address'));
  await type(page, 'Value', '192.0.2.99');
  await page.keyboard.press('Enter');
  await notice(page, 'The record was added');
  await until(page, () => document.querySelector('main tbody').innerText.includes('192.0.2.99'));
}, page);

await step('a certificate is renewed', async () => {
  await press(page, 'Certificates');
  await heading(page, 'Certificates');
  await until(page, () => document.querySelector('main tbody tr')?.innerText.includes('Expires soon')); // comes first
  await press(page, 'Renew cdn.example.com');
  await notice(page, 'is being obtained');
}, page);

await step('disconnect a session', async () => {
  await press(page, 'RADIUS');
  await heading(page, 'RADIUS sessions');
  await until(page, () => document.querySelectorAll('main tbody tr').length === 3);
  await press(page, 'Disconnect printer-3');
  await until(page, () => document.querySelector('dialog[open]'));
  await page.keyboard.press('Escape');
  await until(page, () => !document.querySelector('dialog'));
  check((await api(page, 'getRadiusSessions')).sessions.length === 3, 'Escape means yes');
  await press(page, 'Disconnect printer-3');
  await press(page, 'Disconnect');
  await notice(page, 'printer-3 was disconnected');
  await until(page, () => document.querySelectorAll('main tbody tr').length === 2);
}, page);

await step('filter logs', async () => {
  await press(page, 'Logs');
  await heading(page, 'Logs');
  const n = () => page.evaluate(() => document.querySelectorAll('.line').length);
  await until(page, () => document.querySelectorAll('.line').length > 0);
  const before = await n();
  await until(page, (old) => document.querySelectorAll('.line').length > old, before); // live
  await type(page, 'Text', 'disconnected');
  await until(page, () => document.querySelectorAll('.line').length === 1 && document.querySelector('.line').innerText.includes('session disconnected'));
  await type(page, 'Text', 'request');
  await until(page, () => document.querySelectorAll('.line').length > 1);
  await page.locator('.message .button.link').first().focus();
  await page.keyboard.press('Enter');
  await until(page, () => document.querySelectorAll('.line').length === 1 && document.querySelector('.line').innerText.includes('conn_id'));
}, page);

await step('look up an address', async () => {
  await press(page, 'Security');
  await heading(page, 'Security');
  await until(page, () => document.body.innerText.includes('too many per IP') && document.querySelectorAll('main tbody tr').length > 0);
  check(await page.evaluate(() => document.body.innerText.includes('<b>again</b>')), 'a message is not shown as it is');
  await type(page, 'IP address', '198.51.100.7');
  await page.keyboard.press('Enter');
  await until(page, () => document.body.innerText.includes('zen.example.org'));
}, page);

await step('block an address, and lift a block', async () => {
  await until(page, () => document.body.innerText.includes('203.0.113.77/32'));
  await type(page, 'Address or network', '127.0.0.1');
  await page.keyboard.press('Enter');
  await until(page, () => document.body.innerText.includes('you would lock yourself out'));
  await type(page, 'Address or network', '2001:db8::/48');
  await type(page, 'Why', 'guesses passwords');
  await press(page, 'Block');
  await notice(page, '2001:db8::/48 is blocked');
  await until(page, () => document.body.innerText.includes('guesses passwords'));
  await press(page, 'Lift the block of 203.0.113.77/32');
  await press(page, 'Lift the block');
  await notice(page, 'no longer blocked');
  await until(page, () => !document.body.innerText.includes('203.0.113.77/32 '));
  check(await page.getByRole('button', { name: 'Lift the block of 198.51.100.0/24' }).count() === 0, 'what the configuration blocks can be lifted');
}, page);

await step('accessibility', async () => {
  const found = [];
  for (const [scheme, width] of looks) {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
    await page.setViewportSize({ width, height: 900 });
    for (const name of everyPage) {
      await visit(page, name);
      found.push(...await findings(page, `${name} (${scheme}, ${width} px)`));
      const wide = await page.evaluate(() => document.scrollingElement.scrollWidth);
      if (wide > width) found.push(`${name} is ${wide} px wide on a screen of ${width} px`);
    }
  }
  return found;
}, page);

await step('the menu of narrow screens', async () => {
  await page.setViewportSize({ width: 320, height: 640 });
  await visit(page, 'overview');
  check(await page.evaluate(() => !document.getElementById('nav').checkVisibility()), 'the navigation is open');
  await press(page, 'Menu');
  check(await page.evaluate(() => document.getElementById('nav').checkVisibility()), 'the navigation is closed');
  await page.keyboard.press('Escape');
  check(await page.evaluate(() => !document.getElementById('nav').checkVisibility() && document.activeElement.textContent === 'Menu'), 'Escape does not close it');
  await page.keyboard.press('Enter');
  await press(page, 'Audit');
  await heading(page, 'Audit');
  await until(page, () => document.body.innerText.includes('updateRoutes'));
}, page);

if (shots) {
  await step('screenshots', async () => {
    for (const [scheme, width] of [...looks, ['light', 320], ['dark', 1280]]) {
      await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
      await page.setViewportSize({ width, height: 900 });
      for (const name of everyPage) {
        await visit(page, name);
        if (name === 'overview') {
          await page.evaluate(async () => { // as if it had been open for a while
            const { latest } = await import('/lib/live.js');
            const [first, last] = [latest.samples[0], latest.samples.at(-1)];
            latest.samples.length = 0;
            for (let i = 300; i >= 0; i--) {
              const wave = 1 + 0.3 * Math.sin(i / 25) + 0.15 * Math.sin(i / 7);
              const sample = { at: last.at - i * 1000 };
              for (const key of Object.keys(last)) {
                if (key === 'at') continue;
                const counted = last[key] > first[key];
                sample[key] = counted ? last[key] - i * (last[key] - first[key]) * 1000 / (last.at - first.at) * (1 + 0.08 * Math.sin(i / 30)) : last[key] * wave;
              }
              latest.samples.push(sample);
            }
          });
          await page.waitForTimeout(1500);
        }
        await picture(page, `${name.replace(/\W+/g, '-')}-${scheme}-${width}`);
      }
    }
  }, page);
}

await step('sign out', async () => {
  await page.setViewportSize({ width: 1280, height: 900 });
  await press(page, 'Sign out');
  await until(page, () => document.querySelector('.sign-in [role=status]')?.textContent.includes('signed out'));
  await picture(page, 'sign-in');
  check(!(await api(page, 'verifyIdentity')).valid, 'the session is alive');
  troubles.push(...await page.evaluate(() => globalThis.violations));
}, page);

await step('a viewer only looks', async () => {
  await signIn(page, 'vera');
  for (const name of everyPage.filter((n) => n !== 'audit')) {
    await visit(page, name);
    const found = await page.evaluate(() => [...document.querySelectorAll('main :is(button, a.button)')].map((b) => b.textContent).filter((text) => /Edit|Add|Drop|Release|Renew|Disconnect|Roll back|Remove|Apply|Take off/.test(text)));
    check(found.length === 0, `${name} offers a viewer ${found}`);
  }
  await visit(page, 'audit');
  check(await page.evaluate(() => document.body.innerText.includes('This takes the role admin')), 'the audit log does not say whom it is for');
  // The session ends elsewhere: the page notices by the stream.
  const jar = await page.context().cookies();
  await fetch(`${FULL}/api/v1/adminLogout`, { method: 'POST', headers: { Cookie: jar.map((c) => `${c.name}=${c.value}`).join('; ') }, body: '{}' });
  await until(page, () => document.querySelector('.sign-in [role=status]')?.textContent.includes('session has ended'));
  troubles.push(...await page.evaluate(() => globalThis.violations));
  await page.context().close();
}, page);

await step('no violation of the policy, no error', async () => troubles);

await browser.close();
process.exitCode = failed ? 1 : 0;
