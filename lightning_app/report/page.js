"use strict";

// A table is sorted by the buttons in its header: the highest number or the first name on top, the other way round, and
// as it was. The order of the page stays for a reader without scripts.
const number = (text) => Number.parseFloat(text.replaceAll(",", ""));

function compare(a, b, direction) {
  if (!a || !b) return !a - !b; // an empty cell stays below
  const difference = number(a) - number(b);
  return direction * (Number.isNaN(difference) ? a.localeCompare(b, undefined, { numeric: true }) : difference);
}

function sort(table, rows, header, column) {
  const states = column ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
  const state = states[states.indexOf(header.ariaSort ?? "none") + 1] ?? states[0];
  for (const cell of table.tHead.rows[0].cells) cell.ariaSort = "none";
  header.ariaSort = state;
  const text = (row) => row.cells[column].textContent;
  const direction = state === "ascending" ? 1 : -1;
  const sorted = state === "none" ? rows : rows.toSorted((a, b) => compare(text(a), text(b), direction));
  table.tBodies[0].replaceChildren(...sorted);
}

for (const table of document.querySelectorAll("table")) {
  const rows = [...table.tBodies[0].rows];
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, rows, header, column));
  });
}

// A picture is shown at its own size over the page; Escape, Enter or a click goes back.
const dialog = document.body.appendChild(document.createElement("dialog"));
dialog.addEventListener("click", () => dialog.close());

for (const picture of document.querySelectorAll(".picture img")) {
  const button = document.createElement("button");
  button.ariaLabel = `Enlarge: ${picture.alt}`;
  picture.replaceWith(button);
  button.append(picture);
  button.addEventListener("click", () => {
    const enlarged = new Image();
    [enlarged.src, enlarged.alt] = [picture.src, picture.alt];
    dialog.replaceChildren(enlarged);
    dialog.showModal();
  });
}
