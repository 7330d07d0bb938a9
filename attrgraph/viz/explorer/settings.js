// Which nodes are set to what: as `attrgraph intervene` takes it, so that page, server and terminal mean the same.
// @ts-check

/**
 * @typedef {object} Setting
 * @property {string[]} ids  of nodes
 * @property {"*" | "=" | "+"} how  a multiple, a value, or something added
 * @property {string} number
 * @property {"own" | "on" | "all"} where  at the nodes' own positions, from there on, or at all positions
 * @property {string} mode
 * @property {number} tokens  that are generated
 */

const FEATURE = /^(\d+)_(\d+)_(\d+)$/;
const PLAIN = /^[\w.\/@:=-]+$/;

/** Each node once, such as 3/458@8*0. @param {Setting} setting */
export function changesOf({ ids, how, number, where }) {
  /** @type {Map<string, number>} */
  const first = new Map();
  const others = [];
  for (const id of ids) {
    const [, layer, feature, pos] = FEATURE.exec(id) ?? [];
    const name = where === "own" ? `${layer}/${feature}@${pos}` : `${layer}/${feature}`;
    if (layer === undefined) others.push(id);
    else first.set(name, Math.min(Number(pos), first.get(name) ?? Infinity));
  }
  const places = [...first].map(([name, pos]) => ({ own: name, on: `${name}@${pos}:`, all: `${name}@0:` })[where]);
  return [...places, ...others].map((place) => `${place}${how}${number}`);
}

/**
 * The command that does the same.
 * @param {any} metadata  of the graph's document
 * @param {Setting} setting
 */
export function commandOf(metadata, setting) {
  const own = metadata.attrgraph ?? {};
  const words = ["attrgraph", "intervene", metadata.prompt ?? ""];
  for (const change of changesOf(setting)) words.push("--set", change);
  if (setting.mode !== "constrained") words.push("--mode", setting.mode);
  if (setting.tokens) words.push("--new-tokens", String(setting.tokens));
  const [model, transcoders] = [own.model?.id ?? "MODEL", own.transcoders?.id ?? "TRANSCODERS"];
  if (model !== "demo" || transcoders !== "demo") words.push("--model", model, "--transcoders", transcoders);
  if ((own.settings?.prepend ?? "auto") !== "auto") words.push("--prepend", own.settings.prepend);
  return words.map(quoted).join(" ");
}

/** As a shell reads it. @param {string} word */
const quoted = (word) => (PLAIN.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
