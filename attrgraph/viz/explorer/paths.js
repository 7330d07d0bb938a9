// The strongest paths between nodes, and effects over all paths: the same as `Graph.paths` and `Graph.effect`.
// @ts-check
import { fromTop, influenceOf, inputSizes } from "./influence.js";
/** @typedef {import("./graph.js").Graph} Graph */
/** @typedef {import("./graph.js").Edges} Edges */

/**
 * @typedef {object} Path
 * @property {number[]} nodes  source first
 * @property {number} share  product of its edges' shares of their targets' input, times what its target counts
 * @property {number} coverage  share of this path and those before it in that of all paths
 */

/** @typedef {{value: number, source: number, rank: number}} Arrival  rank -1 where the path starts at the source */

/**
 * The k paths with the largest shares, the best first.
 * @param {Edges} inputs
 * @param {Uint8Array} starts  whether paths may start at each node
 * @param {Float64Array} ends  what each node counts as the end of a path
 * @param {number} k
 * @returns {Path[]}
 */
export function strongestPaths(inputs, starts, ends, k) {
  const sizes = inputSizes(inputs);
  /** @type {Arrival[][]} */
  const best = Array.from(ends, () => []);
  for (const target of fromTop(inputs).slice().reverse())
    for (let e = inputs.start[target]; e < inputs.start[target + 1]; e++) {
      const source = inputs.node[e];
      const share = Math.abs(inputs.weight[e]) / sizes[target];
      if (starts[source]) keep(best[target], { value: share, source, rank: -1 }, k);
      best[source].forEach(({ value }, rank) => keep(best[target], { value: share * value, source, rank }, k));
    }
  /** @type {Arrival[]} */
  const last = [];
  ends.forEach((end, source) => {
    if (end > 0) best[source].forEach(({ value }, rank) => keep(last, { value: value * end, source, rank }, k));
  });
  let all = 0;
  influenceOf(inputs, ends).forEach((value, i) => (all += starts[i] ? value : 0));
  let sum = 0;
  return last.map(({ value, source, rank }) => {
    sum += value;
    return { nodes: followed(best, source, rank), share: value, coverage: sum / all };
  });
}

/** Among the k best. @param {Arrival[]} arrivals  the best first  @param {Arrival} one  @param {number} k */
function keep(arrivals, one, k) {
  if (!(one.value > 0) || (arrivals.length === k && arrivals[k - 1].value >= one.value)) return;
  let at = arrivals.length;
  while (at > 0 && arrivals[at - 1].value < one.value) at--;
  arrivals.splice(at, 0, one);
  if (arrivals.length > k) arrivals.pop();
}

/** @param {Arrival[][]} best  @param {number} node  @param {number} rank */
function followed(best, node, rank) {
  const nodes = [node];
  while (rank >= 0) {
    const arrival = best[nodes[0]][rank];
    nodes.unshift(arrival.source);
    rank = arrival.rank;
  }
  return nodes;
}

/**
 * What each node that is read passes on of a change of what it reads: 1 / activation; NaN where that is not known.
 * @param {Graph} graph
 * @param {Edges} inputs
 */
function responses(graph, inputs) {
  const isRead = new Uint8Array(graph.kind.length);
  for (const source of inputs.node) isRead[source] = 1;
  return graph.nodes.map((node, i) => {
    if (!isRead[i] || inputs.start[i] === inputs.start[i + 1]) return 0;
    return typeof node.activation === "number" && node.activation ? 1 / node.activation : NaN;
  });
}

/**
 * The signed effect of one node on another over all paths, in the target's units; NaN where an activation is missing.
 * @param {Graph} graph
 * @param {Edges} inputs
 * @param {number} source
 * @param {number} target
 * @param {Set<number>} avoid  no path enters these
 */
export function effectOf(graph, inputs, source, target, avoid = new Set()) {
  if (avoid.has(source) || avoid.has(target)) return 0;
  const response = responses(graph, inputs);
  const total = new Float64Array(graph.kind.length);
  for (const i of fromTop(inputs)) {
    const passing = i === target ? 1 : total[i] !== 0 && !avoid.has(i) && i !== source ? total[i] * response[i] : 0;
    if (passing === 0) continue;
    for (let e = inputs.start[i]; e < inputs.start[i + 1]; e++) total[inputs.node[e]] += passing * inputs.weight[e];
  }
  return total[source];
}

/** A mask of some nodes, and what each counts. @param {number} n  @param {Iterable<number>} nodes */
export function maskOf(n, nodes) {
  const mask = new Uint8Array(n);
  for (const i of nodes) mask[i] = 1;
  return mask;
}

/**
 * The strongest path from a token or an error to a node, and on to an answer, of what is shown.
 * @param {Graph} graph  @param {Edges} inputs  @param {number} i
 */
export function pathThrough(graph, inputs, i) {
  const n = graph.kind.length;
  const [to] = strongestPaths(inputs, origins(graph), Float64Array.from(maskOf(n, [i])), 1);
  const [on] = strongestPaths(inputs, maskOf(n, [i]), graph.target, 1);
  return [...(to ? to.nodes : [i]), ...(on ? on.nodes.slice(1) : [])];
}

/** Where paths begin unless a node is named. @param {Graph} graph */
export const origins = (graph) => Uint8Array.from(graph.kind, (kind) => (kind === "embedding" || kind.endsWith("error") ? 1 : 0));
