// Influence on the answer over all paths, and pruning: the same as in Python (influence.py and pruning.py there).
// @ts-check
import { isError, isFeature, some } from "./graph.js";
/** @typedef {import("./graph.js").Graph} Graph */
/** @typedef {import("./graph.js").Edges} Edges */

const ROUNDING = 1e-9; // relative difference below which two scores are taken as equal

/** Found once for the same edges. @template T  @param {(inputs: Edges) => T} find  @returns {(inputs: Edges) => T} */
function once(find) {
  /** @type {WeakMap<Edges, T>} */
  const found = new WeakMap();
  return (inputs) => {
    if (!found.has(inputs)) found.set(inputs, find(inputs));
    return /** @type {T} */ (found.get(inputs));
  };
}

/** Sums of the sizes of edges into each node. */
export const inputSizes = once((inputs) => {
  const sums = new Float64Array(inputs.start.length - 1);
  for (let i = 0; i < sums.length; i++) {
    let sum = 0;
    for (let e = inputs.start[i]; e < inputs.start[i + 1]; e++) sum += Math.abs(inputs.weight[e]);
    sums[i] = sum;
  }
  return sums;
});

/** All nodes, each before its sources. */
export const fromTop = once((inputs) => {
  const n = inputs.start.length - 1;
  const nReaders = new Uint32Array(n);
  for (const source of inputs.node) nReaders[source] += 1;
  const order = new Uint32Array(n);
  let end = 0;
  for (let i = 0; i < n; i++) if (!nReaders[i]) order[end++] = i;
  for (let at = 0; at < end; at++)
    for (let e = inputs.start[order[at]]; e < inputs.start[order[at] + 1]; e++)
      if (--nReaders[inputs.node[e]] === 0) order[end++] = inputs.node[e];
  if (end < n) throw new Error("the graph has a cycle");
  return order;
});

/** @type {WeakMap<Edges, {target: Float64Array, total: Float64Array}>} */
const lastInfluence = new WeakMap();

/**
 * w (B + B^2 + ...), with B the sizes of edges as shares of each target's input.
 * @param {Edges} inputs
 * @param {Float64Array} target  w: the weights of targets
 */
export function influenceOf(inputs, target) {
  const known = lastInfluence.get(inputs);
  if (known?.target === target) return known.total;
  const total = new Float64Array(target.length);
  const sums = inputSizes(inputs);
  for (const i of fromTop(inputs)) {
    const flow = total[i] + target[i];
    if (!flow || !sums[i]) continue;
    for (let e = inputs.start[i]; e < inputs.start[i + 1]; e++)
      total[inputs.node[e]] += (flow * Math.abs(inputs.weight[e])) / sums[i];
  }
  lastInfluence.set(inputs, { target, total });
  return total;
}

/**
 * The least score in the smallest set of highest scores that holds so much of their sum.
 * @param {Float64Array} scores
 * @param {number} threshold
 */
export function smallestKept(scores, threshold) {
  let least = Infinity;
  let nPositive = 0;
  for (const score of scores) {
    if (score <= 0) continue;
    nPositive += 1;
    if (score < least) least = score;
  }
  if (!nPositive) return 0;
  if (threshold >= 1) return least;
  const positive = nPositive < scores.length ? scores.filter((score) => score > 0) : scores.slice();
  const descending = positive.sort().reverse();
  let sum = 0;
  for (const score of descending) sum += score;
  let held = 0;
  for (const score of descending) {
    held += score;
    if (held / sum >= threshold * (1 - ROUNDING)) return score * (1 - ROUNDING);
  }
  return descending[descending.length - 1] * (1 - ROUNDING);
}

/**
 * Only the edges between nodes that stay.
 * @param {Edges} edges
 * @param {Uint8Array} stays
 */
export function between(edges, stays) {
  const kept = new Uint8Array(edges.node.length);
  for (let i = 0; i < stays.length; i++)
    if (stays[i]) for (let e = edges.start[i]; e < edges.start[i + 1]; e++) kept[e] = stays[edges.node[e]];
  return some(edges, kept);
}

/**
 * Influence of each edge: its share of its target's input, times the target's influence and weight.
 * @param {Graph} graph
 * @param {Edges} inputs
 */
function edgeScores(graph, inputs) {
  const sums = inputSizes(inputs);
  const flow = influenceOf(inputs, graph.target);
  const scores = new Float64Array(inputs.node.length);
  for (let i = 0; i < sums.length; i++)
    for (let e = inputs.start[i]; e < inputs.start[i + 1]; e++)
      scores[e] = (Math.abs(inputs.weight[e]) / sums[i]) * (flow[i] + graph.target[i]);
  return scores;
}

/**
 * The nodes that hold so much of the influence, then the edges that hold so much of theirs.
 * @param {Graph} graph
 * @param {Float64Array} influence  of its nodes
 * @param {number} nodeThreshold
 * @param {number} edgeThreshold
 * @returns {{stays: Uint8Array, inputs: Edges}}
 */
export function prune(graph, influence, nodeThreshold, edgeThreshold) {
  const least = smallestKept(influence, nodeThreshold);
  const always = graph.kind.map((kind) => kind === "embedding" || kind === "logit");
  let stays = Uint8Array.from(influence, (value, i) => (value >= least || always[i] ? 1 : 0));
  let kept = between(graph.inputs, stays);
  const scores = edgeScores(graph, kept);
  const leastEdge = smallestKept(scores, edgeThreshold);
  // as loops, since Uint8Array.from asks an iterator for each of a million
  const holds = new Uint8Array(scores.length);
  for (let e = 0; e < holds.length; e++) holds[e] = scores[e] >= leastEdge ? 1 : 0;
  kept = some(kept, holds);
  for (;;) {
    const { reads, isRead } = ends(kept, stays);
    const remaining = stays.map((stay, i) => (stay && (always[i] || (isRead[i] && (reads[i] || !isFeature(graph, i)))) ? 1 : 0));
    if (remaining.every((stay, i) => stay === stays[i])) return { stays, inputs: between(kept, stays) };
    stays = remaining;
  }
}

/** Which nodes read others, and which are read, by edges between nodes that stay. @param {Edges} edges  @param {Uint8Array} stays */
function ends(edges, stays) {
  const [reads, isRead] = [new Uint8Array(stays.length), new Uint8Array(stays.length)];
  for (let i = 0; i < stays.length; i++)
    if (stays[i])
      for (let e = edges.start[i]; e < edges.start[i + 1]; e++)
        if (stays[edges.node[e]]) reads[i] = isRead[edges.node[e]] = 1;
  return { reads, isRead };
}

/**
 * Replacement and completeness: see scores.py.
 * @param {Graph} graph
 * @param {Edges} inputs
 */
export function scoresOf(graph, inputs) {
  const influence = influenceOf(inputs, graph.target);
  const sums = inputSizes(inputs);
  const errors = Uint8Array.from(graph.kind, (_, i) => (isError(graph, i) ? 1 : 0));
  let [fromTokens, fromErrors, explained, all] = [0, 0, 0, 0];
  for (let i = 0; i < sums.length; i++) {
    if (graph.kind[i] === "embedding") fromTokens += influence[i];
    if (errors[i]) fromErrors += influence[i];
    const flow = influence[i] + graph.target[i];
    all += flow;
    explained += flow * (1 - errorShare(errors, inputs, i, sums[i]));
  }
  return { replacement: fromTokens / (fromTokens + fromErrors), completeness: explained / all };
}

/**
 * Of what a node reads, the part that comes from errors.
 * @param {ArrayLike<number | boolean>} isError  of each node
 * @param {Edges} inputs
 * @param {number} i
 * @param {number} size  of all it reads
 */
export function errorShare(isError, inputs, i, size) {
  let errors = 0;
  for (let e = inputs.start[i]; e < inputs.start[i + 1]; e++) if (isError[inputs.node[e]]) errors += Math.abs(inputs.weight[e]);
  return size ? errors / size : 0;
}
