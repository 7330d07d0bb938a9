// Lists beside the picture: pins, groups, and what to look at first.
// @ts-check
import { featureName, isFeature } from "./graph.js";
import { flowsOf, isMixed, without } from "./groups.js";
import { counted, digits, make, percent, placed, signed } from "./html.js";
import { pinnedScores } from "./subgraph.js";
/** @typedef {import("./panel.js").Shown} Shown */

const MOST_FLOWS = 8;
let lastNote = { key: "", text: "" }; // counting takes a while in a large graph

/** @param {Shown} shown */
export function pinnedList(shown) {
  const items = shown.pins.flatMap((id) => {
    const i = shown.graph.place.get(id);
    if (i === undefined) return [];
    return make(
      "li",
      {},
      make("button", { type: "button", onclick: () => shown.select(i) }, placed(shown.label(i), shown.graph.pos[i])),
      make("button", { type: "button", "aria-label": `Remove ${shown.label(i)}`, onclick: () => shown.pin(i) }, "×"),
    );
  });
  return make("ul", { role: "list", "aria-label": "Pinned nodes" }, ...items);
}

/** What stands in the panel while no node is selected. @param {Shown} shown */
export function overview(shown) {
  const { graph, influence, look } = shown;
  const all = [...graph.kind.keys()];
  const answers = all.filter((i) => graph.kind[i] === "logit").sort((a, b) => graph.target[b] - graph.target[a]);
  const features = all.filter((i) => look.stays[i] && graph.kind[i].endsWith("feature"));
  features.sort((a, b) => influence[b] - influence[a]);
  const listed = (/** @type {string} */ name, /** @type {number[]} */ nodes, /** @type {(i: number) => string} */ value) =>
    make(
      "section",
      {},
      make("h3", {}, name),
      make(
        "ul",
        { role: "list", "aria-label": name },
        ...nodes.map((i) =>
          make(
            "li",
            {},
            make(
              "button",
              { type: "button", onclick: () => shown.select(i) },
              make("span", { class: "name" }, shown.label(i), ...idOf(shown, i)),
              make("span", { class: "weight" }, value(i)),
            ),
          ),
        ),
      ),
    );
  return [
    listed("Answers", answers, (i) => percent(graph.target[i])),
    listed("Most influential features", features.slice(0, 12), (i) => digits(influence[i])),
  ];
}

/** How much of the whole graph's answer the pinned features explain alone. @param {Shown} shown */
export function pinnedNote({ graph, pins }) {
  const pinned = new Set(pins.map((id) => graph.place.get(id) ?? -1));
  if (![...pinned].some((i) => i >= 0 && isFeature(graph, i))) return "";
  const key = JSON.stringify(pins);
  if (key !== lastNote.key) {
    const { replacement, completeness } = pinnedScores(graph, pinned);
    const scores = `replacement ${percent(replacement)}, completeness ${percent(completeness)}`;
    lastNote = { key, text: `Pinned features alone, all others as errors: ${scores}.` };
  }
  return lastNote.text;
}

/** Groups of nodes: their label, members, and what flows in and out. @param {Shown} shown */
export function groupList(shown) {
  const items = shown.groups.map(([label, ...ids], at) => {
    const flows = flowsOf(shown.graph, shown.look.inputs, shown.groups, at);
    const nodes = ids.flatMap((id) => shown.graph.place.get(id) ?? []);
    const counts = isMixed(shown.graph, nodes) ? "no influence: answers go into groups of their own" : `influence ${digits(flows.influence)}`;
    const input = /** @type {HTMLInputElement} */ (make("input", { type: "text", value: label, "aria-label": `Name of group ${label}` }));
    const rename = () => {
      const text = input.value.trim();
      if (text && text !== label) shown.regroup((groups) => groups.map((group) => (group.slice(1).join(" ") === ids.join(" ") ? [text, ...ids] : group)));
    };
    input.addEventListener("change", rename);
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") input.blur();
    });
    const members = ids.flatMap((id) => memberButton(shown, id));
    return make(
      "li",
      {},
      make(
        "details",
        { "data-key": ids.join(" ") },
        make("summary", {}, `${label} `, make("small", {}, `${ids.length} node${ids.length > 1 ? "s" : ""}, ${counts}`)),
        make("div", { class: "row" }, input, make("button", { type: "button", onclick: () => shown.regroup((groups) => without(groups, ids)) }, "Ungroup")),
        make("ul", { role: "list", "aria-label": `Nodes of ${label}` }, ...members),
        make("div", { class: "sides" }, flowList(shown, `Inputs of ${label}`, flows.inputs), flowList(shown, `Outputs of ${label}`, flows.outputs)),
      ),
    );
  });
  return make("ul", { role: "list", "aria-label": "Groups" }, ...items);
}

/** @param {Shown} shown  @param {string} id */
function memberButton({ graph, label, select }, id) {
  const i = graph.place.get(id);
  if (i === undefined) return [];
  return [make("li", {}, make("button", { type: "button", onclick: () => select(i) }, placed(label(i), graph.pos[i])))];
}

/** @param {Shown} shown  @param {string} name  @param {import("./groups.js").Flow[]} flows */
function flowList(shown, name, flows) {
  const all = flows.reduce((sum, { flow }) => sum + flow, 0);
  const items = flows.slice(0, MOST_FLOWS).map(({ other, node, flow, weight }) =>
    make(
      "li",
      {},
      make(
        "button",
        { type: "button", class: weight < 0 ? "lowers" : "raises", onclick: () => shown.select(node), title: `${percent(flow / all)} of all ${digits(all)}; ${signed(weight)} with the signs of links` },
        other ? make("span", { class: "name" }, other) : placed(shown.label(node), shown.graph.pos[node]),
        make("span", { class: "weight" }, digits(flow)),
      ),
    ),
  );
  const heading = flows.length > MOST_FLOWS ? `${name} (${MOST_FLOWS} of ${flows.length})` : name;
  return make("section", {}, make("h4", {}, heading), make("ul", { role: "list", "aria-label": name }, ...items));
}

/** Layer and feature, where only a token stands for them. @param {Shown} shown  @param {number} i */
function idOf({ graph, label }, i) {
  const name = featureName(graph, i);
  return name && label(i) === graph.token[i] ? [make("small", {}, ` ${name}`)] : [];
}

/** What the page has of features' meanings. @param {Shown} shown */
export function pagesNote({ graph }) {
  const n = Object.keys(graph.pages).length;
  return n ? `Of ${counted(n)} feature${n > 1 ? "s" : ""} this file has a page, ${counted(Math.ceil(graph.pageBytes / 1000))} KB in all.` : "";
}
