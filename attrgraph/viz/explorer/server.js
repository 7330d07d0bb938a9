// Set nodes to something else: the command that does it, and on a page of `attrgraph serve` what follows.
// @ts-check
import { ask } from "./ask.js";
import { digits, make, percent, signed } from "./html.js";
import { changesOf, commandOf } from "./settings.js";
/** @typedef {import("./main.js").Explorer} Explorer */

const HOW = { "*": "times", "=": "set to", "+": "plus" };
const WHERE = { own: "where they are", on: "from there on, in new tokens too", all: "at all positions" };
const MODES = { constrained: "constrained", free: "free", "frozen-attention": "frozen attention", frozen: "frozen" };
const SETTABLE = ["feature", "error", "embedding"];

class Experiments {
  /** @param {Explorer} explorer */
  constructor(explorer) {
    this.explorer = explorer;
    /** @type {AbortController | null} */
    this.running = null;
    const block = document.getElementById("server");
    /** @type {{graph: string} | null} */
    this.server = block && JSON.parse(block.textContent);
    this.nodes = select("Nodes", {});
    this.how = select("How", HOW);
    this.number = input("Number", { type: "text", value: "0", inputmode: "decimal", size: 6 });
    this.where = select("Where", WHERE);
    this.mode = select("Mode", MODES);
    this.tokens = input("New tokens", { type: "number", value: "0", min: 0, max: 200 });
    this.command = make("code", { class: "command", tabindex: 0 });
    this.run = make("button", { type: "submit" }, "Run");
    this.validate = make("button", { type: "button", onclick: () => this.#validate() }, "Validate the graph");
    this.stop = make("button", { type: "button", hidden: true, onclick: () => this.running?.abort() }, "Stop");
    this.told = make("p", { class: "note", role: "status", "aria-label": "Progress" });
    this.found = make("div", { "aria-live": "polite" });
    this.form = this.#form();
    this.#show();
    const { state } = explorer;
    const { onChange } = state;
    state.onChange = () => {
      onChange();
      this.#show();
    };
  }

  #form() {
    const form = make(
      "form",
      { class: "experiment" },
      labelled("Nodes", this.nodes),
      labelled("become", make("span", { class: "row" }, this.how, this.number)),
      labelled("where", this.where),
      labelled("mode", this.mode),
      labelled("new tokens", this.tokens),
      ...(this.server ? [make("div", { class: "row" }, this.run, this.validate, this.stop), this.told, this.found] : []),
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

  /** The nodes that can be set, by what they are called. */
  #choices() {
    const { explorer } = this;
    const { graph, state, selected, label } = explorer;
    const settable = (/** @type {string[]} */ ids) => ids.filter((id) => SETTABLE.includes(graph.kind[graph.place.get(id) ?? -1]));
    const { pins, groups, node } = state.choice;
    /** @type {[string, string[]][]} */
    const all = [
      [`Pinned nodes (${settable(pins).length})`, settable(pins)],
      ...groups.map(([name, ...ids]) => /** @type {[string, string[]]} */ ([`${name} (${settable(ids).length})`, settable(ids)])),
    ];
    if (selected >= 0) all.unshift([`Selected: ${label(selected)}`, settable([node])]);
    return all.filter(([, ids]) => ids.length);
  }

  #show() {
    const choices = this.#choices();
    const before = this.nodes.selectedOptions[0]?.text;
    this.nodes.replaceChildren(...choices.map(([name], i) => make("option", { value: i, selected: name === before }, name)));
    const { document: content } = this.explorer.graph;
    const isReady = choices.length > 0;
    this.command.textContent = isReady ? commandOf(content.metadata, this.#setting()) : "Select a node, or pin some.";
    const isRunning = this.running !== null;
    this.run.toggleAttribute("disabled", !isReady || isRunning);
    this.validate.toggleAttribute("disabled", isRunning);
    this.stop.hidden = !isRunning;
  }

  /** @returns {import("./settings.js").Setting} */
  #setting() {
    const [, ids] = this.#choices()[Number(this.nodes.value)] ?? ["", []];
    return {
      ids, number: this.number.value.trim() || "0", how: /** @type {"*"} */ (this.how.value),
      where: /** @type {"own"} */ (this.where.value), mode: this.mode.value, tokens: Math.max(0, Math.trunc(Number(this.tokens.value))),
    };
  }

  #intervene() {
    const setting = this.#setting();
    const body = { graph: this.server?.graph, changes: changesOf(setting), mode: setting.mode, new_tokens: setting.tokens };
    this.#ask("intervene", body, effect);
  }

  #validate() {
    this.#ask("validate", { graph: this.server?.graph }, verdict);
  }

  /** @param {"intervene" | "validate"} what  @param {object} body  @param {(result: any) => Node[]} shown */
  async #ask(what, body, shown) {
    this.running = new AbortController();
    this.#show();
    this.told.textContent = "sent";
    this.found.replaceChildren();
    try {
      const result = await ask(what, body, (text) => (this.told.textContent = text), this.running.signal);
      this.told.textContent = "";
      this.found.replaceChildren(...shown(result));
    } catch (error) {
      this.told.textContent = this.running.signal.aborted ? "Stopped." : error instanceof Error ? error.message : String(error);
    }
    this.running = null;
    this.#show();
  }
}

/** What followed. @param {any} result */
function effect({ answers, kl, is_flipped, top_after, texts, notes }) {
  const row = (/** @type {any[]} */ cells, kind = "td") => make("tr", {}, ...cells.map((cell) => make(kind, {}, cell)));
  const number = (/** @type {number | null} */ x) => (x === null ? "unknown" : signed(x));
  const [best, share] = top_after[0];
  return [
    make(
      "table",
      { "aria-label": "Answers" },
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
    make("p", {}, `${is_flipped ? "The answer is now" : "The answer stays"} “${best}” (${percent(share)}); KL ${digits(kl)} nats.`),
    ...Object.entries(texts).map(([name, text]) => make("p", { class: "text" }, make("b", {}, `${name}: `), String(text))),
    ...notes.map((/** @type {string} */ note) => make("p", { class: "note" }, `${note}.`)),
  ];
}

/** How far the graph can be trusted. @param {any} result */
function verdict({ verdict: lines }) {
  const items = lines.map((/** @type {any} */ line) => make("li", { class: line.level }, make("b", {}, line.level), ` ${line.text}`));
  return [make("ul", { role: "list", "aria-label": "Verdict", class: "verdict" }, ...items)];
}

/** @param {string} name  @param {Record<string, string>} options */
function select(name, options) {
  const all = Object.entries(options).map(([value, text]) => make("option", { value }, text));
  return /** @type {HTMLSelectElement} */ (make("select", { "aria-label": name }, ...all));
}

/** @param {string} name  @param {Record<string, any>} attributes */
const input = (name, attributes) => /** @type {HTMLInputElement} */ (make("input", { "aria-label": name, ...attributes }));

/** @param {string} text  @param {Node} control */
const labelled = (text, control) => make("label", {}, make("span", {}, text), control);

function start() {
  const experiments = new Experiments(Reflect.get(globalThis, "explorer"));
  const { server, form } = experiments;
  const details = make("details", { id: "experiments", open: server !== null }, make("summary", {}, "Intervene"));
  const isOpen = () => /** @type {HTMLDetailsElement} */ (details).open;
  // what is closed is not there: else its choices would be among the options that a search finds
  details.addEventListener("toggle", () => (isOpen() ? details.append(form) : form.remove()));
  if (isOpen()) details.append(form);
  document.querySelector("aside")?.append(details);
  if (server) document.querySelector("header")?.append(make("a", { href: "/" }, "All graphs"));
}

if (document.body.dataset.ready) start();
else {
  const waiting = new MutationObserver(() => {
    waiting.disconnect();
    start();
  });
  waiting.observe(document.body, { attributeFilter: ["data-ready"] });
}
