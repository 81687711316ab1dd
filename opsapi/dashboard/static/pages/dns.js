// Zones and their records.

import { h, fill, ask, badge, button, empty, field, notify, section, set } from '../lib/dom.js';
import { call, may, textOf, APIError } from '../lib/api.js';
import { listing } from '../lib/list.js';
import { count, figure } from '../lib/format.js';

export const title = 'DNS';

/** @typedef {import('../types').DNSRecord} DNSRecord */
/** @typedef {import('../types').Context} Context */

const unconfigured = () => empty('No DNS server here', 'Configure dnsNsDomains and dnsServerConfig: the zones that this gateway is authoritative for.');

/** @param {Context} context */
export function render(context) {
  if (context.params[0]) records(context, context.params[0]);
  else zones(context);
}

/** @param {Context} context */
function zones({ main, signal }) {
  const list = listing({
    method: 'getDnsZones', rows: (answer) => answer.zones, signal, search: null, whole: true, caption: 'Zones', one: 'zone', key: (/** @type {import('../types').Zone} */ z) => z.name,
    nothing: empty('No zones yet', 'A zone comes with its first record: name a record in dnsServerConfig.records, or a scope in dnsScopes.'), unconfigured: unconfigured(),
    columns: [
      { label: 'Zone', wide: true, cell: (z) => h('a', { href: `#/dns/${encodeURIComponent(z.name)}` }, z.name) },
      { label: 'State', cell: (z) => z.loaded ? badge('ok', 'Served') : badge('bad', 'Not loaded') },
      { label: 'DNSSEC', cell: (z) => z.signed ? badge('ok', 'Signed') : badge('idle', 'Unsigned') },
      { label: 'Names', number: true, cell: (z) => count(z.names) },
      { label: 'Serial', number: true, cell: (z) => String(z.serial) },
    ],
  });
  fill(main, h('h1', null, 'DNS zones'), list.element);
}

/** @param {Context} context @param {string} zone */
function records({ main, signal, identity }, zone) {
  const mayEdit = may(identity, 'operator');
  /** @param {DNSRecord} r */
  const remove = async (r) => {
    const yes = await ask({ title: 'Remove this record?', text: h('p', null, h('code', null, `${r.name} ${r.type} ${r.value}`)), action: 'Remove', danger: true });
    if (yes === null) return;
    try {
      await call('updateDnsRecords', { remove: [r] });
      notify('The record was removed.');
    } catch (error) {
      notify(textOf(error), 'bad');
    }
    list.reload();
  };
  const form = recordForm(zone, () => list.reload());
  const list = listing({
    method: 'getDnsRecords', request: () => ({ zone }), rows: (answer) => answer.records, signal, caption: `Records of ${zone}`, one: 'record',
    key: (/** @type {DNSRecord} */ r) => `${r.name} ${r.type} ${r.value}`,
    nothing: empty('No records', 'Add the first one below.'), unconfigured: unconfigured(),
    columns: [
      { label: 'Name', wide: true, cell: (r) => h('code', null, r.name) },
      { label: 'Type', cell: (r) => r.type },
      { label: 'Value', wide: true, cell: (r) => h('code', null, r.value) },
      { label: 'TTL', number: true, cell: (r) => figure(r.ttl, 's') },
      ...mayEdit ? [{ label: '', cell: (/** @type {DNSRecord} */ r) => r.type !== 'SOA' && h('div', { class: 'actions' }, // the server numbers zones itself
       
        button('Edit', () => form.edit(r), { kind: 'quiet', 'aria-label': `Edit ${r.type} ${r.name}` }),
        button('Remove', () => remove(r), { kind: 'quiet', 'aria-label': `Remove ${r.type} ${r.name} ${r.value}` })) }] : [],
    ],
  });
  fill(main, h('p', { class: 'crumbs' }, h('a', { href: '#/dns' }, 'DNS zones')), h('h1', null, zone), list.element, mayEdit ? form.element : null);
}

/** A form that adds a record, or changes one. @param {string} zone @param {() => void} done */
function recordForm(zone, done) {
  const inputs = {
    name: h('input', { type: 'text', value: zone, spellcheck: 'false', autocomplete: 'off', required: true }),
    type: h('input', { type: 'text', value: 'A', spellcheck: 'false', autocomplete: 'off', required: true, size: 8 }),
    value: h('input', { type: 'text', spellcheck: 'false', autocomplete: 'off', required: true }),
    ttl: h('input', { type: 'number', min: 0, max: 2147483647, value: '3600', required: true }),
  };
  const labels = { name: 'Name', type: 'Type', value: 'Value', ttl: 'TTL in seconds' };
  /** @type {Record<string, HTMLElement>} */
  const errors = {};
  const boxes = Object.entries(inputs).map(([key, input]) => {
    const box = field(labels[/** @type {keyof typeof labels} */ (key)], input);
    errors[key] = h('span', { class: 'field-error', id: `${input.id}-error` });
    box.append(errors[key]);
    return box;
  });
  const problem = h('p', { class: 'field-error', role: 'alert' });
  const submit = h('button', { class: 'button primary' }, 'Add');
  /** @type {DNSRecord|null} */
  let old = null;
  const cancel = button('Cancel', () => edit(null), { hidden: true });

  /** @param {DNSRecord|null} r */
  function edit(r) {
    old = r;
    inputs.name.value = r?.name ?? zone;
    inputs.type.value = r?.type ?? 'A';
    inputs.value.value = r?.value ?? '';
    inputs.ttl.value = String(r?.ttl ?? 3600);
    fill(submit, r ? 'Save' : 'Add');
    fill(/** @type {Element} */ (element.querySelector('h2')), r ? 'Edit a record' : 'Add a record');
    set(cancel, { hidden: !r });
    clear();
    if (r) inputs.value.focus();
  }

  function clear() {
    fill(problem);
    for (const [key, input] of Object.entries(inputs)) {
      fill(errors[key]);
      set(input, { 'aria-invalid': null, 'aria-describedby': null });
    }
  }

  /** @param {unknown} error */
  function show(error) {
    const fields = error instanceof APIError ? error.fields : [];
    for (const { path, message } of fields) {
      const key = path.split('.').at(-1) ?? '';
      const input = inputs[/** @type {keyof typeof inputs} */ (key)];
      if (!input) continue;
      fill(errors[key], message);
      set(input, { 'aria-invalid': 'true', 'aria-describedby': errors[key].id });
      input.focus();
    }
    fill(problem, fields.length ? 'Nothing was changed.' : textOf(error));
  }

  const form = h('form', {
    class: 'row', onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      clear();
      const record = { name: inputs.name.value.trim(), type: inputs.type.value.trim().toUpperCase(), value: inputs.value.value.trim(), ttl: Number(inputs.ttl.value) };
      try {
        await call('updateDnsRecords', { ...(old ? { remove: [old] } : {}), add: [record] });
        notify(old ? 'The record was changed.' : 'The record was added.');
        edit(null);
      } catch (error) {
        show(error);
      }
      done();
    },
  }, boxes, h('div', { class: 'actions' }, submit, cancel), problem);
  const element = section('Add a record', form);
  return { element, edit };
}
