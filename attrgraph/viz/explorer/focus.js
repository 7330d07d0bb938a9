// What a person was at stays where it was when panels are made anew.
// @ts-check

/**
 * The focus goes to the element that stands for the one that had it, or to the panel's heading; what was open stays open.
 * @param {HTMLElement} root
 * @param {() => void} replace  makes what is in it anew
 */
export function keepingPlace(root, replace) {
  const before = document.activeElement;
  const key = before instanceof HTMLElement && root.contains(before) ? keyOf(before) : "";
  const open = new Set([...root.querySelectorAll("details[open]")].map(keyOf));
  replace();
  for (const details of root.querySelectorAll("details")) details.open = open.has(keyOf(details));
  if (!key || before?.isConnected) return;
  const same = [...root.querySelectorAll("button, summary")].find((element) => keyOf(element) === key);
  const next = same ?? root.querySelector("h2");
  if (next instanceof HTMLElement) next.focus({ preventScroll: true });
}

/** @type {Set<() => void>} */
const waiting = new Set();
let isPressed = false;

/** While a person writes in a node's or group's name, or has pressed a button, what would make it anew waits. @param {() => void} show */
export function whenFree(show) {
  const { activeElement } = document;
  // a frame keeps its active element while a person is in another
  const isThere = window === parent || document.hasFocus();
  if (isPressed || (isThere && activeElement?.matches("#node input, #groups input"))) waiting.add(show);
  else {
    waiting.delete(show);
    show();
  }
}

function free() {
  const shows = [...waiting];
  waiting.clear();
  shows.forEach(whenFree);
}

const release = () => {
  isPressed = false;
  free();
};

addEventListener("mousedown", (event) => {
  isPressed = event.button === 0 && event.target instanceof Element && event.target.closest("#panels") !== null;
}, true);
// the button gets its click first
addEventListener("mouseup", () => setTimeout(release));
addEventListener("dragend", release);
addEventListener("click", () => (isPressed = false), true);
addEventListener("click", free);
// by then, what is next has the focus
addEventListener("focusout", ({ relatedTarget }) => (relatedTarget ? setTimeout(free) : free()));

/** @param {Element} element */
const keyOf = (element) =>
  `${element.tagName} ${(element instanceof HTMLElement && element.dataset.key) || element.getAttribute("aria-label") || element.textContent}`;
