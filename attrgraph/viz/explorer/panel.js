// What stands beside the picture: the selected node with its inputs and outputs, and the pinned nodes.
// @ts-check
import { featurePanel } from "./feature.js";
import { edgesOf, featureName, isError } from "./graph.js";
import { counted, digits, make, percent, placed, signed, sum } from "./html.js";
import { errorShare } from "./influence.js";
import { otherHas } from "./link.js";
import { pathPanel } from "./pathpanel.js";
import { SIDES } from "./state.js";
/** @typedef {import("./graph.js").Graph} Graph */
/** @typedef {import("./graph.js").Edges} Edges */

const MOST_LISTED = 1000; // edges of a node, until all are asked for

/**
 * @typedef {object} Shown  What panels need of what is shown.
 * @property {Graph} graph
 * @property {import("./look.js").Look} look
 * @property {Float64Array} influence
 * @property {string[]} pins
 * @property {number} from  the node from which paths are asked for, or -1
 * @property {string[][]} groups
 * @property {import("./state.js").Side} side  whose links stand out
 * @property {() => void} otherSide
 * @property {(i: number) => void} setFrom  -1 for none
 * @property {(path: number[]) => void} showPath
 * @property {(change: (groups: string[][]) => string[][]) => void} regroup
 * @property {(i: number) => string} label
 * @property {(i: number) => void} select
 * @property {(i: number) => void} pin
 * @property {(i: number, label: string) => void} rename
 */

/** @param {Shown} shown  @param {number} i */
export function nodePanel(shown, i) {
  const { graph, label, look } = shown;
  const node = graph.nodes[i];
  const isPinned = shown.pins.includes(node.node_id);
  const note = look.stays[i] ? "" : "Pruned at this threshold: these are links of the whole graph.";
  return [
    make("h2", { tabindex: -1 }, label(i)),
    make("p", { class: "id" }, make("code", {}, node.node_id)),
    make(
      "div",
      { class: "row" },
      labelField(shown, i),
      make("button", { type: "button", "data-key": "pin", "aria-pressed": String(isPinned), onclick: () => shown.pin(i) }, isPinned ? "Unpin" : "Pin"),
    ),
    make("dl", {}, ...numbers(shown, i).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    ...(note ? [make("p", { class: "note" }, note)] : []),
    make("button", { type: "button", "data-key": "links", title: "Which links of this node stand out in the picture (l)", onclick: shown.otherSide }, `Links that stand out: ${SIDES[shown.side]}`),
    make("div", { class: "sides" }, edgeList(shown, i, "Inputs"), edgeList(shown, i, "Outputs")),
  ];
}

/** What stands below the node: its paths, and what its feature means. @param {Shown} shown  @param {number} i */
export function morePanels(shown, i) {
  const { graph } = shown;
  const page = graph.pages[featureName(graph, i)];
  return [pathPanel(shown, i), ...(page ? [featurePanel(page, graph.nodes[i].activation ?? null)] : [])];
}

/** @param {Shown} shown  @param {number} i */
function labelField(shown, i) {
  const input = /** @type {HTMLInputElement} */ (make("input", { type: "text", value: shown.label(i), "aria-label": "Label" }));
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") input.blur();
    if (event.key === "Escape") {
      input.value = shown.label(i);
      input.blur();
    }
  });
  input.addEventListener("change", () => {
    if (input.value.trim()) shown.rename(i, input.value);
    else input.value = shown.label(i);
  });
  return input;
}

/** @param {Shown} shown  @param {number} i */
function numbers({ graph, look, influence }, i) {
  const node = graph.nodes[i];
  const found = [
    ["kind", graph.kind[i].replace("_", " ")],
    ["token", `${JSON.stringify(graph.token[i])} at position ${graph.pos[i]}`],
    ["influence", `${digits(influence[i])} of the answer's ${digits(sum(graph.target))}, over all paths${graph.stored ? ofWhich(graph, influence) : ""}`],
  ];
  if (typeof node.activation === "number") found.push(["activation", digits(node.activation)]);
  if (graph.frequency[i] >= 0) found.push(["fires on", `${percent(graph.frequency[i])} of tokens`]);
  if (graph.kind[i] === "logit") found.push(["probability", percent(node.token_prob)]);
  if (typeof node.bias_share === "number" && graph.kind[i] !== "embedding" && !isError(graph, i)) found.push(["from biases", `${percent(node.bias_share)} of its input`]);
  for (const [mode, { predicted, measured }] of Object.entries(graph.measured[node.node_id] ?? {}))
    found.push([`taken out, ${mode}`, `answer's logit ${signed(predicted)} predicted, ${signed(measured)} measured${mode === "constrained" ? ", all MLP outputs held" : ""}`]);
  if (graph.matches) found.push(["other graph", otherHas(graph, node.node_id)]);
  if (look.sizes[i]) found.push(["from errors", `${percent(errorShare(graph.kind.map((_, j) => isError(graph, j)), look.inputs, i, look.sizes[i]))} of the input shown`]);
  return found;
}

/** Of a graph that came pruned. @param {Graph} graph  @param {Float64Array} influence */
const ofWhich = (graph, influence) => (influence === graph.stored ? " of the graph before it was pruned" : " of what this file has of the graph");

/**
 * The edges on one side: those shown, or of a node that is not shown, all.
 * @param {Shown} shown  @param {number} i  @param {"Inputs" | "Outputs"} name
 */
function edgeList(shown, i, name) {
  const { graph } = shown;
  const found = edgesBeside(shown, i, name).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  const item = (/** @type {typeof found[number]} */ { other, weight, share }) => {
    const title = `${graph.nodes[other].node_id}: ${percent(share)} of what ${name === "Inputs" ? "this node" : "that node"} reads from the nodes shown`;
    return make(
      "li",
      {},
      make(
        "button",
        { type: "button", class: weight > 0 ? "raises" : "lowers", title, onclick: () => shown.select(other) },
        placed(shown.label(other), graph.pos[other]),
        make("span", { class: "weight" }, signed(weight)),
        make("span", { class: "share", "aria-hidden": "true", style: `--share:${share}` }),
      ),
    );
  };
  const list = make("ul", { role: "list", "aria-label": name }, ...found.slice(0, MOST_LISTED).map(item));
  const section = make("section", {}, make("p", { class: "title" }, `${name} (${counted(found.length)})`), list);
  const rest = found.slice(MOST_LISTED);
  if (rest.length) {
    const more = make("button", { type: "button" }, `${counted(rest.length)} weaker ones`);
    more.addEventListener("click", () => {
      list.append(...rest.map(item));
      more.remove();
    });
    section.append(more);
  }
  return section;
}

/** @param {Shown} shown  @param {number} i  @param {"Inputs" | "Outputs"} name */
function edgesBeside({ graph, look }, i, name) {
  const found = [];
  if (look.stays[i]) {
    const edges = name === "Inputs" ? look.inputs : look.outputs;
    for (const e of edgesOf(edges, i)) {
      const size = look.sizes[name === "Inputs" ? i : edges.node[e]];
      found.push({ other: edges.node[e], weight: edges.weight[e], share: Math.abs(edges.weight[e]) / size });
    }
    return found;
  }
  for (let target = 0; target < graph.kind.length; target++) {
    if (name === "Inputs" && target !== i) continue;
    let size = 0;
    for (const e of edgesOf(graph.inputs, target)) size += Math.abs(graph.inputs.weight[e]);
    for (const e of edgesOf(graph.inputs, target)) {
      const [source, weight] = [graph.inputs.node[e], graph.inputs.weight[e]];
      if (name === "Inputs") found.push({ other: source, weight, share: Math.abs(weight) / size });
      else if (source === i) found.push({ other: target, weight, share: Math.abs(weight) / size });
    }
  }
  return found;
}
