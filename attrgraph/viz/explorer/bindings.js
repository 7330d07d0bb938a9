// What each key and slider does.
// @ts-check
import { element, field } from "./html.js";
import { STEP } from "./layout.js";
import { nextInLine, strongestNeighbour } from "./moves.js";
/** @typedef {import("./main.js").Explorer} Explorer */

/** By key, with what is held before an arrow. @param {Explorer} explorer  @returns {Record<string, () => void>} */
export function bindings(explorer) {
  const { graph, state, select } = explorer;
  const keys = /** @type {HTMLDialogElement} */ (element("keys"));
  const move = (/** @type {number} */ dx, /** @type {number} */ dy) => () => explorer.selected >= 0 && explorer.move(explorer.selected, dx, dy);
  return {
    "/": () => field("search").focus(),
    "?": () => (keys.open ? keys.close() : keys.showModal()),
    p: () => explorer.selected >= 0 && explorer.pin(explorer.selected),
    l: () => explorer.otherLinks(),
    g: () => explorer.holdG(),
    x: () => explorer.ungroup(),
    m: () => explorer.selected >= 0 && state.set({ from: state.choice.from === state.choice.node ? "" : state.choice.node }),
    u: () => state.undo(),
    r: () => state.redo(),
    f: () => explorer.canvas.fit(),
    b: () => explorer.putBack(explorer.selected),
    Escape: () => (keys.open ? keys.close() : select(-1)),
    ArrowDown: () => explorer.go((look, i) => strongestNeighbour(look.inputs, i)),
    ArrowUp: () => explorer.go((look, i) => strongestNeighbour(look.outputs, i)),
    ArrowLeft: () => explorer.go((look, i) => nextInLine(graph, "layer", look, i, -1)),
    ArrowRight: () => explorer.go((look, i) => nextInLine(graph, "layer", look, i, 1)),
    AltArrowDown: move(0, STEP),
    AltArrowUp: move(0, -STEP),
    AltArrowLeft: move(-STEP, 0),
    AltArrowRight: move(STEP, 0),
    ShiftArrowDown: () => explorer.go((look, i) => nextInLine(graph, "pos", look, i, -1)),
    ShiftArrowUp: () => explorer.go((look, i) => nextInLine(graph, "pos", look, i, 1)),
  };
}

/** One step to undo for each time a slider is moved. @param {string} id  @param {(value: number, isStep: boolean) => void} change */
export function slide(id, change) {
  let isMoving = false;
  field(id).addEventListener("input", () => {
    change(Number(field(id).value), !isMoving);
    isMoving = true;
  });
  field(id).addEventListener("change", () => (isMoving = false));
}
