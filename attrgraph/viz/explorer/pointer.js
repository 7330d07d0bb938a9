// What a mouse, a pen or fingers do to the picture, and to the border between it and the panels.
// @ts-check

/**
 * @typedef {object} Moves  Places are in pixels of the picture.
 * @property {(x: number, y: number) => void} hover
 * @property {() => void} leave
 * @property {(x: number, y: number, event: MouseEvent) => void} click  but for the second one of a double click
 * @property {(x: number, y: number) => boolean} grab  whether something is there that can be dragged
 * @property {(dx: number, dy: number) => void} drag
 * @property {() => void} drop  after it was dragged
 * @property {(dx: number, dy: number) => void} move
 * @property {(by: number, x: number, y: number) => void} zoom
 * @property {(x: number, y: number) => void} double  click
 */

const STILL = 4; // pixels that a click may move

/** @param {HTMLElement} element  @param {Moves} moves */
export function listenToPointer(element, moves) {
  /** @type {Map<number, {x: number, y: number}>} */
  const down = new Map();
  let isMoved = false;
  let holds = false;
  const letGo = () => {
    if (holds && isMoved) moves.drop();
    holds = false;
  };
  element.addEventListener("pointerdown", (event) => {
    if (!down.size) {
      isMoved = false;
      holds = event.button === 0 && moves.grab(event.offsetX, event.offsetY);
    } else letGo();
    down.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId);
    const now = { x: event.offsetX, y: event.offsetY };
    if (!before) {
      if (!down.size) moves.hover(now.x, now.y);
      return;
    }
    const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const by = distance(now, other) / Math.max(1, distance(before, other));
      moves.zoom(by, (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (isMoved || distance(now, before) > STILL) (holds ? moves.drag : moves.move)(now.x - before.x, now.y - before.y);
    else return;
    isMoved = true;
    down.set(event.pointerId, now);
  });
  for (const name of /** @type {const} */ (["pointerup", "pointercancel"]))
    element.addEventListener(name, (event) => {
      down.delete(event.pointerId);
      letGo();
    });
  element.addEventListener("click", (event) => {
    if (!isMoved && event.detail < 2) moves.click(event.offsetX, event.offsetY, event);
  });
  element.addEventListener("pointerleave", () => moves.leave());
  element.addEventListener("dblclick", (event) => moves.double(event.offsetX, event.offsetY));
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      moves.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    },
    { passive: false },
  );
}

/** @param {{x: number, y: number}} a  @param {{x: number, y: number}} b */
const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

/**
 * The border between the picture and the panels: dragged, or moved with the arrow keys.
 * @param {HTMLElement} border
 * @param {HTMLElement} panels
 */
export function listenToBorder(border, panels) {
  const set = (/** @type {number} */ width) => {
    const most = Math.round(document.body.clientWidth * 0.75);
    const size = Math.round(Math.max(220, Math.min(most, width)));
    document.body.style.setProperty("--panels", `${size}px`);
    for (const [name, value] of Object.entries({ valuemin: 220, valuemax: most, valuenow: size }))
      border.setAttribute(`aria-${name}`, String(value));
  };
  border.addEventListener("pointerdown", (event) => border.setPointerCapture(event.pointerId));
  border.addEventListener("pointermove", (event) => {
    if (border.hasPointerCapture(event.pointerId)) set(document.body.clientWidth - event.clientX);
  });
  border.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: 24, ArrowRight: -24 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    set(panels.clientWidth + by);
  });
}
