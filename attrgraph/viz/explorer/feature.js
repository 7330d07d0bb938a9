// What a feature means: its page, with where this activation stands among all.
// @ts-check
import { counted, digits, make, percent } from "./html.js";

const MOST_EXAMPLES = 5; // of a group, until all are asked for
const NAMES = [
  ["token", "fires on"], ["previous", "fires after"], ["last 3", "fires at the end of"], ["says", "fires where the model says"],
  ["next", "fires before"], ["position", "fires at position"],
];

/** @param {any} record  as `attrgraph features` writes it  @param {number | null} activation  in this graph */
export function featurePanel(record, activation) {
  const numbers = `fires on ${percent(record.activation_frequency)} of ${counted(record.n_tokens)} tokens · ` +
    `${digits(record.act_mean)} on average · ${digits(record.act_max)} at most`;
  const rows = [
    ["promotes", chips(record.top_logits, record.top_logit_values.map(digits))],
    ["suppresses", chips(record.bottom_logits, record.bottom_logit_values.map(digits))],
    ...NAMES.map(([key, name]) => {
      const found = record.tokens?.[key] ?? [];
      return [name, chips(found.map((/** @type {any} */ one) => one.value), found.map((/** @type {any} */ one) => percent(one.share_of_firings)))];
    }),
  ].filter(([, values]) => values.length);
  return make(
    "section",
    { role: "region", "aria-label": "Feature" },
    make("h3", {}, `What feature ${record.layer}/${record.index} means`),
    ...labelled(record).map((line) => make("p", {}, line)),
    make("p", {}, numbers),
    ...(record.histogram?.length ? [histogram(record, activation)] : []),
    make("dl", {}, ...rows.flatMap(([name, values]) => [make("dt", {}, String(name)), make("dd", {}, .../** @type {Node[]} */ (values))])),
    ...record.examples_quantiles.filter((/** @type {any} */ group) => group.examples.length).flatMap((/** @type {any} */ group) => examples(group, record.act_max)),
  );
}

/** What its label is, where it is from and how far it held, or why there is none. @param {any} record */
function labelled(record) {
  if (!record.label) return record.label_fault ? [`no label: ${record.label_fault}`] : [];
  if (record.label_source === "given" || record.label_claims == null) return [record.label];
  const [right, all] = record.label_claims;
  return [
    record.label,
    `score ${record.label_score.toFixed(2)} on held-out text, above ${record.label_control.toFixed(2)} of its controls; right ` +
      `${counted(right)} of ${counted(all)} times, foresees ${percent(record.label_recall)} of the activation`,
  ];
}

/** @param {unknown[]} tokens  @param {string[]} notes */
const chips = (tokens, notes) =>
  tokens.map((token, i) => make("span", { class: "chip" }, `${JSON.stringify(token)} `, make("small", {}, notes[i])));

/** Bars of all firings; that of this activation is marked. @param {any} record  @param {number | null} activation */
function histogram(record, activation) {
  const { histogram: heights, histogram_edges: edges } = record;
  const most = Math.max(...heights);
  const size = Math.abs(activation ?? NaN);
  const here = heights.findIndex((/** @type {number} */ _, /** @type {number} */ i) => size >= edges[i] && (size < edges[i + 1] || i === heights.length - 1));
  const bars = heights.map((/** @type {number} */ n, /** @type {number} */ i) =>
    make("span", { class: i === here ? "bar here" : "bar", style: `--height:${n / most}`, title: `${n} firings of ${digits(edges[i])} to ${digits(edges[i + 1])}` }));
  let text = `activations from ${digits(edges[0])} to ${digits(edges[edges.length - 1])}, four bins an octave`;
  if (here >= 0) {
    const sum = (/** @type {number[]} */ values) => values.reduce((a, b) => a + b, 0);
    const below = sum(heights.slice(0, here)) / sum(heights);
    text += `; this one, ${digits(size)}, is in the bin with ${percent(below)} of firings below it`;
  }
  return make("figure", {}, make("div", { class: "bars", role: "img", "aria-label": text }, ...bars), make("figcaption", {}, text));
}

/** @param {any} group  @param {number} largest */
function examples(group, largest) {
  const items = group.examples.map((/** @type {any} */ one) =>
    make("li", { class: one.is_repeated_datapoint ? "again" : "" }, ...one.tokens.map((/** @type {string} */ token, /** @type {number} */ i) => {
      const act = one.tokens_acts_list[i];
      const attributes = act ? { class: i === one.train_token_ind ? "fires here" : "fires", style: `--depth:${Math.min(1, Math.abs(act) / (largest || 1))}`, title: digits(act) } : {};
      return make("span", attributes, token.replace(/\n/g, "↵"));
    })));
  const list = make("ol", { class: "examples" }, ...items.slice(0, MOST_EXAMPLES));
  const parts = [make("h4", {}, group.quantile_name), list];
  if (items.length > MOST_EXAMPLES) {
    const more = make("button", { type: "button" }, `${items.length - MOST_EXAMPLES} more`);
    more.addEventListener("click", () => {
      list.append(...items.slice(MOST_EXAMPLES));
      more.remove();
    });
    parts.push(more);
  }
  return parts;
}
