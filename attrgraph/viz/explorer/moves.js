// From a node to the next by keys.
// @ts-check
import { edgesOf } from "./graph.js";
/** @typedef {import("./look.js").Look} Look */

/** The other end of the strongest of a node's edges; -1 without one. @param {import("./graph.js").Edges} edges  @param {number} i */
export function strongestNeighbour(edges, i) {
  let best = -1;
  for (const e of edgesOf(edges, i)) if (best < 0 || Math.abs(edges.weight[e]) > Math.abs(edges.weight[best])) best = e;
  return best < 0 ? -1 : edges.node[best];
}

/**
 * The node beside one in its layer, or above or below it at its position; -1 without one.
 * @param {import("./graph.js").Graph} graph
 * @param {"layer" | "pos"} same  what the nodes have in common
 * @param {Look} look
 * @param {number} i
 * @param {1 | -1} by
 */
export function nextInLine(graph, same, { stays, places: { x, y } }, i, by) {
  const line = [...stays.keys()].filter((j) => stays[j] && graph[same][j] === graph[same][i]);
  line.sort(same === "layer" ? (a, b) => x[a] - x[b] || y[a] - y[b] : (a, b) => y[b] - y[a] || x[a] - x[b]);
  const at = line.indexOf(i);
  return at < 0 ? -1 : (line[at + by] ?? -1);
}
