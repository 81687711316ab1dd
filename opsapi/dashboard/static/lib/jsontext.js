// JSON with the place of every value, so that a problem at a path can be shown
// where it is.

/** A mistake in the text, at a place. */
export class JSONError extends Error {
  /** @param {string} text @param {number} at */
  constructor(text, at) {
    super(text);
    this.at = at;
  }
}

/** A step of a path. @param {string} path @param {string|number} step */
export function join(path, step) {
  if (typeof step === 'number') return `${path}[${step}]`;
  if (!/^[\w-]+$/.test(step)) return `${path}[${JSON.stringify(step)}]`;
  return path ? `${path}.${step}` : step;
}

/** The steps of a path, as in routes[0].headers["X-Y"]. @param {string} path @returns {(string|number)[]} */
export function split(path) {
  /** @type {(string|number)[]} */
  const steps = [];
  for (const [, quoted, index, name] of path.matchAll(/\[("(?:[^"\\]|\\.)*")\]|\[(\d+)\]|\.?([^.[\]]+)/g)) {
    if (quoted !== undefined) steps.push(unquote(quoted));
    else steps.push(index !== undefined ? Number(index) : name);
  }
  return steps;
}

/** @param {string} text */
function unquote(text) {
  try {
    return String(JSON.parse(text));
  } catch {
    return text.slice(1, -1);
  }
}

/** @typedef {Map<string, [number, number]>} Ranges where each value is in the text, by path */

/**
 * Reads JSON.
 * @param {string} text
 * @returns {{value: any, ranges: Ranges}}
 * @throws {JSONError}
 */
export function parse(text) {
  /** @type {Ranges} */
  const ranges = new Map();
  let at = 0;

  /** @param {string} what @returns {never} */
  function fail(what) {
    throw new JSONError(what, Math.min(at, text.length));
  }

  function skip() {
    while (/[ \t\r\n]/.test(text[at] ?? '')) at++;
  }

  /** @param {RegExp} form sticky */
  function token(form) {
    form.lastIndex = at;
    const found = form.exec(text)?.[0];
    if (found !== undefined) at += found.length;
    return found;
  }

  function string() {
    const start = at;
    const found = token(/"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y);
    if (found === undefined) {
      at = start;
      fail(text[at] === '"' ? 'This text in quotes does not end, or has a character that must be escaped' : 'A name in double quotes belongs here');
    }
    return JSON.parse(found);
  }

  /** @param {string} path @param {number} depth @returns {any} */
  function value(path, depth) {
    if (depth > 200) fail('This is nested too deeply');
    skip();
    const start = at;
    const found = inner(path, depth);
    ranges.set(path, [start, at]);
    return found;
  }

  /** @param {string} path @param {number} depth @returns {any} */
  function inner(path, depth) {
    switch (text[at]) {
      case '{': return object(path, depth);
      case '[': return list(path, depth);
      case '"': return string();
      case undefined: return fail('The text ends too early');
    }
    const word = token(/true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y);
    return word === undefined ? fail('A value belongs here: text in double quotes, a number, true, false, null, [ or {') : JSON.parse(word);
  }

  /** Reads elements up to the closing bracket. @param {string} close @param {() => void} element */
  function elements(close, element) {
    at++;
    skip();
    if (text[at] === close) {
      at++;
      return;
    }
    for (;;) {
      element();
      skip();
      if (text[at] === close) break;
      if (text[at] !== ',') fail(text[at] === undefined ? `${close} is missing at the end` : `A comma or ${close} belongs here`);
      at++;
      skip();
      if (text[at] === close) fail(`No comma belongs before ${close}`);
    }
    at++;
  }

  /** @param {string} path @param {number} depth */
  function object(path, depth) {
    /** @type {[string, any][]} */
    const members = [];
    const names = new Set();
    elements('}', () => {
      skip();
      const start = at;
      const name = string();
      if (names.has(name)) {
        at = start;
        fail(`"${name}" is here twice`);
      }
      names.add(name);
      skip();
      if (text[at] !== ':') fail('A colon belongs here');
      at++;
      members.push([name, value(join(path, name), depth + 1)]);
    });
    return Object.fromEntries(members);
  }

  /** @param {string} path @param {number} depth */
  function list(path, depth) {
    /** @type {any[]} */
    const found = [];
    elements(']', () => {
      found.push(value(join(path, found.length), depth + 1));
    });
    return found;
  }

  const all = value('', 0);
  skip();
  if (at < text.length) fail('Nothing belongs after the end of the value');
  return { value: all, ranges };
}

/**
 * Where a path is, or the innermost part of it that there is.
 * @param {Ranges} ranges @param {string} path
 * @returns {[number, number]}
 */
export function locate(ranges, path) {
  const steps = split(path);
  for (; steps.length; steps.pop()) {
    const found = ranges.get(steps.reduce(join, ''));
    if (found) return found;
  }
  return ranges.get('') ?? [0, 0];
}
