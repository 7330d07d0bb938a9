// Two explorers side by side: each tells what it shows and what is selected, and is told what the other one selects.
// @ts-check

const frames = ["left", "right"].map((side) => /** @type {HTMLIFrameElement} */ (document.getElementById(side)));
const names = frames.map((frame) => frame.id);

addEventListener("message", ({ source, data }) => {
  const at = frames.findIndex((frame) => frame.contentWindow === source);
  if (at < 0) return;
  const parts = new URLSearchParams(location.hash.slice(1));
  if (data.isReady) frames[at].contentWindow?.postMessage({ address: parts.get(names[at]) ?? "" }, "*");
  if (typeof data.address === "string") {
    parts.set(names[at], data.address);
    history.replaceState(null, "", `#${parts}`);
  }
  if (typeof data.select === "string") frames[1 - at].contentWindow?.postMessage({ select: data.select }, "*");
});
