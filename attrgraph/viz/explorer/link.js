// A graph beside another: the page around both is told what is shown and selected here, and tells what is selected there.
// @ts-check

/** @typedef {{state: import("./state.js").State, graph: import("./graph.js").Graph}} Page */

/**
 * The id of the same node in the other graph, or "".
 * @param {import("./graph.js").Graph} graph
 * @param {string} id
 */
const matchOf = (graph, id) => graph.matches?.[id]?.[0] ?? "";

/** @param {Page} page */
export function listenToOther({ graph, state }) {
  if (!graph.matches) return;
  let last = state.choice.node; // what the other page knows of
  addEventListener("message", ({ source, data }) => {
    if (source !== parent) return;
    if (typeof data.address === "string" && data.address) state.load(`#${data.address}`);
    if (typeof data.select !== "string" || data.select === state.choice.node) return;
    last = data.select;
    state.set({ node: data.select }, false);
  });
  state.onAddress = (address) => {
    parent.postMessage({ address }, "*");
    if (state.choice.node === last) return;
    last = state.choice.node;
    parent.postMessage({ select: matchOf(graph, last) }, "*");
  };
  parent.postMessage({ isReady: true }, "*");
}

/** What the other graph has of a node. @param {import("./graph.js").Graph} graph  @param {string} id */
export function otherHas(graph, id) {
  if (!graph.matches) return "";
  const found = graph.matches[id];
  return found ? `${found[0]}, influence ${Number(found[1].toPrecision(3))}` : "does not have it";
}
