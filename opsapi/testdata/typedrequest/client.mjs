// Calls methods with the unmodified client: reads lines of JSON
// {method, request} and answers each with {response} or {error}.
import { createInterface } from 'node:readline';
import { TypedRequest } from '@api.global/typedrequest';

const url = process.argv[2];
console.log = () => {}; // the client says there what it does
console.error = () => {};
const answer = (v) => process.stdout.write(JSON.stringify(v) + '\n');

for await (const line of createInterface({ input: process.stdin })) {
  const { method, request } = JSON.parse(line);
  try {
    answer({ response: await new TypedRequest(url, method).fire(request) });
  } catch (e) {
    answer({ error: { text: e.errorText ?? String(e), data: e.errorData ?? null } });
  }
}
