// Groups of nodes, as other tools' supernodes: what flows between them, the same as `Graph.group`.
// @ts-check
import { influenceOf, inputSizes } from "./influence.js";
/** @typedef {import("./graph.js").Graph} Graph */

/**
 * @typedef {object} Flow
 * @property {string} other  a group's label, or "" for a single node
 * @property {number} node  the single node, or a member of the group
 * @property {number} flow  of influence
 * @property {number} weight  the same with the signs of edges
 */

/**
 * What flows into a group and out of it; edges between its own members are left out.
 * @param {Graph} graph
 * @param {import("./graph.js").Edges} inputs
 * @param {string[][]} groups  a label, then ids
 * @param {number} at  which of them
 * @returns {{inputs: Flow[], outputs: Flow[], influence: number}}  the largest first
 */
export function flowsOf(graph, inputs, groups, at) {
  const influence = influenceOf(inputs, graph.target);
  const sizes = inputSizes(inputs);
  /** @type {Map<number, number>} */
  const groupOf = new Map();
  groups.forEach(([, ...ids], place) => ids.forEach((id) => groupOf.set(graph.place.get(id) ?? -1, place)));
  /** @type {Record<"inputs" | "outputs", Map<string, Flow>>} */
  const found = { inputs: new Map(), outputs: new Map() };
  const add = (/** @type {"inputs" | "outputs"} */ side, /** @type {number} */ node, /** @type {number} */ flow, /** @type {number} */ sign) => {
    const place = groupOf.get(node);
    const key = place === undefined ? `node ${node}` : `group ${place}`;
    const sum = found[side].get(key) ?? { other: place === undefined ? "" : groups[place][0], node, flow: 0, weight: 0 };
    found[side].set(key, { ...sum, flow: sum.flow + flow, weight: sum.weight + sign * flow });
  };
  for (let target = 0; target < sizes.length; target++) {
    const isInside = groupOf.get(target) === at;
    const reaching = influence[target] + graph.target[target];
    for (let e = inputs.start[target]; e < inputs.start[target + 1]; e++) {
      const source = inputs.node[e];
      if (isInside === (groupOf.get(source) === at)) continue;
      const flow = (reaching * Math.abs(inputs.weight[e])) / sizes[target];
      add(isInside ? "inputs" : "outputs", isInside ? source : target, flow, Math.sign(inputs.weight[e]));
    }
  }
  const sorted = (/** @type {Map<string, Flow>} */ flows) => [...flows.values()].filter(({ flow }) => flow > 0).sort((a, b) => b.flow - a.flow);
  const outputs = sorted(found.outputs);
  return { inputs: sorted(found.inputs), outputs, influence: outputs.reduce((sum, { flow }) => sum + flow, 0) };
}

/** Whether answers are among other nodes, where influence does not add up. @param {Graph} graph  @param {number[]} nodes */
export const isMixed = (graph, nodes) => new Set(nodes.map((i) => graph.kind[i] === "logit")).size > 1;

/**
 * Groups without some nodes, and without groups that have none left.
 * @param {string[][]} groups
 * @param {string[]} ids
 */
export const without = (groups, ids) =>
  groups.map(([label, ...members]) => [label, ...members.filter((id) => !ids.includes(id))]).filter((group) => group.length > 1);
