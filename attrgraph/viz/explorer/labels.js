// Labels beside nodes, as many as there is room for.
// @ts-check
import { at, clipped, MARGIN, plain, sizeOf } from "./drawing.js";
/** @typedef {import("./drawing.js").Scene} Scene */
/** @typedef {import("./drawing.js").View} View */

const MOST_LABELS = 80;
const MOST_OBSTACLES = 400;
const WIDEST = 150; // but for answers

/**
 * First answers, the node in focus, pins and neighbours, then the most influential.
 * @param {import("./drawing.js").Pen} pen
 * @param {Scene} scene
 * @param {View} view
 * @param {import("./drawing.js").Palette} palette
 * @param {number[]} focus
 * @param {Map<number, number>} near  how strongly each neighbour is linked
 */
export function placeLabels(pen, scene, view, palette, focus, near) {
  const { graph } = scene;
  const first = new Set([...focus, ...scene.pinned, ...near.keys()]);
  const shown = ranked(scene, focus, near);
  const r = sizeOf(view);
  const taken = shown.slice(0, MOST_OBSTACLES).map((i) => {
    const { x, y } = at(scene, view, i);
    return [x - r, y - r, x + r, y + r];
  });
  const isNamedBelow = (/** @type {number} */ i) => graph.kind[i] === "embedding" && !scene.look.places.moved[graph.nodes[i].node_id];
  for (const i of shown.filter((j) => !isNamedBelow(j)).slice(0, MOST_LABELS)) {
    const text = clipped(pen, plain(scene.label(i)).trim(), graph.kind[i] === "logit" ? 2 * WIDEST : WIDEST);
    const ring = scene.pinned.has(i) || scene.grouped.has(i) || i === scene.selected ? 6 : 0;
    const isBold = graph.kind[i] === "logit";
    const place = freePlace(at(scene, view, i), pen.measure(text) * (isBold ? 1.1 : 1) + (isBold ? 3 : 0), r + ring, view, taken);
    if (!place || !text) continue;
    taken.push(place);
    const isStrong = !focus.length || first.has(i) || graph.kind[i] === "logit";
    pen.text(text, place[0] + 1, (place[1] + place[3]) / 2, {
      color: isStrong ? palette.ink : palette.quiet, paper: palette.paper, isBold,
    });
  }
}

/** @param {Scene} scene  @param {number[]} focus  @param {Map<number, number>} near */
function ranked({ graph, look, influence, pinned }, focus, near) {
  const rank = (/** @type {number} */ i) => {
    const first = graph.kind[i] === "logit" ? 5 : focus.includes(i) ? 4 : pinned.has(i) ? 3 : 0;
    return first || (near.has(i) ? 1 + (near.get(i) ?? 0) : Math.min(influence[i], 0.99));
  };
  const shown = [...graph.kind.keys()].filter((i) => look.stays[i]);
  const ranks = new Map(shown.map((i) => [i, rank(i)]));
  return shown.sort((a, b) => (ranks.get(b) ?? 0) - (ranks.get(a) ?? 0));
}

/**
 * Right of the node, left, above or below it.
 * @param {{x: number, y: number}} node  @param {number} size  @param {number} r  @param {View} view  @param {number[][]} taken
 */
function freePlace({ x, y }, size, r, view, taken) {
  const [near, far] = [r + 4, r + 19];
  const places = [
    [x + near, y - 8, x + near + 2 + size, y + 8],
    [x - near - 2 - size, y - 8, x - near, y + 8],
    [x - size / 2, y - far, x + size / 2, y - near],
    [x - size / 2, y + near, x + size / 2, y + far],
  ];
  return places.find(
    (box) =>
      box[0] > MARGIN.left - 8 && box[2] < view.width - 2 && box[1] > 0 && box[3] < view.height - 22 &&
      taken.every((other) => other[2] < box[0] || other[0] > box[2] || other[3] < box[1] || other[1] > box[3]),
  );
}
