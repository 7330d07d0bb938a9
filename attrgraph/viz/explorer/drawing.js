// The picture: bands and tokens, links, nodes and labels, drawn with any pen.
// @ts-check
import { edgesOf, isFeature } from "./graph.js";
import { inputSizes } from "./influence.js";
import { placeLabels } from "./labels.js";
/** @typedef {import("./graph.js").Graph} Graph */
/** @typedef {import("./graph.js").Edges} Edges */
/** @typedef {import("./pens.js").CanvasPen | import("./pens.js").SvgPen} Pen */

/**
 * @typedef {object} Link
 * @property {number} source
 * @property {number} target
 * @property {number} weight
 * @property {number} share  of what the target reads
 * @property {number} [carried]  influence
 */

/**
 * @typedef {object} Scene
 * @property {Graph} graph
 * @property {import("./look.js").Look} look
 * @property {Link[]} links  that are drawn, the weakest first
 * @property {Float64Array} influence
 * @property {number} selected  -1 for none
 * @property {Set<number>} pinned
 * @property {Set<number>} grouped
 * @property {number[]} path  that stands out, source first
 * @property {import("./state.js").Side} side  whose links stand out
 * @property {(i: number) => string} label
 */

/**
 * @typedef {object} View  Where the picture lies on the screen.
 * @property {number} sx  pixels for one step to the right
 * @property {number} sy
 * @property {number} x  of the picture's left edge
 * @property {number} y
 * @property {number} width  of the screen
 * @property {number} height
 */

/** @typedef {Record<"ink" | "quiet" | "paper" | "line" | "raises" | "lowers" | "gold", string>} Palette */

export const MOST_LINKS = 20000;
// dashes of thin lines are not seen among many, and take most of the time
const THIN = 0.05;
export const MANY = 3000;
const MOST_OF_A_NODE = 2000;
export const MARGIN = { left: 68, right: 28, top: 18, bottom: 34 };

/** @param {Scene} scene  @param {View} view  @param {number} i */
export function at(scene, view, i) {
  const { x, y } = scene.look.places;
  return { x: view.x + x[i] * view.sx, y: view.y + y[i] * view.sy };
}

/**
 * The links that carry most influence, the weakest first.
 * @param {Edges} inputs
 * @param {Float64Array} reach  of each node, its influence and its weight as a target
 * @returns {Link[]}
 */
export function strongest(inputs, reach) {
  const sums = inputSizes(inputs);
  const carried = new Float64Array(inputs.node.length);
  const target = new Uint32Array(inputs.node.length);
  for (let i = 0; i < sums.length; i++)
    for (let e = inputs.start[i]; e < inputs.start[i + 1]; e++) {
      carried[e] = (reach[i] * Math.abs(inputs.weight[e])) / sums[i];
      target[e] = i;
    }
  const least = carried.length > MOST_LINKS ? nthLargest(carried, MOST_LINKS) : 0;
  const kept = [];
  for (let e = 0; e < carried.length; e++)
    if (carried[e] >= least) {
      const weight = inputs.weight[e];
      kept.push({ source: inputs.node[e], target: target[e], weight, share: Math.abs(weight) / sums[target[e]], carried: carried[e] });
    }
  return kept.sort((a, b) => a.carried - b.carried).slice(-MOST_LINKS);
}

/** By a guess from a sample, below which nothing has to be sorted. @param {Float64Array} values  @param {number} n */
function nthLargest(values, n) {
  const every = Math.ceil(values.length / 20000);
  const sample = Float64Array.from({ length: Math.floor(values.length / every) }, (_, i) => values[i * every]).sort();
  const guess = sample[Math.max(0, sample.length - Math.ceil((1.3 * n) / every) - 50)];
  let nTop = 0;
  const large = new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) if (values[i] >= guess) large[nTop++] = values[i];
  const top = large.subarray(0, nTop).sort();
  return top.length >= n ? top[top.length - n] : values.slice().sort()[values.length - n];
}

/**
 * The links of a node on the side that is chosen, the weakest first.
 * @param {Scene} scene
 * @param {number} i
 * @returns {Link[]}
 */
export function linksOf({ look, side, pinned }, i) {
  /** @type {Link[]} */
  const found = [];
  const { inputs, outputs, sizes } = look;
  if (side !== "output")
    for (const e of edgesOf(inputs, i))
      found.push({ source: inputs.node[e], target: i, weight: inputs.weight[e], share: Math.abs(inputs.weight[e]) / sizes[i] });
  if (side !== "input")
    for (const e of edgesOf(outputs, i)) {
      const target = outputs.node[e];
      found.push({ source: i, target, weight: outputs.weight[e], share: Math.abs(outputs.weight[e]) / sizes[target] });
    }
  const chosen = side === "pinned" ? found.filter(({ source, target }) => pinned.has(source === i ? target : source)) : found;
  return chosen.sort((a, b) => a.share - b.share).slice(-MOST_OF_A_NODE);
}

/**
 * What does not change when the pointer moves, in steps: bands, then some links at a time, then nodes.
 * @param {Pen} pen  @param {Scene} scene  @param {View} view  @param {Palette} palette  @param {Link[]} links  @param {number} atOnce
 */
export function* drawBase(pen, scene, view, palette, links, atOnce) {
  drawBands(pen, scene, view, palette);
  const most = links.length ? (links[links.length - 1].carried ?? 0) : 0;
  let n = 0;
  for (const link of links) {
    // what leads to little is paler, however large a share it is
    const part = Math.sqrt((link.share * (link.carried ?? 0)) / (most || 1));
    drawLink(pen, scene, view, palette, link, Math.min(0.85, 0.07 + 1.9 * part));
    if (++n % atOnce === 0) yield;
  }
  const largest = scene.influence.reduce((a, b) => Math.max(a, b), 0);
  for (let i = 0; i < scene.graph.kind.length; i++)
    if (scene.look.stays[i])
      drawNode(pen, scene, view, palette, i, goldOf(palette, largest > 0 ? Math.sqrt(scene.influence[i] / largest) : 0));
}

/** None where it would not be seen, which saves a third of the time. @param {Palette} palette  @param {number} alpha */
const goldOf = (palette, alpha) => (alpha < 0.01 ? {} : { fill: palette.gold, fillAlpha: alpha });

/**
 * What is near the selected node and the one under the pointer, pins, and labels.
 * @param {Pen} pen  @param {Scene} scene  @param {View} view  @param {Palette} palette  @param {number} hovered  -1 for none
 */
export function drawFocus(pen, scene, view, palette, hovered) {
  const { graph, look, selected, pinned, grouped } = scene;
  const focus = [...new Set([selected, hovered])].filter((i) => i >= 0 && look.stays[i]);
  /** @type {Map<number, number>} */
  const near = new Map(); // the share by which each is linked
  for (const center of focus) {
    const links = linksOf(scene, center);
    for (const link of links) drawLink(pen, scene, view, palette, link, 0.95);
    for (const { source, target, weight, share } of links) {
      const other = source === center ? target : source;
      near.set(other, Math.max(near.get(other) ?? 0, share));
      drawNode(pen, scene, view, palette, other, { fill: weight > 0 ? palette.raises : palette.lowers, fillAlpha: Math.sqrt(share) });
    }
  }
  for (let step = 1; step < scene.path.length; step++) drawStep(pen, scene, view, palette, scene.path[step - 1], scene.path[step]);
  for (const center of focus) drawNode(pen, scene, view, palette, center, { width: 2.5, fill: palette.gold });
  for (const i of pinned) if (look.stays[i]) drawRing(pen, scene, view, i, 4, { color: palette.ink, width: 1.2 });
  for (const i of grouped) if (look.stays[i]) drawRing(pen, scene, view, i, 4, { color: palette.quiet, width: 1.2, isDashed: true });
  if (graph.matches)
    for (let i = 0; i < graph.kind.length; i++)
      if (look.stays[i] && !graph.matches[graph.nodes[i].node_id]) drawRing(pen, scene, view, i, 2.5, { color: palette.ink, width: 1 });
  if (selected >= 0 && look.stays[selected]) drawRing(pen, scene, view, selected, 4, { color: palette.ink, width: 2.5 });
  for (const center of focus.filter((i) => isFeature(graph, i)))
    for (const i of sameFeature(graph, center))
      if (look.stays[i] && i !== center) drawRing(pen, scene, view, i, 7, { color: palette.ink, width: 1, isDashed: true });
  drawTokens(pen, scene, view, palette);
  placeLabels(pen, scene, view, palette, focus, near);
}

/** One link of the path that stands out, and its target. @param {Pen} pen  @param {Scene} scene  @param {View} view  @param {Palette} palette  @param {number} source  @param {number} target */
function drawStep(pen, scene, view, palette, source, target) {
  const { inputs, sizes } = scene.look;
  for (const e of edgesOf(inputs, target))
    if (inputs.node[e] === source) {
      const share = Math.max(Math.abs(inputs.weight[e]) / sizes[target], 0.45);
      drawLink(pen, scene, view, palette, { source, target, weight: inputs.weight[e], share }, 0.9);
    }
  for (const i of [source, target]) drawNode(pen, scene, view, palette, i, { width: 2, fill: palette.gold, fillAlpha: 0.8 });
}

/** Nodes of the same feature at other positions. @param {Graph} graph  @param {number} i */
function sameFeature(graph, i) {
  const { feature } = graph.nodes[i];
  return [...graph.kind.keys()].filter(
    (j) => graph.nodes[j].feature === feature && graph.layer[j] === graph.layer[i] && graph.kind[j] === graph.kind[i],
  );
}

/** @param {View} view */
export const sizeOf = (view) => Math.max(3.5, Math.min(9, 9 * Math.min(view.sx, view.sy)));

/** @param {Pen} pen  @param {Scene} scene  @param {View} view  @param {Palette} palette  @param {number} i  @param {import("./pens.js").Style} style */
function drawNode(pen, scene, view, palette, i, style) {
  const { x, y } = at(scene, view, i);
  const r = sizeOf(view);
  if (x < -r || x > view.width + r || y < -r || y > view.height + r) return;
  const kind = scene.graph.kind[i];
  pen.mark(kind, x, y, r, {
    paper: palette.paper, color: palette.ink, width: kind === "logit" ? 2.2 : 1, isDashed: kind.endsWith("error"), ...style,
  });
}

/** @param {Pen} pen  @param {Scene} scene  @param {View} view  @param {number} i  @param {number} by  @param {import("./pens.js").Style} style */
function drawRing(pen, scene, view, i, by, style) {
  const { x, y } = at(scene, view, i);
  pen.mark(scene.graph.kind[i], x, y, sizeOf(view) + by, style);
}

/** @param {Pen} pen  @param {Scene} scene  @param {View} view  @param {Palette} palette  @param {Link} link  @param {number} alpha */
function drawLink(pen, scene, view, palette, link, alpha) {
  const [from, to] = [at(scene, view, link.source), at(scene, view, link.target)];
  if (Math.max(from.x, to.x) < 0 || Math.min(from.x, to.x) > view.width) return;
  if (Math.max(from.y, to.y) < 0 || Math.min(from.y, to.y) > view.height) return;
  const isUp = link.weight > 0;
  const isThin = link.share < THIN && scene.links.length > MANY;
  pen.curve(from.x, from.y, to.x, to.y, {
    color: isUp ? palette.raises : palette.lowers, isDashed: !isUp && !isThin, width: 0.4 + 0.55 * sizeOf(view) * link.share, alpha,
  });
}

/** @param {Pen} pen  @param {Scene} scene  @param {View} view  @param {Palette} palette */
function drawBands(pen, { graph, look }, view, palette) {
  const { bands } = look.places;
  let lowest = Infinity;
  for (const band of [...bands].reverse()) {
    const top = view.y + band.y * view.sy;
    const bottom = top + band.height * view.sy;
    if (band.layer < graph.nLayers) pen.line(MARGIN.left - 8, top, view.width, top, { color: palette.line });
    const middle = (top + bottom) / 2;
    if (lowest - middle < 13) continue;
    lowest = middle;
    const name = band.layer < 0 ? "tokens" : band.layer >= graph.nLayers ? "answer" : `layer ${band.layer}`;
    pen.text(name, 8, middle, { color: palette.quiet });
  }
}

/** The words of the prompt, which do not fade. @param {Pen} pen  @param {Scene} scene  @param {View} view  @param {Palette} palette */
function drawTokens(pen, { graph, look }, view, palette) {
  const { bands, height } = look.places;
  const last = bands[bands.length - 1];
  const bottom = last && last.layer < 0 ? last.y + last.height / 2 : height;
  const below = Math.min(view.y + bottom * view.sy + sizeOf(view) + 14, view.height - 12);
  const tokens = graph.document.metadata.prompt_tokens;
  for (const { pos, x, width } of look.places.columns) {
    // a dot where there is no room: what is left out is seen to be
    const text = clipped(pen, plain(tokens[pos] ?? ""), (width + 12) * view.sx) || "·";
    pen.text(text, view.x + (x + width / 2) * view.sx, below, { color: palette.ink, paper: palette.paper, align: "center" });
  }
}

/** White space that can be seen; what turns the direction of writing is left out. @param {string} text */
export function plain(text) {
  return text.replace(/^ +$/, (spaces) => "␣".repeat(spaces.length)).replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");
}

/** @param {Pen} pen  @param {string} text  @param {number} room */
export function clipped(pen, text, room) {
  if (pen.measure(text) <= room) return text;
  let characters = [...text].slice(0, 60);
  while (characters.length > 1 && pen.measure(`${characters.join("")}…`) > room) characters = characters.slice(0, -1);
  return pen.measure(characters.join("")) <= room ? `${characters.join("")}…` : "";
}
