// The page: what is chosen decides what is shown.
// @ts-check
import { bindings, slide } from "./bindings.js";
import { Canvas } from "./canvas.js";
import { linksOf, strongest } from "./drawing.js";
import { featureName, isError, labelOf, readGraph } from "./graph.js";
import { whenFree } from "./focus.js";
import { flowsOf, isMixed, without } from "./groups.js";
import { digits, element, field, percent } from "./html.js";
import { influenceOf, inputSizes } from "./influence.js";
import { listenToKeys } from "./keys.js";
import { listenToOther } from "./link.js";
import { layOut } from "./layout.js";
import { lookAt } from "./look.js";
import { showNumbers, showPanels } from "./panels.js";
import { effectOf, pathThrough, strongestPaths } from "./paths.js";
import { listenToBorder } from "./pointer.js";
import { download, saved } from "./save.js";
import { search } from "./search.js";
import { SIDES, State } from "./state.js";
import { pinnedScores } from "./subgraph.js";
/** @typedef {import("./graph.js").Graph} Graph */

const NODE_THRESHOLD = 0.8;
const EDGE_THRESHOLD = 0.98;

export class Explorer {
  /** @param {Graph} graph */
  constructor(graph) {
    this.graph = graph;
    this.ownInfluence = influenceOf(graph.inputs, graph.target);
    this.allSizes = inputSizes(graph.inputs);
    const { pinnedIds, supernodes, linkType } = graph.document.qParams;
    const initial = {
      node: "", from: "", pins: pinnedIds, groups: supernodes, labels: {}, links: Object.hasOwn(SIDES, linkType) ? linkType : "both",
      nodes: graph.isPruned ? null : NODE_THRESHOLD, edges: EDGE_THRESHOLD, density: 1, moved: {},
    };
    this.state = new State(initial, () => this.refresh());
    this.key = "";
    this.moved = this.state.choice.moved;
    /** @type {number[]} */
    this.path = [];
    this.pathOf = -1;
    /** @type {Set<number>} */
    this.grouping = new Set();
    this.holdsG = false;
    this.look = this.#look();
    this.links = this.#strongest();
    const canvas = /** @type {HTMLCanvasElement} */ (element("graph"));
    this.canvas = new Canvas(canvas, element("tooltip"), {
      click: (i, event) => this.#click(i, event),
      double: (i) => this.#double(i),
      move: (i, dx, dy) => this.move(i, dx, dy),
      describe: (i) => this.#describe(i),
    });
    this.#listen();
    this.refresh();
  }

  /** @param {number} i */
  label = (i) => this.state.choice.labels[this.graph.nodes[i].node_id] ?? labelOf(this.graph, i);

  /** For the picture, where the token stands below. @param {number} i */
  shortLabel = (i) => {
    const label = this.label(i);
    if (label !== this.graph.token[i]) return label;
    return isError(this.graph, i) ? "error" : featureName(this.graph, i) || label;
  };

  /** No step to undo: undoing goes from change to change. @param {number} i  -1 for none */
  select = (i) => {
    const node = i < 0 ? "" : this.graph.nodes[i].node_id;
    if (node !== this.state.choice.node) this.state.set({ node }, false);
  };

  /** Pin a node, or take its pin away. @param {number} i */
  pin = (i) => {
    const id = this.graph.nodes[i].node_id;
    const { pins } = this.state.choice;
    this.state.set({ pins: pins.includes(id) ? pins.filter((one) => one !== id) : [...pins, id] });
  };

  /** @param {number} i  @param {string} text */
  rename = (i, text) => {
    const label = text.trim();
    const id = this.graph.nodes[i].node_id;
    if (label && label !== this.label(i)) this.state.set({ labels: { ...this.state.choice.labels, [id]: label } });
  };

  /** A new group, named like its first node; a node is in one group only. @param {number[]} nodes */
  group = (nodes) => {
    if (!nodes.length) return;
    if (isMixed(this.graph, nodes)) {
      element("refused").textContent = "No group was made: answers go into groups of their own, and these are an answer and other nodes.";
      return;
    }
    const ids = nodes.map((i) => this.graph.nodes[i].node_id);
    this.state.set({ groups: [...without(this.state.choice.groups, ids), [this.label(nodes[0]), ...ids]] });
  };

  /** Let a node stand elsewhere. @param {number} i  @param {number} dx  to the right of where it is  @param {number} dy */
  move = (i, dx, dy) => {
    const { moved } = this.state.choice;
    const id = this.graph.nodes[i].node_id;
    const [x, y] = moved[id] ?? [0, 0];
    this.state.set({ moved: { ...moved, [id]: [x + dx, y + dy].map((value) => Math.round(10 * value) / 10) } });
  };

  /** Nodes stand where they would again: one, or with -1 all. @param {number} i */
  putBack = (i) => {
    const { moved } = this.state.choice;
    const ids = i < 0 ? Object.keys(moved) : [this.graph.nodes[i].node_id];
    if (ids.some((id) => moved[id])) this.state.set({ moved: Object.fromEntries(Object.entries(moved).filter(([id]) => !ids.includes(id))) });
  };

  /** Of each node: until a graph that came pruned is pruned further, what it had before, as in Python. */
  get influence() {
    return (this.state.choice.nodes === null && this.graph.stored) || this.ownInfluence;
  }

  get selected() {
    return this.#place(this.state.choice.node);
  }

  /** @param {string} id */
  #place(id) {
    return this.graph.place.get(id) ?? -1;
  }

  /** @param {string[]} ids */
  #places(ids) {
    return new Set(ids.map((id) => this.#place(id)).filter((i) => i >= 0));
  }

  #look() {
    return lookAt(this.graph, this.allSizes, this.influence, this.state.choice, this.#places(this.state.choice.pins));
  }

  #strongest() {
    const { target } = this.graph;
    return strongest(this.look.inputs, this.influence.map((value, i) => value + target[i]));
  }

  refresh() {
    const { choice } = this.state;
    const pinned = this.#places(choice.pins);
    const hidden = [...pinned].filter((i) => !this.look.stays[i]);
    const key = JSON.stringify([choice.nodes, choice.edges, choice.density]);
    const isOther = key !== this.key || hidden.length > 0 || this.look.nAdded > 0;
    if (isOther) {
      this.look = this.#look();
      this.links = this.#strongest();
    } else if (choice.moved !== this.moved)
      this.look = { ...this.look, places: layOut(this.graph, this.look.stays, this.influence, choice.moved) };
    this.key = key;
    this.moved = choice.moved;
    if (this.pathOf !== this.selected) element("panels").scrollTop = 0;
    if (isOther || this.pathOf !== this.selected) {
      this.pathOf = this.selected;
      this.path = this.selected < 0 || !this.look.stays[this.selected] ? [] : pathThrough(this.graph, this.look.inputs, this.selected);
    }
    element("refused").textContent = "";
    this.#draw(isOther);
    showNumbers(this.graph, this.look, choice);
    whenFree(this.showPanels);
    /** @type {HTMLButtonElement} */ (element("undo")).disabled = !this.state.past.length;
    /** @type {HTMLButtonElement} */ (element("redo")).disabled = !this.state.future.length;
  }

  /** @param {boolean} isOther  whether other nodes are shown than before */
  #draw(isOther) {
    const { graph, look, links, influence, selected, path } = this;
    const { choice } = this.state;
    const pinned = this.#places(choice.pins);
    const grouped = new Set([...this.#places(choice.groups.flatMap(([, ...members]) => members)), ...this.grouping]);
    this.canvas.show({ graph, look, links, influence, selected, pinned, grouped, path, side: choice.links, label: this.shortLabel }, isOther);
  }

  showPanels = () => {
    const { graph, look, influence, label, select, pin, rename, selected, state } = this;
    const { choice } = state;
    const shown = {
      graph, look, influence, label, select, pin, rename, from: this.#place(choice.from), groups: choice.groups,
      side: choice.links, otherSide: () => this.otherLinks(),
      pins: choice.pins.filter((id) => this.#place(id) >= 0),
      setFrom: (/** @type {number} */ i) => state.set({ from: i < 0 ? "" : graph.nodes[i].node_id }),
      regroup: (/** @type {(groups: string[][]) => string[][]} */ change) => state.set({ groups: change(state.choice.groups) }),
      showPath: (/** @type {number[]} */ path) => {
        this.path = path;
        this.#draw(false);
      },
    };
    showPanels(shown, selected);
  };

  /** @param {number} i */
  #describe(i) {
    const { graph } = this;
    const when = this.influence === graph.stored ? " before pruning" : "";
    const text = `${this.label(i)}\n${graph.nodes[i].node_id}, influence ${digits(this.influence[i])}${when}`;
    return graph.kind[i] === "logit" ? `${text}, probability ${percent(graph.target[i])}` : text;
  }

  /** @param {number} i */
  #double(i) {
    this.putBack(i);
    this.select(i);
  }

  /** @param {number} i  @param {MouseEvent} event */
  #click(i, event) {
    if (this.holdsG) {
      if (i >= 0) this.grouping.add(i);
      this.#draw(false);
    } else if (i >= 0 && (event.ctrlKey || event.metaKey)) this.pin(i);
    else this.select(i === this.selected ? -1 : i);
  }

  /** @param {(look: import("./look.js").Look, i: number) => number} move  from a node to the next; without one, to the answer */
  go(move) {
    const { target } = this.graph;
    const next = this.selected < 0 ? target.indexOf(Math.max(...target)) : move(this.look, this.selected);
    if (next >= 0) this.select(next);
  }

  otherLinks() {
    const sides = /** @type {import("./state.js").Side[]} */ (Object.keys(SIDES));
    this.state.set({ links: sides[(sides.indexOf(this.state.choice.links) + 1) % sides.length] });
  }

  /** `g` held: the nodes that are clicked become a group when it is released; pressed alone, the pinned ones do. */
  holdG() {
    this.holdsG = true;
  }

  #releaseG() {
    if (!this.holdsG) return;
    const loose = [...this.#places(this.state.choice.pins)];
    const nodes = this.grouping.size ? [...this.grouping] : loose;
    this.holdsG = false;
    this.grouping = new Set();
    this.#draw(false);
    this.group(nodes);
  }

  /** The group of the selected node is no group any more. */
  ungroup() {
    const { node, groups } = this.state.choice;
    const rest = groups.filter((group) => !group.slice(1).includes(node));
    if (rest.length < groups.length) this.state.set({ groups: rest });
  }

  #save() {
    download(this.#fileName("json"), "application/json", JSON.stringify(saved(this.graph, this.look, this.state.choice)));
  }

  /** @param {"svg" | "png"} format */
  #savePicture(format) {
    if (format === "svg") download(this.#fileName("svg"), "image/svg+xml", this.canvas.svg());
    else this.canvas.png((content) => content && download(this.#fileName("png"), "image/png", content));
  }

  /** @param {string} ending */
  #fileName = (ending) => `${this.graph.document.metadata.slug || "graph"}.${ending}`;

  #listen() {
    const { state, graph, label, select } = this;
    slide("nodes", (value, isStep) => state.set({ nodes: value }, isStep));
    element("frequent").hidden = !graph.frequency.some((share) => share >= 0);
    slide("density", (density, isStep) => state.set({ density }, isStep));
    slide("edges", (value, isStep) => state.set({ edges: value, nodes: state.choice.nodes ?? 1 }, isStep));
    const keys = /** @type {HTMLDialogElement} */ (element("keys"));
    for (const [id, run] of Object.entries({
      undo: () => state.undo(), redo: () => state.redo(), save: () => this.#save(), help: () => keys.showModal(),
      svg: () => this.#savePicture("svg"), png: () => this.#savePicture("png"),
    })) element(id).addEventListener("click", run);
    listenToBorder(element("border"), element("panels"));
    search(field("search"), element("found"), () => ({ graph, isShown: this.look.stays, influence: this.influence, label }), select);
    listenToKeys({
      undo: () => state.undo(),
      redo: () => state.redo(),
      byKey: bindings(this),
    });
    document.addEventListener("keyup", (event) => event.key === "g" && this.#releaseG());
    addEventListener("blur", () => this.#releaseG());
  }
}

readGraph().then(
  (graph) => {
    const explorer = new Explorer(graph);
    listenToOther(explorer);
    // for the browser's console
    Object.assign(globalThis, { explorer, questions: { strongestPaths, effectOf, flowsOf, linksOf, pinnedScores } });
    document.body.dataset.ready = "true";
  },
).catch((error) => {
  element("status").textContent = `The graph cannot be shown: ${error.message}`;
});
