// Set nodes to something else: the command that does it, and on a page of `attrgraph serve` what follows.
// @ts-check
import { ask } from "./ask.js";
import { whenFree } from "./focus.js";
import { digits, element, make, percent, signed } from "./html.js";
import { changesOf, commandOf } from "./settings.js";
/** @typedef {import("./main.js").Explorer} Explorer */
/** @typedef {{graph: string, version: string}} Server  under which name it knows the graph, and in which state of its file */

const HOW = { "*": "times", "=": "set to", "+": "plus" };
const WHERE = { own: "where they are", on: "from there on", all: "everywhere" };
/** @type {Record<string, string>} */
const MODES = { constrained: "constrained", free: "free", "frozen-attention": "frozen attention", frozen: "frozen" };
const SETTABLE = ["feature", "error", "embedding"];

/** One of several, all in sight. */
class Choice {
  /** @param {string} name  @param {Record<string, string>} options  texts by value */
  constructor(name, options) {
    this.name = name;
    this.key = "";
    this.element = make("div", { class: "choice", role: "radiogroup", "aria-label": name });
    this.offer(options);
  }

  /** What was chosen stays if it is still there. @param {Record<string, string>} options */
  offer(options) {
    const all = Object.entries(options);
    const key = JSON.stringify(all);
    if (key === this.key) return;
    this.key = key;
    const chosen = this.value in options ? this.value : all[0]?.[0];
    const radio = (/** @type {string} */ value) =>
      make("input", { type: "radio", name: this.name, value, checked: value === chosen });
    this.element.replaceChildren(...all.map(([value, text]) => make("label", {}, radio(value), text)));
  }

  get value() {
    return /** @type {HTMLInputElement | null} */ (this.element.querySelector(":checked"))?.value ?? "";
  }
}

class Experiments {
  /** @param {Explorer} explorer  @param {Server | null} server */
  constructor(explorer, server) {
    this.explorer = explorer;
    this.server = server;
    /** @type {AbortController | null} */
    this.running = null;
    this.nodes = new Choice("Nodes", {});
    this.how = new Choice("How", HOW);
    this.number = input("Number", { type: "text", value: "0", inputmode: "decimal", size: 6 });
    this.where = new Choice("Where", WHERE);
    this.mode = new Choice("Mode", MODES);
    this.tokens = input("New tokens", { type: "number", value: "0", min: 0, max: 200 });
    this.command = make("code", { class: "command", tabindex: 0 });
    this.run = make("button", { type: "submit" }, "Run");
    this.most = input("Nodes taken out", { type: "number", value: "16", min: 1, max: 1000 });
    this.validate = make("button", { type: "button", onclick: () => this.#validate() }, "Validate the graph");
    this.work = make("p", { class: "note" });
    this.bar = make("progress", { "aria-label": "Progress", hidden: true });
    this.stop = make("button", { type: "button", hidden: true, onclick: () => this.running?.abort() }, "Stop");
    this.told = make("p", { class: "note", "aria-live": "polite" });
    this.found = make("div", { "aria-live": "polite" });
    this.form = this.#form();
    this.#show();
    const { state } = explorer;
    const { onChange } = state;
    const show = () => this.#show();
    state.onChange = () => {
      onChange();
      whenFree(show);
    };
  }

  #form() {
    const form = make(
      "form",
      { class: "experiment" },
      this.nodes.element,
      make("div", { class: "row" }, this.how.element, this.number),
      this.where.element,
      this.mode.element,
      make("label", { class: "row" }, "New tokens", this.tokens),
      ...(this.server ? [make("div", { class: "row" }, this.run, this.stop), ...this.#validation(), this.bar, this.told, this.found] : []),
      make("p", { class: "note" }, this.server ? "The same in a terminal:" : "In a terminal, this measures it:"),
      this.command,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#intervene();
    });
    form.addEventListener("input", () => this.#show());
    form.addEventListener("keydown", (event) => event.key !== "Escape" && event.stopPropagation());
    return form;
  }

  #validation() {
    return [make("label", { class: "row" }, "Nodes taken out", this.most, this.validate), this.work];
  }

  /** How many nodes a validation takes out one by one, of those that can act on the answer. */
  get nTaken() {
    const { graph, influence } = this.explorer;
    const answer = graph.nodes[graph.kind.indexOf("logit")];
    // logits lie two above the top MLP; a feature may act through attention patterns alone, which gives it no influence
    /** @param {number} i */
    const canAct = (i) => influence[i] > 0 || (graph.kind[i] === "feature" && graph.nodes[i].layer < answer.layer - 2);
    const all = graph.kind.filter((kind, i) => SETTABLE.includes(kind) && canAct(i)).length;
    return { all, taken: Math.min(all, Math.max(1, Math.trunc(Number(this.most.value)))) };
  }

  /** The nodes that can be set, by what they are called. */
  #choices() {
    const { explorer } = this;
    const { graph, state, selected, label } = explorer;
    const settable = (/** @type {string[]} */ ids) => ids.filter((id) => SETTABLE.includes(graph.kind[graph.place.get(id) ?? -1]));
    const { pins, groups, node } = state.choice;
    const all = [
      { key: "selected", name: selected < 0 ? "" : `Selected: ${label(selected)}`, ids: settable([node]) },
      { key: "pinned", name: "Pinned", ids: settable(pins) },
      ...groups.map(([name, ...ids]) => ({ key: `group ${ids.join(" ")}`, name, ids: settable(ids) })),
    ].filter(({ ids }) => ids.length);
    const counted = all.map((one) => ({ ...one, name: one.name + (one.ids.length > 1 ? ` (${one.ids.length})` : "") }));
    // those that are called the same, by their first node
    const isTwice = (/** @type {string} */ name) => counted.filter((one) => one.name === name).length > 1;
    return counted.map((one) => (isTwice(one.name) ? { ...one, name: `${one.name}: ${one.ids[0]}` } : one));
  }

  #show() {
    const choices = this.#choices();
    this.nodes.offer(Object.fromEntries(choices.map(({ key, name }) => [key, name])));
    const { document: content } = this.explorer.graph;
    const isReady = choices.length > 0;
    this.command.textContent = isReady ? commandOf(content.metadata, this.#setting()) : "Select a node, or pin some.";
    const isRunning = this.running !== null;
    this.run.toggleAttribute("disabled", !isReady || isRunning);
    this.validate.toggleAttribute("disabled", isRunning);
    this.stop.hidden = this.bar.hidden = !isRunning;
    const { taken, all } = this.nTaken;
    this.work.textContent =
      `Takes ${taken} of ${all} nodes out one by one, in each of 4 modes (${4 * taken} runs of the model), then sets of ` +
      "features beside random ones (as many as 150 more), and shows measured effects beside predicted ones.";
  }

  /** @returns {import("./settings.js").Setting} */
  #setting() {
    const { ids } = this.#choices().find(({ key }) => key === this.nodes.value) ?? { ids: [] };
    return {
      ids, number: this.number.value.trim() || "0", how: /** @type {"*"} */ (this.how.value),
      where: /** @type {"own"} */ (this.where.value), mode: this.mode.value, tokens: Math.max(0, Math.trunc(Number(this.tokens.value))),
    };
  }

  #intervene() {
    const setting = this.#setting();
    const body = { ...this.server, changes: changesOf(setting), mode: setting.mode, new_tokens: setting.tokens };
    const of = `${body.changes.slice(0, 3).join(", ")}${body.changes.length > 3 ? ` and ${body.changes.length - 3} more` : ""}`;
    this.#ask("intervene", body, (result) => [make("p", { class: "note" }, `Result of ${of}, ${MODES[setting.mode]}:`), ...effect(result)]);
  }

  #validate() {
    const { explorer } = this;
    this.#ask("validate", { ...this.server, n_nodes: this.nTaken.taken }, (result) => {
      explorer.graph.measured = result.measured;
      explorer.refresh();
      return verdict(result);
    });
  }

  /** @param {"intervene" | "validate"} what  @param {object} body  @param {(result: any) => Node[]} shown */
  async #ask(what, body, shown) {
    this.running = new AbortController();
    this.#show();
    this.told.textContent = "sent";
    this.found.replaceChildren();
    try {
      const result = await ask(what, body, (text, share) => this.#tell(text, share), this.running.signal);
      this.told.textContent = "";
      this.found.replaceChildren(...shown(result));
    } catch (error) {
      this.told.textContent = this.running.signal.aborted ? "Stopped." : error instanceof Error ? error.message : String(error);
    }
    this.running = null;
    this.#show();
  }

  /** @param {string} text  @param {number | null} share */
  #tell(text, share) {
    this.told.textContent = text;
    if (share === null) this.bar.removeAttribute("value");
    else /** @type {HTMLProgressElement} */ (this.bar).value = share;
  }
}

/** What followed. @param {any} result */
function effect({ mode, answers, kl, is_flipped, top_after, texts, notes }) {
  const row = (/** @type {any[]} */ cells, kind = "td") => make("tr", {}, ...cells.map((cell) => make(kind, {}, cell)));
  const number = (/** @type {number | null} */ x) => (x === null ? "unknown" : signed(x));
  const [best, share] = top_after[0];
  return [
    make(
      "table",
      { "aria-label": "What followed" },
      make("thead", {}, row(["answer", "before", "after", "predicted", "measured"], "th")),
      make(
        "tbody",
        {},
        ...answers.map((/** @type {any} */ one) =>
          row([one.token, percent(one.before), percent(one.after), number(one.predicted), number(one.measured)]),
        ),
      ),
    ),
    make("p", { class: "note" }, "Predicted by the edges, and measured: the change of the logit."),
    ...(mode === "constrained" ? [make("p", { class: "note" }, "Constrained: features in layers above the highest one that is set respond.")] : []),
    make("p", {}, `${is_flipped ? "The answer is now" : "The answer stays"} “${best}” (${percent(share)}); KL ${digits(kl)} nats.`),
    ...Object.entries(texts).map(([name, text]) => make("p", { class: "text" }, make("b", {}, `${name}: `), String(text))),
    ...notes.map((/** @type {string} */ note) => make("p", { class: "note" }, `${note}.`)),
  ];
}

/** How far the graph can be trusted. @param {any} result */
function verdict({ verdict: lines, measured }) {
  const items = lines.map((/** @type {any} */ line) => make("li", { class: line.level }, make("b", {}, line.level), ` ${line.text}`));
  const n = Object.keys(measured).length;
  return [
    make("ul", { role: "list", "aria-label": "Verdict", class: "verdict" }, ...items),
    make("p", { class: "note" }, `What the ${n} nodes that were taken out change of the answer's logit stands with each of them: predicted, and measured.`),
  ];
}

/** @param {string} name  @param {Record<string, any>} attributes */
const input = (name, attributes) => /** @type {HTMLInputElement} */ (make("input", { "aria-label": name, ...attributes }));

function start() {
  const server = serverOf(document.getElementById("server"));
  const details = make("details", { id: "experiments", open: server !== null }, make("summary", { class: "title" }, "Intervene"));
  // as long as nobody wants it, nothing of it is in the page
  const fill = () => details.append(new Experiments(Reflect.get(globalThis, "explorer"), server).form);
  if (server) fill();
  else details.addEventListener("toggle", fill, { once: true });
  element("panels").append(details);
  if (server) document.querySelector("header")?.append(make("a", { href: "/" }, "All graphs"));
}

/** @param {HTMLElement | null} block  @returns {Server | null} */
const serverOf = (block) => block && JSON.parse(block.textContent);

if (document.body.dataset.ready) start();
else {
  const waiting = new MutationObserver(() => {
    waiting.disconnect();
    start();
  });
  waiting.observe(document.body, { attributeFilter: ["data-ready"] });
}
