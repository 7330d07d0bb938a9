// What a person has chosen: kept in the address, and undone step by step.
// @ts-check

/**
 * @typedef {object} Choice
 * @property {string} node  the id of the selected one, or ""
 * @property {string} from  the id of the node from which paths are asked for, or ""
 * @property {string[]} pins  ids
 * @property {string[][]} groups  of nodes: a label, then ids
 * @property {number | null} nodes  threshold; null shows the graph as it came
 * @property {number} edges  threshold
 * @property {number} density  features that fire on more of all tokens are hidden
 * @property {Side} links  of the selected node that stand out
 * @property {Record<string, string>} labels  that were edited, by id
 * @property {import("./layout.js").Moved} moved  nodes that stand elsewhere
 */

/** Which links of the selected node stand out. */
export const SIDES = { both: "in and out", input: "inputs", output: "outputs", pinned: "with pinned nodes" };
/** @typedef {keyof typeof SIDES} Side */

const MOST_STEPS = 200;

export class State {
  /** @param {Choice} initial  @param {() => void} onChange */
  constructor(initial, onChange) {
    this.initial = initial;
    this.choice = { ...initial, ...fromAddress(location.hash) };
    this.onChange = onChange;
    /** Told the address where the page has none of its own. @type {(address: string) => void} */
    this.onAddress = () => {};
    /** @type {Choice[]} */
    this.past = [];
    /** @type {Choice[]} */
    this.future = [];
    addEventListener("hashchange", () => {
      if (location.hash.slice(1) !== toAddress(this.choice)) this.load(location.hash);
    });
  }

  /** @param {string} hash  of an address */
  load(hash) {
    this.set({ ...this.initial, ...fromAddress(hash) });
  }

  /** @param {Partial<Choice>} change  @param {boolean} isStep  whether undo comes back here */
  set(change, isStep = true) {
    if (isStep) {
      this.past = [...this.past.slice(-MOST_STEPS), this.choice];
      this.future = [];
    }
    this.choice = { ...this.choice, ...change };
    this.#changed();
  }

  undo() {
    this.#step(this.past, this.future);
  }

  redo() {
    this.#step(this.future, this.past);
  }

  /** @param {Choice[]} from  @param {Choice[]} to */
  #step(from, to) {
    const earlier = from.pop();
    if (!earlier) return;
    to.push(this.choice);
    this.choice = earlier;
    this.#changed();
  }

  #changed() {
    const address = toAddress(this.choice);
    try {
      history.replaceState(null, "", `#${address}`);
    } catch {
      this.onAddress(address); // a page in a frame may have no address of its own
    }
    this.onChange();
  }
}

/** @param {Choice} choice */
function toAddress(choice) {
  const parts = new URLSearchParams();
  if (choice.node) parts.set("node", choice.node);
  if (choice.from) parts.set("from", choice.from);
  parts.set("pins", JSON.stringify(choice.pins));
  parts.set("groups", JSON.stringify(choice.groups));
  if (choice.nodes !== null) parts.set("nodes", String(choice.nodes));
  parts.set("edges", String(choice.edges));
  if (choice.density < 1) parts.set("density", String(choice.density));
  parts.set("links", choice.links);
  for (const name of /** @type {const} */ (["labels", "moved"]))
    if (Object.keys(choice[name]).length) parts.set(name, JSON.stringify(choice[name]));
  return parts.toString();
}

/** What the address says; anything else in it is left out. @param {string} hash  @returns {Partial<Choice>} */
function fromAddress(hash) {
  const parts = new URLSearchParams(hash.slice(1));
  const read = (/** @type {string} */ name) => {
    try {
      return JSON.parse(parts.get(name) ?? "null");
    } catch {
      return null;
    }
  };
  const isShare = (/** @type {any} */ value) => typeof value === "number" && value >= 0 && value <= 1;
  const isText = (/** @type {any} */ value) => typeof value === "string";
  /** @type {Partial<Choice>} */
  const found = {};
  const isPlace = (/** @type {any} */ value) => Array.isArray(value) && value.length === 2 && value.every((one) => typeof one === "number" && Math.abs(one) < 1e5);
  const [pins, groups, labels, moved, links] = [...["pins", "groups", "labels", "moved"].map(read), parts.get("links")];
  if (Array.isArray(pins)) found.pins = pins.filter(isText);
  if (Array.isArray(groups)) found.groups = groups.filter((group) => Array.isArray(group) && group.every(isText) && group.length > 1);
  if (labels && typeof labels === "object")
    found.labels = Object.fromEntries(Object.entries(labels).filter(([, label]) => isText(label)));
  if (moved && typeof moved === "object") found.moved = Object.fromEntries(Object.entries(moved).filter(([, by]) => isPlace(by)));
  if (parts.has("node")) found.node = parts.get("node") ?? "";
  if (parts.has("from")) found.from = parts.get("from") ?? "";
  if (isShare(read("nodes"))) found.nodes = read("nodes");
  if (isShare(read("edges"))) found.edges = read("edges");
  if (isShare(read("density"))) found.density = read("density");
  if (links && Object.hasOwn(SIDES, links)) found.links = /** @type {Side} */ (links);
  return found;
}
