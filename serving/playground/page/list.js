// The list as tiles: what stands where, what moved since the list before, and what one can do with an item.

import { el, icon, plural, words } from "./dom.js";
import { hueOf, picture } from "./picture.js";
import { familyOf } from "./trace.js";

const ACTIONS = [["click", "Click"], ["add_to_cart", "Cart"], ["purchase", "Buy"]];
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const tiles = new Map(); // item id -> its tile, kept from list to list so that it can move

export const titleOf = (item, id) => (item && item.title) || String(id);

export function price(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return null;
  return value.toLocaleString(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}

// The shop's own picture where the catalogue has one, else ours; a broken address falls back to ours.
export function pictureOf(item, id) {
  const address = item && item.image_url;
  if (typeof address !== "string" || !/^https?:\/\//i.test(address)) return picture(item || {}, id);
  const image = el("img", { class: "picture", src: address, alt: "", loading: "lazy", referrerpolicy: "no-referrer" });
  image.addEventListener("error", () => image.replaceWith(picture(item, id)), { once: true });
  return image;
}

// What a list did to the one before: per item its move (places up, "new"), and who left.
export function compare(before, after) {
  if (!before) return null;
  const was = new Map(before.map((id, place) => [id, place]));
  const moves = new Map(after.map((id, place) => [id, was.has(id) ? was.get(id) - place : "new"]));
  const left = before.filter((id) => !moves.has(id));
  const of = (wanted) => [...moves.values()].filter(wanted).length;
  return {
    moves, left, fresh: of((m) => m === "new"), up: of((m) => m > 0), down: of((m) => m < 0),
    changed: left.length > 0 || of((m) => m !== 0) > 0,
  };
}

function marker(move) {
  if (move === "new") return el("span", { class: "move new" }, "new");
  if (!move) return null;
  const up = move > 0;
  const said = `${up ? "up" : "down"} ${plural(Math.abs(move), "place")}`;
  return el("span", { class: `move ${up ? "up" : "down"}`, "aria-label": said, title: said }, `${up ? "▲" : "▼"} ${Math.abs(move)}`);
}

function makeTile(id, on) {
  const tile = el("article", { class: "tile", role: "listitem", tabindex: "-1", data: { item: id } });
  tile.addEventListener("click", (event) => {
    const action = event.target.closest("[data-do]");
    if (action) on[action.dataset.do === "why" ? "why" : "act"](id, action.dataset.do);
  });
  return tile;
}

function fill(tile, place, entry, item, move) {
  const title = titleOf(item, entry.item_id), source = String(entry.source || "");
  const cost = price(item.price);
  tile.setAttribute("aria-label", `${place + 1}. ${title}`);
  tile.replaceChildren(
    el("div", { class: "frame", data: { do: "click" } }, pictureOf(item, entry.item_id),
      el("span", { class: "place" }, String(place + 1)), marker(move)),
    el("div", { class: "body" },
      el("p", { class: "path", vars: { "--h": String(hueOf(item.category)) } },
        item.category ? words(item.category).split("/").join(" › ") : "no category"),
      el("h2", { class: "name", title }, title),
      el("p", { class: "cost" }, el("b", {}, cost || "—"), item.brand ? el("span", {}, item.brand) : null),
      el("button", { class: "reason", data: { do: "why" }, tabindex: "-1", "aria-label": `Why ${title}: ${entry.reason || ""}` },
        el("span", { class: "because" }, entry.reason || "no reason given"),
        el("span", { class: "source", data: { family: familyOf(source) } }, source || "?"), icon("why"))),
    el("div", { class: "acts" }, ACTIONS.map(([type, label]) =>
      el("button", { data: { do: type }, tabindex: "-1", "aria-label": `${label} ${title}` }, icon(type), label))),
  );
}

export function render(host, list, items, changes, on) {
  const old = new Map();
  for (const [id, tile] of tiles) if (tile.isConnected) old.set(id, tile.getBoundingClientRect());
  const ids = list.items.map((entry) => entry.item_id);
  const shown = new Set(ids);
  const held = document.activeElement && document.activeElement.closest && document.activeElement.closest(".tile");
  const heldAt = held ? [...host.children].indexOf(held) : -1;
  for (const id of [...tiles.keys()]) if (!shown.has(id)) tiles.delete(id);
  const nodes = list.items.map((entry, place) => {
    const tile = tiles.get(entry.item_id) || makeTile(entry.item_id, on);
    tiles.set(entry.item_id, tile);
    fill(tile, place, entry, items[entry.item_id] || {}, changes ? changes.moves.get(entry.item_id) : 0);
    return tile;
  });
  host.replaceChildren(...nodes);
  roam(host, nodes, heldAt);
  if (changes && !calm.matches) move(nodes, old);
}

function move(nodes, old) {
  const rects = nodes.map((node) => node.getBoundingClientRect());
  nodes.forEach((node, n) => {
    const was = old.get(node.dataset.item), is = rects[n];
    if (!was) {
      node.animate([{ opacity: 0, transform: "scale(.94)" }, { opacity: 1, transform: "none" }], { duration: 320, easing: "ease-out" });
    } else if (Math.abs(was.left - is.left) + Math.abs(was.top - is.top) > 1) {
      node.animate([{ transform: `translate(${was.left - is.left}px, ${was.top - is.top}px)` }, { transform: "none" }],
        { duration: 420, easing: "cubic-bezier(.2,.8,.2,1)" });
    }
  });
}

// One tile is in the tab order; arrow keys move between tiles, and only its own buttons can be tabbed to.
function roam(host, nodes, heldAt) {
  const activate = (tile, focus, still = false) => {
    for (const node of nodes) {
      node.tabIndex = node === tile ? 0 : -1;
      for (const button of node.querySelectorAll("button")) button.tabIndex = node === tile ? 0 : -1;
    }
    if (focus) tile.focus({ preventScroll: still });
  };
  if (!nodes.length) return;
  const start = nodes[Math.min(Math.max(heldAt, 0), nodes.length - 1)];
  activate(start, heldAt >= 0, true);
  host.onfocusin = (event) => {
    const tile = event.target.closest(".tile");
    if (tile && tile.tabIndex !== 0) activate(tile, false);
  };
  host.onkeydown = (event) => {
    const at = nodes.indexOf(event.target.closest(".tile"));
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const across = nodes.filter((node) => node.offsetTop === nodes[0].offsetTop).length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -at, End: nodes.length - 1 - at }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    activate(nodes[Math.min(Math.max(at + step, 0), nodes.length - 1)], true);
  };
}
