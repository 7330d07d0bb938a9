// Where nodes stand: a column for each position, a band for each layer, the answer on top.
// @ts-check
/** @typedef {import("./graph.js").Graph} Graph */

/**
 * @typedef {object} Places
 * @property {Float64Array} x  of each node, NaN where it is not shown
 * @property {Float64Array} y
 * @property {{pos: number, x: number, width: number}[]} columns
 * @property {{layer: number, y: number, height: number}[]} bands
 * @property {Moved} moved
 * @property {number} left  of all nodes, 0 unless some were moved
 * @property {number} top
 * @property {number} width
 * @property {number} height
 */

/** @typedef {Record<string, number[]>} Moved  how far each node stands from where it would, to the right and down, by id */

export const STEP = 22; // between nodes side by side
const COLUMN_GAP = 14;
const [LETTER, MOST_LETTERS] = [7, 9]; // room for a token
const BAND = 46;
const MOST_ABREAST = 8;

/** @typedef {Map<number, Map<number, number[]>>} Cells  nodes by layer, then position */

/**
 * Layers without a node take no height; in a cell, the most influential stands first. Then some are moved.
 * @param {Graph} graph
 * @param {Uint8Array} isShown
 * @param {Float64Array} influence
 * @param {Moved} moved
 * @returns {Places}
 */
export function layOut(graph, isShown, influence, moved) {
  const n = graph.kind.length;
  const cells = cellsOf(graph, isShown, influence);
  const columns = columnsOf(cells, graph.document.metadata.prompt_tokens);
  const columnOf = new Map(columns.map((column) => [column.pos, column]));
  const x = new Float64Array(n).fill(NaN);
  const y = new Float64Array(n).fill(NaN);
  const bands = [];
  let top = 0;
  for (const layer of [...cells.keys()].sort((a, b) => b - a)) {
    const row = cells.get(layer) ?? new Map();
    const nRows = Math.max(...[...row.values()].map((members) => Math.ceil(members.length / MOST_ABREAST)));
    const height = BAND + (nRows - 1) * STEP;
    for (const [pos, members] of row) {
      const column = columnOf.get(pos) ?? { x: 0, width: 0 };
      const abreast = Math.min(members.length, MOST_ABREAST);
      members.forEach((/** @type {number} */ i, /** @type {number} */ at) => {
        x[i] = column.x + column.width / 2 + ((at % abreast) - (abreast - 1) / 2) * STEP;
        y[i] = top + BAND / 2 + Math.floor(at / abreast) * STEP;
      });
    }
    bands.push({ layer, y: top, height });
    top += height;
  }
  const last = columns[columns.length - 1];
  let [left, right, highest, lowest] = [0, last ? last.x + last.width : 1, 0, Math.max(top, 1)];
  for (const [id, [dx, dy]] of Object.entries(moved)) {
    const i = graph.place.get(id) ?? -1;
    if (!isShown[i]) continue;
    [x[i], y[i]] = [x[i] + dx, y[i] + dy];
    [left, right] = [Math.min(left, x[i]), Math.max(right, x[i])];
    [highest, lowest] = [Math.min(highest, y[i]), Math.max(lowest, y[i])];
  }
  return { x, y, columns, bands, moved, left, top: highest, width: right - left, height: lowest - highest };
}

/** @param {Graph} graph  @param {Uint8Array} isShown  @param {Float64Array} influence */
function cellsOf(graph, isShown, influence) {
  /** @type {Cells} */
  const cells = new Map();
  for (let i = 0; i < isShown.length; i++) {
    if (!isShown[i]) continue;
    const row = cells.get(graph.layer[i]) ?? new Map();
    cells.set(graph.layer[i], row);
    const members = row.get(graph.pos[i]);
    if (members) members.push(i);
    else row.set(graph.pos[i], [i]);
  }
  for (const row of cells.values())
    for (const members of row.values()) members.sort((a, b) => influence[b] - influence[a] || a - b);
  return cells;
}

/** A column is as wide as its fullest layer or its token needs. @param {Cells} cells  @param {string[]} tokens */
function columnsOf(cells, tokens) {
  /** @type {Map<number, number>} */
  const widths = new Map();
  for (const row of cells.values())
    for (const [pos, members] of row)
      widths.set(pos, Math.max(widths.get(pos) ?? 1, Math.min(members.length, MOST_ABREAST)));
  const columns = [];
  let x = 0;
  for (const [pos, n] of [...widths].sort((a, b) => a[0] - b[0])) {
    const width = Math.max(n * STEP, LETTER * (1 + Math.min((tokens[pos] ?? "").length, MOST_LETTERS)));
    columns.push({ pos, x, width });
    x += width + COLUMN_GAP;
  }
  return columns;
}
