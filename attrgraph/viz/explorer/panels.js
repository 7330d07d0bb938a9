// All that stands around the picture, made anew after each change.
// @ts-check
import { MOST_LINKS } from "./drawing.js";
import { keepingPlace } from "./focus.js";
import { counted, element, field, grouped, make, percent } from "./html.js";
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
export function showNumbers(graph, look, { nodes, edges, density }) {
  const nEdges = look.inputs.node.length;
  element("status").replaceChildren(...grouped(look.nKept), " nodes");
  element("kept").textContent =
    (look.nAdded ? `and ${look.nAdded} pinned ` : "") +
    `of ${counted(graph.kind.length)}, ${counted(nEdges)} of ${counted(graph.inputs.node.length)} links: ` +
    (graph.inputs.node.length ? `${percent(look.inputShown)} of what these nodes read` : "they read nothing") +
    (nEdges > MOST_LINKS ? `; the strongest ${counted(MOST_LINKS)} links are drawn` : "") +
    (look.nFrequent ? `; hidden since they fire on more than ${percent(density)} of tokens: ${counted(look.nFrequent)}` : "");
  const unknown = graph.document.metadata.attrgraph?.n_unknown_tokens;
  if (unknown) element("kept").append(`; ${unknown} ${unknown === 1 ? "token" : "tokens"} of the prompt unknown to the tokenizer`);
  if (nodes === 1 && look.nKept + look.nFrequent < graph.kind.length)
    element("kept").append("; the others have no path to the answer by these links, or are features without an input");
  element("gold").textContent = graph.stored && nodes === null ? "influence before pruning" : "influence";
  element("matched").hidden = !graph.matches;
  element("scores").textContent =
    `replacement ${percent(look.scores.replacement)}, completeness ${percent(look.scores.completeness)}`;
  field("nodes").value = String(nodes ?? 1);
  field("edges").value = String(edges);
  field("density").value = String(density);
  element("density-value").textContent = density < 1 ? `≤ ${percent(density)}` : "all";
  element("nodes-value").textContent = nodes === null ? "as it came" : String(nodes);
  element("edges-value").textContent = nodes === null ? "as it came" : String(edges);
}
