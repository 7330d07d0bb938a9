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
const UNSEEN = /(?! )[\s\p{C}]/gu;
const ESCAPED = /(?! )[\s\p{C}'!\\]/gu;

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
  const [text, ids] = [String(metadata.prompt ?? ""), own.token_ids];
  // a shell passes no such text on
  const isText = !ids || !/[\0\p{Surrogate}]/u.test(text);
  const prompt = isText ? text : ids.join(" ");
  const options = changesOf(setting).flatMap((change) => ["--set", change]);
  if (setting.mode !== "constrained") options.push("--mode", setting.mode);
  if (setting.tokens) options.push("--new-tokens", String(setting.tokens));
  options.push(...loading(own), ...reading(own, isText));
  const words = prompt.startsWith("-") ? [...options, "--", prompt] : [prompt, ...options];
  return ["attrgraph", "intervene", ...words].map(quoted).join(" ");
}

/** Options that load what the graph was traced with. @param {any} own  metadata */
function loading({ model, transcoders, dtype }) {
  const names = [model?.id ?? "MODEL", transcoders?.id ?? "TRANSCODERS"];
  const set = names[1] + (transcoders?.revision ? `@${transcoders.revision}` : "");
  const options = (dtype ?? "float32") === "float32" ? [] : ["--dtype", dtype];
  if (names.every((name) => name === "demo")) return options;
  options.push("--model", names[0], "--transcoders", set);
  if (model?.revision) options.push("--revision", model.revision);
  if (transcoders?.read_point) options.push("--read-point", transcoders.read_point);
  if (transcoders?.write_point) options.push("--write-point", transcoders.write_point);
  if (transcoders?.missing_layers?.length) options.push("--allow-missing-layers");
  return options;
}

/** Options that read the prompt as it was read. @param {any} own  metadata  @param {boolean} isText */
function reading({ settings, skipped_positions: skipped }, isText) {
  const prepend = settings?.prepend ?? "auto";
  const options = isText ? (prepend === "auto" ? [] : ["--prepend", prepend]) : ["--ids", "--prepend", "none"];
  if (!Array.isArray(skipped)) return options;
  if (!skipped.length) return [...options, "--skip-positions", "none"];
  const isAsked = skipped.every(({ why }) => why === "as asked");
  return isAsked ? [...options, "--skip-positions", skipped.map(({ pos }) => pos).join(",")] : options;
}

/** As bash reads it, on one line: what cannot be seen or copied stands as bytes. @param {string} word */
function quoted(word) {
  if (PLAIN.test(word)) return word;
  if (word.search(UNSEEN) < 0) return `'${word.replaceAll("'", "'\\''")}'`;
  return `$'${word.replace(ESCAPED, bytes)}'`;
}

/** @param {string} one  character */
const bytes = (one) => [...new TextEncoder().encode(one)].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
