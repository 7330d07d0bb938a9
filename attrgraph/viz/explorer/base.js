// The part of the picture that stays while the pointer moves: at once with the strongest links, soon with all of them.
// @ts-check
import { drawBase } from "./drawing.js";
import { CanvasPen } from "./pens.js";
/** @typedef {import("./drawing.js").View} View */

const AT_ONCE = 1500; // links, which take less than 0.1 s to draw on a processor
const A_FRAME = 700;

export class Base {
  /** @param {() => void} onDone  when all links have been drawn */
  constructor(onDone) {
    this.onDone = onDone;
    this.canvas = document.createElement("canvas");
    this.spare = document.createElement("canvas");
    this.nStarted = 0;
  }

  /** @param {import("./drawing.js").Scene} scene  @param {View} view  @param {import("./drawing.js").Palette} palette  @param {number} atOnce */
  draw(scene, view, palette, atOnce = AT_ONCE) {
    this.nStarted += 1;
    const pen = new CanvasPen(scaled(this.canvas, view));
    [...drawBase(pen, scene, view, palette, scene.links.slice(-atOnce), Infinity)];
    if (scene.links.length > atOnce)
      this.#goOn(drawBase(new CanvasPen(scaled(this.spare, view)), scene, view, palette, scene.links, A_FRAME), this.nStarted);
  }

  /** One step a frame, until another picture is asked for. @param {Generator<void>} steps  @param {number} started */
  #goOn(steps, started) {
    requestAnimationFrame(() => {
      if (started !== this.nStarted) return;
      if (!steps.next().done) this.#goOn(steps, started);
      else {
        [this.canvas, this.spare] = [this.spare, this.canvas];
        this.onDone();
      }
    });
  }
}

/** An empty canvas as large as the screen's. @param {HTMLCanvasElement} canvas  @param {View} view */
export function scaled(canvas, view) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.globalAlpha = 1;
  context.clearRect(0, 0, view.width, view.height);
  return context;
}
