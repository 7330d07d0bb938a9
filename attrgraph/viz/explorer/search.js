// The search box: finds labels, tokens and ids among the nodes shown, then among all others.
// @ts-check
import { featureName } from "./graph.js";
import { make } from "./html.js";
/** @typedef {import("./graph.js").Graph} Graph */

const MOST_FOUND = 30;

/**
 * @param {HTMLInputElement} box
 * @param {HTMLElement} list
 * @param {() => {graph: Graph, isShown: Uint8Array, influence: Float64Array, label: (i: number) => string}} shown
 * @param {(i: number) => void} select
 */
export function search(box, list, shown, select) {
  let at = 0;
  /** @type {number[]} */
  let found = [];
  const close = () => {
    found = [];
    show();
  };
  const show = () => {
    const { graph, isShown, label } = shown();
    list.hidden = !found.length;
    box.setAttribute("aria-expanded", String(found.length > 0));
    list.replaceChildren(
      ...found.map((i, place) =>
        make(
          "li",
          { role: "option", id: `found-${place}`, "aria-selected": place === at, onclick: () => choose(place) },
          make("span", {}, label(i)),
          make("small", {}, `${graph.nodes[i].node_id}${isShown[i] ? "" : ", pruned"}`),
        ),
      ),
    );
    if (found.length) box.setAttribute("aria-activedescendant", `found-${at}`);
    else box.removeAttribute("aria-activedescendant");
  };
  const choose = (/** @type {number} */ place) => {
    const i = found[place];
    box.value = "";
    close();
    box.blur();
    if (i !== undefined) select(i);
  };
  box.addEventListener("input", () => {
    const { graph, isShown, influence, label } = shown();
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    at = 0;
    found = !words.length ? [] : [...graph.kind.keys()].filter((i) => {
      const text = `${label(i)} ${graph.token[i]} ${graph.nodes[i].node_id} ${featureName(graph, i)}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    found.sort((a, b) => isShown[b] - isShown[a] || influence[b] - influence[a]);
    found = found.slice(0, MOST_FOUND);
    show();
  });
  box.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") {
      box.value = "";
      close();
      box.blur();
    } else if (event.key === "Enter") choose(at);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      at = (at + (event.key === "ArrowDown" ? 1 : -1) + found.length) % Math.max(found.length, 1);
      show();
    }
  });
  // a list that is pressed or scrolled stays open
  list.addEventListener("mousedown", (event) => event.preventDefault());
  box.addEventListener("blur", close);
}
