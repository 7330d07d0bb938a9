// Graph JSON of what is shown, with pins, groups and edited labels, as `load_graph` and other tools' pages read it.
// @ts-check
/** @typedef {import("./graph.js").Graph} Graph */

const PROBABILITY = /\(p=\s*[0-9.]+/; // without which other pages refuse an answer's label
const OUTPUT = /^(?:Output|Logit|output:) "(.*)" \(p=/s;

/**
 * @param {Graph} graph
 * @param {import("./look.js").Look} look
 * @param {import("./state.js").Choice} choice
 */
export function saved(graph, look, choice) {
  const shown = graph.nodes.filter((_, i) => look.stays[i]);
  const ids = new Set(shown.map((node) => node.node_id));
  const { qParams } = graph.document;
  const clicked = choice.node || qParams.clickedId;
  const known = (/** @type {string[]} */ some) => some.filter((id) => ids.has(id));
  return {
    ...graph.document,
    metadata: metadataOf(graph, look, choice),
    qParams: {
      ...qParams,
      linkType: linkType(choice.links, qParams.linkType),
      pinnedIds: known(choice.pins),
      supernodes: choice.groups.map(([label, ...members]) => [label, ...known(members)]).filter((group) => group.length > 1),
      clickedId: ids.has(clicked) ? clicked : "",
    },
    nodes: shown.map((node) => relabelled(node, choice.labels[node.node_id])),
    links: linksOf(graph, look),
  };
}

/** As other pages call it: both is with pinned nodes there, and where nobody has chosen. @param {import("./state.js").Side} side  @param {string} before */
function linkType(side, before) {
  if (side === "pinned") return "both";
  return side !== "both" ? side : before === "both" ? before : "either";
}

/** @param {any} node  @param {string | undefined} label */
function relabelled(node, label) {
  if (label === undefined) return node;
  if (!node.is_target_logit) return { ...node, clerp: label };
  // the label it had says its token, as a rule
  const logit_token = node.logit_token ?? OUTPUT.exec(node.clerp)?.[1] ?? node.clerp.replace(/ ?\(p=\s*[0-9.]+(e-?[0-9]+)?\)$/, "");
  return { ...node, logit_token, clerp: PROBABILITY.test(label) ? label : `${label} (p=${node.token_prob.toFixed(3)})` };
}

/** @param {Graph} graph  @param {import("./look.js").Look} look */
function linksOf({ nodes, extraLinks }, { inputs, stays }) {
  const more = new Map(extraLinks.map(([source, target, keys]) => [JSON.stringify([source, target]), keys]));
  const links = [];
  for (let i = 0; i < stays.length; i++)
    for (let e = inputs.start[i]; e < inputs.start[i + 1]; e++) {
      const [source, target] = [nodes[inputs.node[e]].node_id, nodes[i].node_id];
      const link = { source, target, weight: inputs.weight[e] };
      links.push(more.size ? { ...link, ...more.get(JSON.stringify([source, target])) } : link);
    }
  return links;
}

/**
 * At which thresholds it was pruned, and what follows from that.
 * @param {Graph} graph  @param {import("./look.js").Look} look  @param {import("./state.js").Choice} choice
 */
function metadataOf(graph, look, choice) {
  const { metadata } = graph.document;
  if (choice.nodes === null && !look.nFrequent) return metadata;
  const own = metadata.attrgraph;
  const before = { node_threshold: metadata.node_threshold, edge_threshold: 1, ...metadata.pruning_settings };
  const thresholds = choice.nodes === null ? before : { node_threshold: choice.nodes, edge_threshold: choice.edges };
  const pruning = { ...thresholds, ...(look.nFrequent ? { feature_density: choice.density } : {}) };
  const { node_threshold } = pruning;
  const found = { ...metadata, node_threshold, pruning_settings: { ...metadata.pruning_settings, ...pruning } };
  if (own) {
    const { scores: _, ...rest } = own;
    const scores = look.nAdded ? {} : { scores: look.scores };
    found.attrgraph = { ...rest, ...scores, pruning, pruned_from: graph.prunedFrom };
  }
  return found;
}

/** @param {string} name  @param {string} type  @param {BlobPart} content */
export function download(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
