"use strict";

const all = (root, what) => [...root.querySelectorAll(what)];
const share = (part, whole) => (whole ? (100 * part / whole).toFixed(2) + " %" : "–");

// Class differences: by value, or in the order of the classes.
for (const figure of all(document, ".differences")) {
  const list = figure.querySelector(".bars");
  const buttons = all(figure, ".order button");
  figure.querySelector(".order").hidden = false;
  const rank = {
    class: (row) => Number(row.dataset.class),
    value: (row) => (row.dataset.value === "" ? Infinity : -Number(row.dataset.value)),
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const of = rank[button.dataset.order];
      list.append(...all(list, "li.row:not(.mean)").sort((a, b) => of(a) - of(b)));
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    });
  }
}

const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function told(names, counts, truth, guess) {
  const whole = counts[truth].reduce((sum, n) => sum + n, 0);
  const how = truth === guess ? "predicted rightly" : "predicted as " + names[guess];
  const n = counts[truth][guess];
  return `${names[truth]} ${how}: ${share(n, whole)} (${n.toLocaleString("en")} of ${whole.toLocaleString("en")} pixels)`;
}

// Small confusion matrices: a table, a cell has the focus.
for (const table of all(document, "table.confusion")) {
  const rows = [...table.tBodies[0].rows];
  const cells = rows.map((row) => all(row, "td"));
  const names = rows.map((row) => row.cells[0].textContent);
  const counts = cells.map((row) => row.map((cell) => Number(cell.dataset.n)));
  const readout = table.closest("figure").querySelector(".readout");
  const show = (event) => {
    const cell = event.target.closest("tbody td");
    if (!cell) return;
    const truth = rows.indexOf(cell.parentNode);
    readout.textContent = told(names, counts, truth, cells[truth].indexOf(cell));
  };
  for (const kind of ["pointerover", "click", "focusin"]) table.addEventListener(kind, show);
  table.addEventListener("keydown", (event) => {
    const cell = event.target.closest("tbody td");
    const step = steps[event.key];
    if (!cell || !step) return;
    const truth = rows.indexOf(cell.parentNode);
    const next = cells[truth + step[0]]?.[cells[truth].indexOf(cell) + step[1]];
    event.preventDefault();
    if (!next) return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

// Large ones: a picture, read at a place.
for (const heat of all(document, ".heat[data-counts]")) {
  const names = heat.dataset.names.split("\n");
  const counts = heat.dataset.counts.split(";").map((row) => row.split(",").map(Number));
  const cross = heat.querySelector(".cross");
  const readout = heat.closest("figure").querySelector(".readout");
  let at = [0, 0];
  const show = () => {
    cross.hidden = false;
    cross.style.top = (100 * at[0]) / names.length + "%";
    cross.style.left = (100 * at[1]) / names.length + "%";
    cross.style.width = cross.style.height = 100 / names.length + "%";
    readout.textContent = told(names, counts, ...at);
  };
  const within = (n) => Math.max(0, Math.min(names.length - 1, n));
  const point = (event) => {
    const box = heat.querySelector("img").getBoundingClientRect();
    const place = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    at = place.map((part) => within(Math.floor(part * names.length)));
    show();
  };
  heat.addEventListener("pointermove", point);
  heat.addEventListener("pointerdown", point);
  heat.addEventListener("focus", show);
  heat.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    at = at.map((n, axis) => within(n + step[axis]));
    show();
  });
}

// Pictures: two maps under a slider, and the classes at the pointer.
const figures = all(document, ".picture");
for (const figure of figures) {
  const maps = all(figure, ".panel.map");
  const pictures = maps.map((map) => map.querySelector("img"));
  const wipe = figure.querySelector(".wipe");
  if (wipe) {
    const [under, over, range, handle] = ["img.under", "img.over", "input", ".handle"].map((what) => wipe.querySelector(what));
    const [left, right] = ["select.left", "select.right"].map((what) => wipe.querySelector(what));
    const place = () => {
      over.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`;
      handle.style.left = range.value + "%";
    };
    const choose = () => {
      const names = [left, right].map((select) => select.selectedOptions[0].textContent);
      over.src = pictures[left.value].src;
      under.src = pictures[right.value].src;
      over.alt = names[0] + ", left of the slider";
      under.alt = names[1] + ", right of the slider";
      place();
    };
    for (const select of [left, right]) {
      select.addEventListener("change", () => {
        const side = select.className;
        for (const other of all(document, `.wipe select.${side}`)) {
          other.value = select.value;
          other.dispatchEvent(new Event("chosen"));
        }
      });
      select.addEventListener("chosen", choose);
    }
    range.addEventListener("input", place);
    wipe.hidden = false;
    choose();
  }
  const names = new Map(figure.dataset.classes.split("\n").map((line) => [line.slice(0, 6), line.slice(7)]));
  const readout = figure.querySelector(".readout");
  let drawn = null;
  const pixels = () =>
    pictures.map((picture) => {
      const canvas = document.createElement("canvas");
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(picture, 0, 0);
      return context;
    });
  const read = (event) => {
    const frame = event.target.closest(".frame");
    if (!frame || !pictures.every((picture) => picture.complete && picture.naturalWidth)) return;
    drawn ??= pixels();
    const box = frame.getBoundingClientRect();
    const size = drawn[0].canvas;
    const x = Math.max(0, Math.min(size.width - 1, Math.floor(((event.clientX - box.left) / box.width) * size.width)));
    const y = Math.max(0, Math.min(size.height - 1, Math.floor(((event.clientY - box.top) / box.height) * size.height)));
    readout.textContent = maps
      .map((map, number) => {
        const hex = [...drawn[number].getImageData(x, y, 1, 1).data.slice(0, 3)].map((n) => n.toString(16).padStart(2, "0"));
        return map.dataset.label + ": " + (names.get(hex.join("")) ?? "not counted");
      })
      .join(" · ");
  };
  figure.addEventListener("pointermove", read);
  figure.addEventListener("pointerdown", read);
}
