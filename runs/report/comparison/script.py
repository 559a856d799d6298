"""The script of the table of wins and losses: choose two rankings, sort by a column. It asks for nothing and shows data
as text only."""

SCRIPT = """
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("queries").textContent);
  const table = document.getElementById("pair");
  const heads = [...table.tHead.rows[0].cells];
  const selects = ["ranking-a", "ranking-b"].map((id) => document.getElementById(id));
  const names = ["name-a", "name-b"].map((id) => document.getElementById(id));
  const counts = document.getElementById("counts");
  const number = (value) => value.toLocaleString("en-US");
  const signed = (value, digits) => (value < 0 ? "-" : "+") + Math.abs(value).toFixed(digits);
  let column = 3, falling = true;

  const element = (tag, text, parent, className) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (className) made.className = className;
    if (parent) parent.append(made);
    return made;
  };

  const fill = (sides, query, places) => places.forEach((place, side) => {
    const part = element("div", "", sides);
    element("b", "AB"[side], part);
    const found = query[3][place];
    if (!found.length) { element("p", data.absent, part); return; }
    const list = element("ol", "", part);
    for (const [document_, grade] of found) {
      const [id, text] = data.documents[document_];
      const item = element("li", "", list);
      if (grade > 0) { element("span", "grade " + grade, item, "relevant"); item.append(" "); }
      item.append(text + " ");
      element("small", id, item);
    }
  });

  const row = (query, places) => {
    const [a, b] = places.map((place) => query[2][place]);
    const body = document.createElement("tbody"), line = element("tr", "", body);
    const name = element("th", "", line);
    name.scope = "row";
    name.append((query[1] || query[0]) + " ");
    element("small", query[0], name);
    element("td", a.toFixed(3), line);
    element("td", b.toFixed(3), line);
    element("td", signed(b - a, 3), line, b > a ? "up" : b < a ? "down" : "");
    const cell = element("td", "", element("tr", "", body));
    cell.colSpan = 4;
    const details = element("details", "", cell);
    element("summary", "documents", details).setAttribute("aria-label", "documents: " + (query[1] || query[0]));
    details.addEventListener("toggle", () => fill(element("div", "", details, "sides"), query, places), { once: true });
    return body;
  };

  const keys = [
    (query) => query[1] || query[0],
    (query, a) => query[2][a],
    (query, a, b) => query[2][b],
    (query, a, b) => query[2][b] - query[2][a],
  ];

  const show = () => {
    const places = selects.map((select) => Number(select.value)), [a, b] = places;
    const key = (query) => keys[column](query, a, b);
    const compare = (x, y) => (typeof x === "string" ? x.localeCompare(y) : x - y) * (falling ? -1 : 1);
    const both = data.queries.filter((query) => query[2][a] !== null && query[2][b] !== null);
    both.sort((x, y) => compare(key(x), key(y)));
    [...table.tBodies].forEach((body) => body.remove());
    table.append(...both.map((query) => row(query, places)));
    heads.forEach((head, place) => {
      if (place === column) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    names.forEach((name, side) => { name.textContent = data.rankings[places[side]]; });
    const [queries, first, second, tied, mean] = a === b ? [both.length, 0, 0, both.length, 0]
      : data.pairs[Math.min(a, b) + "," + Math.max(a, b)];
    const [won, lost, difference] = a > b ? [second, first, -mean] : [first, second, mean];
    counts.textContent = `B is better on ${number(won)}, worse on ${number(lost)} and equal on ${number(tied)} of ` +
      `${number(queries)} queries; mean difference ${signed(difference, 4)}`;
  };

  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => {
      falling = place === column ? !falling : place > 0;
      column = place;
      show();
    });
    head.replaceChildren(button);
  });
  selects.forEach((select) => {
    select.addEventListener("change", show);
    select.parentElement.hidden = false;
  });
  show();
})();
"""
