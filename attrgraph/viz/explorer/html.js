// Elements and numbers as text.
// @ts-check

/**
 * An element with attributes and what is in it; text stays text.
 * @param {string} name
 * @param {Record<string, any>} attributes  those that begin with "on" listen
 * @param {(Node | string)[]} inside
 */
export function make(name, attributes = {}, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value") /** @type {HTMLInputElement} */ (element).value = value;
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false) element.setAttribute(key, String(value));
  }
  element.append(...inside);
  return element;
}

export const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
export const field = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (document.getElementById(id));

/** Three digits. @param {number} x */
export const digits = (x) => String(Number(x.toPrecision(3)));
/** @param {number} x */
export const signed = (x) => (x > 0 ? "+" : "") + digits(x);
/** @param {number} x */
export const percent = (x) => (Number.isNaN(x) ? "none" : `${(100 * x).toFixed(x < 0.1 ? 1 : 0)}%`);
/** @param {number} n */
export const counted = (n) => n.toLocaleString("en-US");
/** The same, without commas for who reads the text. @param {number} n */
export const grouped = (n) =>
  counted(n).split(",").map((part, i, all) => make("span", { class: i < all.length - 1 ? "thousands" : "" }, part));
/** @param {Float64Array} values */
export const sum = (values) => values.reduce((a, b) => a + b, 0);

/** A node's name, and where in the prompt it is. @param {string} label  @param {number} pos */
export const placed = (label, pos) => make("span", { class: "name", "data-at": `@${pos}` }, label);
