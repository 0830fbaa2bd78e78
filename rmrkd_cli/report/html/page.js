"use strict";

const all = (root, selector) => [...root.querySelectorAll(selector)];
const clamp = (value, most) => Math.max(0, Math.min(most, value));

// Returns [row, column] of the pointer in a grid of rows x columns over the element.
function cellAt(event, element, rows, columns) {
  const box = element.getBoundingClientRect();
  const y = Math.floor(((event.clientY - box.top) / box.height) * rows);
  const x = Math.floor(((event.clientX - box.left) / box.width) * columns);
  return [clamp(y, rows - 1), clamp(x, columns - 1)];
}

// Tables and matrices that have more to their right fade out there, and a line below says how to see it.
for (const box of all(document, ".scroll")) {
  const line = document.createElement("p");
  line.className = "more";
  line.textContent = "more columns: scroll sideways →";
  line.hidden = true;
  box.after(line);
  const mark = () => {
    const more = box.scrollLeft + box.clientWidth < box.scrollWidth - 4;
    box.toggleAttribute("data-more", more);
    line.hidden = !more;
  };
  box.addEventListener("scroll", mark);
  new ResizeObserver(mark).observe(box);
  mark();
}

// Confusion matrices: the cell under the pointer, or the one that the arrow keys reach, in words.
const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
for (const heat of all(document, ".heat[data-counts]")) {
  const names = heat.dataset.names.split("\n");
  const counts = heat.dataset.counts.split(";").map((row) => row.split(",").map(Number));
  const image = heat.querySelector("image");
  const cursor = heat.querySelector(".cursor");
  const readout = heat.closest("figure").querySelector(".readout");
  let cell = [0, 0];
  const show = () => {
    const outer = heat.getBoundingClientRect();
    const inner = image.getBoundingClientRect();
    const size = inner.width / names.length;
    Object.assign(cursor.style, {
      top: inner.top - outer.top + cell[0] * size + "px", left: inner.left - outer.left + cell[1] * size + "px",
      width: size + "px", height: size + "px",
    });
    cursor.hidden = false;
    const [truth, guess] = cell;
    const total = counts[truth].reduce((sum, n) => sum + n, 0);
    const percent = total ? ((100 * counts[truth][guess]) / total).toFixed(2) + " %" : "–";
    const what = truth === guess ? "predicted correctly" : "predicted as " + names[guess];
    const pixels = counts[truth][guess].toLocaleString("en") + " of " + total.toLocaleString("en");
    readout.textContent = `${names[truth]} ${what}: ${percent} (${pixels} pixels)`;
  };
  const point = (event) => {
    cell = cellAt(event, image, names.length, names.length);
    show();
  };
  for (const kind of ["pointermove", "pointerdown"]) heat.addEventListener(kind, point);
  heat.addEventListener("focus", show);
  heat.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    cell = cell.map((n, axis) => clamp(n + step[axis], names.length - 1));
    show();
  });
}

// Example images: two maps under a slider, and the classes at the pointer.
const examples = all(document, ".example");
const sliders = [];
for (const example of examples) {
  const maps = all(example, ".panel.map");
  const images = maps.map((map) => map.querySelector("img"));
  const slider = example.querySelector(".slider");
  if (slider) {
    const find = (selector) => slider.querySelector(selector);
    const [under, over, range, left, right] = ["img.under", "img.over", "input", ".left", ".right"].map(find);
    const move = () => {
      over.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`;
      find(".handle").style.left = range.value + "%";
    };
    const choose = () => {
      for (const [image, select] of [[over, left], [under, right]]) {
        image.src = images[select.value].src;
        image.alt = `${select.selectedOptions[0].textContent}, ${select.className} of the slider`;
      }
      move();
    };
    sliders.push([left, right, choose]);
    const chooseEverywhere = () => {
      const values = [left.value, right.value];
      for (const [otherLeft, otherRight, update] of sliders) {
        [otherLeft.value, otherRight.value] = values;
        update();
      }
    };
    for (const select of [left, right]) select.addEventListener("change", chooseEverywhere);
    range.addEventListener("input", move);
    slider.hidden = false;
    choose();
  }

  const lines = example.closest("[data-colours]").dataset.colours.split("\n");
  const names = new Map(lines.map((line) => [line.slice(0, 6), line.slice(7)]));
  const readout = example.querySelector(".readout");
  let pixels = null;
  const draw = (image) => {
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context;
  };
  const read = (event) => {
    const frame = event.target.closest(".frame");
    if (!frame || !images.every((image) => image.complete && image.naturalWidth)) return;
    pixels ??= images.map(draw);
    const [y, x] = cellAt(event, frame, images[0].naturalHeight, images[0].naturalWidth);
    const classes = pixels.map((context) => {
      const [red, green, blue] = context.getImageData(x, y, 1, 1).data;
      return names.get(((red << 16) | (green << 8) | blue).toString(16).padStart(6, "0")) ?? "ignored";
    });
    readout.textContent = maps.map((map, n) => `${map.dataset.label}: ${classes[n]}`).join(" · ");
  };
  for (const kind of ["pointermove", "pointerdown"]) example.addEventListener(kind, read);
}
