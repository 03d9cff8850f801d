// Choosing somebody: known people of the bundle, found by pseudonym, region or taste.

import * as api from "./api.js";
import { el, icon, plural, words } from "./dom.js";
import { pictureOf, titleOf } from "./list.js";
import { face } from "./picture.js";

export const shortId = (id) => (String(id).length > 12 ? `${String(id).slice(0, 8)}…` : String(id));

export function describe(person) {
  const parts = [];
  if (person.segment) parts.push(person.segment);
  parts.push(plural(person.events || 0, "event"));
  if (person.likes && person.likes.length) parts.push(`likes ${person.likes.map(words).join(", ")}`);
  return parts.join(" · ");
}

export function openPeople(dialog, choose, startNew) {
  const field = el("input", { type: "search", maxlength: "64", placeholder: "Find by taste, region or pseudonym", "aria-label": "Find people", autocomplete: "off", spellcheck: "false" });
  const found = el("ul", { class: "found", "aria-label": "People" });
  const said = el("p", { class: "said", role: "status" });
  const close = el("button", { class: "plain", "aria-label": "Close", onclick: () => dialog.close() }, icon("close"));
  const fresh = el("button", { class: "card fresh", onclick: () => { dialog.close(); startNew(); } },
    el("span", { class: "plus" }, icon("fresh")),
    el("span", { class: "about" }, el("b", {}, "Somebody new"), el("small", {}, "of whom nothing is known yet")));
  dialog.replaceChildren(el("div", { class: "find" }, icon("search"), field, close), fresh, said, found);

  const card = (person, items) =>
    el("li", {}, el("button", { class: "card", data: { user: person.user_id }, onclick: () => { dialog.close(); choose(person, items); } },
      face(person.user_id),
      el("span", { class: "about" }, el("b", {}, shortId(person.user_id)), el("small", {}, describe(person))),
      el("span", { class: "wanted" }, person.last.slice(0, 4).map((id) =>
        el("span", { class: "thumb", title: titleOf(items[id], id) }, pictureOf(items[id], id))))));

  let asked = 0;
  async function look() {
    const turn = ++asked, text = field.value.trim();
    try {
      const answer = await api.people(text);
      if (turn !== asked) return; // a later question was faster
      found.replaceChildren(...answer.users.map((person) => card(person, answer.items)));
      said.textContent = text ? (answer.users.length ? "" : `Nobody found for “${text}”.`) : "A typical person of each taste";
    } catch (error) {
      if (turn === asked) said.textContent = error.message;
    }
  }

  let timer = 0;
  field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, 120); });
  dialog.onkeydown = (event) => {
    const cards = [...dialog.querySelectorAll(".card")], at = cards.indexOf(document.activeElement);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const next = at + (event.key === "ArrowDown" ? 1 : -1);
      (cards[next] || (next < 0 ? field : cards[cards.length - 1])).focus();
    } else if (event.key === "Enter" && event.target === field) {
      const first = found.querySelector(".card");
      if (first) first.click();
    }
  };
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  dialog.showModal();
  field.focus();
  look();
}
