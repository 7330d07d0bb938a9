// What is shown at the thresholds of the moment: pruned as in Python, and pinned nodes besides.
// @ts-check
import { reversed, some } from "./graph.js";
import { sum } from "./html.js";
import { between, inputSizes, prune, scoresOf } from "./influence.js";
import { layOut } from "./layout.js";
/** @typedef {import("./graph.js").Graph} Graph */
/** @typedef {import("./graph.js").Edges} Edges */

/**
 * @typedef {object} Look
 * @property {Uint8Array} stays  of each node, whether it is shown
 * @property {number} nKept  nodes that pruning keeps
 * @property {number} nFrequent  features that are hidden since they fire too often
 * @property {number} nAdded  nodes that are pinned only
 * @property {Edges} inputs  of what is shown
 * @property {Edges} outputs
 * @property {Float64Array} sizes  sums of the sizes of edges into each node, of those shown
 * @property {import("./layout.js").Places} places
 * @property {number} inputShown  of all that the nodes shown read, the share that comes by links that are shown
 * @property {{replacement: number, completeness: number}} scores
 */

/**
 * @param {Graph} graph
 * @param {Float64Array} allSizes  sums of the sizes of edges into each node, of the whole graph
 * @param {Float64Array} influence  of its nodes
 * @param {import("./state.js").Choice} choice
 * @param {Set<number>} pinned  nodes that are shown however little they influence
 * @returns {Look}
 */
export function lookAt(graph, allSizes, influence, { nodes, edges, density, moved }, pinned) {
  const pruned =
    nodes === null
      ? { stays: new Uint8Array(graph.kind.length).fill(1), inputs: graph.inputs }
      : prune(graph, influence, nodes, edges);
  const kept = withoutFrequent(graph, pruned, density);
  const nKept = count(kept.stays);
  const scores = scoresOf(graph, kept.inputs);
  const shown = [...pinned].some((i) => !kept.stays[i]) ? withPinned(graph, kept, pinned) : kept;
  const sizes = inputSizes(shown.inputs);
  return {
    ...shown,
    nKept,
    nFrequent: count(pruned.stays) - nKept,
    nAdded: count(shown.stays) - nKept,
    outputs: reversed(shown.inputs),
    sizes,
    inputShown: sum(sizes) / (sum(allSizes.filter((_, i) => shown.stays[i])) || 1),
    places: layOut(graph, shown.stays, influence, moved),
    scores,
  };
}

/** @typedef {{stays: Uint8Array, inputs: Edges}} Kept */

/** Without features that fire on a larger share of tokens; whose is not known stay. @param {Graph} graph  @param {Kept} kept  @param {number} density */
function withoutFrequent(graph, kept, density) {
  const stays = kept.stays.map((stay, i) => (graph.frequency[i] > density ? 0 : stay));
  return stays.every((stay, i) => stay === kept.stays[i]) ? kept : { stays, inputs: between(kept.inputs, stays) };
}

/** @param {Uint8Array} stays */
function count(stays) {
  let n = 0;
  for (const one of stays) n += one;
  return n;
}

/**
 * Nodes that pruning left out, with their edges from and to what is shown.
 * @param {Graph} graph
 * @param {Kept} kept
 * @param {Set<number>} pinned
 */
function withPinned(graph, kept, pinned) {
  const stays = kept.stays.slice();
  for (const i of pinned) stays[i] = 1;
  const all = graph.inputs;
  const keeps = new Uint8Array(all.node.length);
  for (let i = 0; i < stays.length; i++) {
    const old = new Set(kept.inputs.node.subarray(kept.inputs.start[i], kept.inputs.start[i + 1]));
    for (let e = all.start[i]; stays[i] && e < all.start[i + 1]; e++) {
      const source = all.node[e];
      const isNew = !kept.stays[i] || !kept.stays[source];
      if (old.has(source) || (isNew && stays[source])) keeps[e] = 1;
    }
  }
  return { stays, inputs: some(all, keeps) };
}
