// The picture on the screen: what the pointer does to it, and when it is drawn anew.
// @ts-check
import { Base, scaled } from "./base.js";
import { at, drawBase, drawFocus, MARGIN } from "./drawing.js";
import { CanvasPen, SvgPen } from "./pens.js";
import { listenToPointer } from "./pointer.js";
/** @typedef {import("./drawing.js").Scene} Scene */

const REACH = 30; // pixels, from which a node is hit
const FADED = 0.3; // what is not near the node in focus

export class Canvas {
  /**
   * @param {HTMLCanvasElement} element
   * @param {HTMLElement} tooltip
   * @param {(i: number, event: PointerEvent) => void} onClick  with -1 far from any node
   * @param {(i: number) => string} describe  what the tooltip says
   */
  constructor(element, tooltip, onClick, describe) {
    this.element = element;
    this.tooltip = tooltip;
    this.onClick = onClick;
    this.describe = describe;
    /** @type {Scene | null} */
    this.scene = null;
    this.hovered = -1;
    this.view = { sx: 1, sy: 1, x: 0, y: 0, width: 1, height: 1 };
    this.base = new Base(() => this.ask());
    this.isBaseDrawn = false;
    this.isAsked = false;
    this.#listen();
    new ResizeObserver(() => this.fit()).observe(element);
  }

  /** @param {Scene} scene  @param {boolean} isOther  whether other nodes are shown than before */
  show(scene, isOther) {
    this.scene = scene;
    if (isOther) {
      this.#hover(-1);
      this.fit();
    }
    this.ask();
  }

  /** Everything in sight, and the window filled. */
  fit() {
    if (!this.scene) return;
    const { width, height } = this.scene.look.places;
    const { clientWidth, clientHeight } = this.element;
    const room = { x: clientWidth - MARGIN.left - MARGIN.right, y: clientHeight - MARGIN.top - MARGIN.bottom };
    const sx = Math.max(0.02, Math.min(room.x / width, 5));
    const sy = Math.max(0.02, Math.min(room.y / height, 5));
    const [x, y] = [MARGIN.left + (room.x - width * sx) / 2, MARGIN.top + Math.max(0, (room.y - height * sy) / 2)];
    this.#move({ sx, sy, x, y, width: clientWidth, height: clientHeight });
  }

  /** At once, as for a printer that does not wait. */
  fitNow() {
    this.fit();
    this.draw();
  }

  /** @param {import("./drawing.js").View} view */
  #move(view) {
    this.view = view;
    this.redraw();
  }

  /** All of it, with the next frame. */
  redraw() {
    this.isBaseDrawn = false;
    this.ask();
  }

  /** What is in focus, with the next frame. */
  ask() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      this.isAsked = false;
      this.draw();
    });
  }

  draw() {
    const { scene, view, hovered } = this;
    if (!scene || view.width < 1 || view.height < 1) return; // a frame that is not shown yet has no size
    const palette = this.palette();
    if (!this.isBaseDrawn) this.base.draw(scene, view, palette);
    this.isBaseDrawn = true;
    const context = scaled(this.element, view);
    context.globalAlpha = isFocused(scene, hovered) ? FADED : 1;
    context.drawImage(this.base.canvas, 0, 0, view.width, view.height);
    context.globalAlpha = 1;
    drawFocus(new CanvasPen(context), scene, view, palette, hovered);
  }

  /** @returns {import("./drawing.js").Palette} */
  palette() {
    const style = getComputedStyle(this.element);
    const color = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
    return {
      ink: color("ink"), quiet: color("quiet"), paper: color("paper"), line: color("line"),
      raises: color("raises"), lowers: color("lowers"), gold: color("gold"),
    };
  }

  /** What is on the screen as SVG. */
  svg() {
    const pen = new SvgPen(new CanvasPen(scaled(document.createElement("canvas"), this.view)));
    this.#drawAll(pen);
    return pen.picture(this.view.width, this.view.height, this.palette().paper);
  }

  /** What is on the screen, twice as fine. @param {BlobCallback} onDone */
  png(onDone) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * this.view.width, 2 * this.view.height];
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.scale(2, 2);
    const pen = new CanvasPen(context);
    pen.veil(this.view, { fill: this.palette().paper });
    this.#drawAll(pen);
    canvas.toBlob(onDone);
  }

  /** @param {CanvasPen | SvgPen} pen */
  #drawAll(pen) {
    const { scene, view } = this;
    if (!scene) return;
    const palette = this.palette();
    [...drawBase(pen, scene, view, palette, scene.links, Infinity)];
    if (isFocused(scene, -1)) pen.veil(view, { fill: palette.paper, fillAlpha: 1 - FADED });
    drawFocus(pen, scene, view, palette, -1);
  }

  /** Where a node is on the screen. @param {number} i */
  place(i) {
    return this.scene ? at(this.scene, this.view, i) : { x: NaN, y: NaN };
  }

  /** The node nearest to a point of the screen, or -1. @param {number} x  @param {number} y */
  nearest(x, y) {
    let found = -1;
    let best = REACH ** 2;
    if (!this.scene) return found;
    const { places } = this.scene.look;
    for (let i = 0; i < places.x.length; i++) {
      const [dx, dy] = [this.view.x + places.x[i] * this.view.sx - x, this.view.y + places.y[i] * this.view.sy - y];
      const distance = dx * dx + dy * dy;
      if (distance < best) [found, best] = [i, distance];
    }
    return found;
  }

  #listen() {
    listenToPointer(this.element, {
      hover: (x, y) => this.#hover(this.nearest(x, y)),
      leave: () => this.#hover(-1),
      click: (x, y, event) => this.onClick(this.nearest(x, y), event),
      move: (dx, dy) => this.#move({ ...this.view, x: this.view.x + dx, y: this.view.y + dy }),
      zoom: (by, x, y) => this.#zoom(by, x, y),
      double: (x, y) => this.nearest(x, y) < 0 && this.fit(),
    });
  }

  /** @param {number} factor  @param {number} x  @param {number} y  what stays in place */
  #zoom(factor, x, y) {
    const { view } = this;
    const by = Math.min(20 / Math.max(view.sx, view.sy), Math.max(0.02 / Math.min(view.sx, view.sy), factor));
    this.#move({ ...view, sx: view.sx * by, sy: view.sy * by, x: x - (x - view.x) * by, y: y - (y - view.y) * by });
  }

  /** @param {number} i */
  #hover(i) {
    if (i === this.hovered || !this.scene) return;
    this.hovered = i;
    this.tooltip.hidden = i < 0;
    if (i >= 0) {
      this.tooltip.textContent = this.describe(i);
      const { x, y } = at(this.scene, this.view, i);
      const isLow = y > this.view.height - 90;
      this.tooltip.style.left = `${Math.max(4, Math.min(x + 14, this.view.width - this.tooltip.offsetWidth - 8))}px`;
      this.tooltip.style.top = `${isLow ? y - 14 - this.tooltip.offsetHeight : y + 14}px`;
    }
    this.ask();
  }
}

/** Whether a node stands out. @param {Scene} scene  @param {number} hovered */
const isFocused = ({ selected, look }, hovered) => hovered >= 0 || (selected >= 0 && Boolean(look.stays[selected]));
