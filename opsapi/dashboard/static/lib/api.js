// Calls of the API. The session is a cookie that script cannot read; fetch and
// EventSource send it by themselves.

/** @typedef {import('../types').FieldProblem} FieldProblem */

/** What the API said no with. */
export class APIError extends Error {
  /** @param {string} text @param {any} data */
  constructor(text, data) {
    super(text);
    /** @type {string} */
    this.code = data?.code ?? 'failed';
    this.data = data ?? {};
  }

  /** What is wrong where, for the code "invalid". @returns {FieldProblem[]} */
  get fields() {
    return this.data.fields ?? [];
  }
}

/** Told when the API says that nobody is signed in. */
export const session = { ended: () => {} };

const patience = 4; // tries while the API is busy

/**
 * Calls a method.
 * @param {string} method @param {object} [request] @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function call(method, request = {}, signal) {
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(`api/v1/${method}`, {
        method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(request), signal,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new APIError('The gateway cannot be reached.', { code: 'offline' });
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && answer) return answer;
    const error = new APIError(answer?.error?.text ?? `The gateway answers ${response.status}.`, answer?.error?.data);
    if (error.code === 'busy' && tries < patience) {
      await new Promise((resolve) => setTimeout(resolve, error.data.waitForMs ?? 1000));
      continue;
    }
    if (error.code === 'unauthenticated' && method !== 'adminLoginWithUsernameAndPassword') session.ended();
    throw error;
  }
}

/** What to tell people about an error. @param {unknown} error */
export function textOf(error) {
  if (!(error instanceof Error)) return String(error);
  const text = error.message;
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? '' : '.');
}

const ranks = { viewer: 1, operator: 2, admin: 3 };

/** @param {import('../types').Identity} identity @param {import('../types').Role} role */
export function may(identity, role) {
  return ranks[identity.role] >= ranks[role];
}
