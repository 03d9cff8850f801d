// What stands around the list: the person, the controls, the history, and what the last list changed.

import { el, icon, ms, plural, words } from "./dom.js";
import { pictureOf, titleOf } from "./list.js";
import { describe, shortId } from "./people.js";
import { face } from "./picture.js";
import { anchorsOf, forCart, SIZES, state, surfaceOf } from "./state.js";

export const $ = (id) => document.getElementById(id);

const DONE = { click: "Your click", add_to_cart: "Adding to the cart", purchase: "Your purchase", view: "Your view", rating: "Your rating" };
const TOLD = { click: "clicked", add_to_cart: "put into the cart", purchase: "bought" };
const LEVELS = {
  full: ["full", "every part answered"],
  unranked: ["unranked", "without the ranker: the blended order of the sources"],
  last_good: ["last good list", "the last good list of this person"],
  popular_segment: ["popular in region", "what is popular in the region"],
  popular: ["popular", "what is popular at all"],
};

function known() {
  if (state.person) return describe(state.person);
  return state.session.length ? `known by ${plural(state.session.length, "event")} of this session` : "nothing is known yet";
}

export function who(on) {
  const { person, user } = state;
  $("person").replaceChildren(
    face(person ? person.user_id : user),
    el("div", { class: "about" }, el("b", {}, person ? shortId(person.user_id) : "Somebody new"),
      el("small", { id: "known" }, known())),
    el("button", { id: "choose", onclick: on.choose }, icon("person"), "Choose a person"),
    el("button", { id: "fresh", onclick: on.fresh }, icon("fresh"), person ? "Be somebody new" : "Start again"));
}

export function surfaces(on) {
  $("surfaces").replaceChildren(...state.about.surfaces.map(({ name }) =>
    el("button", { "aria-current": name === state.surface ? "page" : null, data: { surface: name }, onclick: () => on.go(name) }, words(name))));
  const current = $("surfaces").querySelector("[aria-current]");
  if (current) $("surfaces").scrollLeft = current.offsetLeft - $("surfaces").offsetLeft - 40;
}

export function controls(on) {
  const { about, person, region, category, k } = state;
  const home = person && person.segment ? `${person.segment} (home)` : "unknown";
  const options = (names, chosen) => names.map((name) => el("option", { value: name, selected: name === chosen }, words(name)));
  const choice = (label, id, change, ...choices) =>
    el("label", {}, label, el("select", { id, onchange: (event) => change(event.target.value) }, ...choices));
  $("controls").replaceChildren(...[
    surfaceOf(state.surface).within === "category"
      ? choice("Category", "category", on.category, ...options(about.categories, category)) : null,
    about.regions.length ? choice("Region", "region", on.region, el("option", { value: "" }, home), ...options(about.regions, region)) : null,
    el("span", { class: "sizes", role: "group", "aria-label": "Items" }, SIZES.filter((n) => n <= about.max_k).map((n) =>
      el("button", { "aria-pressed": String(n === k), "aria-label": plural(n, "item"), onclick: () => on.size(n) }, String(n)))),
    el("button", { id: "open-trace", "aria-pressed": String(state.traced), onclick: () => on.trace() }, icon("trace"), "Trace"),
  ].filter(Boolean));
}

export function strip() {
  $("known").textContent = known();
  const thumb = (id, type, newest) => {
    const item = state.items[id] || {}, title = titleOf(item, id);
    return el("span", { class: `thumb${newest ? " now" : ""}`, title: type ? `${TOLD[type] || words(type)}: ${title}` : title },
      pictureOf(item, id), type ? el("i", {}, icon(type)) : null);
  };
  const group = (title, content) => el("div", { class: "group" }, el("h3", {}, title), content);
  const before = state.person ? state.person.last.slice().reverse() : [];
  const now = state.session.slice(-14);
  $("strip").replaceChildren(...[
    before.length ? group("wanted last", el("div", { class: "thumbs" }, before.map((id) => thumb(id, null, false)))) : null,
    group("this session", now.length
      ? el("div", { class: "thumbs" }, now.map((event, n) => thumb(event.item_id, event.event_type, n === now.length - 1)))
      : el("p", { class: "none" }, "Nothing clicked yet: click an item and watch the list follow.")),
  ].filter(Boolean));
}

export function head() {
  const { list, wait, surface } = state, title = words(surface);
  $("heading").textContent = title[0].toUpperCase() + title.slice(1);
  const [name, hint] = LEVELS[list.level] || [words(list.level || "no level"), ""];
  const badge = (label, value, title) => el("span", { class: "badge", title }, label ? el("small", {}, label) : null, value);
  $("badges").replaceChildren(...[
    el("span", { class: "badge level", data: { level: String(list.level) }, title: hint }, el("i"), el("small", {}, "level"), name),
    list.made && list.made !== "live" ? badge("made", words(list.made)) : null,
    badge(null, `${ms(wait)} ms`, "from the playground's question to the list"),
    badge("variant", String(list.variant || "—")),
    badge("model", String(list.model_version || "—")),
    list.cause ? el("span", { class: "badge cause", title: list.cause }, list.cause) : null,
  ].filter(Boolean));
}

// What the new list changed, and after how many milliseconds the click that caused it showed.
export function told(changes, because, after) {
  if (!changes) return $("change").replaceChildren();
  const done = because ? DONE[because.event_type] || "What you did" : null;
  const line = !changes.changed ? (done ? `${done} did not change the list.` : "The list is the same.")
    : done ? [`${done} changed the list after `, el("b", { id: "after" }, `${Math.round(after)} ms`)] : "The list changed.";
  const counts = [[changes.fresh, "new", " new"], [changes.up, "up", " moved up"], [changes.down, "down", " moved down"]];
  return $("change").replaceChildren(el("span", { class: "line" }, ...[line].flat()), ...counts.filter(([n]) => n).map(([n, kind, text]) =>
    el("span", { class: `sum ${kind}` }, el("b", {}, String(n)), text)));
}

export function left(changes) {
  const gone = changes ? changes.left : [];
  const more = gone.length > 6 ? ` and ${gone.length - 6} more` : "";
  $("left").hidden = !gone.length;
  $("left").replaceChildren(el("b", {}, "Left the list: "), gone.slice(0, 6).map((id) => titleOf(state.items[id], id)).join(", ") + more);
}

export function anchor() {
  const ids = anchorsOf(), titles = ids.map((id) => titleOf(state.items[id], id));
  $("anchor").hidden = !ids.length;
  $("anchor").replaceChildren(el("span", {}, forCart() ? "for a cart with" : "for"),
    ...ids.slice(0, 6).map((id, n) => el("span", { class: "thumb", title: titles[n] }, pictureOf(state.items[id] || {}, id))),
    el("b", {}, ids.length === 1 ? titles[0] : plural(ids.length, "item")));
}

export function notice(text, kind = "hard") {
  $("notice").hidden = !text;
  $("notice").className = `notice ${kind}`;
  $("notice").replaceChildren(...(text ? [icon("warn"), el("span", {}, text[0].toUpperCase() + text.slice(1))] : []));
}

export function servers(found) {
  $("servers").replaceChildren(...Object.entries(found).map(([name, { up, url, says }]) =>
    el("span", { class: `server ${up ? "up" : "down"}`, title: says || url }, el("i"), name, el("small", {}, up ? "ready" : "away"))));
}
