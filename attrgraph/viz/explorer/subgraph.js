// An explanation by the pinned features only, scored as Neuronpedia does: the same as `Graph.scores(pinned)`.
// @ts-check
import { isFeature } from "./graph.js";
import { scoresOf } from "./influence.js";
/** @typedef {import("./graph.js").Graph} Graph */

/**
 * Every other feature counts as an error: its edges are added to those of the error of its layer and position.
 * @param {Graph} graph
 * @param {Set<number>} pinned
 */
export function pinnedScores(graph, pinned) {
  const into = errorOfEach(graph, pinned);
  const { start, node, weight } = graph.inputs;
  const folded = { start: new Uint32Array(start.length), node: /** @type {number[]} */ ([]), weight: /** @type {number[]} */ ([]) };
  for (let target = 0; target < graph.kind.length; target++) {
    /** @type {Map<number, number>} */
    const sums = new Map();
    for (let e = start[target]; e < start[target + 1]; e++) {
      const source = into[node[e]];
      if (source >= 0) sums.set(source, (sums.get(source) ?? 0) + weight[e]);
    }
    for (const [source, sum] of sums) {
      folded.node.push(source);
      folded.weight.push(sum);
    }
    folded.start[target + 1] = folded.node.length;
  }
  return scoresOf(graph, { start: folded.start, node: Uint32Array.from(folded.node), weight: Float32Array.from(folded.weight) });
}

/** The node itself, or of a feature that is not pinned its error, or -1 without one. @param {Graph} graph  @param {Set<number>} pinned */
function errorOfEach(graph, pinned) {
  const place = (/** @type {number} */ i) => `${graph.kind[i].replace(/feature|error/, "")} ${graph.layer[i]} ${graph.pos[i]}`;
  /** @type {Map<string, number>} */
  const errors = new Map();
  for (const i of graph.kind.keys()) if (graph.kind[i].endsWith("error") && !errors.has(place(i))) errors.set(place(i), i);
  return graph.kind.map((_, i) => (isFeature(graph, i) && !pinned.has(i) ? (errors.get(place(i)) ?? -1) : i));
}
