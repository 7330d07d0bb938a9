// The keyboard.
// @ts-check

/**
 * @typedef {object} Actions
 * @property {() => void} undo
 * @property {() => void} redo
 * @property {Record<string, () => void>} byKey
 */

/**
 * Keys do what they are for wherever the focus is, except where a person writes.
 * @param {Actions} actions
 */
export function listenToKeys(actions) {
  document.addEventListener("keydown", (event) => {
    const { target } = event;
    if (document.querySelector("dialog[open]") && !["Escape", "?"].includes(event.key)) return;
    const isInput = target instanceof HTMLInputElement;
    const writes = target instanceof HTMLInputElement && target.type !== "range";
    const isArrow = event.key.startsWith("Arrow");
    const hasModifier = event.ctrlKey || event.metaKey || (event.altKey && !isArrow);
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !writes) {
      event.preventDefault();
      if (event.shiftKey) actions.redo();
      else actions.undo();
      return;
    }
    if (hasModifier || (writes && event.key !== "Escape") || (isInput && isArrow)) return;
    const modifier = event.altKey ? "Alt" : event.shiftKey ? "Shift" : "";
    const action = actions.byKey[isArrow ? modifier + event.key : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
