// Paths from a node: to the answer, or between two nodes, and the effect of one on the other.
// @ts-check
import { digits, make, percent, placed, signed } from "./html.js";
import { effectOf, maskOf, origins, strongestPaths } from "./paths.js";
/** @typedef {import("./panel.js").Shown} Shown */

const N_PATHS = 5;

/** @param {Shown} shown  @param {number} i */
export function pathPanel(shown, i) {
  const { from } = shown;
  const mark =
    from >= 0
      ? make("button", { type: "button", onclick: () => shown.setFrom(-1) }, `Not from ${shown.label(from)}`)
      : make("button", { type: "button", title: "m", onclick: () => shown.setFrom(i) }, "Paths from here");
  const hint = from === i ? "Now select another node: its paths from this one are listed here." : "";
  return make(
    "section",
    { role: "region", "aria-label": "Paths" },
    make("div", { class: "row" }, make("h3", {}, heading(shown, i)), mark),
    ...(hint ? [make("p", { class: "note" }, hint)] : [pathList(shown, i), ...effects(shown, i)]),
  );
}

/** @param {Shown} shown  @param {number} i */
function heading({ graph, from, label }, i) {
  if (from >= 0 && from !== i) return `Paths between ${label(from)} and ${label(i)}`;
  return graph.kind[i] === "logit" ? "Strongest paths" : "Strongest paths to the answer";
}

/** The two ends in the order of layers, where there are two. @param {Shown} shown  @param {number} i */
const ends = ({ graph, from }, i) => (graph.layer[from] <= graph.layer[i] ? [from, i] : [i, from]);

/** @param {Shown} shown  @param {number} i */
function pathList(shown, i) {
  const { graph, look, from } = shown;
  const n = graph.kind.length;
  const one = (/** @type {number} */ at) => maskOf(n, [at]);
  let [starts, targets] = graph.kind[i] === "logit" ? [origins(graph), Float64Array.from(one(i))] : [one(i), graph.target];
  if (from >= 0) [starts, targets] = [one(ends(shown, i)[0]), Float64Array.from(one(ends(shown, i)[1]))];
  const found = strongestPaths(look.inputs, starts, targets, N_PATHS);
  if (!found.length) return make("p", { class: "note" }, "No path among the links shown.");
  let sum = 0;
  const items = found.map(({ nodes, share, coverage }) =>
    make(
      "li",
      {},
      make(
        "button",
        {
          type: "button", onclick: () => shown.showPath(nodes), onmouseenter: () => shown.showPath(nodes), onfocus: () => shown.showPath(nodes),
          title: `${digits(share)}; with those above, ${digits((sum += share))} of the ${digits(sum / coverage)} over all paths between these ends`,
        },
        make("span", { class: "steps" }, ...nodes.flatMap((node, step) => [step ? " → " : "", placed(shown.label(node), graph.pos[node])])),
        make("span", { class: "weight" }, percent(share)),
      ),
    ),
  );
  return make("ol", { role: "list", "aria-label": "Strongest paths" }, ...items);
}

/** What a change of one end does to the other, over all paths that are shown. @param {Shown} shown  @param {number} i */
function effects(shown, i) {
  const { graph, look, from, pins } = shown;
  if (from < 0) return [];
  const [source, target] = ends(shown, i);
  const all = effectOf(graph, look.inputs, source, target);
  const avoid = new Set(pins.map((id) => graph.place.get(id) ?? -1).filter((at) => at !== source && at !== target));
  const rows = [["over all paths", all]];
  if (avoid.size) {
    const without = effectOf(graph, look.inputs, source, target, avoid);
    rows.push(["through pinned nodes", all - without], ["without them", without]);
  }
  const text = (/** @type {number} */ value) => (Number.isNaN(value) ? "unknown: an activation on the way is missing" : signed(value));
  const title = `by how much ${shown.label(target)} changes with the whole of ${shown.label(source)}, if features between respond linearly`;
  return [
    make("dl", { title }, ...rows.flatMap(([name, value]) => [make("dt", {}, `effect ${name}`), make("dd", {}, text(Number(value)))])),
  ];
}
