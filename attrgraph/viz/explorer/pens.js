// What a picture is drawn with: on a canvas, or as SVG. Both draw lines, curves, marks and text.
// @ts-check

/**
 * @typedef {object} Style
 * @property {string} [color]  of lines and text
 * @property {number} [width]  of lines
 * @property {boolean} [isDashed]
 * @property {number} [alpha]
 * @property {string} [fill]
 * @property {number} [fillAlpha]
 * @property {string} [paper]  what stands behind: around text, and under a fill
 * @property {"left" | "center"} [align]
 * @property {boolean} [isBold]
 */

export const FONT = "system-ui, sans-serif";
const DASHES = [5, 3];

/**
 * The corners of a mark; none for a circle: features are round, tokens and answers square, errors diamonds.
 * @param {string} kind  @param {number} x  @param {number} y  @param {number} r
 */
function corners(kind, x, y, r) {
  if (kind.endsWith("feature")) return [];
  if (kind === "embedding" || kind === "logit") return [[x - r, y - r], [x + r, y - r], [x + r, y + r], [x - r, y + r]];
  return [[x, y - 1.25 * r], [x + 1.25 * r, y], [x, y + 1.25 * r], [x - 1.25 * r, y]];
}

export class CanvasPen {
  /** @param {CanvasRenderingContext2D} context */
  constructor(context) {
    this.context = context;
    context.textBaseline = "middle";
  }

  /** @param {Style} style */
  #set({ color = "", width = 1, isDashed = false, alpha = 1 }) {
    this.context.strokeStyle = color;
    this.context.lineWidth = width;
    this.context.setLineDash(isDashed ? DASHES : []);
    this.context.globalAlpha = alpha;
  }

  /** @param {number} x1  @param {number} y1  @param {number} x2  @param {number} y2  @param {Style} style */
  line(x1, y1, x2, y2, style) {
    this.#set(style);
    this.context.beginPath();
    this.context.moveTo(x1, y1);
    this.context.lineTo(x2, y2);
    this.context.stroke();
  }

  /** From one node up to another. @param {number} x1  @param {number} y1  @param {number} x2  @param {number} y2  @param {Style} style */
  curve(x1, y1, x2, y2, style) {
    const middle = (y1 + y2) / 2;
    this.#set(style);
    this.context.beginPath();
    this.context.moveTo(x1, y1);
    this.context.bezierCurveTo(x1, middle, x2, middle, x2, y2);
    this.context.stroke();
  }

  /** @param {string} kind  of node  @param {number} x  @param {number} y  @param {number} r  @param {Style} style */
  mark(kind, x, y, r, style) {
    const { context } = this;
    const points = corners(kind, x, y, r);
    context.beginPath();
    points.forEach(([cx, cy], i) => (i ? context.lineTo(cx, cy) : context.moveTo(cx, cy)));
    if (points.length) context.closePath();
    else context.arc(x, y, r, 0, 2 * Math.PI);
    context.globalAlpha = 1;
    if (style.paper) {
      context.fillStyle = style.paper;
      context.fill();
    }
    if (style.fill) {
      context.globalAlpha = style.fillAlpha ?? 1;
      context.fillStyle = style.fill;
      context.fill();
    }
    this.#set(style);
    context.stroke();
  }

  /** @param {string} text  @param {number} x  @param {number} y  @param {Style} style */
  text(text, x, y, style) {
    const { context } = this;
    context.font = `${style.isBold ? "600 " : ""}12px ${FONT}`;
    context.textAlign = style.align ?? "left";
    context.globalAlpha = style.alpha ?? 1;
    if (style.paper) {
      context.setLineDash([]);
      context.lineWidth = 3;
      context.lineJoin = "round";
      context.strokeStyle = style.paper;
      context.strokeText(text, x, y);
    }
    context.fillStyle = style.color ?? "";
    context.fillText(text, x, y);
  }

  /** Over the whole picture. @param {{width: number, height: number}} size  @param {Style} style */
  veil({ width, height }, { fill = "", fillAlpha = 1 }) {
    this.context.globalAlpha = fillAlpha;
    this.context.fillStyle = fill;
    this.context.fillRect(0, 0, width, height);
  }

  /** How wide a text is. @param {string} text */
  measure(text) {
    this.context.font = `12px ${FONT}`;
    return this.context.measureText(text).width;
  }
}

export class SvgPen {
  /** @param {CanvasPen} canvas  that measures */
  constructor(canvas) {
    this.canvas = canvas;
    /** @type {string[]} */
    this.parts = [];
  }

  /** @param {Style} style */
  #stroke({ color = "none", width = 1, isDashed = false, alpha = 1 }) {
    return `stroke="${color}" stroke-width="${short(width)}" stroke-opacity="${short(alpha)}"` +
      (isDashed ? ` stroke-dasharray="${DASHES.join(" ")}"` : "");
  }

  /** @param {number} x1  @param {number} y1  @param {number} x2  @param {number} y2  @param {Style} style */
  line(x1, y1, x2, y2, style) {
    this.parts.push(`<path d="M${short(x1)} ${short(y1)}L${short(x2)} ${short(y2)}" ${this.#stroke(style)}/>`);
  }

  /** @param {number} x1  @param {number} y1  @param {number} x2  @param {number} y2  @param {Style} style */
  curve(x1, y1, x2, y2, style) {
    const [a, b, c, d] = [x1, y1, x2, y2].map(short);
    const middle = short((y1 + y2) / 2);
    this.parts.push(`<path fill="none" d="M${a} ${b}C${a} ${middle} ${c} ${middle} ${c} ${d}" ${this.#stroke(style)}/>`);
  }

  /** @param {string} kind  @param {number} x  @param {number} y  @param {number} r  @param {Style} style */
  mark(kind, x, y, r, style) {
    const points = corners(kind, x, y, r);
    const shape = points.length
      ? `<polygon points="${points.map((point) => point.map(short).join(",")).join(" ")}"`
      : `<circle cx="${short(x)}" cy="${short(y)}" r="${short(r)}"`;
    if (style.paper) this.parts.push(`${shape} fill="${style.paper}"/>`);
    const fill = style.fill ? `fill="${style.fill}" fill-opacity="${short(style.fillAlpha ?? 1)}"` : 'fill="none"';
    this.parts.push(`${shape} ${fill} ${this.#stroke(style)}/>`);
  }

  /** @param {string} text  @param {number} x  @param {number} y  @param {Style} style */
  text(text, x, y, style) {
    const anchor = style.align === "center" ? ' text-anchor="middle"' : "";
    const halo = style.paper ? ` stroke="${style.paper}" stroke-width="3" stroke-linejoin="round" paint-order="stroke"` : "";
    const weight = style.isBold ? ' font-weight="600"' : "";
    this.parts.push(
      `<text x="${short(x)}" y="${short(y)}" dy=".35em" fill="${style.color}"${anchor}${halo}${weight}>${escaped(text)}</text>`,
    );
  }

  /** @param {{width: number, height: number}} size  @param {Style} style */
  veil({ width, height }, { fill, fillAlpha = 1 }) {
    this.parts.push(`<rect width="${width}" height="${height}" fill="${fill}" fill-opacity="${short(fillAlpha)}"/>`);
  }

  /** @param {string} text */
  measure(text) {
    return this.canvas.measure(text);
  }

  /** The whole picture. @param {number} width  @param {number} height  @param {string} paper */
  picture(width, height, paper) {
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
      `font-family="${FONT}" font-size="12"><rect width="100%" height="100%" fill="${paper}"/>\n${this.parts.join("\n")}\n</svg>\n`
    );
  }
}

/** @param {number} value */
const short = (value) => String(Math.round(100 * value) / 100);

/** As XML, which has no control characters. @param {string} text */
function escaped(text) {
  return text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}
