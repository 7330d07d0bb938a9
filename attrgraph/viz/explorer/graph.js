// The whole graph as arrays, as Python wrote it into the page.
// @ts-check

/**
 * @typedef {object} Edges  Rows of a sparse matrix: those into each node, or those out of it.
 * @property {Uint32Array} start  of each node's edges; one more at the end
 * @property {Uint32Array} node  at the other end
 * @property {Float32Array} weight  the direct effect of the source on what the target reads
 */

/**
 * @typedef {object} Graph
 * @property {any} document  graph JSON without links
 * @property {any[]} nodes  of the document
 * @property {string[]} kind
 * @property {Int32Array} layer  -1 for tokens, `nLayers` for answers
 * @property {Int32Array} pos
 * @property {string[]} token
 * @property {string[]} label  "" for none
 * @property {Float64Array} target  what each node counts as a target: its probability
 * @property {number} nLayers
 * @property {number[]} feature  in its layer
 * @property {Record<string, any>} pages  of features, by layer/feature
 * @property {number} pageBytes  how much room these take in the file
 * @property {Record<string, Record<string, {predicted: number, measured: number}>>} measured  by node id and mode
 * @property {Record<string, [string, number]> | null} matches  beside another graph: the id and influence there, by id here
 * @property {Float64Array} frequency  share of all tokens that each fires on, NaN where nobody has said
 * @property {Float64Array | null} stored  influence that a graph which is pruned already has kept from before, where it is another
 * @property {boolean} isPruned  already, as its file says
 * @property {object} prunedFrom  of what a graph that is pruned here is pruned first
 * @property {[string, string, object][]} extraLinks  what links have beyond their weight: source, target, keys
 * @property {Edges} inputs
 * @property {Map<string, number>} place  of each id
 */

/** @param {string} text  base64 of deflated bytes */
async function unpacked(text) {
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** @param {string} id  of the element that holds it */
async function part(id) {
  return unpacked((document.getElementById(id)?.textContent ?? "").trim());
}

/** @returns {Promise<Graph>} */
export async function readGraph() {
  const about = JSON.parse(new TextDecoder().decode(await part("about")));
  const edges = await part("edges-data");
  const nNodes = about.kind.length;
  const start = new Uint32Array(edges, 0, nNodes + 1);
  const nEdges = start[nNodes];
  const node = new Uint32Array(edges, 4 * (nNodes + 1), nEdges);
  const weight = new Float32Array(edges, 4 * (nNodes + 1 + nEdges), nEdges);
  return {
    document: about.document,
    nodes: about.document.nodes,
    kind: about.kind,
    layer: Int32Array.from(about.layer),
    pos: Int32Array.from(about.pos),
    token: about.token,
    label: about.label,
    target: Float64Array.from(about.target),
    nLayers: about.n_layers,
    feature: about.feature,
    pages: JSON.parse(new TextDecoder().decode(await part("features"))),
    pageBytes: document.getElementById("features")?.textContent?.length ?? 0,
    measured: about.measured ?? {},
    matches: about.matches ?? null,
    frequency: Float64Array.from(about.document.nodes, (/** @type {any} */ node) => node.activation_frequency ?? node.frac_nonzero ?? NaN),
    stored: about.influence && Float64Array.from(about.influence),
    isPruned: about.is_pruned,
    prunedFrom: about.pruned_from,
    extraLinks: about.extra_links,
    inputs: { start, node, weight },
    place: new Map(about.document.nodes.map((/** @type {any} */ each, /** @type {number} */ i) => [each.node_id, i])),
  };
}

/**
 * Of edges by one end, the same by the other.
 * @param {Edges} edges
 * @returns {Edges}
 */
export function reversed(edges) {
  const n = edges.start.length - 1;
  const start = new Uint32Array(n + 1);
  for (const at of edges.node) start[at + 1] += 1;
  for (let i = 0; i < n; i++) start[i + 1] += start[i];
  const next = start.slice();
  const node = new Uint32Array(edges.node.length);
  const weight = new Float32Array(edges.node.length);
  for (let i = 0; i < n; i++)
    for (let e = edges.start[i]; e < edges.start[i + 1]; e++) {
      const place = next[edges.node[e]]++;
      node[place] = i;
      weight[place] = edges.weight[e];
    }
  return { start, node, weight };
}

/**
 * Only some edges.
 * @param {Edges} edges
 * @param {Uint8Array} stays  of each edge, whether
 * @returns {Edges}
 */
export function some(edges, stays) {
  const n = edges.start.length - 1;
  const start = new Uint32Array(n + 1);
  let size = 0;
  for (const one of stays) size += one;
  if (size === stays.length) return edges;
  const node = new Uint32Array(size);
  const weight = new Float32Array(size);
  let place = 0;
  for (let i = 0; i < n; i++) {
    for (let e = edges.start[i]; e < edges.start[i + 1]; e++)
      if (stays[e]) {
        node[place] = edges.node[e];
        weight[place++] = edges.weight[e];
      }
    start[i + 1] = place;
  }
  return { start, node, weight };
}

/** Its label, or its token where it has none. @param {Graph} graph  @param {number} i */
export function labelOf(graph, i) {
  const [label, token] = [graph.label[i], graph.token[i]];
  if (label.trim()) return label;
  return token.trim() ? token : token ? JSON.stringify(token) : graph.nodes[i].node_id;
}

/** As it is named elsewhere: 3/458. @param {Graph} graph  @param {number} i */
export const featureName = (graph, i) => (graph.kind[i] === "feature" ? `${graph.layer[i]}/${graph.feature[i]}` : "");

/** @param {Graph} graph  @param {number} i */
export const isError = (graph, i) => graph.kind[i].endsWith("error");
/** @param {Graph} graph  @param {number} i */
export const isFeature = (graph, i) => graph.kind[i].endsWith("feature");

/**
 * The places of a node's edges in `node` and `weight`.
 * @param {Edges} edges
 * @param {number} i
 */
export function* edgesOf(edges, i) {
  for (let e = edges.start[i]; e < edges.start[i + 1]; e++) yield e;
}
