// The page: what is chosen decides what is shown.
// @ts-check
import { Canvas } from "./canvas.js";
import { MOST_LINKS, strongest } from "./drawing.js";
import { edgesOf, labelOf, readGraph } from "./graph.js";
import { counted, digits, element, field, make, percent } from "./html.js";
import { influenceOf, inputSizes } from "./influence.js";
import { listenToKeys } from "./keys.js";
import { lookAt } from "./look.js";
import { nodePanel, overview, pinnedList } from "./panel.js";
import { download, saved } from "./save.js";
import { search } from "./search.js";
import { State } from "./state.js";
/** @typedef {import("./graph.js").Graph} Graph */

const NODE_THRESHOLD = 0.8;
const EDGE_THRESHOLD = 0.98;
const LINKS = { both: "in and out", input: "inputs", output: "outputs" };

export class Explorer {
  /** @param {Graph} graph */
  constructor(graph) {
    this.graph = graph;
    this.influence = influenceOf(graph.inputs, graph.target);
    this.allSizes = inputSizes(graph.inputs);
    const { pinnedIds, supernodes } = graph.document.qParams;
    const initial = {
      node: "", pins: pinnedIds, groups: supernodes, labels: {}, links: /** @type {"both"} */ ("both"),
      nodes: graph.isPruned ? null : NODE_THRESHOLD, edges: EDGE_THRESHOLD,
    };
    this.state = new State(initial, () => this.refresh());
    this.key = "";
    this.look = this.#look();
    this.links = strongest(this.look.inputs);
    const canvas = /** @type {HTMLCanvasElement} */ (element("graph"));
    this.canvas = new Canvas(canvas, element("tooltip"), (i, event) => this.#click(i, event), (i) => this.#describe(i));
    this.#listen();
    this.refresh();
  }

  /** @param {number} i */
  label = (i) => this.state.choice.labels[this.graph.nodes[i].node_id] ?? labelOf(this.graph, i);

  /** @param {number} i  -1 for none */
  select = (i) => {
    const node = i < 0 ? "" : this.graph.nodes[i].node_id;
    if (node !== this.state.choice.node) this.state.set({ node });
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

  refresh() {
    const { choice } = this.state;
    const pinned = this.#places(choice.pins);
    const hidden = [...pinned].filter((i) => !this.look.stays[i]);
    const key = JSON.stringify([choice.nodes, choice.edges]);
    const isOther = key !== this.key || hidden.length > 0 || this.look.nAdded > 0;
    if (isOther) {
      this.look = this.#look();
      this.links = strongest(this.look.inputs);
    }
    this.key = key;
    const { graph, look, links, influence, label, select, pin, rename, selected } = this;
    const grouped = this.#places(choice.groups.flatMap(([, ...members]) => members));
    this.canvas.show({ graph, look, links, influence, selected, pinned, grouped, side: choice.links, label }, isOther);
    const shown = { graph, look, influence, pins: choice.pins.filter((id) => this.#place(id) >= 0), label, select, pin, rename };
    const hint = make("p", { class: "note" }, "Click a node, or press / to search.");
    element("node").replaceChildren(...(selected < 0 ? [hint] : nodePanel(shown, selected)));
    element("overview").replaceChildren(...(selected < 0 ? overview(shown) : []));
    element("pinned").replaceChildren(make("h3", {}, `Pinned nodes (${shown.pins.length})`), pinnedList(shown));
    this.#showNumbers();
  }

  #showNumbers() {
    const { choice, past, future } = this.state;
    const { graph, look } = this;
    const nEdges = look.inputs.node.length;
    element("status").textContent = `${look.nKept} nodes`;
    element("kept").textContent =
      (look.nAdded ? `and ${look.nAdded} pinned ` : "") +
      `of ${counted(graph.kind.length)}, ${counted(nEdges)} of ${counted(graph.inputs.node.length)} links: ` +
      `${percent(look.inputShown)} of what these nodes read` +
      (nEdges > MOST_LINKS ? `; the strongest ${counted(MOST_LINKS)} links are drawn` : "");
    element("scores").textContent =
      `replacement ${percent(look.scores.replacement)}, completeness ${percent(look.scores.completeness)}`;
    const isWhole = choice.nodes === null;
    field("nodes").value = String(choice.nodes ?? 1);
    field("edges").value = String(choice.edges);
    element("nodes-value").textContent = isWhole ? "as it came" : String(choice.nodes);
    element("edges-value").textContent = isWhole ? "as it came" : String(choice.edges);
    element("links").textContent = `Links: ${LINKS[choice.links]}`;
    /** @type {HTMLButtonElement} */ (element("undo")).disabled = !past.length;
    /** @type {HTMLButtonElement} */ (element("redo")).disabled = !future.length;
  }

  /** @param {number} i */
  #describe(i) {
    const { graph } = this;
    const text = `${this.label(i)}\n${graph.nodes[i].node_id}, influence ${digits(this.influence[i])}`;
    return graph.kind[i] === "logit" ? `${text}, probability ${percent(graph.target[i])}` : text;
  }

  /** @param {number} i  @param {PointerEvent} event */
  #click(i, event) {
    if (i >= 0 && (event.ctrlKey || event.metaKey)) this.pin(i);
    else this.select(i === this.selected ? -1 : i);
  }

  /** To the strongest neighbour on one side. @param {"inputs" | "outputs"} side */
  #follow(side) {
    if (this.selected < 0) return this.#selectAnswer();
    const edges = this.look[side];
    let best = -1;
    for (const e of edgesOf(edges, this.selected))
      if (best < 0 || Math.abs(edges.weight[e]) > Math.abs(edges.weight[best])) best = e;
    if (best >= 0) this.select(edges.node[best]);
  }

  /** To the next node of the same layer, or of the same position. @param {1 | -1} by  @param {"layer" | "pos"} same */
  #step(by, same) {
    const { graph, selected } = this;
    if (selected < 0) return this.#selectAnswer();
    const { x, y } = this.look.places;
    const line = [...graph.kind.keys()].filter((i) => this.look.stays[i] && graph[same][i] === graph[same][selected]);
    line.sort(same === "layer" ? (a, b) => x[a] - x[b] || y[a] - y[b] : (a, b) => y[b] - y[a] || x[a] - x[b]);
    const next = line[line.indexOf(selected) + by];
    if (next !== undefined) this.select(next);
  }

  #otherLinks() {
    const sides = /** @type {("both" | "input" | "output")[]} */ (Object.keys(LINKS));
    this.state.set({ links: sides[(sides.indexOf(this.state.choice.links) + 1) % sides.length] });
  }

  #selectAnswer() {
    this.select(this.graph.target.indexOf(Math.max(...this.graph.target)));
  }

  #save() {
    const { slug } = this.graph.document.metadata;
    const text = JSON.stringify(saved(this.graph, this.look, this.state.choice));
    download(`${slug || "graph"}.json`, "application/json", text);
  }

  #listen() {
    const { state, graph, influence, label, select } = this;
    slide("nodes", (value, isStep) => state.set({ nodes: value }, isStep));
    slide("edges", (value, isStep) => state.set({ edges: value, nodes: state.choice.nodes ?? 1 }, isStep));
    const keys = /** @type {HTMLDialogElement} */ (element("keys"));
    for (const [id, run] of Object.entries({
      undo: () => state.undo(), redo: () => state.redo(), save: () => this.#save(), help: () => keys.showModal(),
      links: () => this.#otherLinks(),
    })) element(id).addEventListener("click", run);
    search(field("search"), element("found"), () => ({ graph, isShown: this.look.stays, influence, label }), select);
    listenToKeys({
      undo: () => state.undo(),
      redo: () => state.redo(),
      byKey: {
        "/": () => field("search").focus(),
        "?": () => keys.open || keys.showModal(),
        p: () => this.selected >= 0 && this.pin(this.selected),
        l: () => this.#otherLinks(),
        u: () => state.undo(),
        r: () => state.redo(),
        f: () => this.canvas.fit(),
        Escape: () => (keys.open ? keys.close() : select(-1)),
        ArrowDown: () => this.#follow("inputs"),
        ArrowUp: () => this.#follow("outputs"),
        ArrowLeft: () => this.#step(-1, "layer"),
        ArrowRight: () => this.#step(1, "layer"),
        ShiftArrowDown: () => this.#step(-1, "pos"),
        ShiftArrowUp: () => this.#step(1, "pos"),
      },
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.canvas.redraw());
  }
}

/** One step to undo for each time a slider is moved. @param {string} id  @param {(value: number, isStep: boolean) => void} change */
function slide(id, change) {
  let isMoving = false;
  field(id).addEventListener("input", () => {
    change(Number(field(id).value), !isMoving);
    isMoving = true;
  });
  field(id).addEventListener("change", () => (isMoving = false));
}

readGraph().then(
  (graph) => {
    Object.assign(globalThis, { explorer: new Explorer(graph) }); // for the browser's console
    document.body.dataset.ready = "true";
  },
).catch((error) => {
  element("status").textContent = `The graph cannot be shown: ${error.message}`;
});
