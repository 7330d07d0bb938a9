// All that stands around the picture, made anew after each change.
// @ts-check
import { MOST_LINKS } from "./drawing.js";
import { keepingPlace } from "./focus.js";
import { counted, element, field, make, percent } from "./html.js";
import { groupList, overview, pagesNote, pinnedList, pinnedNote } from "./lists.js";
import { morePanels, nodePanel } from "./panel.js";

/** @param {import("./panel.js").Shown} shown  @param {number} selected  -1 for none */
export function showPanels(shown, selected) {
  const { groups, pins } = shown;
  const note = (/** @type {string} */ text) => make("p", { class: "note" }, text);
  const heading = (/** @type {string} */ text) => make("h3", {}, text);
  const panels =
    selected < 0
      ? { node: [note("Click a node, or press / to search; ? lists all keys.")], more: [...overview(shown), note(pagesNote(shown))] }
      : { node: nodePanel(shown, selected), more: morePanels(shown, selected) };
  keepingPlace(element("panels"), () => {
    element("node").replaceChildren(...panels.node);
    element("more").replaceChildren(...panels.more);
    element("pinned").replaceChildren(heading(`Pinned nodes (${pins.length})`), pinnedList(shown), note(pinnedNote(shown)));
    element("groups").replaceChildren(...(groups.length ? [heading(`Groups (${groups.length})`), groupList(shown)] : []));
  });
}

/**
 * What is shown of how much, and at which thresholds.
 * @param {import("./graph.js").Graph} graph
 * @param {import("./look.js").Look} look
 * @param {import("./state.js").Choice} choice
 */
export function showNumbers(graph, look, { nodes, edges }) {
  const nEdges = look.inputs.node.length;
  element("status").textContent = `${look.nKept} nodes`;
  element("kept").textContent =
    (look.nAdded ? `and ${look.nAdded} pinned ` : "") +
    `of ${counted(graph.kind.length)}, ${counted(nEdges)} of ${counted(graph.inputs.node.length)} links: ` +
    `${percent(look.inputShown)} of what these nodes read` +
    (nEdges > MOST_LINKS ? `; the strongest ${counted(MOST_LINKS)} links are drawn` : "");
  element("matched").hidden = !graph.matches;
  element("scores").textContent =
    `replacement ${percent(look.scores.replacement)}, completeness ${percent(look.scores.completeness)}`;
  field("nodes").value = String(nodes ?? 1);
  field("edges").value = String(edges);
  element("nodes-value").textContent = nodes === null ? "as it came" : String(nodes);
  element("edges-value").textContent = nodes === null ? "as it came" : String(edges);
}
