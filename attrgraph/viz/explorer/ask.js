// Ask the server that a page came from.
// @ts-check
/** @typedef {{ahead: number, phase: string, done: number, total: number}} Progress */

/**
 * The answer. An error's message is one line that says what went wrong.
 * @param {"trace" | "intervene" | "validate"} what
 * @param {object} body
 * @param {(text: string, share: number | null) => void} told  how far it is
 * @param {AbortSignal} signal  gives it up
 * @returns {Promise<any>}
 */
export async function ask(what, body, told, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`/${what}`, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok || !response.body) throw new Error((await response.text()).trim());
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server has ended before it answered.");
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const found = JSON.parse(line);
      if ("error" in found) throw new Error(found.error);
      if ("result" in found) return found.result;
      told(spoken(found), found.total > 1 && !found.ahead ? found.done / found.total : null);
    }
  }
}

/** @param {Progress} progress */
function spoken({ ahead, phase, done, total }) {
  if (ahead) return `waiting: ${ahead} before this one`;
  return total > 1 ? `${phase}: ${done} of ${total}` : phase;
}
