// A picture for an item that has none: the same item always looks the same.
// Category gives hue and drawing, brand the composition, price the richness of the ground.

import { hash, svg } from "./dom.js";
import { shapeOf } from "./shapes.js";

const W = 160, H = 120;
let tops = [];

// Neighbouring categories get hues far apart (golden angle).
export function learnCategories(paths) {
  tops = [...new Set(paths.map((path) => String(path).split("/")[0]))];
}

export function hueOf(category) {
  const top = String(category || "").split("/")[0];
  const place = tops.indexOf(top);
  return place >= 0 ? (28 + place * 137.5) % 360 : hash(top) % 360;
}

export function picture(item, id) {
  const seed = hash(String(id));
  const brand = hash(String(item.brand || ""));
  const leaf = hash(String(item.category || ""));
  const hue = (hueOf(item.category) + (leaf % 31) - 15 + (seed % 33) - 16 + 360) % 360;
  const rich = Math.min(3, Math.max(0, Math.floor(Math.log2(1 + (Number(item.price) || 0)) / 1.7)));
  const canvas = svg("svg", {
    viewBox: `0 0 ${W} ${H}`, class: `picture tone${(seed >>> 7) % 3} rich${rich}`,
    preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true",
  });
  canvas.style.setProperty("--h", hue.toFixed(1));
  canvas.append(svg("rect", { width: W, height: H, class: "ground" }));
  canvas.append(...ground(brand % 6, rich, seed));
  const parts = shapeOf(item.title, item.category);
  canvas.append(...(parts ? thing(parts, brand) : pattern(seed)));
  return canvas;
}

function ground(kind, rich, seed) {
  const size = 40 + rich * 5, shift = ((seed >>> 4) % 17) - 8;
  const back = { class: "back" };
  const out = [
    () => svg("circle", { cx: 80 + shift, cy: 60, r: size, ...back }),
    () => svg("path", { d: `M${80 - size} ${H}V${62}a${size} ${size} 0 0 1 ${2 * size} 0V${H}z`, ...back }),
    () => svg("path", { d: `M0 ${70 + shift}Q40 ${46 - shift} 80 ${68}T160 ${60 - shift}V${H}H0z`, ...back }),
    () => svg("path", { d: `M${20 + shift} ${H}L${76 + shift} 0H${76 + shift + size * 1.6}L${20 + shift + size * 1.6} ${H}z`, ...back }),
    () => svg("rect", { x: 80 - size, y: 60 - size, width: 2 * size, height: 2 * size, rx: size / 2.6, ...back }),
    () => svg("circle", { cx: seed % 2 ? 160 : 0, cy: H, r: size * 2.1, ...back }),
  ][kind]();
  return rich > 1 ? [out, svg("circle", { cx: 80, cy: 60, r: size + 13, class: "halo" })] : [out];
}

function thing(parts, brand) {
  const group = svg("g", brand % 5 === 0 ? { transform: `translate(${W} 0) scale(-1 1)` } : {});
  const shade = svg("ellipse", { cx: 80, cy: 104, rx: 40, ry: 4, class: "shade" });
  group.append(shade, ...parts.map(part));
  return [group];
}

function part(text) {
  const [tone, kind, ...rest] = text.split(" ");
  const n = rest.map(Number);
  if (kind === "r") return svg("rect", { x: n[0], y: n[1], width: n[2], height: n[3], rx: n[4], class: `f${tone}` });
  if (kind === "c") return svg("circle", { cx: n[0], cy: n[1], r: n[2], class: `f${tone}` });
  if (kind === "o") return svg("circle", { cx: n[0], cy: n[1], r: n[2], "stroke-width": n[3], class: `s${tone}` });
  if (kind === "s") return svg("path", { d: rest.slice(1).join(" "), "stroke-width": n[0], class: `s${tone}` });
  return svg("path", { d: rest.join(" "), class: `f${tone}` });
}

// Where no drawing fits: nine cells of quarter circles, discs and triangles.
function pattern(seed) {
  const out = [], tones = ["fm", "fd", "fl", "fa", "fm"];
  let state = seed || 1;
  const next = (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % n;
  };
  for (let i = 0; i < 9; i++) {
    const x = 41 + (i % 3) * 26, y = 21 + Math.floor(i / 3) * 26, tone = tones[next(5)];
    const d = [
      `M${x} ${y}h26a26 26 0 0 1-26 26z`, `M${x + 26} ${y}v26a26 26 0 0 1-26-26z`,
      `M${x} ${y + 26}a26 26 0 0 1 26-26v26z`, `M${x} ${y}a26 26 0 0 1 26 26h-26z`,
      `M${x} ${y}h26l-26 26z`, `M${x} ${y + 13}a13 13 0 1 0 26 0a13 13 0 1 0-26 0z`,
    ][next(6)];
    if (next(8) > 0) out.push(svg("path", { d, class: tone }));
  }
  return out;
}

// A face for a pseudonym, so that people can be told apart.
export function face(id) {
  const h = hash(String(id || "somebody new")), hue = h % 360;
  const canvas = svg("svg", { viewBox: "0 0 36 36", class: "face", "aria-hidden": "true" });
  canvas.style.setProperty("--h", hue);
  const lean = (h >>> 5) % 7 - 3, drop = (h >>> 9) % 4;
  canvas.append(
    svg("rect", { width: 36, height: 36, class: "wall" }),
    svg("circle", { cx: 18 + lean, cy: 21 + drop, r: 15, class: "skin" }),
    svg("circle", { cx: 13.5 + lean, cy: 18 + drop, r: 1.6, class: "eye" }),
    svg("circle", { cx: 22.5 + lean, cy: 18 + drop, r: 1.6, class: "eye" }),
    svg("path", { d: `M${14 + lean} ${23 + drop}q4 ${2 + (h >>> 12) % 4} 8 0`, class: "smile" }),
  );
  return canvas;
}
