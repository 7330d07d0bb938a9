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
  if (!key) return;
  const same = [...root.querySelectorAll("button, summary")].find((element) => keyOf(element) === key);
  const next = same ?? root.querySelector("h2");
  if (next instanceof HTMLElement) next.focus({ preventScroll: true });
}

/** @param {Element} element */
const keyOf = (element) =>
  `${element.tagName} ${(element instanceof HTMLElement && element.dataset.key) || element.getAttribute("aria-label") || element.textContent}`;
