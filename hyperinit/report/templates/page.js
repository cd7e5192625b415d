"use strict";
// Any picture opens large, beside the image it is of. The keyboard reaches both: they are buttons,
// and a dialog closes with Escape.
const dialog = document.getElementById("zoom"), zoomed = document.getElementById("zoomed");
function figure(image) {
  const box = document.createElement("figure"), copy = document.createElement("img");
  const caption = document.createElement("figcaption");
  copy.src = image.src;
  copy.alt = caption.textContent = image.alt;
  box.append(copy, caption);
  return box;
}
document.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
  const button = event.target.closest("button.zoom");
  if (!button) return;
  const chosen = button.querySelector("img");
  const original = button.closest("details").querySelector("img.original");
  zoomed.replaceChildren(...[original, chosen].filter((one, i, all) => one && all.indexOf(one) === i)
    .map(figure));
  dialog.showModal();
});
