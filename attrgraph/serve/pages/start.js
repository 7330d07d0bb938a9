// The first page: trace a prompt, or choose a graph.
// @ts-check
import { ask } from "./ask.js";
import { element, field, make } from "./html.js";

/** @type {AbortController | null} */
let running = null;

/** @param {string} text  @param {number | null} share */
function tell(text, share = null) {
  const bar = /** @type {HTMLProgressElement} */ (element("bar"));
  element("told").textContent = text;
  bar.hidden = running === null;
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

/** @param {AbortController | null} now */
function setRunning(now) {
  running = now;
  /** @type {HTMLButtonElement} */ (element("run")).disabled = now !== null;
  element("stop").hidden = now === null;
}

async function trace() {
  const controller = new AbortController();
  setRunning(controller);
  tell("sent");
  const targets = field("targets").value.split("\n").filter((line) => line.trim());
  const body = { prompt: field("prompt").value, targets, max_feature_nodes: Number(field("features").value) };
  try {
    const { graph } = await ask("trace", body, tell, controller.signal);
    location.assign(`/graph/${encodeURIComponent(graph)}`);
  } catch (error) {
    setRunning(null);
    tell(controller.signal.aborted ? "Stopped." : error instanceof Error ? error.message : String(error));
    list().catch(() => {}); // a graph that could not be saved is there all the same
  }
}

/** @param {number} bytes */
const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(1)} MB`);

/** @param {any} graph */
function graphItem({ name, title, bytes }) {
  const link = make("a", { href: `/graph/${encodeURIComponent(name)}` }, title);
  return make("li", {}, link, make("small", {}, bytes === undefined ? "traced here" : size(bytes)));
}

/** @param {any} file */
function promptFile({ name, prompts, error, n }) {
  const fill = (/** @type {any} */ one) => {
    field("prompt").value = one.prompt;
    field("targets").value = one.targets.join("\n");
    element("prompt").focus();
  };
  const items = prompts.map((/** @type {any} */ one) =>
    make("li", {}, make("button", { type: "button", onclick: () => fill(one) }, one.prompt)),
  );
  const count = prompts.length === n ? `${n}` : `${prompts.length} of ${n}`;
  const note = make("p", { class: "note" }, error ?? "");
  return make("details", {}, make("summary", {}, n ? `${name} (${count})` : name), note, make("ul", { role: "list" }, ...items));
}

async function list() {
  const response = await fetch("/list");
  if (!response.ok) throw new Error((await response.text()).trim());
  const found = await response.json();
  element("model").textContent = `${found.model}, transcoders ${found.transcoders}`;
  field("features").value ||= String(found.features);
  field("features").max = String(found.most_features);
  const none = make("li", {}, make("span", { class: "note" }, "None yet: trace a prompt."));
  element("graphs").replaceChildren(...(found.graphs.length ? found.graphs.map(graphItem) : [none]));
  element("note").textContent = found.note;
  const files = found.prompts.map(promptFile);
  element("prompts").replaceChildren(...(files.length ? [make("h2", {}, "Prompts"), ...files] : []));
}

// the token is in a cookie now; the address is safe to show
history.replaceState(null, "", location.pathname);
element("trace").addEventListener("submit", (event) => {
  event.preventDefault();
  trace();
});
element("stop").addEventListener("click", () => running?.abort());
addEventListener("pageshow", () => {
  setRunning(null);
  tell("");
  list().catch((error) => tell(error.message));
});
