const rows = JSON.parse(document.getElementById("rows").textContent);
const texts = rows.map((row) => `${row[0]} ${row[1]} ${row[2]}`.toLowerCase());
const search = document.getElementById("search"), shown = document.querySelector("tbody");
const most = shown.rows.length;
function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  // "3/" begins the name of a feature, and is no part of 13/5
  const isThere = (text) => words.every((word) => (/^\d+\//.test(word) ? text.startsWith(word) : text.includes(word)));
  const found = rows.filter((_, i) => isThere(texts[i]));
  shown.replaceChildren(...found.slice(0, most).map((row) => {
    const line = document.createElement("tr");
    row.forEach((cell) => { line.insertCell().textContent = cell; });
    return line;
  }));
  const rest = found.length > most ? `, the first ${most} are shown` : "";
  document.getElementById("found").textContent = `${found.length.toLocaleString("en")} found${rest}`;
}
search.addEventListener("input", show);
show();
