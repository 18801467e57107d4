"use strict";

// Tables: a click on the head of a column sorts by it. Cells without a value come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const cell = (row) => row.cells[column];
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.some((row) => cell(row).dataset.v !== undefined || cell(row).matches(".id"));
      // Figures are asked for from the greatest on, names from the first on.
      const first = numeric && !head.matches(".id") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const direction = head.getAttribute("aria-sort") === first ? other : first;
      const sign = direction === "ascending" ? 1 : -1;
      const value = (row) => Number(cell(row).dataset.v ?? (cell(row).matches(".id") ? cell(row).textContent : NaN));
      rows.sort((a, b) => {
        if (!numeric) return sign * cell(a).textContent.localeCompare(cell(b).textContent);
        const [x, y] = [value(a), value(b)];
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return sign * (x - y);
      });
      table.tBodies[0].append(...rows);
      for (const one of heads) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
    });
  });
}

// Confusion matrix: what the cell below the mouse says, in words.
for (const table of document.querySelectorAll("table.matrix")) {
  const readout = document.querySelector(".readout");
  let marked = null;
  table.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("tbody td");
    if (!cell) return;
    marked?.classList.remove("here");
    marked = table.tHead.rows[0].cells[cell.cellIndex];
    marked.classList.add("here");
    const share = cell.textContent === "" ? "0" : cell.textContent;
    readout.textContent = `true ${cell.parentNode.cells[0].textContent}, predicted ${marked.textContent}: ${share} %`;
  });
}

// Pictures: a click shows them large; arrow keys go from panel to panel of the same image.
const dialog = document.createElement("dialog");
const large = document.createElement("img");
const caption = document.createElement("p");
dialog.append(large, caption);
document.body.append(dialog);
let panels = [];
let shown = 0;
function show(position) {
  shown = (position + panels.length) % panels.length;
  large.src = panels[shown].src;
  large.alt = panels[shown].alt;
  caption.textContent = `${panels[shown].alt}: arrow keys for the other panels, Esc or a click to close`;
}
for (const group of document.querySelectorAll(".panels")) {
  const pictures = [...group.querySelectorAll("img")];
  pictures.forEach((picture, position) => {
    const open = () => {
      panels = pictures;
      show(position);
      dialog.showModal();
    };
    picture.tabIndex = 0;
    picture.setAttribute("role", "button");
    picture.addEventListener("click", open);
    picture.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        open();
      }
    });
  });
}
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") show(shown + 1);
  if (event.key === "ArrowLeft") show(shown - 1);
});
