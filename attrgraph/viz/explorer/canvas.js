// The picture on the screen: what the pointer does to it, and when it is drawn anew.
// @ts-check
import { Base, scaled } from "./base.js";
import { at, drawBase, drawFocus, MANY, MARGIN, sizeOf } from "./drawing.js";
import { CanvasPen, SvgPen } from "./pens.js";
import { listenToPointer } from "./pointer.js";
/** @typedef {import("./drawing.js").Scene} Scene */

const REACH = 30; // pixels, from which a node is hit
const FADED = 0.3; // what is not near the node in focus

export class Canvas {
  /**
   * @param {HTMLCanvasElement} element
   * @param {HTMLElement} tooltip
   * @param {object} does  what the pointer does to nodes
   * @param {(i: number, event: MouseEvent) => void} does.click  with -1 far from any node
   * @param {(i: number) => void} does.double  click
   * @param {(i: number, dx: number, dy: number) => void} does.move  it was dragged so far
   * @param {(i: number) => string} does.describe  the tooltip's text
   */
  constructor(element, tooltip, does) {
    this.element = element;
    this.tooltip = tooltip;
    this.does = does;
    this.grabbed = { i: -1, x: 0, y: 0 }; // from where
    /** @type {Scene | null} */
    this.scene = null;
    this.hovered = -1;
    this.view = { sx: 1, sy: 1, x: 0, y: 0, width: 1, height: 1 };
    this.base = new Base(() => this.ask());
    this.isBaseDrawn = false;
    this.isAsked = false;
    this.#listen();
    this.#listenToPaper();
    new ResizeObserver(() => this.fit()).observe(element);
  }

  /** @param {Scene} scene  @param {boolean} isOther  whether other nodes are shown than before */
  show(scene, isOther) {
    const isMoved = this.scene?.look.places !== scene.look.places;
    this.scene = scene;
    if (isOther) {
      this.#hover(-1);
      this.fit();
    } else if (isMoved) this.redraw();
    this.ask();
  }

  /** Everything in sight, and the window filled. */
  fit() {
    if (!this.scene) return;
    const { left, top, width, height } = this.scene.look.places;
    const { clientWidth, clientHeight } = this.element;
    const room = { x: clientWidth - MARGIN.left - MARGIN.right, y: clientHeight - MARGIN.top - MARGIN.bottom };
    const sx = Math.max(0.02, Math.min(room.x / width, 5));
    const sy = Math.max(0.02, Math.min(room.y / height, 5));
    const [x, y] = [MARGIN.left + (room.x - width * sx) / 2, MARGIN.top + Math.max(0, (room.y - height * sy) / 2)];
    this.#move({ sx, sy, x: x - left * sx, y: y - top * sy, width: clientWidth, height: clientHeight });
  }

  /** All of it at once, as for a printer that does not wait. */
  #drawNow() {
    this.isBaseDrawn = false;
    this.draw(Infinity);
  }

  /** Chromium lays the page out for the paper; Firefox prints the picture that is on the screen before. */
  #listenToPaper() {
    for (const media of ["(prefers-color-scheme: dark)", "print"])
      matchMedia(media).addEventListener("change", () => {
        this.fit();
        this.#drawNow();
      });
    for (const when of ["beforeprint", "afterprint"])
      addEventListener(when, () => {
        document.documentElement.classList.toggle("paper", when === "beforeprint");
        this.#drawNow();
      });
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

  /** @param {number} [atOnce]  links that do not wait for later frames */
  draw(atOnce) {
    const { scene, view, hovered } = this;
    if (!scene || view.width < 1 || view.height < 1) return; // a frame that is not shown yet has no size
    const palette = this.palette();
    if (!this.isBaseDrawn) this.base.draw(scene, view, palette, atOnce);
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

  /** The node nearest to a point of the screen, or -1. @param {number} x  @param {number} y  @param {number} reach  pixels */
  nearest(x, y, reach = REACH) {
    let found = -1;
    let best = reach ** 2;
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
      click: (x, y, event) => this.does.click(this.nearest(x, y), event),
      grab: (x, y) => this.#grab(this.nearest(x, y, sizeOf(this.view) + 3)),
      drag: (dx, dy) => this.#drag(dx, dy),
      drop: () => this.#drop(),
      move: (dx, dy) => this.#move({ ...this.view, x: this.view.x + dx, y: this.view.y + dy }),
      zoom: (by, x, y) => this.#zoom(by, x, y),
      double: (x, y) => {
        const i = this.nearest(x, y);
        if (i < 0) this.fit();
        else this.does.double(i);
      },
    });
  }

  /** Whether a node is there to be dragged. @param {number} i */
  #grab(i) {
    if (i < 0 || !this.scene) return false;
    const { x, y } = this.scene.look.places;
    this.grabbed = { i, x: x[i], y: y[i] };
    return true;
  }

  /** Its links follow; in a large graph the others do when it is dropped. @param {number} dx  @param {number} dy */
  #drag(dx, dy) {
    if (!this.scene) return;
    const { look, links } = this.scene;
    const { i } = this.grabbed;
    look.places.x[i] += dx / this.view.sx;
    look.places.y[i] += dy / this.view.sy;
    this.tooltip.hidden = true;
    if (links.length > MANY) this.ask();
    else this.redraw();
  }

  #drop() {
    const { i, x, y } = this.grabbed;
    if (this.scene) this.does.move(i, this.scene.look.places.x[i] - x, this.scene.look.places.y[i] - y);
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
      this.tooltip.textContent = this.does.describe(i);
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
