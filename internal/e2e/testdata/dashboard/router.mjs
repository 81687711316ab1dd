// Works at the dashboard of a Router in Chromium while the tools that clients use
// make traffic, and prints a line of JSON for each step.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

const { CHROMIUM, OPS, PASSWORD, WEB, SMTP, DNS, ACCOUNTING, SECRET, FIRST, SECOND } = process.env;
const patience = 60_000; // for anything, on a slow machine

const browser = await chromium.launch({
  executablePath: CHROMIUM, headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' });
context.setDefaultTimeout(patience);
const page = await context.newPage();

/** What went wrong in the page: violations of the policy, errors. */
const troubles = [];
page.on('pageerror', (error) => troubles.push(`error in the page: ${error.message}`));
page.on('console', (message) => {
  // Chromium logs each answer that is no 2xx; those are part of the test.
  if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) troubles.push(`console: ${message.text()}`);
});
await page.addInitScript(() => {
  globalThis.violations = [];
  addEventListener('securitypolicyviolation', (event) => globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
});

/** Runs a client to its end, with a limit, and returns what it says. */
async function run(tool, args, input = '') {
  const done = promisify(execFile)(tool, args, { timeout: patience });
  done.child.stdin.on('error', () => {}); // of a client that reads none
  done.child.stdin.end(input);
  return (await done).stdout;
}
const [host, port] = SMTP.split(':');
const get = () => run('curl', ['-sS', '--max-time', '30', WEB]);
const mail = (to, subject) => run('swaks', ['--server', host, '--port', port, '--from', 'ann@example.net', '--to', to, '--h-Subject', subject]);
const ask = (name) => run('dig', [`@${DNS.split(':')[0]}`, '-p', DNS.split(':')[1], '+short', '+time=20', name, 'A']);
const account = (attributes) => run('radclient', ['-x', '-r', '1', '-t', '30', ACCOUNTING, 'acct', SECRET], `${attributes}\n`);
const session = 'Acct-Session-Id="s-1",User-Name="printer-3",Calling-Station-Id="00-11-22-33-44-55",NAS-Identifier="switch-1",NAS-Port-Id="ge-0/0/7",Framed-IP-Address=192.0.2.33,Tunnel-Private-Group-Id:0="4042"';

function check(is, what) {
  if (!is) throw new Error(what);
}

/** Waits until clients are answered by a target. */
async function answers(want) {
  const deadline = Date.now() + patience;
  for (;;) {
    const got = await get();
    if (got === want) return;
    check(Date.now() < deadline, `clients get ${got}, not ${want}`);
  }
}

const until = (what, arg) => page.waitForFunction(what, arg, { timeout: patience });
const heading = (text) => until((t) => document.querySelector('h1')?.textContent.startsWith(t) && !document.querySelector('main [aria-busy], main .loading'), text);
const notice = (text) => until((t) => document.getElementById('notices').textContent.includes(t), text);
const press = (name) => page.getByRole('button', { name, exact: true }).click();
const visit = (name) => page.getByRole('navigation').getByRole('link', { name, exact: true }).click();
const type = (label, text) => page.getByLabel(label, { exact: true }).fill(text);
const rows = (n) => until((count) => document.querySelectorAll('main tbody tr').length === count, n);

/** Edits the port of the route's target, and leaves the form open. */
async function editPort(value) {
  await visit('Routes');
  await heading('Routes');
  await page.getByRole('link', { name: 'Edit web', exact: true }).click();
  await heading('Edit route web');
  await type('port', value);
}

let failed = false;

async function step(name, work, anyway = false) {
  if (failed && !anyway) return; // a step goes on where the last one ended
  const result = { name };
  const start = Date.now();
  try {
    result.findings = await work() ?? [];
  } catch (error) {
    failed = true;
    const shown = await page.evaluate(() => `${location.hash}\n${document.body.innerText.slice(0, 3000)}`).catch(() => '');
    result.error = `${error.stack}\n${shown}`;
  }
  result.millis = Date.now() - start;
  console.log(JSON.stringify(result));
}

await step('sign in', async () => {
  await page.goto(OPS);
  await type('Username', 'admin');
  await type('Password', PASSWORD);
  await page.keyboard.press('Enter');
  await heading('Overview');
  await until(() => ['proxy', 'email', 'dns', 'radius'].every((name) => [...document.querySelectorAll('main tbody tr')].some((row) => row.innerText.includes(name) && row.innerText.includes('Ready'))));
});

await step('figures follow the traffic', async () => {
  const figures = () => page.evaluate(() => Object.fromEntries([...document.querySelectorAll('.chart')].map((c) => [c.querySelector('h2').textContent, parseFloat(c.querySelector('.figure').textContent)])));
  const names = ['HTTP requests', 'Mail', 'DNS queries', 'RADIUS'];
  await until((wanted) => wanted.every((name) => [...document.querySelectorAll('.chart')].some((c) => c.querySelector('h2').textContent === name && parseFloat(c.querySelector('.figure').textContent) === 0)), names);
  check((await account(`Acct-Status-Type=Start,${session}`)).includes('Accounting-Response'), 'no answer to accounting');
  const seen = new Set();
  const deadline = Date.now() + patience;
  while (seen.size < names.length) {
    check(Date.now() < deadline, `only ${[...seen]} changed, of ${JSON.stringify(await figures())}`);
    const [page1, , address] = await Promise.all([get(), mail('bob@example.com', 'hello'), ask('www.example.com')]);
    check(page1 === 'first' && address.trim() === '192.0.2.1', `got ${page1} and ${address}`);
    for (const [name, figure] of Object.entries(await figures())) if (names.includes(name) && figure > 0) seen.add(name);
  }
});

await step('an error at its field', async () => {
  await editPort('70000');
  await press('Apply');
  await until(() => {
    const bad = document.querySelectorAll('main input[aria-invalid=true]');
    const error = document.getElementById(bad[0]?.getAttribute('aria-describedby'));
    return bad.length === 1 && bad[0].value === '70000' && error?.textContent.includes('70000') && error.checkVisibility();
  });
  await answers('first');
  await page.getByRole('link', { name: 'Cancel', exact: true }).click();
});

await step('a change takes itself back', async () => {
  await editPort(SECOND);
  await type('Why (for the history)', 'try the second server');
  await type('Seconds to confirm in', '5');
  await Promise.all([answers('second'), press('Apply')]); // a client looks all the time: it is there for seconds only
  await answers('first'); // though nobody does anything
  await notice('The change was taken back');
});

await step('a change is confirmed', async () => {
  await editPort(SECOND);
  await type('Seconds to confirm in', '300');
  await press('Apply');
  await answers('second');
  await press('Confirm');
  await notice('is confirmed and stays');
  check(await get() === 'second', 'the change is not in force');
});

await step('roll back', async () => {
  await visit('Configuration');
  await heading('Configuration');
  await page.getByRole('link', { name: 'History', exact: true }).click();
  await heading('History');
  await press('Roll back to version 1');
  await until((port) => document.querySelector('dialog .changes')?.innerText.includes(port), FIRST);
  await page.getByLabel('Take it back by itself unless I confirm it').uncheck();
  await press('Roll back');
  await notice('is in force');
  await answers('first');
});

await step('a message that waits, and its timeline', async () => {
  await visit('Email');
  await heading('Mail queue');
  await mail('cid@elsewhere.example', 'waits');
  await until(() => document.querySelector('main tbody tr')?.innerText.includes('Deferred')); // by itself
  await page.getByLabel('Search').fill('cid@elsewhere');
  await rows(1);
  await page.getByRole('link', { name: 'ann@example.net' }).click();
  await heading('Message');
  await until(() => {
    const timeline = document.querySelector('.timeline')?.innerText ?? '';
    return timeline.includes('received') && timeline.includes('tried') && timeline.includes('refused');
  });
  await until(() => document.querySelector('pre')?.textContent.includes('Subject: waits'));
});

await step('disconnect a session', async () => {
  await visit('RADIUS');
  await heading('RADIUS sessions');
  await rows(1);
  await until(() => ['printer-3', '00-11-22-33-44-55', 'switch-1', 'ge-0/0/7', '192.0.2.33', '4042'].every((text) => document.querySelector('main tbody').innerText.includes(text)));
  await press('Disconnect printer-3');
  await press('Disconnect');
  await notice('printer-3 was disconnected');
  await until(() => document.body.innerText.includes('No open sessions'));
});

await step('a block that somebody has brought on himself is seen and lifted', async () => {
  const from = ['-sS', '--max-time', '30', '--interface', '127.0.0.9', WEB];
  for (let i = 0; i < 3; i++) await run('curl', [...from, '-H', 'Host: a b']);
  check(await run('curl', from).catch(() => 'refused') === 'refused', 'the address is not blocked');
  await visit('Security');
  await heading('Security');
  await press('Lift the block of 127.0.0.9');
  await press('Lift the block');
  await notice('127.0.0.9 is no longer blocked');
  check(await run('curl', from) === 'first', 'the address is still blocked');
  await type('Address or network', '127.0.0.9');
  await type('Why', 'by hand');
  await press('Block');
  await notice('127.0.0.9 is blocked');
  check(await run('curl', from).catch(() => 'refused') === 'refused', 'the address is not blocked by hand');
  await until(() => document.body.innerText.includes('proxy_bad_request') && document.body.innerText.includes('by hand'));
});

await step('filter the log', async () => {
  await visit('Logs');
  await heading('Logs');
  await until(() => document.querySelectorAll('.line').length > 1);
  await type('Text', 'elsewhere.example');
  await until(() => {
    const lines = [...document.querySelectorAll('.line')];
    return lines.length > 0 && lines.every((line) => line.innerText.includes('elsewhere.example'));
  });
});

await step('no violation of the policy, no error', async () => [...troubles, ...await page.evaluate(() => globalThis.violations)], true);

await browser.close();
process.exitCode = failed ? 1 : 0;
